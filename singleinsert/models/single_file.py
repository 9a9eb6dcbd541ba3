"""Checkpoints in one ``.safetensors`` file, offline: the configs and CLIP's vocabulary come with the package."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import torch

from singleinsert.errors import ModelError, first_line

_K_PROJECTION = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
_FAMILY_OF_WIDTH = {768: "sd1", 1024: "sd2"}


def load_single_file(path: Path, dtype: torch.dtype, prediction_type: str) -> tuple[Any, str]:
    """(diffusers' pipeline, prediction type) of a Stable Diffusion 1.x or 2.x checkpoint.

    Raises:
        ModelError: not readable, another kind of model, or a prediction type that the file does not tell.
    """
    from diffusers import StableDiffusionPipeline

    from singleinsert.models.base import ASSETS

    family, metadata = inspect_checkpoint(path)
    prediction_type = checkpoint_prediction_type(path, family, metadata, prediction_type)
    try:
        pipeline = StableDiffusionPipeline.from_single_file(
            str(path), config=str(ASSETS / family), dtype=dtype, local_files_only=True,
            tokenizer=clip_tokenizer(family), safety_checker=None, feature_extractor=None, image_encoder=None,
        )  # fmt: skip
    except Exception as error:  # diffusers wraps a missing part in errors of many kinds
        raise ModelError(f"{path}: cannot be loaded as {family.upper()}: {first_line(error)}") from error
    return pipeline, prediction_type


def inspect_checkpoint(path: Path) -> tuple[str, dict[str, str]]:
    """(family, header texts) of a checkpoint, read from its header alone."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ModelError(f"no checkpoint {path}")
    try:
        with safe_open(path, framework="pt") as file:
            keys, metadata = set(file.keys()), file.metadata() or {}
            width = file.get_slice(_K_PROJECTION).get_shape()[1] if _K_PROJECTION in keys else 0
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path} is not a readable safetensors file ({error}): it may be cut short") from error
    if not width:
        what = "a LoRA" if any("lora" in key for key in keys) else "no Stable Diffusion 1.x or 2.x checkpoint"
        raise ModelError(f"{path} is {what}: give a whole checkpoint, a diffusers folder or a hub id")
    if width not in _FAMILY_OF_WIDTH:
        raise ModelError(f"{path}: only Stable Diffusion 1.x and 2.x are supported (cross-attention width {width})")
    return _FAMILY_OF_WIDTH[width], metadata


def checkpoint_prediction_type(path: Path, family: str, metadata: dict[str, str], asked: str) -> str:
    """What was asked for, else the file's metadata, else epsilon for SD 1.x; an SD 2.x file may be either."""
    if asked != "auto":
        return asked
    told = metadata.get("modelspec.prediction_type", "").lower()
    if told:
        return "v_prediction" if told.startswith("v") else told
    if family == "sd2":
        raise ModelError(
            f"{path}: an SD 2.x checkpoint does not tell its prediction type: set model.prediction_type to "
            "v_prediction (the 768 px models) or epsilon (the 512 px base models)"
        )
    return "epsilon"


def clip_tokenizer(family: str) -> Any:
    """CLIP's tokenizer from the bundled merges. SD 2.x pads with "!", SD 1.x with the end token."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    from singleinsert.models.base import ASSETS

    text = gzip.decompress((ASSETS / "clip" / "merges.txt.gz").read_bytes()).decode("utf-8")
    merges = [tuple(line.split(" ")) for line in text.split("\n")]
    letters = list(bytes_to_unicode().values())
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)}, merges=merges, model_max_length=77,
        pad_token="!" if family == "sd2" else "<|endoftext|>",
    )  # fmt: skip
