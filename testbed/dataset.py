"""The training set: pictures and captions of scenes that are not held out, a function of the seed range."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .world.scene import Scene, draw, held_out

CHUNK = 500
HELD_OUT_START = 10_000_000
"""Scene seeds from here on are for tests and gates; training draws its seeds from 0 up."""


def training_seeds(count: int) -> list[int]:
    """The first `count` seeds whose scenes training may see."""
    out: list[int] = []
    seed = 0
    while len(out) < count:
        if not held_out(Scene.from_seed(seed)):
            out.append(seed)
        seed += 1
    return out


def held_out_scenes(count: int, start: int = HELD_OUT_START) -> Iterator[Scene]:
    """Scenes of one subject that training never saw in this combination."""
    seed = start
    while count > 0:
        scene = Scene.from_seed(seed)
        seed += 1
        if held_out(scene) and len(scene.instances) == 1:
            count -= 1
            yield scene


def draw_pictures(seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 (n, 64, 64, 3), and how much of each latent pixel the subjects cover, uint8 (n, 16, 16)."""
    images, covers = [], []
    for seed in seeds:
        drawn = draw(Scene.from_seed(seed))
        masks = [np.asarray(drawn.masks[name].reduce(4)) for name in ("subject", "second") if name in drawn.masks]
        images.append(np.asarray(drawn.image))
        covers.append(np.maximum.reduce(masks))
    return np.stack(images), np.stack(covers)


def pictures(count: int, cache: Path, workers: int) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Seeds, pictures and covers of the training set; drawn once, then read from `cache`."""
    seeds = training_seeds(count)
    file, covers = cache / f"pictures-{count}.npy", cache / f"covers-{count}.npy"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        chunks = [seeds[i : i + CHUNK] for i in range(0, count, CHUNK)]
        with ProcessPoolExecutor(workers) as pool:
            drawn = list(tqdm(pool.map(draw_pictures, chunks), total=len(chunks), desc="drawing"))
        part = file.with_suffix(".part.npy")
        np.save(covers, np.concatenate([cover for _, cover in drawn]))
        np.save(part, np.concatenate([image for image, _ in drawn]))
        part.rename(file)
    return seeds, np.load(file, mmap_mode="r"), np.load(covers)
