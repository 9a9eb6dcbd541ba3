"""SingleInsert's losses from what a training script has at hand in its step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import NamedTuple

from torch import Tensor

from singleinsert.errors import InputError
from singleinsert.losses import all_terms
from singleinsert.losses.diffusion import LossSpace, MaskNormalization, Views
from singleinsert.losses.singleinsert import SingleInsert
from singleinsert.models.schedule import NoiseSchedule, PredictionType


class ConceptLoss(NamedTuple):
    """Attributes: loss: (b,) float32, to be averaged by the host. terms: its summands by name, each (b,), weighted."""

    loss: Tensor
    terms: dict[str, Tensor]


def concept_loss(
    *,
    prediction: Tensor,
    latents: Tensor,
    timesteps: Tensor,
    alphas_cumprod: Tensor,
    mask: Tensor,
    noise: Tensor | None = None,
    noisy_latents: Tensor | None = None,
    frozen_prediction: Tensor | None = None,
    class_prediction: Tensor | None = None,
    prediction_type: PredictionType = "epsilon",
    foreground_weight: float = 1.0,
    background_weight: float = 1.0,
    semantic_weight: float = 0.0,
    loss_space: LossSpace = "x0",
    min_snr_gamma: float = 0.0,
    mask_normalization: MaskNormalization = "mean",
) -> ConceptLoss:
    """``a L_fg + gamma L_bg + eta L_sm`` of SingleInsert (equations 3 to 7), per sample.

    Args:
        prediction: (b, c, h, w) the tuned model's output for the prompt with the concept ("sks face").
        latents: (b, c, h, w) clean, times the VAE's scaling factor.
        timesteps: (b,) integers.
        alphas_cumprod: (T,) the scheduler's table.
        mask: (1 or b, 1, h, w) foreground in [0, 1] at latent size, as :func:`mask_from_batch` gives it.
        noise: (b, c, h, w) what the model is to find in the noisy latents.
        noisy_latents: (b, c, h, w), needed where ``noise`` is not at hand. Given both, the noise counts.
        frozen_prediction: (b, c, h, w) the frozen model's output for the class prompt ("face"), same noisy latents;
            needed by the background and the semantic term. No gradient goes into it.
        class_prediction: (b, c, h, w) the tuned model's output for the class prompt; needed by the semantic term.
        prediction_type: what all these outputs mean, as in the scheduler's config.
        foreground_weight, background_weight, semantic_weight: a, gamma, eta. A term of weight 0 is left out. The
            paper has eta = 1 wherever the model's own weights (LoRA) train.
        loss_space: "x0" is the paper's; "epsilon" and "v" weigh timesteps as usual trainers do.
        min_snr_gamma: above 0, Min-SNR weights in place of ``loss_space``'s.
        mask_normalization: "mean" over all elements (the paper), or over the mask's "area".

    Raises:
        InputError: a tensor that a term needs is missing, or shapes do not fit.
    """
    objective = SingleInsert(
        foreground_weight, background_weight, semantic_weight, loss_space, min_snr_gamma,
        mask_normalization=mask_normalization,
    )  # fmt: skip
    _check(objective, prediction, latents, mask, frozen_prediction, class_prediction)
    schedule = NoiseSchedule.from_scheduler(SimpleNamespace(alphas_cumprod=alphas_cumprod), prediction_type)
    schedule, timesteps = schedule.to(latents.device), timesteps.to(latents.device)
    if noise is not None:
        x_t = schedule.add_noise(latents, noise, timesteps)
    elif noisy_latents is not None:
        x_t = noisy_latents.detach()
    else:
        raise InputError("concept_loss needs noise or noisy_latents")

    def x0(output: Tensor | None) -> Tensor | None:
        return None if output is None else schedule.x0_from(output, x_t, timesteps)

    views = Views(
        latents, x0(prediction), x0(class_prediction), x0(frozen_prediction),
        mask.to(latents.device), schedule.weight(timesteps, loss_space, min_snr_gamma),
    )  # fmt: skip
    terms = all_terms(objective, views)
    return ConceptLoss(sum(terms.values(), latents.new_zeros(len(latents)).float()), terms)


def _check(
    objective: SingleInsert,
    prediction: Tensor,
    latents: Tensor,
    mask: Tensor,
    frozen_prediction: Tensor | None,
    class_prediction: Tensor | None,
) -> None:
    if objective.needs_frozen and frozen_prediction is None:
        raise InputError("concept_loss needs frozen_prediction, or background_weight=0 and semantic_weight=0")
    if objective.needs_class and class_prediction is None:
        raise InputError("concept_loss needs class_prediction, or semantic_weight=0")
    if class_prediction is not None and not objective.needs_class:
        raise InputError("concept_loss got class_prediction, which nothing looks at: set semantic_weight (paper: 1)")
    outputs = {"prediction": prediction, "frozen_prediction": frozen_prediction, "class_prediction": class_prediction}
    for name, output in outputs.items():
        if output is not None and output.shape != latents.shape:
            raise InputError(f"concept_loss: {name} is {tuple(output.shape)}, the latents are {tuple(latents.shape)}")
    if mask.shape not in {(batch, 1, *latents.shape[-2:]) for batch in (1, len(latents))}:
        wanted = (len(latents), 1, *latents.shape[-2:])
        raise InputError(f"concept_loss: the mask is {tuple(mask.shape)}, {wanted} is wanted: see mask_from_batch")
