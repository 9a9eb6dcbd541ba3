"""Concepts that were trained apart, joined into one LoRA in closed form (Custom Diffusion's merge)."""
