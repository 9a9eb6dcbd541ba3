"""Mask clean-up: opening and closing, holes, crumbs, padding, feathering, and the subtraction of parts.

Every length is a share of the picture's shorter side, so that one setting fits all sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from singleinsert.config import MaskSettings
from singleinsert.config.load import checked_value
from singleinsert.data.pictures import HALF
from singleinsert.data.pictures import solid as to_solid
from singleinsert.masks.grabcut import import_cv2

LARGEST_CLEANED = 16_000_000
"""Pixels; a larger mask is cleaned at this size, where distances and pieces take 400 MB, and enlarged."""


@dataclass(frozen=True)
class Cleanup:
    """What is done to a found mask, in this order.

    Attributes:
        smooth: radius of an opening and a closing: whiskers and cracks go. 0 = off.
        fill_holes: background that the subject encloses becomes subject.
        min_part: pieces smaller than this share of the largest are dropped; 1 keeps the largest alone, 0 all.
        padding: grows the mask by this much; negative shrinks it.
        feather: softens the edge; the standard deviation of the blur.
    """

    smooth: float = MaskSettings.smooth
    fill_holes: bool = MaskSettings.fill_holes
    min_part: float = MaskSettings.min_part
    padding: float = MaskSettings.padding
    feather: float = MaskSettings.feather

    def __post_init__(self) -> None:
        for field in fields(self):
            checked_value(f"mask.{field.name}", getattr(self, field.name))


def clean(mask: Image.Image, options: Cleanup) -> Image.Image:
    """A found mask (mode "L", cut at one half) after all of `options`."""
    if is_large(mask):
        return enlarged(clean(reduced(mask), options), mask.size)
    solid = np.asarray(mask) >= HALF
    radius = options.smooth * min(mask.size)
    if radius >= 0.5:
        solid = _resize_by(_resize_by(_resize_by(_resize_by(solid, -radius), radius), radius), -radius)
    if options.fill_holes:
        solid = _fill_holes(solid)
    solid = _drop_small(solid, options.min_part)
    return pad_and_feather(Image.fromarray(solid.astype(np.uint8) * 255), options)


def pad_and_feather(mask: Image.Image, options: Cleanup) -> Image.Image:
    """The last two steps alone: all that is done to a mask which the user drew. Unchanged where both are 0."""
    side = min(mask.size)
    if abs(options.padding) * side >= 0.5:
        if is_large(mask):
            return enlarged(pad_and_feather(reduced(mask), options), mask.size)
        solid = _resize_by(np.asarray(mask) >= HALF, options.padding * side)
        mask = Image.fromarray(solid.astype(np.uint8) * 255)
    return mask.filter(ImageFilter.GaussianBlur(options.feather * side)) if options.feather > 0 else mask


def is_large(image: Image.Image) -> bool:
    """Whether a picture or mask is looked at, or cleaned, at a smaller size than its own."""
    return image.width * image.height > LARGEST_CLEANED


def reduced(image: Image.Image) -> Image.Image:
    """At ``LARGEST_CLEANED`` pixels; as it is where it has no more."""
    if not is_large(image):
        return image
    scale = (LARGEST_CLEANED / (image.width * image.height)) ** 0.5
    return image.resize([max(1, int(side * scale)) for side in image.size], Image.Resampling.BOX)


def enlarged(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A mask of a reduced picture at the picture's own size; one without soft edges has none then either."""
    if mask.size == size:
        return mask
    large = mask.resize(size, Image.Resampling.BILINEAR)
    hard = sum(mask.histogram()[1:255]) == 0
    return to_solid(large) if hard else large


def cut_away(mask: Image.Image, parts: Sequence[Image.Image]) -> Image.Image:
    """The mask without the parts (each mode "L", same size): hair without the face."""
    for part in parts:
        mask = ImageChops.multiply(mask, ImageChops.invert(part))
    return mask


def union(masks: Sequence[Image.Image]) -> Image.Image:
    """The brightest of the masks at each pixel; at least one mask."""
    out = masks[0]
    for mask in masks[1:]:
        out = ImageChops.lighter(out, mask)
    return out


def _resize_by(solid: np.ndarray, radius: float) -> np.ndarray:
    """Grown by `radius` pixels, or shrunk where it is negative. Outside of the picture is unknown, not background."""
    if solid.all() or not solid.any():
        return solid
    cv2 = import_cv2()
    source = solid if radius < 0 else ~solid
    distance = cv2.distanceTransform(source.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return distance > -radius if radius < 0 else distance <= radius


def _fill_holes(solid: np.ndarray) -> np.ndarray:
    """Background that does not reach the picture's border becomes subject."""
    _, pieces = import_cv2().connectedComponents((~solid).astype(np.uint8), connectivity=4)
    border = np.unique(np.concatenate([pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]]))
    return solid | ~np.isin(pieces, border)


def _drop_small(solid: np.ndarray, min_part: float) -> np.ndarray:
    count, pieces = import_cv2().connectedComponents(solid.astype(np.uint8), connectivity=8)
    if count < 3 or min_part <= 0:
        return solid
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return np.isin(pieces, np.flatnonzero(sizes >= min_part * sizes.max()))
