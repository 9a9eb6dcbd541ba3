"""SingleInsert: a concept from one picture into Stable Diffusion, as an embedding and a LoRA."""

__version__ = "0.1.0"
