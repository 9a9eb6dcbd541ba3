"""Masked squared error, timestep weights and the plain diffusion objective. Float32 whatever the autocast.

Every space in which a diffusion loss may be taken is the x0 space times a weight per timestep. With the
same x_t, ``eps_hat - eps = -sqrt(snr) (x0_hat - x0)`` and ``v_hat - v = -sqrt(1 + snr) (x0_hat - x0)``, where
``snr = abar_t / (1 - abar_t)``. So the objectives look at x0 only, and :func:`timestep_weight` does the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

LossSpace = Literal["x0", "epsilon", "v"]
MaskNormalization = Literal["mean", "area"]


@dataclass(frozen=True)
class Views:
    """What the models said about one micro-batch, everything as a prediction of x0, float32.

    Attributes:
        x0_target: (b, c, h, w) the clean latents.
        x0_concept: (b, c, h, w) tuned model, prompt with the concept; None where only the class part is judged.
        x0_class: (b, c, h, w) tuned model, class prompt; None where the objective does not need it.
        x0_frozen: (b, c, h, w) frozen model, class prompt, no gradient; None where it is not needed.
        mask: (1 or b, 1, h, w) foreground in [0, 1] at latent size.
        snr: (b,) signal-to-noise ratio ``abar_t / (1 - abar_t)`` of each sample's timestep.
    """

    x0_target: Tensor
    x0_concept: Tensor | None
    x0_class: Tensor | None
    x0_frozen: Tensor | None
    mask: Tensor
    snr: Tensor


def masked_mse(a: Tensor, b: Tensor, mask: Tensor | None = None, normalization: MaskNormalization = "mean") -> Tensor:
    """Squared error per sample.

    Args:
        a, b: (b, c, h, w).
        mask: (1 or b, 1, h, w) in [0, 1], or None for everywhere.
        normalization: "mean" divides by all c*h*w elements (the paper), "area" by the mask's share of them.

    Returns:
        (b,) float32.
    """
    square = (a.float() - b.float()).square()
    if mask is None:
        return square.mean(dim=(1, 2, 3))
    mask = mask.float()
    error = (mask * square).mean(dim=(1, 2, 3))
    if normalization == "area":
        error = error / mask.mean(dim=(1, 2, 3)).clamp_min(torch.finfo(torch.float32).tiny)
    return error


def timestep_weight(snr: Tensor, loss_space: LossSpace, min_snr_gamma: float = 0.0) -> Tensor:
    """Weight (b,) by which an x0 error counts in ``loss_space``: x0 1, epsilon snr, v 1 + snr.

    Min-SNR (Hang et al. 2023, eq. 8) is ``min(snr, gamma)`` on the x0 error whichever space it is written
    in, so ``min_snr_gamma > 0`` takes the place of ``loss_space``.
    """
    snr = snr.float()
    if min_snr_gamma > 0:
        return snr.clamp_max(min_snr_gamma)
    if loss_space == "x0":
        return torch.ones_like(snr)
    return snr if loss_space == "epsilon" else 1 + snr


@dataclass(frozen=True)
class FullImage:
    """The plain objective every fine-tuning script has: reconstruct the whole picture, no mask, no prior."""

    loss_space: LossSpace = "epsilon"
    min_snr_gamma: float = 0.0

    needs_class = False
    needs_frozen = False

    def concept_terms(self, views: Views) -> dict[str, Tensor]:
        """``{"full_image": (b,)}`` from ``x0_concept`` and ``x0_target``."""
        assert views.x0_concept is not None
        weight = timestep_weight(views.snr, self.loss_space, self.min_snr_gamma)
        return {"full_image": weight * masked_mse(views.x0_concept, views.x0_target)}

    def class_terms(self, views: Views) -> dict[str, Tensor]:
        """Nothing: the class prompt plays no part."""
        return {}

    def terms(self, views: Views) -> dict[str, Tensor]:
        return self.concept_terms(views)
