"""Drawing pictures from a base model and ready-made conditions, by diffusers' own pipelines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn

from singleinsert.errors import InputError
from singleinsert.models.condition import Condition
from singleinsert.models.family import Family
from singleinsert.models.keys import kept_keys

SMALL = 200e6
"""Bytes of a denoiser whose operators end before the next is asked for, so that pictures are drawn faster together."""


def pictures_at_once(denoiser: nn.Module) -> int:
    """How many pictures to draw in one batch: 16 by a miniature, else 4, of which guidance makes twice as many."""
    return 16 if sum(parameter.nbytes for parameter in denoiser.parameters()) < SMALL else 4


def known_latents(scheduler: Any, source: Tensor, noise: Tensor, step: int) -> Tensor:
    """What latents that are known (b, c, h, w) look like after ``step`` of the sampler: clean after the last one, and
    before at the level from which it goes on. Blended Latent Diffusion puts them back after every step."""
    return source if step == len(scheduler.timesteps) else noised_for(scheduler, source, noise, step)


def noised_for(scheduler: Any, source: Tensor, noise: Tensor, step: int) -> Tensor:
    """Clean latents at the level that the sampler's ``step`` begins with."""
    if hasattr(scheduler, "scale_noise"):  # a flow's sampler, which would look for its place in the steps
        sigma = scheduler.sigmas[step].to(source)
        return (1 - sigma) * source + sigma * noise
    return scheduler.add_noise(source, noise, scheduler.timesteps[step : step + 1])


@torch.no_grad()
def sample_images(
    model: Family,
    condition: Condition,
    negative: Condition | None,
    generators: Sequence[torch.Generator],
    *,
    steps: int = 50,
    guidance_scale: float = 7.5,
    height: int | None = None,
    width: int | None = None,
    scheduler: Any = None,
    callback: Callable[..., dict[str, Any]] | None = None,
    pipeline: Any = None,
    latents: Tensor | None = None,
) -> list[Image]:
    """Draw one picture per prompt of ``condition``, by diffusers' pipeline, to the end.

    Args:
        condition: b prompts. negative: 1 or b, None only without guidance.
        generators: b of them, one per picture, so that a picture does not depend on the others.
        height, width: in pixels; None is the model's own resolution.
        scheduler: diffusers', the model's own where None.
        callback: diffusers' ``callback_on_step_end(pipeline, step, timestep, tensors) -> tensors``.
        pipeline: one of :meth:`Family.pipeline` to use again, with its scheduler and its hooks for offloading.
        latents: (b, c, h, w) to start from in place of the generators' noise.

    Returns:
        b RGB pictures.
    """
    pipeline = pipeline or model.pipeline(scheduler)

    def watch(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        tensors = tensors if callback is None else callback(pipe, step, timestep, tensors)
        if step == len(pipe.scheduler.timesteps) - 1 and not bool(torch.isfinite(tensors["latents"]).all()):
            raise InputError(
                "the picture has become NaN or infinite: a LoRA's weight is too large for this model, or its numbers "
                "for half precision (--mixed_precision no)"
            )
        return tensors

    with kept_keys(model.denoiser):
        return pipeline(
            **model.pipeline_conditions(condition, negative), generator=list(generators), num_inference_steps=steps,
            guidance_scale=model.pipeline_guidance(guidance_scale), height=height, width=width,
            callback_on_step_end=watch, output_type="pil", latents=latents,
        ).images  # fmt: skip
