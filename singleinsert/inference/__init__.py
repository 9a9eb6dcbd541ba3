"""Pictures from trained concepts: one or several in a prompt, over any Stable Diffusion 1.x or 2.x model."""
