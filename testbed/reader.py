"""A reader of mini-sd's latents: it tells the UNet, while that is trained, what its predictions do not show yet.

A caption's small words (ears, a hair style) move few latent pixels, and a mean squared error hardly asks for them. The
reader is a small network, trained on the drawn pictures' latents alone, that reads every attribute from a latent; what
it does not find in the UNet's prediction of x0, of what the caption names, is a loss. It has the judge's kind of heads,
not its weights nor its pictures; the judge reads pixels and gives the UNet no gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from .common import HalfTrainer, device, run
from .judge import WIDTH, Network, Residual, convolution
from .judge_training import describe
from .labels import HEADS
from .text import ATTRIBUTES
from .world.scene import Scene

BATCH = 128
NOISE = 0.6
"""Latents are read under Gaussian noise of a deviation up to this (theirs is 1), so that no pattern a picture does not
show can stand for an attribute."""

HARD = {"face.hair": 20.0, "face.head": 8.0, "face.ears": 2.0, "face.marking": 2.0, "cup.shape": 4.0, "car.shape": 4.0,
        "tree.shape": 4.0, "facing": 4.0}  # fmt: skip
"""What a head counts, against 1 of the others: these were learnt last. The outline of a subject shows in x_t even at
high noise, so that its words are needed least."""


def build_reader() -> Network:
    torch.manual_seed(16)
    first = (convolution(4, 32), convolution(32, 64, 3, 2), Residual(64))
    return Network(nn.Sequential(*first, convolution(64, WIDTH, 1), nn.GroupNorm(8, WIDTH)))


def shown_labels(seeds: list[int], cache: Path) -> np.ndarray:
    """int8 (n, heads): what each training scene shows, -1 where a head's attribute does not show."""
    file = cache / f"labels-{len(seeds)}.npy"
    if not file.exists():
        rows = [describe(Scene.from_seed(seed))[: len(HEADS)] for seed in tqdm(seeds, desc="labels")]
        np.save(file, np.asarray(rows, np.int8))
    return np.load(file)


def named_labels(shown: np.ndarray, said: np.ndarray) -> np.ndarray:
    """int8 (n * each, heads): of `shown` (n, heads) what each of `each` captions a scene names, else -1; `said` are the
    captions' labels (n * each, attributes), 0 where nothing is said."""
    columns = list(ATTRIBUTES)
    of_head = [columns.index((0, attribute_of(head))) for head in HEADS]
    return np.where(said[:, of_head] > 0, shown.repeat(len(said) // len(shown), axis=0), -1).astype(np.int8)


def attribute_of(head: str) -> str:
    """The attribute of captions that a head is about: `face.hair` is about hair, `scarf_color` about the scarf."""
    name = head.split(".")[-1]
    return {"facing": "view", "scarf_color": "scarf", "fruits_color": "fruits"}.get(name, name)


def disturb(x: Tensor, generator: torch.Generator) -> Tensor:
    """Latents (b, 4, h, w) under noise, each its own amount of it up to `NOISE`."""
    level = NOISE * torch.rand(len(x), 1, 1, 1, generator=generator)
    return x + (level * torch.randn(x.shape, generator=generator)).to(x.device)


def unread(reader: Network, x: Tensor, target: Tensor, hard: Mapping[str, float] = HARD) -> Tensor:
    """(b,) cross-entropy of what latents (b, 4, h, w) should show, a mean over the heads whose `target` (b, heads) is
    not -1, in which the `hard` ones count more; 0 where there are none."""
    logits, _, _ = reader(x)
    each = torch.stack(
        [F.cross_entropy(o.float(), target[:, k], ignore_index=-1, reduction="none") for k, o in enumerate(logits)], 1
    )
    weight = torch.tensor([hard.get(head, 1.0) for head in HEADS], device=x.device)
    return (each * weight).sum(1) / ((target >= 0) * weight).sum(1).clamp(min=1)


def train_reader(latents: np.ndarray, scaling: float, shown: np.ndarray, folder: Path, steps: int) -> Network:
    """bfloat16 and frozen; `latents` float16 (n, 4, 16, 16) unscaled, `shown` (n, heads). Prints what it reads right in
    the last tenth of the pictures, which it is not trained on."""
    dev = device()
    reader = build_reader().to(dev).train()
    trainer = HalfTrainer([reader], lr=2e-3, ema=0.998)
    train = len(latents) * 9 // 10

    def batch(rows: np.ndarray, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = disturb(torch.from_numpy(latents[rows].astype(np.float32) * scaling), generator)
        x = x.to(dev, torch.bfloat16).contiguous(memory_format=torch.channels_last)
        return x, torch.from_numpy(shown[rows].astype(np.int64)).to(dev)

    def loss_of_step(step: int) -> dict[str, Tensor]:
        rows = np.sort(np.random.default_rng([step, 6]).integers(0, train, BATCH))
        return {"read": unread(reader, *batch(rows, torch.Generator().manual_seed(step))).mean()}

    run("reader", folder, trainer, loss_of_step, steps, report_every=100)
    trainer.finish()
    reader = reader.to(torch.bfloat16).eval().requires_grad_(False)
    rows = np.arange(train, min(len(latents), train + 2000))
    with torch.no_grad():
        x, target = batch(rows, torch.Generator().manual_seed(0))
        right = {}
        for k, (head, o) in enumerate(zip(HEADS, reader(x)[0], strict=True)):
            there = target[:, k] >= 0
            if there.any():
                right[head] = round(float((o.argmax(-1) == target[:, k])[there].float().mean()), 3)
    print("reader: read right under noise:", right, flush=True)
    return reader
