"""Trains mini-sdxl's second text encoder on the world's captions, from random weights.

Its states before the last layer must say what mini-sd's text encoder says (:mod:`testbed.text`), its pooled vector
as much of it as one vector can.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection

from .common import HalfTrainer, device, run
from .text import ATTRIBUTES, Readout, draw_merges

BATCH = 64
Sums = list[tuple[int, int, Tensor]]
"""(row, slot, token ids): what stands in a slot is the sum of these tokens' embeddings."""


def merge_spans(ids: Tensor, merges: list[tuple[int, int, int]], pad: int) -> tuple[Tensor, Sums]:
    """Token ids (b, L) in which each span (row, first, last) is one slot, what follows moved forward, and its sums."""
    ids, sums = ids.clone(), []
    for row, first, last in merges:
        sums.append((row, first, ids[row, first:last].clone()))
        gap = last - first - 1
        ids[row] = torch.cat([ids[row, : first + 1], ids[row, last:], ids.new_full((gap,), pad)])
    return ids, sums


@contextmanager
def summed_in(model: Any, sums: Sums) -> Iterator[None]:
    """Within it the encoder looks sums of embeddings up in these slots."""
    table = model.get_input_embeddings()

    def write(_module: nn.Module, _args: object, out: Tensor) -> Tensor:
        out = out.clone()
        for row, slot, tokens in sums:
            out[row, slot] = table.weight[tokens.to(table.weight.device)].sum(0)
        return out

    handle = table.register_forward_hook(write)
    try:
        yield
    finally:
        handle.remove()


def encode_second(
    model: CLIPTextModelWithProjection, ids: Tensor, merges: list[tuple[int, int, int]]
) -> tuple[Tensor, Tensor]:
    """States before the last layer (b, L, 224) and pooled vectors (b, 288) of ids padded as the first encoder pads."""
    eos, pad = model.config.eos_token_id, model.config.pad_token_id
    merged, sums = merge_spans(ids, merges, eos)
    behind = (merged == eos).int().cumsum(1) > 1
    with summed_in(model, sums):
        out = model(input_ids=merged.masked_fill(behind, pad), output_hidden_states=True)
    return out.hidden_states[-2], out.text_embeds


def shorten(ids: np.ndarray, eos: int) -> np.ndarray:
    """Without the padding that all of these rows have; one position of it is left."""
    return ids[:, : int((ids == eos).argmax(1).max()) + 2]


def train_second(
    model: CLIPTextModelWithProjection, ids: np.ndarray, said: np.ndarray, folder: Path, steps: int
) -> CLIPTextModelWithProjection:
    """Cross-entropy of every attribute that captions name, read from the states and from the pooled vector.

    Args:
        ids: int16 (n, L). said: int8 (n, attributes), 0 where nothing is said. The model is returned in float32.
    """
    dev = device()
    network: Any = model
    network.to(dev).train()
    network.set_attn_implementation("eager")  # the fused attention's backward is slow on CPUs at these sizes
    torch.manual_seed(18)
    readout = Readout(model.config.hidden_size).to(dev)
    heads = nn.ModuleList(nn.Linear(model.config.projection_dim, len(v) + 1) for v in ATTRIBUTES.values()).to(dev)
    trainer = HalfTrainer([model, readout, heads], lr=6e-4, ema=0.998)
    eos = model.config.eos_token_id

    def loss_of_step(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([step, 9])
        rows = np.sort(rng.integers(0, len(ids), BATCH))
        batch = shorten(ids[rows], eos)
        merges = draw_merges(batch, eos, rng, 0.3)
        states, pooled = encode_second(model, torch.from_numpy(batch.astype(np.int64)).to(dev), merges)
        target = torch.from_numpy(said[rows].astype(np.int64)).to(dev)
        read, summed = readout(states), [head(pooled) for head in heads]
        losses = [
            torch.stack([F.cross_entropy(o.float(), target[:, k]) for k, o in enumerate(outputs)]).mean()
            for outputs in (read, summed)
        ]
        return {"read": 10 * losses[0], "pooled": 5 * losses[1]}

    run("sdxl-text", folder, trainer, loss_of_step, steps)
    trainer.finish(average=False)  # a short run that has cooled down: its average lags
    network.set_attn_implementation("sdpa")
    network.eval().requires_grad_(False)
    with torch.no_grad():
        rows = np.arange(min(len(ids), 1000))
        states, pooled = encode_second(model, torch.from_numpy(ids[rows].astype(np.int64)).to(dev), [])
        target = torch.from_numpy(said[rows].astype(np.int64)).to(dev)
        for where, outputs in (("states", readout(states)), ("pooled", [head(pooled) for head in heads])):
            print(f"sdxl-text: read back from {where}:", _right(outputs, target), flush=True)
    network.cpu()
    return model


def _right(outputs: list[Tensor], target: Tensor) -> dict[str, float]:
    """The share of named attributes read right, where any is named."""
    found = {}
    for k, ((subject, name), o) in enumerate(zip(ATTRIBUTES, outputs, strict=True)):
        named = target[:, k] > 0
        if named.any():
            found[f"{name}{subject}"] = round(float((o.argmax(-1) == target[:, k])[named].float().mean()), 3)
    return found
