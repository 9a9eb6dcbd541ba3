"""What every way of finding a mask gives back: scored candidates, and of those the chosen one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from singleinsert.config import MaskSettings
from singleinsert.masks.files import share_of

THRESHOLD = MaskSettings.threshold
"""Least score of a candidate where nothing else is said."""

GIVE_A_MASK = (
    "put a mask beside the picture (NAME_mask.png, white where the subject is), or point at the subject with --box "
    "left,top,right,bottom (in a list of jobs: mask.box)"
)
"""What to do where nothing was found. It is right for one picture and for a batch, which takes no --mask FILE."""

Box = tuple[float, float, float, float]
"""left, top, right, bottom in pixels of the picture; right and bottom exclusive."""

Point = tuple[float, float, bool]
"""x, y in pixels of the picture, and whether it lies on the subject (True) or on what is not (False)."""


@dataclass(frozen=True)
class Candidate:
    """One possible mask.

    Attributes:
        mask: mode "L", the picture's size, 255 on the subject.
        box: what was detected or given, else the mask's own bounds.
        score: confidence in [0, 1]; comparable within one backend only. None where the user pointed at the subject, so
            that nothing was looked for and nothing is known of how right it is.
        label: the words that found it.
    """

    mask: Image.Image
    box: Box
    score: float | None
    label: str

    @property
    def score_text(self) -> str:
        """ "score 0.80", or how the place was given: by box, by points."""
        return f"outlined by {self.label}" if self.score is None else f"{self.label}, score {self.score:.2f}"

    @property
    def share(self) -> float:
        """Covered share of the picture in [0, 1]."""
        return share_of(self.mask)


class Segmenter(Protocol):
    """A backend: picture and class word in, scored candidates out. Models stay loaded until `close`."""

    name: str

    def find(self, image: Image.Image, prompt: str) -> list[Candidate]:
        """Candidates for `prompt` in an RGB picture, best first; empty where nothing was found."""
        ...

    def outline(self, image: Image.Image, box: Box | None, points: Sequence[Point]) -> Candidate:
        """The subject that the user pointed at, by a box, by points, or both."""
        ...

    def close(self) -> None:
        """Frees the models and their device memory."""
        ...


def bounds(mask: np.ndarray) -> Box:
    """Box around the non-zero pixels of a (h, w) array; all zeros where it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if rows.size == 0:
        return (0.0, 0.0, 0.0, 0.0)
    return (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


def pointed_at(mask: Image.Image, box: Box | None) -> Candidate:
    """What was outlined where the user pointed: it has the box that was given, and no score."""
    return Candidate(mask, box or bounds(np.asarray(mask)), None, "box" if box else "points")


def box_iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, in [0, 1]."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    inter = width * height
    return inter / (area(a) + area(b) - inter)


def area(box: Box) -> float:
    """Pixels in a box, 0 where it is turned inside out."""
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def clip_box(box: Box, size: tuple[int, int]) -> Box:
    """The part of the box inside a picture of (width, height)."""
    width, height = size
    left, right = (min(max(v, 0.0), float(width)) for v in (box[0], box[2]))
    top, bottom = (min(max(v, 0.0), float(height)) for v in (box[1], box[3]))
    return (left, top, right, bottom)


def scale_box(box: Box, across: float, down: float) -> Box:
    """The box in a picture that is so much wider and higher."""
    return (box[0] * across, box[1] * down, box[2] * across, box[3] * down)


def drop_overlapping(boxes: Sequence[Box], scores: Sequence[float], limit: float = 0.8) -> list[int]:
    """Indices to keep, best score first: of boxes that overlap by more than `limit` the best stays (NMS)."""
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(box_iou(boxes[index], boxes[k]) <= limit for k in kept):
            kept.append(index)
    return kept
