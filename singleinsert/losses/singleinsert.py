"""The losses of SingleInsert (Wu et al. 2023), equations 3 to 7."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from singleinsert.losses.diffusion import LossSpace, MaskNormalization, Views, masked_mse, prior_error


@dataclass(frozen=True)
class SingleInsert:
    """``L = a L_fg + gamma L_bg + eta L_sm``; stage I has eta = 0.

    - foreground (eq. 3) ``mean(m (x0_hat(tuned, y*) - x0)^2)``
    - background (eq. 4) ``mean((1 - m) (x0_hat(tuned, y*) - x0_hat(frozen, ybar))^2)``
    - semantic   (eq. 6) ``mean((x0_hat(tuned, ybar) - x0_hat(frozen, ybar))^2)``, the whole map

    Every term comes back per sample, (b,), already times its weight, so that their sum is the loss. A term of
    weight 0 is left out, and the model outputs that only it needs are not asked for. The two methods split the
    terms by the forward pass they belong to: what a step has computed it can also free.
    """

    foreground_weight: float = 1.0
    background_weight: float = 1.0
    semantic_weight: float = 0.0
    loss_space: LossSpace = "x0"
    min_snr_gamma: float = 0.0
    mask_normalization: MaskNormalization = "mean"
    prior_weight: float = 0.0

    attention_level = 0

    @property
    def needs_attention(self) -> bool:
        return False

    @property
    def needs_prior(self) -> bool:
        return self.prior_weight != 0

    @property
    def needs_class(self) -> bool:
        """Does it look at the TUNED model's prediction for the class prompt?"""
        return self.semantic_weight != 0

    @property
    def needs_frozen(self) -> bool:
        """Does it look at the FROZEN model's prediction for the class prompt?"""
        return self.background_weight != 0 or self.semantic_weight != 0

    def concept_terms(self, views: Views) -> dict[str, Tensor]:
        """Foreground and background: what depends on the prediction for the prompt with the concept."""
        assert views.x0_concept is not None
        terms = {}
        if self.foreground_weight:
            error = views.weight * masked_mse(views.x0_concept, views.x0_target, views.mask, self.mask_normalization)
            terms["foreground"] = self.foreground_weight * views.where_shown(error)
        if self.background_weight:
            assert views.x0_frozen is not None
            error = masked_mse(views.x0_concept, views.x0_frozen.detach(), 1 - views.mask, self.mask_normalization)
            terms["background"] = self.background_weight * views.weight * error
        return terms

    def class_terms(self, views: Views) -> dict[str, Tensor]:
        """Semantic: what depends on the tuned model's prediction for the class prompt."""
        if not self.semantic_weight:
            return {}
        frozen = views.x0_frozen if views.x0_frozen_class is None else views.x0_frozen_class
        assert views.x0_class is not None and frozen is not None
        return {"semantic": self.semantic_weight * views.weight * masked_mse(views.x0_class, frozen.detach())}

    def prior_terms(self, views: Views) -> dict[str, Tensor]:
        """DreamBooth's prior, where it has a weight: the semantic term keeps the class word by the picture itself."""
        return {"prior": self.prior_weight * prior_error(views)} if self.prior_weight else {}
