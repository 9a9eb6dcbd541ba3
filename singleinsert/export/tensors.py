"""Tensors of exported files, in the clients' names and in the precision asked for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from singleinsert.adapters.naming import dotted_name, flat_name
from singleinsert.artifact import Artifact
from singleinsert.dtypes import DTYPES
from singleinsert.errors import InputError


def dtype_of(precision: str) -> torch.dtype:
    """torch's dtype for "fp16", "fp32" or "bf16". Raises InputError for anything else."""
    if precision not in DTYPES:
        raise InputError(f"save precision '{precision}' is none of {', '.join(DTYPES)}")
    return DTYPES[precision]


def rounded(tensor: Tensor, precision: str, what: str) -> Tensor:
    """``tensor`` in ``precision``. Raises InputError where a number does not fit (fp16 ends at 65504)."""
    out = tensor.detach().to("cpu", dtype_of(precision), copy=True, memory_format=torch.contiguous_format)
    if not bool(torch.isfinite(out).all()):
        raise InputError(f"{what} has numbers too large for {precision}: export it with --save_precision bf16 or fp32")
    return out


def embedding_tensor(artifact: Artifact, precision: str) -> Tensor:
    """(n, d), also for n = 1: kohya wants two dimensions."""
    return rounded(artifact.embedding, precision, f"the embedding of {artifact.name}")


def kohya_tensors(artifact: Artifact, precision: str) -> dict[str, Tensor]:
    """The LoRA in kohya's layout. Alphas stay float32: float16 has no 0.1."""
    tensors: dict[str, Tensor] = {}
    for component, layers in artifact.lora.items():
        for path, weights in layers.items():
            stem = flat_name(component, path)
            tensors[f"{stem}.lora_down.weight"] = rounded(weights.down, precision, stem)
            tensors[f"{stem}.lora_up.weight"] = rounded(weights.up, precision, stem)
            tensors[f"{stem}.alpha"] = torch.tensor(weights.alpha, dtype=torch.float32)
    return tensors


def peft_tensors(artifact: Artifact, precision: str) -> dict[str, Tensor]:
    """The LoRA in diffusers' layout: peft's ``lora_A``, ``lora_B`` under dotted names; no alphas."""
    tensors: dict[str, Tensor] = {}
    for component, layers in artifact.lora.items():
        for path, weights in layers.items():
            stem = dotted_name(component, path)
            tensors[f"{stem}.lora_A.weight"] = rounded(weights.down, precision, stem)
            tensors[f"{stem}.lora_B.weight"] = rounded(weights.up, precision, stem)
    return tensors


def peft_metadata(artifact: Artifact) -> dict[str, Any]:
    """peft's LoraConfig of each component as diffusers keeps it ("unet.r", "text_encoder.lora_alpha", ...).

    Without it diffusers takes alpha for the rank. Ranks and alphas other than the commonest go into the
    patterns. Paths are given without ``text_model.``: transformers 5 has no such level, and diffusers strips
    it from the tensors but not from here; peft matches the ends of paths, so that older versions find them
    too.
    """
    metadata: dict[str, Any] = {}
    for component, layers in artifact.lora.items():
        if not layers:
            continue
        ranks = {path: weights.rank for path, weights in layers.items()}
        alphas = {path: weights.alpha for path, weights in layers.items()}
        rank, alpha = _commonest(list(ranks.values())), _commonest(list(alphas.values()))
        config = {
            "r": rank,
            "lora_alpha": int(alpha) if float(alpha).is_integer() else alpha,
            "rank_pattern": {path: value for path, value in ranks.items() if value != rank},
            "alpha_pattern": {path: value for path, value in alphas.items() if value != alpha},
            "target_modules": sorted(layers),
        }
        metadata |= {f"{component}.{key}": value for key, value in config.items()}
    return metadata


def _commonest(values: list[Any]) -> Any:
    return max(sorted(set(values)), key=values.count)
