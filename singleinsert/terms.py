"""Words that several floors use for the same thing, each written down once."""

from __future__ import annotations

from typing import Literal, get_args

PredictionType = Literal["epsilon", "v_prediction", "sample", "flow"]
"""What a denoiser's output means."""
LossSpace = Literal["x0", "epsilon", "v"]
"""The space in which an error is squared."""
MaskNormalization = Literal["mean", "area"]
"""What a masked loss is divided by: all elements (the paper), or the mask's share of them."""
Role = Literal["concept", "denoiser", "text"]
"""What a stage may train: the embeddings, the denoiser's weights, the text encoders' weights."""
Precision = Literal["fp16", "fp32", "bf16"]
"""Of a file's tensors."""
Format = Literal["webui", "diffusers", "bundle"]
"""Kinds of files for clients."""

PREDICTION_TYPES: tuple[str, ...] = get_args(PredictionType)

BUNDLED_MODELS = ("mini-sd", "mini-scenes", "mini-sdxl")
"""Values of ``model.pretrained_model_name_or_path`` that mean a miniature that comes with the package."""

_PRESETS_OF_BASES = {"xl": "sdxl", "klein": "klein", "z-image": "zimage", "z_image": "zimage"}


def preset_of_base(source: str) -> str:
    """The preset that a base model's family wants, by what is in its name; "" where it wants none, as SD 1.x."""
    name = source.replace("\\", "/").split(",")[0].rstrip("/").split("/")[-1].lower()
    return next((preset for sign, preset in _PRESETS_OF_BASES.items() if sign in name), "")


PROMPT_LENGTH = 512
"""Tokens that a base model with a language model reads of a prompt, its chat template's among them."""

STAGES = ("stage1", "stage2")
"""The stages of a run in their order, as the settings and every file call them."""
BEFORE = "before"
"""In the place of a stage: what the frozen model draws for the class words alone."""
STAGE_TITLES = {"stage1": "Stage I", "stage2": "Stage II"}
ROLE_TITLES = {"concept": "embedding", "denoiser": "denoiser", "text": "text encoder"}
WEIGHT_ROLES = frozenset({"denoiser", "text"})
"""What needs an adapter."""
