"""The families of models that can be trained, one file each. A new one is a file here and a line in ``FAMILIES``."""

from __future__ import annotations

from singleinsert.models.families.sd import StableDiffusion
from singleinsert.models.families.sdxl import StableDiffusionXL
from singleinsert.models.family import Family

FAMILIES: tuple[type[Family], ...] = (StableDiffusion, StableDiffusionXL)

FAMILY_NAMES = tuple(name for family in FAMILIES for name in family.names)
"""What an artifact may have been trained on."""

SUPPORTED = ", ".join(family.title for family in FAMILIES)
"""For messages: "Stable Diffusion 1.x and 2.x, Stable Diffusion XL"."""
