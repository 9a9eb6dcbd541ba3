"""The foreground mask of a host's batch, at latent size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from singleinsert.data.pictures import area_resample
from singleinsert.errors import InputError

PLAIN_KEYS = ("masks", "mask")
TOLERANCE = 1e-3


def mask_from_batch(batch: Mapping[str, Any] | Tensor, size: tuple[int, int]) -> Tensor:
    """The one mask that a batch holds, resampled by area.

    Read are, the first that is there:
        ``conditioning_images`` (b, 3, H, W) in [-1, 1], the red channel (kohya's ``--masked_loss``),
        ``alpha_masks`` (b, H, W) in [0, 1] (kohya's ``alpha_mask = true``),
        ``masks`` or ``mask`` (b, H, W) or (b, 1, H, W): [0, 1], boolean, or uint8 up to 255; or the tensor alone.

    The losses mask by themselves. A host that also multiplies its loss by the mask (kohya's ``apply_masked_loss``,
    which it calls for ``alpha_masks`` even without the flag) masks twice: leave that out.

    Args:
        size: (h, w) of the latents.

    Returns:
        (b, 1, h, w) float32 in [0, 1], on the batch's device.

    Raises:
        InputError: no mask, or one of a shape or range that is none of these.
    """
    mask = _mask(batch if isinstance(batch, Mapping) else {"mask": batch})
    mask = mask[:, None] if mask.ndim == 3 else mask
    if mask.ndim != 4 or mask.shape[1] != 1:
        raise InputError(f"the batch's mask has shape {tuple(mask.shape)}; (b, H, W) or (b, 1, H, W) is wanted")
    low, high = mask.aminmax()
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        raise InputError(f"the batch's mask goes from {low:.3g} to {high:.3g}; 0 (background) to 1 (subject) is wanted")
    return area_resample(mask.clamp(0, 1), (size[0], size[1]))


def _mask(batch: Mapping[str, Any]) -> Tensor:
    if batch.get("conditioning_images") is not None:
        return batch["conditioning_images"][:, :1].float() / 2 + 0.5
    if batch.get("alpha_masks") is not None:
        return batch["alpha_masks"].float()
    for key in PLAIN_KEYS:
        mask = batch.get(key)
        if mask is not None:
            return mask.float() / 255 if mask.dtype == torch.uint8 else mask.float()
    raise InputError(
        "the batch holds no mask (conditioning_images, alpha_masks, masks or mask): "
        "in kohya, masked_loss with conditioning_data_dir, or alpha_mask = true"
    )
