"""Masked squared error, and what an objective is shown. Float32 whatever the autocast.

Every space in which a diffusion loss may be taken is the x0 space times a weight per timestep
(:meth:`~singleinsert.models.schedule.Schedule.weight`). So objectives look at x0 alone, and are handed the weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

LossSpace = Literal["x0", "epsilon", "v"]
MaskNormalization = Literal["mean", "area"]


@dataclass(frozen=True)
class Attention:
    """Where the concepts' tokens look, read in the pass with the concepts.

    Attributes:
        maps: (b, N, h, w) probabilities of each handle's tokens, the mean over heads, layers and the handle's tokens;
            with a graph. 0 where a sample does not name the handle.
        rest: (b, h, w) the mean over all other tokens but the first (the start token).
        masks: (b, N, h, w) each handle's mask in [0, 1] at the maps' size.
        named: (b, N) 1 where the sample's prompt names the handle, else 0.
    """

    maps: Tensor
    rest: Tensor
    masks: Tensor
    named: Tensor


@dataclass(frozen=True)
class Views:
    """What the models said about one micro-batch, everything as a prediction of x0, float32.

    Attributes:
        x0_target: (b, c, h, w) the clean latents.
        x0_concept: (b, c, h, w) tuned model, prompt with the concepts; None where only the class part is judged.
        x0_class: (b, c, h, w) tuned model, class prompt; None where the objective does not need it.
        x0_frozen: (b, c, h, w) frozen model, the prompt that the background is asked with; no gradient; None where it
            is not needed.
        mask: (1 or b, 1, h, w) union of the named subjects in [0, 1] at latent size.
        weight: (b,) what an error of x0 counts at each sample's timestep, in the objective's loss space.
        x0_frozen_class: (b, c, h, w) frozen model, the class prompt, where that is another one than the background's.
        attention: where the objective names an ``attention_level``.
        shown: (b,) 1 where the picture shows what the prompt with the concepts asks for, so that it may be learnt from
            it, else 0; None where all do.
    """

    x0_target: Tensor
    x0_concept: Tensor | None
    x0_class: Tensor | None
    x0_frozen: Tensor | None
    mask: Tensor
    weight: Tensor
    x0_frozen_class: Tensor | None = None
    attention: Attention | None = None
    shown: Tensor | None = None

    def where_shown(self, error: Tensor) -> Tensor:
        """Errors from the target (b,), of the samples whose picture shows what is asked for."""
        return error if self.shown is None else self.shown * error


def prior_error(views: Views) -> Tensor:
    """(b,) weighted error of the whole of class pictures: the prior term of DreamBooth (Ruiz et al. 2023, eq. 2)."""
    assert views.x0_class is not None
    return views.weight * masked_mse(views.x0_class, views.x0_target)


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
