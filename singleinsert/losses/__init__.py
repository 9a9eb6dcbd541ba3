"""Objectives by name: pure functions of what the models predicted, tensors in, tensors out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from singleinsert.losses.diffusion import FullImage, Views
from singleinsert.losses.singleinsert import SingleInsert

__all__ = ["OBJECTIVES", "FullImage", "Objective", "SingleInsert", "Views"]


class Objective(Protocol):
    """What a training step needs to know of an objective."""

    @property
    def needs_class(self) -> bool:
        """The tuned model's prediction for the class prompt is needed."""

    @property
    def needs_frozen(self) -> bool:
        """The frozen model's prediction for the class prompt is needed."""

    def concept_terms(self, views: Views) -> dict[str, Tensor]:
        """Weighted terms (b,) that hang on ``views.x0_concept``."""

    def class_terms(self, views: Views) -> dict[str, Tensor]:
        """Weighted terms (b,) that hang on ``views.x0_class``."""

    def terms(self, views: Views) -> dict[str, Tensor]:
        """All of them; the loss is the mean over the batch of their sum."""


OBJECTIVES: dict[str, Callable[..., Objective]] = {"singleinsert": SingleInsert, "full_image": FullImage}
