"""How much of the picture a text explains to the frozen model: rho, a ratio of two diffusion losses. No other model.

``rho(S) = L(frozen, S) / L(frozen, S without something)``, with the same timesteps and noise above and below. A right
phrase lowers it, a wrong one raises it above 1. It cannot find leaks: those lower it most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from singleinsert.captions.phrases import Phrase, without_phrase
from singleinsert.data.captions import CONCEPT
from singleinsert.data.pictures import image_to_tensor, mask_to_tensor
from singleinsert.models.family import Family

ErrorOf = Callable[[str], Tensor]
"""Prompt -> (draws,) errors, the same timesteps and noise for every prompt."""

DRAWS, EARLIEST, LATEST, AT_A_TIME = 16, 0.2, 0.9, 4
"""Timesteps as shares of the schedule: near 0 a text explains nothing any more, near 1 nothing is to be seen yet."""


@dataclass(frozen=True)
class Rho:
    """Attributes: ratio: mean error with, to mean error without. error: standard error of it over the draws."""

    ratio: float
    error: float

    @property
    def is_wrong(self) -> bool:
        """Whether the text made it worse by more than chance: two standard errors."""
        return self.ratio - 2 * self.error > 1

    @property
    def reason(self) -> str:
        change = (
            f"{abs(self.ratio - 1):.1%} {'more' if self.ratio > 1 else 'less'} error with it (rho {self.ratio:.3f})"
        )
        return f"the base model has {change}" + (": is it to be seen?" if self.is_wrong else "")


def rho(error_of: ErrorOf, prompt: str, against: str) -> Rho:
    """``mean e(prompt) / mean e(against)`` over paired draws.

    The standard error is the ratio estimator's: ``std(e - ratio e0) / (sqrt(n) mean e0)``.
    """
    e, e0 = error_of(prompt).double(), error_of(against).double()
    ratio = e.mean() / e0.mean()
    error = (e - ratio * e0).std(correction=1) / (len(e) ** 0.5 * e0.mean()) if len(e) > 1 else e.new_tensor(0.0)
    return Rho(float(ratio), float(error))


def phrase_rhos(error_of: ErrorOf, caption: str, phrases: Sequence[Phrase], class_word: str) -> list[Rho]:
    """For each phrase, the caption with it to the caption without it."""
    full = caption.replace(CONCEPT, class_word)
    return [rho(error_of, full, without_phrase(caption, each).replace(CONCEPT, class_word)) for each in phrases]


def frozen_errors(
    base: Family, picture: Image.Image, size: int, mask: Image.Image | None = None, seed: int = 0
) -> ErrorOf:
    """The frozen model's error in x0 on a square picture; a mask (mode "L") says where it counts.

    Args:
        size: side in pixels that the picture is scaled to.
    """
    latents = base.encode_picture(image_to_tensor(picture, size)).mean.to(base.device)
    weight = torch.ones(1, 1, 1, 1) if mask is None else mask_to_tensor(mask, latents.shape[-1])
    schedule, count = base.schedule, DRAWS
    t = torch.linspace(EARLIEST, LATEST, count).mul(schedule.num_timesteps - 1).round().long().to(base.device)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((count, *latents.shape[1:]), generator=generator).to(base.device)
    x_t = schedule.add_noise(latents, noise, t)
    kept: dict[str, Tensor] = {}

    @torch.no_grad()
    def error_of(prompt: str) -> Tensor:
        if prompt not in kept:
            condition = base.encode(base.tokenize(prompt, {}), {}).to(base.device)
            outputs = [
                base.predict(x, s, condition.expand(len(x)))
                for x, s in zip(x_t.split(AT_A_TIME), t.split(AT_A_TIME), strict=True)
            ]
            square = (schedule.x0_from(torch.cat(outputs), x_t, t) - latents).square().mean(1, keepdim=True).cpu()
            kept[prompt] = (square * weight).sum((1, 2, 3)) / weight.expand_as(square[:1]).sum()
        return kept[prompt]

    return error_of
