"""One mask of a word into the subjects that it covers: pieces that do not touch, and those that only just do."""

from __future__ import annotations

import numpy as np

LEAST_PIXELS, LEAST_SHARE = 60, 0.25
"""A piece of a word's mask is a subject if it has so many pixels, and so much of the largest piece."""
NEAR = 8
"""Pixels that a smaller piece may be away from the subject that it belongs to."""
EDGE = 2
"""Pixels taken off a piece at most, to see whether it is two subjects that touch."""


def pieces(mask: np.ndarray, size: int = 0) -> list[np.ndarray]:
    """The subjects in a word's boolean mask (h, w), the largest first; specks far from all are left out.

    Args:
        size: side of the picture that the limits in pixels are meant for; 0: the mask's own.
    """
    scale = max(1, round(max(mask.shape) / size)) if size else 1
    parts = _large(mask, LEAST_PIXELS * scale**2)
    halves = [half for part in parts for half in _halves(part, LEAST_PIXELS * scale**2, EDGE * scale)]
    out = _with_crumbs(halves, mask, NEAR * scale)
    return sorted(out, key=np.count_nonzero, reverse=True)


def _large(mask: np.ndarray, pixels: int) -> list[np.ndarray]:
    """Pieces of at least so many pixels, and of :data:`LEAST_SHARE` of the largest."""
    import cv2

    count, numbered = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    parts = [numbered == k for k in range(1, count)]
    sizes = [np.count_nonzero(p) for p in parts]
    least = max(pixels, LEAST_SHARE * max(sizes, default=0))
    return [p for p, s in zip(parts, sizes, strict=True) if s >= least]


def _with_crumbs(parts: list[np.ndarray], mask: np.ndarray, near: int) -> list[np.ndarray]:
    """The parts, each with the small pieces of the mask (steam, a tail behind a cup) that lie near, nearest to it."""
    import cv2

    if not parts:
        return []
    away = np.stack([cv2.distanceTransform((~p).astype(np.uint8), cv2.DIST_L2, 3) for p in parts])
    crumbs = mask & (away.min(0) <= near)
    return [part | (crumbs & (away.argmin(0) == k)) for k, part in enumerate(parts)]


def _halves(part: np.ndarray, pixels: int, most: int) -> list[np.ndarray]:
    """The one piece, or the two or more that it falls into without its edge; every pixel goes to the nearest."""
    import cv2

    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    for edge in range(1, most + 1):
        inner = cv2.erode(part.astype(np.uint8), cross, iterations=edge)
        large = [p for p in _large(inner > 0, pixels) if np.count_nonzero(p) >= LEAST_SHARE * np.count_nonzero(part)]
        if len(large) > 1:
            near = [cv2.distanceTransform((~p).astype(np.uint8), cv2.DIST_L2, 3) for p in large]
            nearest = np.argmin(near, axis=0)
            return [part & (nearest == k) for k in range(len(large))]
    return [part]
