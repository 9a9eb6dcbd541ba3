"""More pictures out of one: mirrored, and made of its subjects' cut-outs; each with exact masks and subjects."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image, ImageChops, ImageFilter, ImageOps

from singleinsert.data.pictures import solid
from singleinsert.data.subject import BACKGROUND, Subject, TrainingPicture

SCALES = (0.5, 1.3)
"""Of a cut-out in a mix, against its size in the picture."""
TRIES = 30
LEAST_VISIBLE = 0.7
"""Share of a cut-out that stays visible in a mix, what lies in front of it taken away."""


def mirrored(picture: TrainingPicture) -> TrainingPicture:
    """Left and right exchanged, masks with it."""
    subjects = tuple(replace(subject, mask=ImageOps.mirror(subject.mask)) for subject in picture.subjects)
    return replace(picture, image=ImageOps.mirror(picture.image), subjects=subjects)


def make_collection(picture: TrainingPicture, count: int, rng: random.Random) -> list[TrainingPicture]:
    """Break-A-Scene's conversion of a picture for its baselines (section 4.1, Fig. 6): random non-empty subsets where
    they are, all else one random solid colour, every second one mirrored."""
    return [_on_colour(picture, rng) for _ in range(count)]


def _on_colour(picture: TrainingPicture, rng: random.Random) -> TrainingPicture:
    shown = _subset(picture.subjects, rng)
    ground = Image.new("RGB", picture.image.size, _colour(rng))
    for subject in shown:
        ground.paste(picture.image, (0, 0), subject.mask)
    made = replace(picture, image=ground, subjects=tuple(shown), description="")
    return mirrored(made) if rng.random() < 0.5 else made


def make_mixes(picture: TrainingPicture, count: int, rng: random.Random) -> list[TrainingPicture]:
    """Seg-Mix (MuDI, Jang et al. 2024) out of the scene itself: cut-outs of a random subset at random places and sizes,
    in random order, on the picture with its own subjects blurred away, or on a plain colour.

    It takes apart what one picture always shows together: a subject's place, size and neighbours.
    """
    movable = [subject for subject in picture.subjects if subject.handle != BACKGROUND]
    empty = _without_subjects(picture.image, [subject.mask for subject in movable])
    return [_mix(picture, movable, empty, rng) for _ in range(count)]


def _mix(
    picture: TrainingPicture, movable: Sequence[Subject], empty: Image.Image, rng: random.Random
) -> TrainingPicture:
    plain = rng.random() < 0.5
    ground = Image.new("RGB", picture.image.size, _colour(rng)) if plain else empty.copy()
    placed: list[tuple[Subject, Image.Image]] = []
    for subject in _subset(movable, rng):
        cut, mask = _moved(picture.image, subject.mask, [other for _, other in placed], rng)
        ground.paste(cut, (0, 0), mask)
        placed = [(s, ImageChops.subtract(m, mask)) for s, m in placed] + [(subject, mask)]
    subjects = [replace(s, mask=m, share=_share(m)) for s, m in placed]
    background = next((s for s in picture.subjects if s.handle == BACKGROUND), None)
    if background is not None and not plain:  # the blurred rest is still that background
        rest = ImageChops.invert(_united([m for _, m in placed]))
        subjects.append(replace(background, mask=rest, share=_share(rest)))
    return replace(picture, image=ground, subjects=tuple(subjects), description="")


def _moved(
    image: Image.Image, mask: Image.Image, behind: Sequence[Image.Image], rng: random.Random
) -> tuple[Image.Image, Image.Image]:
    """The cut-out and its mask on a canvas of the picture's size, at a place that hides little of what is there."""
    box = solid(mask).getbbox() or (0, 0, *mask.size)
    cut, own = image.crop(box), mask.crop(box)
    best: tuple[float, Image.Image, Image.Image] | None = None
    for _ in range(TRIES):
        fitting = min(full / side for side, full in zip(cut.size, image.size, strict=True))
        scale = min(rng.uniform(*SCALES), fitting)  # one for both sides: a shape that is squeezed would be learnt
        width, height = (round(side * scale) for side in cut.size)
        if min(width, height) < 1:
            continue
        x, y = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
        canvas, shape = Image.new("RGB", image.size), Image.new("L", image.size)
        canvas.paste(cut.resize((width, height), Image.Resampling.LANCZOS), (x, y))
        shape.paste(own.resize((width, height), Image.Resampling.BILINEAR), (x, y))
        visible = min((_share(ImageChops.subtract(m, shape)) / max(_share(m), 1e-9) for m in behind), default=1.0)
        if best is None or visible > best[0]:
            best = (visible, canvas, shape)
        if visible >= LEAST_VISIBLE:
            break
    assert best is not None
    return best[1], best[2]


def _without_subjects(image: Image.Image, masks: Sequence[Image.Image]) -> Image.Image:
    """The picture, what the masks cover filled from far around: a heavy blur of the rest, which alone counts."""
    grown = _united(masks).filter(ImageFilter.MaxFilter(2 * (max(image.size) // 64) + 1))
    keep = np.asarray(ImageChops.invert(grown), dtype=np.float32)[..., None] / 255
    radius = max(image.size) / 8
    known = Image.fromarray((np.asarray(image) * keep).round().astype(np.uint8)).filter(ImageFilter.BoxBlur(radius))
    weight = ImageChops.invert(grown).filter(ImageFilter.BoxBlur(radius))
    filled = np.asarray(known, dtype=np.float32) / np.maximum(
        np.asarray(weight, dtype=np.float32)[..., None] / 255, 0.02
    )
    mixed = np.asarray(image) * keep + filled.clip(0, 255) * (1 - keep)
    return Image.fromarray(mixed.round().astype(np.uint8))


def _united(masks: Sequence[Image.Image]) -> Image.Image:
    total = masks[0]
    for mask in masks[1:]:
        total = ImageChops.lighter(total, mask)
    return total


def _subset(subjects: Sequence[Subject], rng: random.Random) -> list[Subject]:
    """Random and non-empty, its size drawn first; in random order."""
    return rng.sample(list(subjects), rng.randint(1, len(subjects)))


def _colour(rng: random.Random) -> tuple[int, int, int]:
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)


def _share(mask: Image.Image) -> float:
    return float(np.asarray(mask).mean() / 255)
