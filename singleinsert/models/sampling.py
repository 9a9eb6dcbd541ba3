"""Drawing pictures from a base model and ready-made conditions, by diffusers' own pipelines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from singleinsert.models.condition import Condition
from singleinsert.models.family import Family


@torch.no_grad()
def sample_latents(
    model: Family,
    condition: Condition,
    negative: Condition,
    generators: Sequence[torch.Generator],
    *,
    steps: int,
    guidance_scale: float,
    height: int,
    width: int,
) -> Tensor:
    """As :func:`sample_images`, but for the last step, the VAE's: (b, c, h, w). It needs the denoiser alone."""
    pipeline = model.pipeline(denoiser_only=True)
    return pipeline(
        **model.pipeline_conditions(condition, negative), generator=list(generators), num_inference_steps=steps,
        guidance_scale=guidance_scale, height=height, width=width, output_type="latent",
    ).images  # fmt: skip


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
    """Draw one picture per prompt of ``condition``.

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
    return pipeline(
        **model.pipeline_conditions(condition, negative), generator=list(generators), num_inference_steps=steps,
        guidance_scale=guidance_scale, height=height, width=width, callback_on_step_end=callback, output_type="pil",
        latents=latents,
    ).images  # fmt: skip
