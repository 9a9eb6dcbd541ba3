"""Which model is it? A fingerprint of everything that changes what a base model draws."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from singleinsert.models.family import Family


def model_digest(model: Family) -> str:
    """Fingerprint of a loaded base model: every weight in the dtype it works in, the tokenizer, the noise schedule."""
    # names that begin with _ are diffusers' own notes, one of them in an order that changes from process to process
    schedule = {key: value for key, value in model.scheduler.config.items() if not key.startswith("_")}
    vocabularies = [tokenizer.get_vocab() for tokenizer in model.tokenizers.values()]
    tables = [vocabularies, schedule, model.schedule.prediction_type]
    sums = hashlib.sha256(json.dumps(tables, sort_keys=True, default=str).encode())
    for name, part in model.parts.items():
        sums.update(name.encode())
        add_tensors(sums, part.state_dict())
    return sums.hexdigest()[:24]


def add_tensors(sums: Any, tensors: Mapping[str, Tensor]) -> None:
    """Feed tensors, by name, to a hash of hashlib."""
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sums.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sums.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
