"""Regions of pictures: what the encoders are shown of them, and the masks of generated pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from singleinsert.data.pictures import Picture, area_weights
from singleinsert.errors import InputError
from singleinsert.masks.backends import Backends
from singleinsert.masks.candidates import THRESHOLD
from singleinsert.masks.files import MAX_SHARE, share_of
from singleinsert.masks.find import find_mask

Mask = np.ndarray
"""Float (h, w) in [0, 1] of the picture's size; 1 is the subject."""

FILL = 128
"""What masked-out pixels become, in all three channels: mid grey, within a step of the middle of every encoder's input
range, so that a masked-out region is neither black nor white to it."""

MARGIN = 0.1
"""Free space around a centred subject, as a share of its longer side."""


def only(picture: Image.Image, mask: Mask, region: Literal["foreground", "background"]) -> Image.Image:
    """The picture with the other region in flat grey. Where the mask is 0 or 1, exactly one of the two is left.

    Raises:
        InputError: the mask is of another size, or leaves [0, 1].
    """
    check_mask(picture, mask)
    share = np.asarray(mask, np.float32)[:, :, None]
    share = share if region == "foreground" else 1 - share
    values = np.asarray(picture.convert("RGB"), np.float32) * share + FILL * (1 - share)
    return Image.fromarray(np.round(values).astype(np.uint8))


def centred(picture: Image.Image, mask: Mask) -> Image.Image:
    """The subject alone in the middle of a grey square that it fills up to a margin (SID, appendix A).

    Raises:
        InputError: an empty mask.
    """
    alone = only(picture, mask, "foreground")
    rows, columns = np.flatnonzero(np.any(mask, axis=1)), np.flatnonzero(np.any(mask, axis=0))
    if not rows.size:
        raise InputError("the reference's mask is empty: it has no subject to align with")
    left, top, right, bottom = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    side = round(max(right - left, bottom - top) * (1 + 2 * MARGIN))
    square = Image.new("RGB", (side, side), (FILL,) * 3)
    square.paste(alone.crop((left, top, right, bottom)), ((side - right + left) // 2, (side - bottom + top) // 2))
    return square


def check_mask(picture: Image.Image, mask: Mask) -> None:
    """InputError unless the mask is (h, w) of the picture's size with values in [0, 1]."""
    if mask.shape != (picture.height, picture.width):
        raise InputError(f"a mask of shape {mask.shape} does not fit a picture of {picture.width}x{picture.height}")
    if mask.size and not (mask.min() >= 0 and mask.max() <= 1):
        raise InputError("a mask's values must lie between 0 and 1")


def mask_array(mask: Image.Image, size: tuple[int, int] | None = None) -> Mask:
    """A mask picture -> (h, w) float32 in [0, 1]; for another size (width, height), each value the mean of the area it
    covers."""
    values = np.asarray(mask.convert("L"), np.float64) / 255
    if size is not None and size != mask.size:
        rows, columns = area_weights(mask.height, size[1]).numpy(), area_weights(mask.width, size[0]).numpy()
        values = rows @ values @ columns.T
    return values.clip(0, 1).astype(np.float32)


def generated_masks(
    pictures: Sequence[Image.Image],
    class_word: str,
    *,
    backend: str = "auto",
    threshold: float = THRESHOLD,
    device: str = "auto",
    backends: Backends | None = None,
) -> list[Mask | None]:
    """Masks of `class_word` in generated pictures, by the masks module; None where it is not found.

    That is information, not a failure: a picture in which the subject cannot be found has lost it. Its foreground
    scores 0 and its background is the whole picture (:func:`singleinsert.metrics.scores.image_similarity`); say
    how many there were.

    Args:
        backend: as in the [mask] section; "mini" for mini-sd.
        backends: what to use and leave open, in place of `backend`.

    Raises:
        ModelError, MissingPackageError, ConfigError: the backend cannot be had at all.
        InputError: the backend has no way to look for the word.
    """
    own = backends or Backends(backend, threshold=threshold, device=device)
    try:
        return [_find(picture, class_word, own) for picture in pictures]
    finally:
        if backends is None:
            own.close()


def _find(picture: Image.Image, class_word: str, backends: Backends) -> Mask | None:
    image = picture.convert("RGB")
    shown = Picture(image, None, Path("picture"))
    try:
        return mask_array(find_mask(shown, class_word, beside=False, backends=backends).mask)
    except InputError:
        # Nothing was found, or what no training takes (a speck, all of the picture), or the backend has no such word:
        # that last one is raised again by the search itself.
        found = backends.get(class_word, pointed=False, notes=[]).find(image, class_word)
    fills_picture = bool(found) and share_of(found[0].mask) > MAX_SHARE
    return mask_array(found[0].mask) if fills_picture else None
