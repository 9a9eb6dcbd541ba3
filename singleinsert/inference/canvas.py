"""What an edit works on: the part of a photo that the model sees, its masks at latent size, and the way back.

The model sees a window around the masks, scaled to about the number of pixels that it was trained on; a small mask in a
large photo so gets all of the model's detail. What it draws is pasted back at the photo's own size, and a pixel outside
of the masks keeps its value to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from singleinsert.data.pictures import Box, area_resample, solid
from singleinsert.errors import InputError
from singleinsert.models.family import Family

CONTEXT = 2.0
"""Sides of the window, in sides of the masks' bounds: the model must see what it has to fit in with."""

SHRINKING = (3, 2, 1)
"""Latents by which a thin mask is widened in the first stages of its steps; the last stage has the mask itself."""


@dataclass(frozen=True)
class Region:
    """What is to be drawn where. ``mask``: mode "L" of the photo's size, white where the picture may change."""

    mask: Image.Image
    prompt: str


@dataclass(frozen=True)
class Canvas:
    """A photo made ready for :func:`~singleinsert.inference.blended.edit_pictures`.

    Attributes:
        photo: mode "RGB". box: the window in its pixels. size: (width, height) of the window as the model sees it.
        latents: (1, c, h, w) float32, the window's clean latents, on the CPU.
        masks: for each region its stages, each (1, 1, h, w) in [0, 1]; see :func:`mask_stages`.
        opacity: (H, W) float32 in [0, 1] of the window in the photo's pixels: how much of the drawn picture is pasted.
    """

    photo: Image.Image
    regions: tuple[Region, ...]
    box: Box
    size: tuple[int, int]
    latents: Tensor
    masks: tuple[tuple[Tensor, ...], ...]
    opacity: np.ndarray

    @property
    def whole_mask(self) -> Image.Image:
        """Every pixel that may change: mode "L", 0 or 255, of the photo's size."""
        return _union([region.mask for region in self.regions])

    def paste(self, drawn: Image.Image) -> Image.Image:
        """The photo with the model's picture of the window in its masks; elsewhere the photo's own pixels."""
        left, top, right, bottom = self.box
        old = np.asarray(self.photo.crop(self.box), np.float32)
        scaled = drawn.convert("RGB").resize((right - left, bottom - top), Image.Resampling.LANCZOS)
        share = self.opacity[:, :, None]
        values = np.round(old * (1 - share) + np.asarray(scaled, np.float32) * share).astype(np.uint8)
        out = self.photo.copy()
        out.paste(Image.fromarray(values), (left, top))
        return out

    def change(self, picture: Image.Image) -> float:
        """Mean difference from the photo inside the masks, in levels of 255."""
        inside = np.asarray(self.whole_mask) > 0
        before, after = (np.asarray(image, np.float32)[inside] for image in (self.photo, picture))
        return float(np.abs(before - after).mean())


def prepare_canvas(
    model: Family, photo: Image.Image, regions: Sequence[Region], *, resolution: int | None = None
) -> Canvas:
    """Cut the window out, encode it, and bring the masks to the latents' size.

    Args:
        photo: mode "RGB", of any size. resolution: the model sees about as many pixels as a square of this side has;
            None is the model's own.

    Raises:
        InputError: no region, a mask that is empty or of another size.
    """
    if not regions:
        raise InputError("nothing to edit: give a mask and a prompt")
    for number, region in enumerate(regions, start=1):
        if region.mask.size != photo.size:
            (mw, mh), (pw, ph) = region.mask.size, photo.size
            raise InputError(f"mask {number} is {mw}x{mh} but the picture is {pw}x{ph}: save it at the picture's size")
        if not solid(region.mask).getbbox():
            raise InputError(f"mask {number} is empty (nothing in it is brighter than half): white is what may change")
    side = resolution or model.native_resolution
    whole = _union([region.mask for region in regions])
    box = window(photo.size, whole.getbbox() or (0, 0, *photo.size), side)
    size = canvas_size(box, side, model.size_multiple)
    cut = photo.crop(box).resize(size, Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(cut, np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
    _, height, width = model.latent_shape(size[1], size[0])
    return Canvas(
        photo, tuple(regions), box, size,
        latents=model.encode_picture(pixels).mean.cpu(),
        masks=tuple(mask_stages(_values(region.mask.crop(box)), (height, width)) for region in regions),
        opacity=opacity(_values(whole.crop(box)), size, round(size[0] / width)),
    )  # fmt: skip


def window(size: tuple[int, int], bounds: Box, least: int) -> Box:
    """The part of a picture of ``size`` (width, height) that the model sees, with ``bounds`` in its middle if it can.

    ``least``: pixels along a side, as far as the picture has them.
    """
    ranges = []
    for length, start, end in zip(size, bounds[:2], bounds[2:], strict=True):
        side = min(length, max(round(CONTEXT * (end - start)), least))
        first = min(max(round((start + end - side) / 2), 0), length - side)
        ranges.append((first, first + side))
    (left, right), (top, bottom) = ranges
    return left, top, right, bottom


def canvas_size(box: Box, side: int, multiple: int) -> tuple[int, int]:
    """(width, height): the multiples of ``multiple`` nearest to the box's shape at an area of ``side**2``."""
    width, height = box[2] - box[0], box[3] - box[1]
    scale = side / math.sqrt(width * height)
    return tuple(max(1, round(length * scale / multiple)) * multiple for length in (width, height))  # type: ignore[return-value]


def mask_stages(mask: Tensor, size: tuple[int, int]) -> tuple[Tensor, ...]:
    """A mask (1, 1, H, W) of 0 and 1 -> (1, 1, h, w) float32 for each of equal parts of the steps, wide ones first.

    A latent's value is the mean of the area that it covers, as a share of the largest within two latents, so that a
    thin line is drawn as strongly as a thick one; and all is dilated by one latent. A mask that is nowhere three
    latents wide starts wider and shrinks: the model makes something of room, and nothing of a line.
    """
    area = area_resample(mask, size).float()
    own = spread(area, 1) / spread(area, 2).clamp_min(1e-6)
    thin = bool(shrink(area).max() < 0.5)
    return (*(spread(own, latents) for latents in SHRINKING), own) if thin else (own,)


def opacity(mask: Tensor, size: tuple[int, int], feather: int) -> np.ndarray:
    """A mask (1, 1, H, W) of 0 and 1 -> (H, W) float32: 0 outside of it, rising inside over ``feather`` pixels of the
    canvas of ``size`` (width, height); full in the middle of what is thinner. The picture's edge is no edge of it."""
    layer = area_resample(mask, (size[1], size[0])).float()
    rising = torch.zeros_like(layer)
    for _ in range(feather):
        rising += layer / feather
        layer = shrink(layer)
    full = rising / spread(rising, feather).clamp_min(1e-6)
    scaled = F.interpolate(full, mask.shape[-2:], mode="bilinear", align_corners=False)
    return (scaled * mask)[0, 0].clamp(0, 1).numpy()


def spread(values: Tensor, radius: int) -> Tensor:
    """Largest value within ``radius`` elements to each side."""
    return F.max_pool2d(values, 2 * radius + 1, stride=1, padding=radius)


def shrink(values: Tensor) -> Tensor:
    """Smallest value of each element and its neighbours."""
    return -spread(-values, 1)


def _values(mask: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(solid(mask), np.float32))[None, None] / 255


def _union(masks: Sequence[Image.Image]) -> Image.Image:
    return Image.fromarray(np.max([np.asarray(solid(mask)) for mask in masks], axis=0))
