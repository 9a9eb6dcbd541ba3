"""Checkpoints in one ``.safetensors`` file, offline: the configs and CLIP's vocabulary come with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from singleinsert.errors import ModelError, first_line
from singleinsert.models.families import FAMILIES, SUPPORTED
from singleinsert.models.family import Family
from singleinsert.models.split_files import NOTHING, Beside, split_source

Shapes = dict[str, tuple[int, ...]]


def load_single_file(
    path: Path, dtype: torch.dtype, prediction_type: str, beside: Beside = NOTHING
) -> tuple[type[Family], Any, str]:
    """(family, diffusers' pipeline, prediction type) of a checkpoint, and of what is ``beside`` a transformer's.

    Raises:
        ModelError: not readable, another kind of model, or a prediction type that the file does not tell.
    """
    shapes, metadata = read_header(path)
    family, name = family_of_checkpoint(path, shapes)
    if beside != NOTHING and not family.in_parts:
        raise ModelError(f"{path} holds all parts of {family.title}: name it alone")
    if prediction_type == "auto":
        prediction_type = told_prediction_type(metadata) or family.checkpoint_prediction_type(path, name, shapes)
    try:
        pipeline = family.load_checkpoint(path, name, dtype, shapes, beside)
    except ModelError:
        raise
    except Exception as error:  # diffusers wraps a missing part in errors of many kinds
        raise ModelError(f"{path}: cannot be loaded as {name.upper()}: {first_line(error)}") from error
    return family, pipeline, prediction_type


def read_header(path: Path) -> tuple[Shapes, dict[str, str]]:
    """(name -> shape of every tensor, header texts) of a checkpoint, without reading a weight."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ModelError(f"no checkpoint {path}")
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            return shapes, file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path} is not a readable safetensors file ({error}): it may be cut short") from error


def family_of_checkpoint(path: Path, shapes: Shapes) -> tuple[type[Family], str]:
    """(family, its name for this kind) of a checkpoint. ModelError where no family knows it."""
    for family in FAMILIES:
        if name := family.match_checkpoint(shapes):
            return family, name
    what = "a LoRA" if any("lora" in key for key in shapes) else f"no checkpoint of {SUPPORTED}"
    raise ModelError(f"{path} is {what}: give a whole checkpoint, a diffusers folder or a hub id")


def told_prediction_type(metadata: dict[str, str]) -> str:
    """What the file's own metadata say of its prediction type; "" where they say nothing."""
    told = metadata.get("modelspec.prediction_type", "").lower()
    return "v_prediction" if told.startswith("v") else told


def check_checkpoint(source: str | Path) -> None:
    """ModelError where a file is no checkpoint of a known family, or one beside it is missing; only headers count."""
    first, beside = split_source(source)
    shapes, _ = read_header(Path(first))
    family_of_checkpoint(Path(first), shapes)
    for path in beside.files:
        read_header(path)
