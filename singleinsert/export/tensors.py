"""Tensors of exported files, in the clients' names and in the precision asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import torch
from torch import Tensor

from singleinsert.adapters.naming import TEXT_ENCODER, dotted_name, flat_name
from singleinsert.artifact import Artifact, TrainedConcept
from singleinsert.dtypes import DTYPES
from singleinsert.errors import InputError
from singleinsert.models.families import FILE_FACTS
from singleinsert.terms import Precision


def dtype_of(precision: str) -> torch.dtype:
    """torch's dtype for "fp16", "fp32" or "bf16". Raises InputError for anything else."""
    if precision not in get_args(Precision):
        raise InputError(f"save precision '{precision}' is none of {', '.join(get_args(Precision))}")
    return DTYPES[precision]


def rounded(tensor: Tensor, precision: str, what: str) -> Tensor:
    """``tensor`` in ``precision``. Raises InputError where a number does not fit (fp16 ends at 65504)."""
    out = tensor.detach().to("cpu", dtype_of(precision), copy=True, memory_format=torch.contiguous_format)
    if not bool(torch.isfinite(out).all()):
        raise InputError(f"{what} has numbers too large for {precision}: export it with --save_precision bf16 or fp32")
    return out


def embedding_tensors(concept: TrainedConcept, family: str, precision: str, key: str) -> dict[str, Tensor]:
    """What an embedding's file holds: (n, d) under ``key``, also for n = 1, as kohya wants it; where clients go by the
    text encoder's name, under that (``clip_l`` and ``clip_g`` for SDXL)."""
    keys = FILE_FACTS[family].embedding_keys or {TEXT_ENCODER: key}
    return {
        keys[encoder]: rounded(tensor, precision, f"the embedding of {concept.name}")
        for encoder, tensor in concept.embeddings.items()
    }


def lora_tensors(artifact: Artifact, precision: str) -> dict[str, Tensor]:
    """The LoRA in the layout that the clients of its family read. Alphas stay float32: float16 has no 0.1."""
    if FILE_FACTS[artifact.base.family].layout == "diffusers":
        return peft_tensors(artifact, precision, FILE_FACTS[artifact.base.family].prefixes)
    tensors: dict[str, Tensor] = {}
    for component, layers in artifact.lora.items():
        for path, weights in layers.items():
            stem = flat_name(component, path, artifact.base.family)
            tensors[f"{stem}.lora_down.weight"] = rounded(weights.down, precision, stem)
            tensors[f"{stem}.lora_up.weight"] = rounded(weights.up, precision, stem)
            tensors[f"{stem}.alpha"] = torch.tensor(weights.alpha, dtype=torch.float32)
    return tensors


def peft_tensors(artifact: Artifact, precision: str, prefixes: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """The LoRA in diffusers' layout: peft's ``lora_A``, and ``lora_B`` with alpha multiplied into it.

    The layout has no place for alphas, and diffusers before 0.34 reads no header: it takes alpha for the rank.

    Args:
        prefixes: by component, in the place of diffusers' own.
    """
    tensors: dict[str, Tensor] = {}
    for component, layers in artifact.lora.items():
        for path, weights in layers.items():
            stem = dotted_name(component, path) if prefixes is None else prefixes[component] + path
            baked = weights.baked()
            tensors[f"{stem}.lora_A.weight"] = rounded(baked.down, precision, stem)
            tensors[f"{stem}.lora_B.weight"] = rounded(baked.up, precision, stem)
    return tensors


def peft_metadata(artifact: Artifact) -> dict[str, Any]:
    """peft's LoraConfig of each component as diffusers keeps it ("unet.r", "text_encoder.lora_alpha", ...).

    Alpha is each layer's rank. Ranks other than the commonest go into the patterns. Paths are given without
    ``text_model.``: transformers 5 has no such level, and diffusers strips it from the tensors but not from here; peft
    matches the ends of paths, so that older versions find them too.
    """
    metadata: dict[str, Any] = {}
    for component, layers in artifact.lora.items():
        if not layers:
            continue
        ranks = {path: weights.rank for path, weights in layers.items()}
        rank = _commonest(list(ranks.values()))
        others = {path: value for path, value in ranks.items() if value != rank}
        config = {
            "r": rank,
            "lora_alpha": rank,
            "rank_pattern": others,
            "alpha_pattern": others,
            "target_modules": sorted(layers),
        }
        metadata |= {f"{component}.{key}": value for key, value in config.items()}
    return metadata


def _commonest(values: list[Any]) -> Any:
    return max(sorted(set(values)), key=values.count)
