"""The training set of mini-sdxl: framed pictures with true time ids, and what both text encoders say of captions.

SDXL is told the size that a photo had, where the training crop lies in it, and the size that is drawn. mini-sdxl is
shown what that means: a photo that was small is blurred, one that was cropped is a part of the picture, seen nearer.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from .common import device, hold, to_tensor
from .sdxl import GAIN
from .sdxl_text import encode_second, merge_spans, summed_in
from .text import draw_merges
from .tokenizer import MAX_LENGTH

SIDE = 64
SMALLEST, NEAREST = 16, 112
"""The smallest size of an original, and the largest side that one was enlarged to before its crop, in pixels."""
MERGED = 0.15
"""How often a span of words is one slot of the prompt, as a concept's word will be."""


@dataclass(frozen=True)
class Framing:
    """How a photo came to be ``SIDE`` x ``SIDE`` pixels: ``original`` (height, width), enlarged to ``side`` x ``side``,
    and cropped at ``crop`` (top, left)."""

    original: tuple[int, int]
    side: int
    crop: tuple[int, int]

    @property
    def time_ids(self) -> tuple[int, ...]:
        """Six numbers in SDXL's order."""
        return (*self.original, *self.crop, SIDE, SIDE)

    def apply(self, image: Image.Image) -> Image.Image:
        """What is seen of a picture of any size that shows it whole."""
        height, width = self.original
        if (width, height) != image.size:
            image = image.resize((width, height), Image.Resampling.BOX)
        top, left = self.crop
        box = [(a + b) * size / self.side for b in (0, SIDE) for a, size in ((left, width), (top, height))]
        return image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=(box[0], box[1], box[2], box[3]))


def draw_framing(rng: np.random.Generator) -> Framing:
    """A crop, a small original, or both; an original's height and width differ, so that they cannot be mixed up."""
    kind = rng.random()
    original, side, crop = (SIDE, SIDE), SIDE, (0, 0)
    if kind > 0.45:
        height, width = (int(n) for n in rng.integers(SMALLEST, SIDE, 2))
        original = (height, width)
    if kind < 0.65:
        side = int(rng.integers(72, NEAREST + 1))
        top, left = (int(n) for n in rng.integers(0, side - SIDE + 1, 2))
        crop = (top, left)
    return Framing(original, side, crop)


@dataclass(frozen=True)
class Framed:
    """One framed view of each picture: latents float16 (n, 4, 16, 16) unscaled, the subjects' share of each latent
    pixel uint8 (n, 16, 16), time ids int16 (n, 6)."""

    latents: Tensor
    covers: Tensor
    time_ids: Tensor


@torch.no_grad()
def framed_pictures(vae: AutoencoderKL, drawn: np.ndarray, covers: np.ndarray, cache: Path) -> Framed:
    """Computed once, then read from `cache`."""
    file = cache / f"sdxl-framed-{len(drawn)}.npz"
    if not file.exists():
        half: Any = copy.deepcopy(vae)
        half = half.to(device(), torch.bfloat16)
        found: dict[str, list[np.ndarray]] = {"latents": [], "covers": [], "time_ids": []}
        for start in tqdm(range(0, len(drawn), 64), desc="framed", mininterval=10):
            rows = range(start, min(start + 64, len(drawn)))
            framings = [draw_framing(np.random.default_rng([row, 8])) for row in rows]
            views = [f.apply(Image.fromarray(drawn[r])) for r, f in zip(rows, framings, strict=True)]
            masks = [f.apply(Image.fromarray(covers[r])).reduce(4) for r, f in zip(rows, framings, strict=True)]
            pixels = to_tensor(np.stack([np.asarray(view) for view in views])).to(half.device, torch.bfloat16)
            found["latents"].append(half.encode(pixels).latent_dist.mean.float().cpu().numpy().astype(np.float16))
            found["covers"].append(np.stack([np.asarray(mask) for mask in masks]))
            found["time_ids"].append(np.asarray([f.time_ids for f in framings], np.int16))
        part = file.with_suffix(".part.npz")
        np.savez(part, allow_pickle=False, **{name: np.concatenate(parts) for name, parts in found.items()})
        part.rename(file)
    data = np.load(file)
    return Framed(hold(data["latents"]), hold(data["covers"]), hold(data["time_ids"]))


@dataclass(frozen=True)
class Texts:
    """What both encoders say of n captions, float16: the first one's states divided by ``GAIN`` (n, L, 256), the second
    one's (n, L, 224), pooled vectors (n, 288)."""

    first: Tensor
    second: Tensor
    pooled: Tensor


@torch.no_grad()
def encode_first(model: CLIPTextModel, ids: Tensor, merges: list[tuple[int, int, int]]) -> Tensor:
    """States before the last layer (b, L, 256), divided by ``GAIN``."""
    merged, sums = merge_spans(ids, merges, model.config.pad_token_id)
    with summed_in(model, sums):
        states = model(input_ids=merged, output_hidden_states=True).hidden_states
    return states[-2] / GAIN


@torch.no_grad()
def encode_texts(
    first: CLIPTextModel, second: CLIPTextModelWithProjection, ids: np.ndarray, cache: Path, name: str
) -> Texts:
    """Of token ids (n, L), `MERGED` of them with a span of words in one slot; computed once, then read from `cache`."""
    first, second = (copy.deepcopy(encoder).to(device(), torch.bfloat16) for encoder in (first, second))
    files = [cache / f"sdxl-{name}-{len(ids)}-{part}.npy" for part in ("first", "second", "pooled")]
    if not files[-1].exists():
        width = second.config.hidden_size
        shapes = ((MAX_LENGTH, first.config.hidden_size), (MAX_LENGTH, width))
        states = [
            np.lib.format.open_memmap(file, "w+", np.float16, (len(ids), *shape))
            for file, shape in zip(files, shapes, strict=False)
        ]
        pooled = np.zeros((len(ids), second.config.projection_dim), np.float16)
        for i in tqdm(range(0, len(ids), 256), desc=name, mininterval=10):
            chunk = torch.from_numpy(ids[i : i + 256].astype(np.int64)).to(first.device)
            merges = draw_merges(ids[i : i + 256], first.config.eos_token_id, np.random.default_rng([i, 3]), MERGED)
            states[0][i : i + 256] = encode_first(first, chunk, merges).float().cpu().numpy()
            hidden, summary = encode_second(second, chunk, merges)
            states[1][i : i + 256], pooled[i : i + 256] = hidden.float().cpu().numpy(), summary.float().cpu().numpy()
        for array in states:
            array.flush()
        np.save(files[-1], pooled)
    return Texts(*(hold(np.load(file, mmap_mode="c")) for file in files))
