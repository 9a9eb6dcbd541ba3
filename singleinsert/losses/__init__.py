"""Objectives by name: pure functions of what the models predicted, tensors in, tensors out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from singleinsert.losses.break_a_scene import BreakAScene
from singleinsert.losses.diffusion import Attention, LossSpace, Views
from singleinsert.losses.full_image import FullImage
from singleinsert.losses.singleinsert import SingleInsert

__all__ = ["OBJECTIVES", "Attention", "BreakAScene", "FullImage", "Objective", "SingleInsert", "Views", "all_terms"]


class Objective(Protocol):
    """What a training step needs to know of an objective."""

    @property
    def loss_space(self) -> LossSpace:
        """The space in which errors are squared; with ``min_snr_gamma`` it gives :attr:`Views.weight`."""

    @property
    def min_snr_gamma(self) -> float:
        """Min-SNR clamp in place of ``loss_space``; 0 is off."""

    @property
    def needs_class(self) -> bool:
        """The tuned model's prediction for the class prompt is needed."""

    @property
    def needs_frozen(self) -> bool:
        """The frozen model's prediction is needed."""

    @property
    def needs_prior(self) -> bool:
        """The tuned model's prediction for pictures of the class is needed."""

    @property
    def needs_attention(self) -> bool:
        """Cross-attention is to be read in the pass with the concepts."""

    @property
    def attention_level(self) -> int:
        """The layers to read have the latents' side divided by this."""

    def concept_terms(self, views: Views) -> dict[str, Tensor]:
        """Weighted terms (b,) that depend on ``views.x0_concept``."""

    def class_terms(self, views: Views) -> dict[str, Tensor]:
        """Weighted terms (b,) that depend on ``views.x0_class``."""

    def prior_terms(self, views: Views) -> dict[str, Tensor]:
        """Weighted terms (b,) of views of class pictures: their ``x0_target``, and ``x0_class`` for their prompt."""


def all_terms(objective: Objective, views: Views) -> dict[str, Tensor]:
    """All of an objective's terms; the loss is the mean over the batch of their sum."""
    return {**objective.concept_terms(views), **objective.class_terms(views)}


OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "singleinsert": SingleInsert,
    "full_image": FullImage,
    "break_a_scene": BreakAScene,
}
