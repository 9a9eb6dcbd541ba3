"""Masks that somebody already has: a mask file, the picture's alpha channel, a folder of masks paired by name.

Every mask of the package is a PIL picture in mode "L" of the picture's own size: 255 is the subject, 0 is not,
values between are soft edges. It is resampled (by area) only when training asks for a size.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageChops

from singleinsert.data.opening import has_alpha, open_picture, strips, to_8_bits
from singleinsert.data.pictures import HALF, Picture, solid
from singleinsert.errors import InputError

MIN_SHARE = 0.001
MAX_SHARE = 0.99
"""Of a picture: what covers less or more can train nothing, and an alpha channel of such a share is no mask."""
MIN_PIXELS = 64
COLOUR_TOLERANCE = 40
"""Of 255 between a pixel's channels: the noise of a JPEG is less."""
MAX_COLOURED = 0.01


def mask_from_file(path: str | Path, picture: Picture) -> Image.Image:
    """Mask file -> mode "L" at the picture's size; white is the subject.

    Black-and-white, grey, palette, 1-bit and 16-bit files are read, and label files of zeros and ones. Where the
    file has an alpha channel that leaves a part out, that channel is the mask (a subject cut out in a paint program).

    Raises:
        InputError: missing, unreadable, coloured (the photo itself was given), or of another size.
    """
    held = 4 if picture.alpha is None else 5
    return _to_grey(open_picture(path, "mask", picture.image.size, held=held), Path(path))


def read_mask(path: Path, size: tuple[int, int] | None = None) -> Image.Image:
    """As `mask_from_file`, at the given (width, height), which the file's header must have; None: at its own."""
    return _to_grey(open_picture(path, "mask", size), path)


def _to_grey(image: Image.Image, path: Path) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return to_8_bits(image, whites=(1.0, 255.0, 65535.0))
    alpha = None
    if has_alpha(image):
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
    if alpha is not None and leaves_a_part_out(alpha):
        grey = image.convert("L")
        # a black-and-white drawing with a transparent rim is itself the mask
        return ImageChops.darker(grey, alpha) if _is_black_and_white(grey, alpha) else alpha
    if image.mode == "P" or len(image.getbands()) >= 3:
        _refuse_colours(image.convert("RGB"), path)
    grey = image.convert("L")
    return grey.point(lambda value: value * 255) if grey.getextrema()[1] == 1 else grey


def _refuse_colours(image: Image.Image, path: Path) -> None:
    coloured = 0
    for _, rows in strips(image):
        coloured += int(np.count_nonzero(rows.max(-1) - rows.min(-1) > COLOUR_TOLERANCE))
    share = coloured / (image.width * image.height)
    if share > MAX_COLOURED:
        raise InputError(
            f"mask {path} has colours in {share:.0%} of its pixels: "
            "a mask is white where the subject is and black elsewhere"
        )


def _is_black_and_white(grey: Image.Image, alpha: Image.Image) -> bool:
    """Whether what is opaque is nearly all black or white, and some of each."""
    counts = grey.histogram(solid(alpha))
    every, black, white = sum(counts), sum(counts[:32]), sum(counts[224:])
    return black + white >= 0.95 * every and min(black, white) >= 0.01 * every


def mask_from_alpha(picture: Picture) -> Image.Image:
    """The picture's alpha channel as its mask (kohya's `alpha_mask`).

    Raises:
        InputError: the picture has no alpha channel, or an opaque one.
    """
    if picture.alpha is None or not leaves_a_part_out(picture.alpha):
        raise InputError(f"{picture.path} has no transparent part, so its alpha channel cannot serve as the mask")
    return picture.alpha


def leaves_a_part_out(alpha: Image.Image) -> bool:
    """Whether an alpha channel tells a subject from a background; a stray pixel, or round corners, do not."""
    return share_of(alpha) <= MAX_SHARE


def has_alpha_mask(picture: Picture) -> bool:
    """Whether the picture's alpha channel tells a subject from a background."""
    return picture.alpha is not None and leaves_a_part_out(picture.alpha) and share_of(picture.alpha) >= MIN_SHARE


def share_of(mask: Image.Image) -> float:
    """Covered share of the picture in [0, 1]: the mean of the mask, so soft edges count by half."""
    counts = mask.histogram()
    return sum(value * count for value, count in enumerate(counts)) / sum(counts) / 255


def check_mask(mask: Image.Image, name: str = "the mask") -> float:
    """The mask's share of the picture, after refusing masks that cannot train anything.

    Args:
        mask: mode "L".
        name: how the error calls it, for instance the file's path.

    Returns:
        covered share in (0, 1).

    Raises:
        InputError: empty, a speck (under 0.1 percent or 64 pixels), or the whole picture (over 99 percent).
    """
    share = share_of(mask)
    pixels = sum(mask.histogram()[HALF:])
    if share == 0 or pixels == 0:
        raise InputError(f"{name} is empty (nothing in it is brighter than half): the subject must be white")
    if share < MIN_SHARE or pixels < MIN_PIXELS:
        raise InputError(f"{name} covers a speck of {pixels} pixels ({share:.3%} of the picture): too small to learn")
    if share > MAX_SHARE:
        raise InputError(f"{name} covers {share:.1%} of the picture, which leaves no background: mark the subject only")
    return share
