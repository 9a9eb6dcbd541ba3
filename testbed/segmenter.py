"""Trains mini-sd's segmenter on the drawn world's exact masks, and measures it on held-out pictures.

    python -m testbed.segmenter               draw, train (resumable), measure, write the asset
    python -m testbed.segmenter --evaluate    measure the committed one

Every training picture is asked for what it shows and for what it does not, whose mask is empty: a picture without
the class must give no candidate. About half an hour on one CPU core.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from singleinsert.masks.mini import FOLDER, MiniSegmenter, SegmenterNet, save_segmenter

from .common import HalfTrainer, device, run, to_tensor
from .dataset import held_out_scenes, training_seeds
from .judge_training import augment
from .world.features import CLASSES
from .world.scene import Drawn, Scene, draw

PARTS = ("hair", "hat", "glasses", "scarf")
WORDS = (*CLASSES, *PARTS)
PICTURES, STEPS, BATCH, LR = 12_000, 3_600, 32, 2e-3
RUNS = Path(__file__).resolve().parent / "runs"
LEAST_PIXELS = 16
"""Less of a part than this (hair under a hat) is not asked for in measuring."""

WORD_ODDS = (0.45, 0.3, 0.25)
"""A class that is there; a part (there or not); anything that is not there."""


def exact_masks(scene: Scene, drawn: Drawn) -> dict[str, np.ndarray]:
    """Word -> boolean (64, 64) for every word the picture has an answer to; absent subjects are empty.

    The parts of a second subject have no masks, so pictures of two are not asked for parts.
    """
    empty = np.zeros((64, 64), bool)
    out = {word: empty for word in CLASSES}
    for instance, key in zip(scene.instances, ("subject", "second"), strict=False):
        out[instance.cls] = np.asarray(drawn.masks[key]) >= 128
    if len(scene.instances) == 1:
        out |= {part: np.asarray(drawn.masks[part]) >= 128 for part in PARTS}
    return out


def draw_chunk(seeds: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures uint8 (n, 64, 64, 3); masks as one bit a word, uint16 (n, 64, 64); known words, uint16 (n,)."""
    images, bits, known = [], [], []
    for seed in seeds:
        scene = Scene.from_seed(seed)
        drawn = draw(scene)
        masks = exact_masks(scene, drawn)
        images.append(np.asarray(drawn.image))
        bits.append(sum(np.uint16(1 << k) * masks[w].astype(np.uint16) for k, w in enumerate(WORDS) if w in masks))
        known.append(sum(1 << k for k, w in enumerate(WORDS) if w in masks))
    return np.stack(images), np.stack(bits), np.asarray(known, np.uint16)


def training_set(cache: Path, workers: int) -> dict[str, np.ndarray]:
    file = cache / f"segmenter-{PICTURES}.npz"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        seeds = training_seeds(PICTURES)
        chunks = [seeds[i : i + 250] for i in range(0, PICTURES, 250)]
        with ProcessPoolExecutor(workers) as pool:
            drawn = list(tqdm(pool.map(draw_chunk, chunks), total=len(chunks), desc="drawing"))
        images, bits, known = (np.concatenate(each) for each in zip(*drawn, strict=True))
        part = file.with_suffix(".part.npz")
        np.savez_compressed(part, images=images, bits=bits, known=known)
        part.rename(file)
    return dict(np.load(file))


def choose_words(bits: np.ndarray, known: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One word per picture, by `WORD_ODDS`; bits (b, 64, 64), known (b,) -> word numbers (b,)."""
    there = np.bitwise_or.reduce(bits.reshape(len(bits), -1), axis=1)
    out = []
    for shown, answered, kind in zip(there, known, rng.choice(3, len(bits), p=WORD_ODDS), strict=True):
        subjects = [k for k in range(len(CLASSES)) if shown >> k & 1]
        parts = [k for k in range(len(CLASSES), len(WORDS)) if answered >> k & 1]
        absent = [k for k in range(len(WORDS)) if answered >> k & 1 and not shown >> k & 1]
        out.append(rng.choice((subjects, parts or subjects, absent)[kind]))
    return np.asarray(out)


def loss(logits: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Cross-entropy, and the Dice loss of the pictures that show what was asked for. All (b, 1, 64, 64)."""
    logits = logits.float()
    probability, shown = logits.sigmoid(), (target.sum((1, 2, 3)) > 0).float()
    overlap = 2 * (probability * target).sum((1, 2, 3)) + 1
    dice = 1 - overlap / (probability.sum((1, 2, 3)) + target.sum((1, 2, 3)) + 1)
    return {"bce": F.binary_cross_entropy_with_logits(logits, target), "dice": (dice * shown).mean()}


def train(cache: Path, workers: int, steps: int) -> SegmenterNet:
    data, dev = training_set(cache, workers), device()
    torch.manual_seed(31)
    net = SegmenterNet(WORDS).to(dev)
    trainer = HalfTrainer([net], LR)

    def step_loss(step: int) -> dict[str, Tensor]:
        rng, generator = np.random.default_rng(step), torch.Generator().manual_seed(step)
        rows = rng.integers(0, len(data["images"]), BATCH)
        words = choose_words(data["bits"][rows], data["known"][rows], rng)
        target = torch.from_numpy((data["bits"][rows] >> words[:, None, None].astype(np.uint16) & 1).astype(np.float32))
        pictures = to_tensor(data["images"][rows]).contiguous()
        if step % 2:  # nobody's mirror image is another class, and noise is what real uses add
            pictures, target = pictures.flip(-1), target.flip(-1)
        pictures = augment(pictures, generator).to(dev, torch.bfloat16)
        return loss(net(pictures, torch.from_numpy(words).to(dev)), target[:, None].to(dev))

    run("segmenter", cache, trainer, step_loss, steps)
    trainer.finish()
    return net.eval()


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boolean masks; 1 where both are empty."""
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


def evaluate(segmenter: MiniSegmenter, count: int) -> dict[str, Any]:
    """Held-out combinations and instances: mean IoU by word, and how often an absent subject was found anyway."""
    scores: dict[str, list[float]] = {word: [] for word in WORDS}
    false, asked = 0, 0
    for scene in islice(held_out_scenes(count), count):
        drawn = draw(scene)
        for word, exact in exact_masks(scene, drawn).items():
            found = segmenter.find(drawn.image, word)
            if np.count_nonzero(exact) >= LEAST_PIXELS:
                mask = np.asarray(found[0].mask) >= 128 if found else np.zeros_like(exact)
                scores[word].append(iou(mask, exact))
            elif not exact.any():
                # What the pipeline would accept: over its threshold, and more than a speck.
                false += bool(found and np.count_nonzero(np.asarray(found[0].mask)) >= 64)
                asked += 1
    subjects = [v for word in CLASSES for v in scores[word]]
    return {
        "subject_iou": float(np.mean(subjects)),
        "subjects_under_0.7": float(np.mean(np.asarray(subjects) < 0.7)),
        "found_though_absent": false / asked,
        "by_word": {word: round(float(np.mean(v)), 3) for word, v in scores.items() if v},
    }


def sheet(segmenter: MiniSegmenter, count: int = 24) -> Image.Image:
    """Held-out pictures beside what the segmenter took, to look at."""
    out = Image.new("RGB", (8 * 132, -(-count // 8) * 68), "white")
    for k, scene in enumerate(held_out_scenes(count)):
        picture = draw(scene).image
        found = segmenter.find(picture, scene.instances[0].cls)
        cut = (
            Image.composite(picture, Image.new("RGB", picture.size, (255, 0, 255)), found[0].mask) if found else picture
        )
        x, y = k % 8 * 132, k // 8 * 68
        out.paste(picture, (x, y))
        out.paste(cut, (x + 66, y))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluate", action="store_true", help="measure the committed segmenter only")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--pictures", type=int, default=500, help="held-out pictures to measure on")
    parser.add_argument("--cache", type=Path, default=RUNS)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sheet", type=Path, help="write a contact sheet here")
    args = parser.parse_args()
    if not args.evaluate:
        save_segmenter(train(args.cache, args.workers, args.steps), FOLDER)
    segmenter = MiniSegmenter()
    for name, value in evaluate(segmenter, args.pictures).items():
        print(f"{name}: {value}")
    if args.sheet:
        sheet(segmenter).save(args.sheet)


if __name__ == "__main__":
    main()
