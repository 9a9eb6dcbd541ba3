"""The plain objective every fine-tuning script has: reconstruct the whole picture, no mask; DreamBooth's prior."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from singleinsert.losses.diffusion import LossSpace, Views, masked_mse, prior_error


@dataclass(frozen=True)
class FullImage:
    """``mean((x0_hat(tuned, y*) - x0)^2)``, weighed as the loss space says.

    With ``prior_weight`` also the same on pictures of the class with their own prompt (DreamBooth, Ruiz et al. 2023,
    equation 2): ``prior_weight mean((x0_hat(tuned, "a photo of a class") - x0_class)^2)``.
    """

    loss_space: LossSpace = "epsilon"
    min_snr_gamma: float = 0.0
    prior_weight: float = 0.0

    needs_class = False
    needs_frozen = False
    needs_attention = False
    attention_level = 0

    @property
    def needs_prior(self) -> bool:
        return self.prior_weight != 0

    def concept_terms(self, views: Views) -> dict[str, Tensor]:
        """``{"full_image": (b,)}`` from ``x0_concept`` and ``x0_target``."""
        assert views.x0_concept is not None
        error = views.weight * masked_mse(views.x0_concept, views.x0_target)
        return {"full_image": views.where_shown(error)}

    def class_terms(self, views: Views) -> dict[str, Tensor]:
        """Nothing: the class prompt plays no part."""
        return {}

    def prior_terms(self, views: Views) -> dict[str, Tensor]:
        """``{"prior": (b,)}`` from ``x0_class`` and ``x0_target``."""
        return {"prior": self.prior_weight * prior_error(views)}
