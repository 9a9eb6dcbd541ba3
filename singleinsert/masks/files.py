"""Masks that somebody already has: a mask file, the picture's alpha channel, a folder of masks paired by name.

Every mask of the package is a PIL picture in mode "L" of the picture's own size: 255 is the subject, 0 is not,
values between are soft edges. It is resampled (by area) only when training asks for a size.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from singleinsert.data.pictures import RAISED_BY_PIL, Picture, to_8_bits, upright
from singleinsert.errors import InputError

MASK_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
"""What kohya's `conditioning_data_dir` looks for, in its order of preference here."""

MIN_SHARE = 0.001
MAX_SHARE = 0.99
MIN_PIXELS = 64
COLOUR_TOLERANCE = 40


def mask_from_file(path: str | Path, picture: Picture) -> Image.Image:
    """Mask file -> mode "L" at the picture's size; white is the subject.

    Black-and-white, grey, palette, 1-bit and 16-bit files are read, and label files of zeros and ones. Where the
    file has an alpha channel that is not opaque, that channel is the mask (a subject cut out in a paint program).

    Raises:
        InputError: missing, unreadable, coloured (the photo itself was given), or of another size.
    """
    path = Path(path)
    mask = read_mask(path)
    if mask.size != picture.image.size:
        (mw, mh), (pw, ph) = mask.size, picture.image.size
        hint = " (turned by 90 degrees?)" if (mw, mh) == (ph, pw) else ""
        raise InputError(f"mask {path} is {mw}x{mh} but the picture is {pw}x{ph}{hint}: save it at the picture's size")
    return mask


def read_mask(path: Path) -> Image.Image:
    """As `mask_from_file`, at whatever size the file has."""
    if not path.is_file():
        raise InputError(f"mask not found: {path}")
    try:
        with Image.open(path) as file:
            file.load()
            return _to_grey(upright(file), path)
    except RAISED_BY_PIL as problem:
        raise InputError(f"mask {path} cannot be read as a picture ({problem})") from problem


def _to_grey(image: Image.Image, path: Path) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return to_8_bits(image)
    if "A" in image.getbands() or "transparency" in image.info:
        alpha = image.convert("RGBA").getchannel("A")
        if not _opaque(alpha):
            return alpha
    if image.mode == "P" or len(image.getbands()) >= 3:
        rgb = np.asarray(image.convert("RGB")).astype(np.int16)
        coloured = np.mean(rgb.max(-1) - rgb.min(-1) > COLOUR_TOLERANCE)
        if coloured > 0.01:
            raise InputError(
                f"mask {path} has colours in {coloured:.0%} of its pixels: "
                "a mask is white where the subject is and black elsewhere"
            )
    grey = image.convert("L")
    return grey.point(lambda value: value * 255) if np.asarray(grey).max() == 1 else grey


def mask_from_alpha(picture: Picture) -> Image.Image:
    """The picture's alpha channel as its mask (kohya's `alpha_mask`).

    Raises:
        InputError: the picture has no alpha channel, or an opaque one.
    """
    if picture.alpha is None or _opaque(picture.alpha):
        raise InputError(f"{picture.path} has no transparent part, so its alpha channel cannot serve as the mask")
    return picture.alpha


def _opaque(alpha: Image.Image) -> bool:
    return bool(np.asarray(alpha).min() == 255)


def has_alpha_mask(picture: Picture) -> bool:
    """Whether the picture's alpha channel tells a subject from a background; a screenshot's round corners do not."""
    return picture.alpha is not None and MIN_SHARE <= share_of(picture.alpha) <= MAX_SHARE


def paired_mask(picture_path: str | Path, folder: str | Path) -> Path:
    """The mask of a picture in a folder of masks: the file with the same name, whatever its extension.

    kohya's `conditioning_data_dir` rule, except that two masks for one picture are refused instead of one being
    taken silently, and that the extension's case does not matter.

    Raises:
        InputError: no folder, no mask of that name, or several.
    """
    stem, folder = Path(picture_path).stem, Path(folder)
    if not folder.is_dir():
        raise InputError(f"mask folder not found: {folder}")
    found = [p for p in sorted(folder.iterdir()) if p.stem == stem and p.suffix.lower() in MASK_SUFFIXES]
    if not found:
        raise InputError(f"no mask for {Path(picture_path).name} in {folder}: expected {stem}.png there")
    if len(found) > 1:
        names = ", ".join(p.name for p in found)
        raise InputError(f"several masks for {Path(picture_path).name} in {folder}: {names}; keep one")
    return found[0]


def share_of(mask: Image.Image) -> float:
    """Covered share of the picture in [0, 1]: the mean of the mask, so soft edges count by half."""
    return float(np.asarray(mask).mean() / 255)


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
    pixels = int(np.count_nonzero(np.asarray(mask) >= 128))
    if share == 0 or pixels == 0:
        raise InputError(f"{name} is empty (nothing in it is brighter than half): the subject must be white")
    if share < MIN_SHARE or pixels < MIN_PIXELS:
        raise InputError(f"{name} covers a speck of {pixels} pixels ({share:.3%} of the picture): too small to learn")
    if share > MAX_SHARE:
        raise InputError(f"{name} covers {share:.1%} of the picture, which leaves no background: mark the subject only")
    return share
