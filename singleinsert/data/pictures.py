"""Pictures in: whatever PIL reads becomes an RGB picture, a square, a tensor. Masks are resampled by exact area."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from singleinsert.data.opening import has_alpha, open_picture, strips, to_8_bits, to_srgb
from singleinsert.errors import InputError

CropMode = Literal["mask", "zoom", "center", "pad"]
Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels of the picture, right and bottom exclusive; may reach beyond its edges."""


@dataclass(frozen=True)
class Picture:
    """A picture as a viewer shows it: turned upright, 8 bits, RGB.

    Attributes:
        image: mode "RGB". What lies under transparent parts is kept as the file has it.
        alpha: mode "L" of the same size, 255 is opaque; None where the file has no alpha channel.
        path: where it came from.
        notes: what the user should know of it, a sentence each.
    """

    image: Image.Image
    alpha: Image.Image | None
    path: Path
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Square:
    """A square part of a picture, at the picture's own scale, or at LARGEST_SQUARE where it is larger.

    Attributes:
        image: mode "RGB", as wide as high. mask: mode "L" of the same size, or None.
        box: where it lies in the picture. Where it reaches beyond, edges were drawn out and the mask is 0.
    """

    image: Image.Image
    mask: Image.Image | None
    box: Box


LARGEST_SQUARE = 4096
"""Pixels a side of what is cut out of a picture: as many as anything trains at."""


def load_picture(path: str | Path, later: int = 0) -> Picture:
    """Read a picture. Of an animation or a multi-page file, the first frame; colours by the file's ICC profile.

    Args:
        later: bytes for each pixel that the caller will hold.

    Raises:
        InputError: as of :func:`singleinsert.data.opening.open_picture`.
    """
    image, alpha, note = split_alpha(open_picture(path, later=later))
    return Picture(image, alpha, Path(path), (note,) if note else ())


def split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None, str]:
    """Any mode -> (RGB in the colours of sRGB, alpha as "L" or None, a sentence where its profile is no use)."""
    info, alpha = image.info, None
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        image = to_8_bits(image)
    if image.mode in ("RGBa", "La"):  # colours multiplied by alpha
        image = image.convert(image.mode.upper())
    if has_alpha(image):
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
    if image.mode == "LAB":
        info = {}  # of its profile Pillow has made RGB already
    if image.mode not in ("RGB", "L", "CMYK"):
        image = image.convert("RGB")
    image.info = info
    image, note = to_srgb(image)
    image = image.convert("RGB") if image.mode != "RGB" else image
    image.info = {}
    return image, alpha, note


def crop_to_square(
    picture: Picture, mask: Image.Image | None = None, mode: CropMode = "mask", padding: float = 0.5
) -> Square:
    """The square that is trained on.

    Args:
        mask: mode "L" of the picture's size; None: "mask" and "zoom" are "center".
        mode: "mask" the largest square, moved to hold the subject; "zoom" the subject's bounds and `padding` around
            them; "center"; "pad" the whole picture. A subject longer than the picture's short side is never cut:
            the square is made as large as it and reaches beyond the picture.
        padding: for "zoom", margin on each side as a share of the subject's longer side.
    """
    image = picture.image
    if mask is not None and mask.size != image.size:
        raise InputError(f"the mask is {mask.width}x{mask.height} but {picture.path} is {image.width}x{image.height}")
    box = square_box(image.size, None if mask is None else _bounds(mask), mode, padding)
    return Square(_cut(image, box, "edge"), None if mask is None else cut_mask(mask, box), box)


def cut_mask(mask: Image.Image, box: Box) -> Image.Image:
    """A mask of the picture cut to a square's box; 0 where that reaches beyond the picture."""
    return _cut(mask, box, "constant")


def _bounds(mask: Image.Image) -> Box | None:
    """Of what is more subject than not; the noise around a JPEG's mask is no subject."""
    return solid(mask).getbbox() or mask.getbbox()


HALF = 128
"""The least value of 255 at which a mask is more subject than not."""


def solid(mask: Image.Image) -> Image.Image:
    """255 where a mask (mode "L") is more subject than not, else 0."""
    return mask.point(lambda value: 255 if value >= HALF else 0)


def square_box(size: tuple[int, int], subject: Box | None, mode: CropMode, padding: float) -> Box:
    """The box for :func:`crop_to_square`; `subject` is the bounds of the mask, None where there is none."""
    short, long = min(size), max(size)
    if mode == "pad":
        side, centre = long, (size[0] / 2, size[1] / 2)
    elif mode == "center" or subject is None:
        side, centre = short, (size[0] / 2, size[1] / 2)
    else:
        left, top, right, bottom = subject
        subject_side = max(right - left, bottom - top)
        wanted = subject_side * (1 + 2 * padding) if mode == "zoom" else short
        side, centre = max(subject_side, min(round(wanted), short)), ((left + right) / 2, (top + bottom) / 2)
    x, y = (_start(middle, side, length) for middle, length in zip(centre, size, strict=True))
    return (x, y, x + side, y + side)


def _start(middle: float, side: int, length: int) -> int:
    """Where `side` pixels around `middle` begin: moved inside 0..length, or centred on it where they are more."""
    if side >= length:
        return -((side - length) // 2)
    return min(max(round(middle - side / 2), 0), length - side)


def _cut(image: Image.Image, box: Box, fill: Literal["edge", "constant"]) -> Image.Image:
    left, top, right, bottom = box
    part = (max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height))
    side = min(right - left, LARGEST_SQUARE)
    scale = side / (right - left)
    # where the part lies within the square
    x, y, x_end, y_end = (
        round((edge - start) * scale) for edge, start in zip(part, (left, top, left, top), strict=True)
    )
    if scale == 1:
        inside = image.crop(part)
    else:  # without a copy of the part at its own scale
        filter = Image.Resampling.BOX if image.mode == "L" else Image.Resampling.LANCZOS
        inside = image.resize((max(1, x_end - x), max(1, y_end - y)), filter, box=part)
    if inside.size == (side, side):
        return inside
    widths = [(y, side - inside.height - y), (x, side - inside.width - x)] + [(0, 0)] * (len(image.getbands()) > 1)
    return Image.fromarray(np.pad(np.asarray(inside), widths, mode=fill))


def image_to_tensor(image: Image.Image, size: int) -> Tensor:
    """RGB picture -> (1, 3, size, size) float32 in [-1, 1], scaled by Lanczos (with its low-pass when shrinking)."""
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    values = torch.from_numpy(np.array(image.convert("RGB"), dtype=np.float32))
    return (values / 127.5 - 1).permute(2, 0, 1)[None].contiguous()


def mask_to_tensor(mask: Image.Image, size: int) -> Tensor:
    """Mask in mode "L" -> (1, 1, size, size) float32 in [0, 1], each value the mean of the area it covers."""
    mask = mask.convert("L")
    if mask.width * mask.height > LARGEST_WHOLE:
        return _area_by_strips(mask, size)
    values = torch.from_numpy(np.array(mask, dtype=np.float32)) / 255
    return area_resample(values[None, None], (size, size))


LARGEST_WHOLE = 16_000_000
"""Pixels of a mask that is resampled in one go; larger ones in strips, which differ by how sums are rounded."""


def _area_by_strips(mask: Image.Image, size: int) -> Tensor:
    """As :func:`area_resample`, without the whole mask in floating point."""
    rows, columns = area_weights(mask.height, size).float(), area_weights(mask.width, size).float()
    out = torch.zeros(size, size)
    for top, part in strips(mask):
        values = torch.from_numpy(part.astype(np.float32)) / 255  # (rows of the strip, width)
        out += rows[:, top : top + len(part)] @ (values @ columns.T)
    return out.clamp(0, 1)[None, None]


def area_resample(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Mean over the area that each new element covers, exact for any ratio, up or down.

    ``F.interpolate(mode="area")`` and adaptive pooling count an element that is cut by a border whole on both sides,
    which is wrong wherever the ratio is no integer.

    Args:
        values: (b, c, H, W) floating point.
        size: (h, w).

    Returns:
        (b, c, h, w), within the range of `values`.
    """
    rows = area_weights(values.shape[-2], size[0]).to(values)
    columns = area_weights(values.shape[-1], size[1]).to(values)
    resampled = rows @ values @ columns.T
    # a mean cannot leave the range of its values; rounding can, by one unit in the last place
    return resampled.clamp(values.min(), values.max())


def area_weights(old: int, new: int) -> Tensor:
    """(new, old) float64: share of old element j in new element i, which covers [i old/new, (i+1) old/new)."""
    starts = torch.arange(new, dtype=torch.float64)[:, None] * old / new
    ends = torch.arange(1, new + 1, dtype=torch.float64)[:, None] * old / new
    elements = torch.arange(old, dtype=torch.float64)[None]
    overlap = (torch.minimum(ends, elements + 1) - torch.maximum(starts, elements)).clamp_min(0)
    return overlap / overlap.sum(1, keepdim=True)
