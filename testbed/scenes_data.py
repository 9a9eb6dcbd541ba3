"""The training set of mini-scenes: pictures, latents, captions and what they name, each computed once and kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from .common import to_tensor
from .dataset import HELD_OUT_START
from .labels import HEADS, labels
from .reader import attribute_of
from .text import WIDTH, encode_tokens
from .tokenizer import MAX_LENGTH
from .world.captions import Said
from .world.scene import Scene, held_out
from .world.scene_captions import SceneCaption, scene_caption
from .world.scenes import alone, draw_scene, scene_from_seed

MOST = 4
"""Subjects of a scene at most."""
MERGED = 0.2
"""How often a span of words inside one subject's phrase is one slot of the prompt, as a concept's word will be."""
AT_ONCE, MERGES = 128, 7
"""Captions that are encoded at once, and the draw of their merged spans."""
NOT_READ = ("background", "style")
"""Heads that are not asked of a subject's own window."""


@dataclass(frozen=True)
class Pictures:
    """Pictures uint8 (n, 96, 96, 3), the subjects' share of each latent pixel uint8 (n, 24, 24), their places float32
    (n, 4, 3) as x, y, zoom, zoom 0 where there is none, and what each shows, int8 (n, 4, heads), -1 where nothing."""

    images: np.ndarray
    covers: np.ndarray
    places: np.ndarray
    shown: np.ndarray


def training_scene_seeds(count: int) -> list[int]:
    """The first `count` seeds whose scenes training may see."""
    seeds = (seed for seed in range(10**9) if not held_out(scene_from_seed(seed)))
    return [seed for seed, _ in zip(seeds, range(count), strict=False)]


def held_out_groups(count: int, subjects: int, start: int = HELD_OUT_START) -> Iterator[Scene]:
    """Scenes of so many subjects of different classes that training never saw in this combination."""
    seed = start
    while count > 0:
        scene = scene_from_seed(seed, subjects)
        seed += 1
        if held_out(scene) and len({i.cls for i in scene.instances}) == subjects:
            count -= 1
            yield scene


def pictures(seeds: list[int], cache: Path) -> Pictures:
    """Drawn once, then read from `cache`."""
    file = cache / f"scenes-pictures-{len(seeds)}.npz"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        drawn = [_draw(seed) for seed in tqdm(seeds, desc="drawing", mininterval=10)]
        part = file.with_suffix(".part.npz")
        names = ("images", "covers", "places", "shown")
        columns = {name: np.stack([d[k] for d in drawn]) for k, name in enumerate(names)}
        np.savez(part, allow_pickle=False, **columns)
        part.rename(file)
    data = np.load(file)
    return Pictures(data["images"], data["covers"], data["places"], data["shown"])


def _draw(seed: int) -> tuple[np.ndarray, ...]:
    scene = scene_from_seed(seed)
    drawn = draw_scene(scene)
    places = np.zeros((MOST, 3), np.float32)
    shown = np.full((MOST, len(HEADS)), -1, np.int8)
    for k, place in enumerate(drawn.places):
        places[k] = place.x, place.y, place.zoom
        seen = labels(alone(scene, k))
        shown[k] = [-1 if head in NOT_READ else seen.get(head, -1) for head in HEADS]
    covers = np.maximum.reduce([np.asarray(m.whole.reduce(4)) for m in drawn.masks])
    return np.asarray(drawn.image), covers, places, shown


@torch.no_grad()
def latents_of(vae: AutoencoderKL, images: np.ndarray, cache: Path) -> np.ndarray:
    """Posterior means, float16 (n, 4, 24, 24), unscaled."""
    file = cache / f"scenes-latents-{len(images)}.npy"
    if not file.exists():
        half: Any = vae
        half = half.to(torch.bfloat16)
        out = [
            half.encode(to_tensor(images[i : i + 64]).bfloat16()).latent_dist.mean.float().numpy()
            for i in tqdm(range(0, len(images), 64), desc="latents", mininterval=10)
        ]
        np.save(file, np.concatenate(out).astype(np.float16))
        vae.float()
    return np.load(file)


@dataclass(frozen=True)
class Conditions:
    """Text conditions float16 (n * each, L, d) of `each` captions a picture, and for each subject the labels that the
    caption names, int8 (n * each, 4, heads), else -1."""

    hidden: np.ndarray
    named: np.ndarray


def named_of(said: Said, shown: np.ndarray) -> np.ndarray:
    """int8 (4, heads): of what the subjects show (4, heads), what a caption names."""
    keys = [[(k, attribute_of(head)) for head in HEADS] for k in range(MOST)]
    keep = np.asarray([[key in said for key in row] for row in keys])
    return np.where(keep, shown, -1).astype(np.int8)


@torch.no_grad()
def conditions_of(
    encoder: CLIPTextModel, tokenizer: CLIPTokenizer, seeds: list[int], shown: np.ndarray, cache: Path, each: int,
    dense: bool,
) -> Conditions:  # fmt: skip
    """Captions 0 to `each` of every picture; `dense` ones name much."""
    name = f"scenes-captions-{len(seeds)}-{each}{'-dense' if dense else ''}"
    hidden_file, named_file = cache / f"{name}.npy", cache / f"{name}-named.npy"
    if not named_file.exists():
        captions = [scene_caption(scene_from_seed(s), k, dense) for s in seeds for k in range(each)]
        named = np.stack([named_of(c.said, shown[k // each]) for k, c in enumerate(captions)])
        size = (len(captions), MAX_LENGTH, WIDTH)
        hidden = np.lib.format.open_memmap(hidden_file, "w+", np.float16, size)
        half: Any = encoder
        half = half.to(torch.bfloat16).eval()
        for i in tqdm(range(0, len(captions), AT_ONCE), desc=name, mininterval=10):
            part = captions[i : i + AT_ONCE]
            ids = tokenizer([c.text for c in part], padding="max_length", return_tensors="pt").input_ids
            merges = merges_in(part, np.random.default_rng([i, MERGES]))
            hidden[i : i + AT_ONCE] = encode_tokens(half, ids, merges).float().numpy()
        hidden.flush()
        encoder.float()
        np.save(named_file, named)
    return Conditions(np.load(hidden_file, mmap_mode="r"), np.load(named_file))


def merges_in(captions: list[SceneCaption], rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """Spans (row, first, last) of two to five tokens inside phrases, for :func:`testbed.text.encode_tokens`; of one
    caption the later ones first, because what follows a merged span moves."""
    out = []
    for row, caption in enumerate(captions):
        for first, last in reversed(caption.spans):
            first += 1  # the article stays
            if last - first >= 2 and rng.random() < MERGED:
                length = int(rng.integers(2, min(5, last - first) + 1))
                begin = int(rng.integers(first, last - length + 1))
                out.append((row, 1 + begin, 1 + begin + length))  # one more for the prompt's start
    return out


def merges_of(captions: list[SceneCaption]) -> list[list[tuple[int, int]]]:
    """The merged spans (first, after the last) of each caption, as :func:`conditions_of` draws them."""
    out: list[list[tuple[int, int]]] = [[] for _ in captions]
    for i in range(0, len(captions), AT_ONCE):
        for row, first, after in merges_in(captions[i : i + AT_ONCE], np.random.default_rng([i, MERGES])):
            out[i + row].append((first, after))
    return out
