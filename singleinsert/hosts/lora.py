"""A host's LoRA out of its models, into the file that WebUIs, ComfyUI, kohya's scripts and diffusers load."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from singleinsert.adapters.naming import TEXT_ENCODER, UNET
from singleinsert.artifact import HEADER_KEY, Artifact, BaseInfo, Lora
from singleinsert.atomic import write_atomically
from singleinsert.errors import ModelError
from singleinsert.export.metadata import lora_header
from singleinsert.export.tensors import lora_tensors

WRAPPERS = re.compile(r"^(module\.|_orig_mod\.|base_model\.model\.|text_model\.)+")
"""Levels that DDP, torch.compile, peft's get_peft_model and transformers 4 put before a layer's path."""


def lora_from_peft(unet: nn.Module | None = None, text_encoder: nn.Module | None = None) -> Lora:
    """``{"unet": {module path: LoraWeights}, ...}``: float32 copies on the CPU, with each layer's own alpha.

    Read is the adapter called "default", which is what ``add_adapter(LoraConfig(...))`` makes.

    Raises:
        ModelError: there is no such LoRA in a model given.
    """
    from peft.tuners.lora import LoraLayer

    from singleinsert.adapters.lora import NAME, LoraAdapters

    found: dict[str, dict[str, LoraLayer]] = {}
    for component, model in ((UNET, unet), (TEXT_ENCODER, text_encoder)):
        if model is None:
            continue
        found[component] = {
            WRAPPERS.sub("", path): module
            for path, module in model.named_modules()
            if isinstance(module, LoraLayer) and NAME in module.lora_A
        }
        if not found[component]:
            raise ModelError(f"the {component} holds no peft LoRA called '{NAME}'")
    update = LoraAdapters({}, found).state()
    return {} if update is None else {component: dict(layers) for component, layers in update.lora.items()}


def save_lora(
    path: Path,
    lora: Lora,
    base: BaseInfo,
    *,
    precision: str = "fp16",
    trigger_phrase: str = "",
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a LoRA in kohya's layout, which every client reads, with the header that WebUIs look at.

    Where an embedding was learnt too, make an :class:`Artifact` and :func:`export` it instead.

    Args:
        path: the ``.safetensors`` file; its stem is the name in ``<lora:...>``. It appears whole or not at all.
        base: family "sd1" or "sd2", name and prediction type of the model it was trained on.
        precision: "fp16", "fp32" or "bf16"; alphas stay float32.
        trigger_phrase: what a prompt must say, "sks face".
        metadata: further header texts.
    """
    from safetensors.torch import save_file

    # the exporter's view of it
    named = Artifact.of_one_concept(trigger_phrase or path.stem, "", "", torch.empty(0, 0), lora, base)
    tensors = lora_tensors(named, precision)
    header = lora_header(named, path.stem, tensors, thumbnail=None)
    del header[HEADER_KEY]  # says which embedding belongs to it: none does
    header |= {
        "ss_training_comment": "SingleInsert's losses",
        "modelspec.usage_hint": f"prompt: {named.name} <lora:{path.stem}:1>",
        **(metadata or {}),
    }
    write_atomically(path, lambda target: save_file(tensors, target, metadata=header))
