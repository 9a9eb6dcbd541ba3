"""A mask from a box, points or a face's place, by GrabCut (Rother et al. 2004): nothing to download."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from singleinsert.data.pictures import solid
from singleinsert.errors import InputError, MissingPackageError
from singleinsert.masks.candidates import GIVE_A_MASK, Box, Candidate, Point, clip_box, pointed_at

WORKING_SIDE = 256
"""The box's longer side is brought to at most this many pixels: GrabCut takes seconds where it has megapixels."""

ITERATIONS = 6
BACKGROUND, SUBJECT, LIKELY_BACKGROUND, LIKELY_SUBJECT = range(4)
"""The trimap's values: cv2.GC_BGD, GC_FGD, GC_PR_BGD, GC_PR_FGD."""


def import_cv2() -> Any:
    """opencv, or MissingPackageError with the command that installs it."""
    try:
        import cv2
    except ImportError as problem:
        raise MissingPackageError(
            f"finding a mask needs opencv: pip install 'opencv-python-headless>=4.10,<5', or {GIVE_A_MASK}"
        ) from problem
    return cv2


@dataclass(frozen=True)
class Ellipse:
    """A region of a trimap, in units of a box: centre and radii as shares of its width and height."""

    value: int
    centre: tuple[float, float]
    radii: tuple[float, float]


# Inside the box the middle is the subject and the corners likely are not: a bare rectangle leaks background.
BOX_PRIOR = (Ellipse(LIKELY_SUBJECT, (0.5, 0.5), (0.5, 0.5)), Ellipse(SUBJECT, (0.5, 0.5), (0.15, 0.15)))


class GrabCut:
    """Outlines what the user points at; cannot look for a class word."""

    name = "GrabCut"

    def find(self, image: Image.Image, prompt: str) -> list[Candidate]:
        raise InputError(f"GrabCut cannot look for {prompt!r}: say where it is with --box left,top,right,bottom")

    def outline(self, image: Image.Image, box: Box | None, points: Sequence[Point]) -> Candidate:
        """The subject inside `box`, or around the points where there is no box.

        Raises:
            InputError: neither a box nor a point on the subject, or a box outside of the picture.
        """
        mask = cut(image, box or box_of_points(points, image.size), BOX_PRIOR[: 1 if points else 2], points)
        return pointed_at(mask, box)

    def close(self) -> None:
        """Nothing is held."""


def box_of_points(points: Sequence[Point], size: tuple[int, int]) -> Box:
    """A box around the points on the subject, a quarter of the picture's shorter side wider on each side."""
    on = [(x, y) for x, y, subject in points if subject]
    if not on:
        raise InputError("nothing marks the subject: give --box left,top,right,bottom or --points x,y")
    grow = min(size) / 4
    xs, ys = [x for x, _ in on], [y for _, y in on]
    return clip_box((min(xs) - grow, min(ys) - grow, max(xs) + grow, max(ys) + grow), size)


def cut(
    image: Image.Image,
    box: Box,
    prior: Sequence[Ellipse],
    points: Sequence[Point] = (),
    *,
    inside: int = LIKELY_BACKGROUND,
    margin: float = 0.35,
) -> Image.Image:
    """GrabCut in and around a box.

    Args:
        image: RGB.
        box: where the subject is; its surroundings teach what is background.
        prior: ellipses painted into the trimap in turn.
        points: dots painted last: the user's word is final.
        inside: the trimap's value inside of the box; outside of it is background.
        margin: how far around the box to look, as a share of its sides.

    Returns:
        mode "L", the picture's size; the one piece that holds the subject's middle or a point on it, if any does.
    """
    cv2 = import_cv2()
    left, top, right, bottom = clip_box(box, image.size)
    if right - left < 4 or bottom - top < 4:
        raise InputError(
            f"the box {','.join(f'{v:g}' for v in box)} holds nothing of the {image.width}x{image.height} picture: "
            "give left,top,right,bottom in its pixels"
        )
    region, scale = _region((left, top, right, bottom), image.size, margin)
    part = image.crop(region)
    small = part.resize([max(8, round(side * scale)) for side in part.size], Image.Resampling.BOX)
    # Picture pixels -> working pixels.
    sx, sy = small.width / part.width, small.height / part.height
    local = ((box[0] - region[0]) * sx, (box[1] - region[1]) * sy, (box[2] - region[0]) * sx, (box[3] - region[1]) * sy)
    trimap = _trimap(small.size, local, prior, inside)
    for x, y, on_subject in points:
        _dot(trimap, (x - region[0]) * sx, (y - region[1]) * sy, SUBJECT if on_subject else BACKGROUND)
    found = _grab(cv2, np.asarray(small), trimap)
    soft = Image.fromarray(found * np.uint8(255)).resize(part.size, Image.Resampling.BILINEAR)
    mask = Image.new("L", image.size, 0)
    mask.paste(solid(soft), region[:2])
    return mask


def _region(box: Box, size: tuple[int, int], margin: float) -> tuple[tuple[int, int, int, int], float]:
    """The box with its surroundings, in whole pixels, and the working scale."""
    dx, dy = margin * (box[2] - box[0]), margin * (box[3] - box[1])
    left, top, right, bottom = clip_box((box[0] - dx, box[1] - dy, box[2] + dx, box[3] + dy), size)
    scale = min(1.0, WORKING_SIDE / max(box[2] - box[0], box[3] - box[1]))
    return (int(left), int(top), int(np.ceil(right)), int(np.ceil(bottom))), scale


def _trimap(size: tuple[int, int], box: Box, prior: Sequence[Ellipse], inside: int) -> np.ndarray:
    y, x = np.ogrid[0.5 : size[1], 0.5 : size[0]]
    trimap = np.full((size[1], size[0]), BACKGROUND, np.uint8)
    trimap[(x > box[0]) & (x < box[2]) & (y > box[1]) & (y < box[3])] = inside
    width, height = box[2] - box[0], box[3] - box[1]
    for e in prior:
        across = (x - box[0] - e.centre[0] * width) / (e.radii[0] * width)
        down = (y - box[1] - e.centre[1] * height) / (e.radii[1] * height)
        trimap[across**2 + down**2 <= 1] = e.value
    return trimap


def _dot(trimap: np.ndarray, x: float, y: float, value: int) -> None:
    radius = max(1.5, max(trimap.shape) / 60)
    rows, columns = np.ogrid[0.5 : trimap.shape[0], 0.5 : trimap.shape[1]]
    trimap[(columns - x) ** 2 + (rows - y) ** 2 <= radius**2] = value


def _grab(cv2: Any, rgb: np.ndarray, trimap: np.ndarray) -> np.ndarray:
    """(h, w) of 0 and 1."""
    certain = trimap == SUBJECT
    likely = certain | (trimap == LIKELY_SUBJECT)
    if not likely.any() or likely.all():  # opencv asserts samples of both
        return likely.astype(np.uint8)
    cv2.setRNGSeed(0)  # its k-means starts at random: the same picture must give the same mask
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(np.ascontiguousarray(rgb[..., ::-1]), trimap, None, *models, ITERATIONS, cv2.GC_INIT_WITH_MASK)
    found = (trimap == SUBJECT) | (trimap == LIKELY_SUBJECT)
    _, pieces = cv2.connectedComponents(found.astype(np.uint8), connectivity=4)
    held = np.unique(pieces[certain & found])
    return (np.isin(pieces, held) if held.size else found).astype(np.uint8)
