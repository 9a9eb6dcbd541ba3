"""The base model, from a diffusers folder, a hub id or one ``.safetensors`` file; frozen, one dtype, one device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from singleinsert.errors import ModelError, first_line
from singleinsert.models.families import FAMILIES, SUPPORTED
from singleinsert.models.family import Family
from singleinsert.models.hub_errors import hub_error
from singleinsert.models.split_files import split_source
from singleinsert.models.threads import choose_threads


def load_base_model(
    source: str | Path,
    *,
    revision: str | None = None,
    variant: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    prediction_type: str = "auto",
) -> Family:
    """Load a model of one of the known families.

    Args:
        source: a folder in diffusers' layout, a hub id, or a ``.safetensors`` checkpoint as WebUIs use; of a model in
            parts its transformer's file and, behind commas, those of the others (:mod:`.split_files`).
        revision, variant: as in diffusers, for folders and hub ids.
        prediction_type: "auto" believes the model's scheduler config (a checkpoint: its metadata).

    Raises:
        ModelError: one line: what is missing or not supported, and what to do.
    """
    _quiet()
    first, beside = split_source(source)
    choose_threads(first)
    path = Path(first)
    if path.suffix in (".ckpt", ".pt", ".pth", ".bin"):
        raise ModelError(f"{source}: pickle checkpoints are not loaded, they can run code: convert it to .safetensors")
    if path.suffix == ".safetensors":
        from singleinsert.models.single_file import load_single_file

        family, pipeline, prediction_type = load_single_file(path, dtype, prediction_type, beside)
    else:
        family, pipeline = _load_folder_or_hub(source, path, revision, variant, dtype, torch.device(device))
    return family.from_pipeline(pipeline, str(source), short_name(source), device, prediction_type)


def _quiet() -> None:
    """No bars for files that load in a moment, no advice on packages (torchvision) that must not be installed."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def _load_folder_or_hub(
    source: str | Path, path: Path, revision: str | None, variant: str | None, dtype: torch.dtype, device: torch.device
) -> tuple[type[Family], Any]:
    """(family, diffusers' pipeline), each tensor straight to ``device`` (of its type the current one) in ``dtype``."""
    if path.is_dir():
        family = check_folder(path, variant)
    elif str(source).startswith((".", "/", "~")) or str(source).count("/") != 1 or path.is_file():
        raise ModelError(f"no model folder {source}: give a diffusers folder, a .safetensors file or a hub id")
    else:
        family = _family_on_hub(str(source), revision)
    try:
        pipeline = family.load_pipeline(str(source), revision=revision, variant=variant, dtype=dtype, device=device)
    except Exception as error:  # diffusers, transformers, the hub: each has errors of its own
        raise hub_error(source, error, f"cannot be loaded as {family.title}") from error
    return family, pipeline


def _family_on_hub(source: str, revision: str | None) -> type[Family]:
    from diffusers import DiffusionPipeline

    try:
        kind = DiffusionPipeline.load_config(source, revision=revision)["_class_name"]
    except Exception as error:
        raise hub_error(source, error, "no model in diffusers' layout") from error
    return _family_of_class(str(kind), source)


def _family_of_class(kind: str, where: str | Path) -> type[Family]:
    """The family whose pipeline is called ``kind``. ModelError where there is none."""
    for family in FAMILIES:
        if kind == family.pipeline_class:
            return family
    raise ModelError(f"{where} is a {kind}: only {SUPPORTED} are supported")


def check_folder(folder: Path, variant: str | None = None) -> type[Family]:
    """The family of a diffusers folder. ModelError, in one line, where it is incomplete or of another kind."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise ModelError(f"{folder} is no diffusers model: model_index.json is missing")
    try:
        kind = json.loads(index.read_text())["_class_name"]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ModelError(f"{index} cannot be read: {first_line(error)}") from error
    family = _family_of_class(str(kind), folder)
    wanted = [f"{part}/config.json" for part in family.weight_parts] + ["scheduler/scheduler_config.json"]
    missing = [name for name in wanted if not (folder / name).is_file()]
    for tokenizer in family.tokenizer_folders:
        if not any((folder / tokenizer / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            missing.append(f"{tokenizer}/tokenizer.json (or vocab.json and merges.txt)")
    for part in family.weight_parts:
        if problem := _weights_problem(folder / part, variant):
            missing.append(f"{part}/{problem}")
    if missing:
        raise ModelError(f"model folder {folder} is incomplete: {', '.join(missing)} missing")
    return family


def _weights_problem(folder: Path, variant: str | None) -> str:
    """What to say of a part's weights, "" where they are there."""
    middle = f".{variant}" if variant else ""
    if any(folder.glob(f"*model{middle}.safetensors*")) or any(folder.glob(f"*model{middle}-*.safetensors")):
        return ""
    others = sorted(file.name for pattern in ("*.safetensors", "*.bin") for file in folder.glob(pattern))
    return f"*model{middle}.safetensors" + (f" (there is {others[0]})" if others else "")


def short_name(source: str | Path) -> str:
    """Folder name, file stem, or the last part of a hub id; of a model in parts its transformer's."""
    source, _ = split_source(source)
    name = Path(source).expanduser().name or str(source)
    return name.removesuffix(".safetensors")
