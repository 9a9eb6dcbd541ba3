"""What a mask's share of the picture means for training, in words: one rule for the command line and the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from PIL import Image

from singleinsert.data.pictures import HALF
from singleinsert.errors import InputError
from singleinsert.masks.files import MAX_SHARE, MIN_SHARE, check_mask, share_of

Level = Literal["good", "look", "bad"]


@dataclass(frozen=True)
class Band:
    """Shares below ``below`` (and at or above the band before) and what is said of them; {pixels} is filled in."""

    below: float
    level: Level
    text: str


BANDS = (
    Band(MIN_SHARE, "bad", "too small to learn from: paint the whole subject"),
    Band(0.02, "look", "small: the concept would be learnt from {pixels} pixels. Crop the photo, or use a closer one"),
    Band(0.05, "look", "rather small, {pixels} pixels: a closer photo shows more"),
    Band(0.60, "good", "a good share"),
    Band(0.90, "look", "large: little background is left to tell the subject from"),
    Band(MAX_SHARE, "look", "nearly everything: the background becomes part of the concept"),
    Band(1.01, "bad", "the whole picture: mark the subject only"),
)


def verdict(share: float, pixels: int) -> tuple[Level, str]:
    """(level, words) for a mask that covers ``share`` of the picture in [0, 1], ``pixels`` of them by half or more."""
    band = next(band for band in BANDS if share < band.below)
    return band.level, band.text.format(pixels=f"{pixels:,}")


def verdict_of(mask: Image.Image) -> tuple[Level, str]:
    """The same of a mask (mode "L"); what cannot train is "bad", with the reason."""
    try:
        check_mask(mask)
    except InputError as problem:
        return "bad", str(problem)
    return verdict(share_of(mask), sum(mask.histogram()[HALF:]))
