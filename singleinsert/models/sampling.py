"""Drawing pictures from a base model and ready-made text conditions, as diffusers' own pipeline does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from singleinsert.models.base import BaseModel


def build_pipeline(model: BaseModel, scheduler: Any = None) -> Any:
    """diffusers' StableDiffusionPipeline over the model's own parts; DDIM where no scheduler is given."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(
        vae=model.vae, text_encoder=model.text_encoder, tokenizer=model.tokenizer, unet=model.unet,
        scheduler=scheduler or DDIMScheduler.from_config(model.scheduler.config), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def sample_latents(
    model: BaseModel,
    prompt_embeds: Tensor,
    negative_embeds: Tensor,
    generators: Sequence[torch.Generator],
    *,
    steps: int,
    guidance_scale: float,
    height: int,
    width: int,
) -> Tensor:
    """As :func:`sample_images`, but for the last step, the VAE's: (b, c, h, w). It needs the UNet alone."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(
        vae=None, text_encoder=None, tokenizer=model.tokenizer, unet=model.unet,
        scheduler=DDIMScheduler.from_config(model.scheduler.config), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.vae_scale_factor = model.vae_scale_factor
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        prompt_embeds=prompt_embeds, negative_prompt_embeds=negative_embeds.expand_as(prompt_embeds),
        generator=list(generators), num_inference_steps=steps, guidance_scale=guidance_scale, height=height,
        width=width, output_type="latent",
    ).images  # fmt: skip


@torch.no_grad()
def decode_latents(model: BaseModel, latents: Tensor) -> list[Image]:
    """Pictures from latents (b, c, h, w), on the VAE's device."""
    from diffusers.image_processor import VaeImageProcessor

    vae = model.vae
    pixels = vae.decode(latents.to(vae.device, vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]
    return VaeImageProcessor(vae_scale_factor=model.vae_scale_factor).postprocess(pixels, output_type="pil")


@torch.no_grad()
def sample_images(
    model: BaseModel,
    prompt_embeds: Tensor,
    negative_embeds: Tensor | None,
    generators: Sequence[torch.Generator],
    *,
    steps: int = 50,
    guidance_scale: float = 7.5,
    height: int | None = None,
    width: int | None = None,
    scheduler: Any = None,
    callback: Callable[..., dict[str, Any]] | None = None,
    pipeline: Any = None,
) -> list[Image]:
    """Draw one picture per row of ``prompt_embeds``.

    Args:
        prompt_embeds: (b, L, d) text conditions. negative_embeds: (1 or b, L, d), None only without guidance.
        generators: b of them, one per picture, so that a picture does not depend on the others.
        height, width: in pixels; None is the model's own resolution.
        scheduler: diffusers', DDIM with the model's tables where None.
        callback: diffusers' ``callback_on_step_end(pipeline, step, timestep, tensors) -> tensors``.
        pipeline: one of :func:`build_pipeline` to use again, with its scheduler and its hooks for offloading.

    Returns:
        b RGB pictures.
    """
    pipeline = pipeline or build_pipeline(model, scheduler)
    if negative_embeds is not None:
        negative_embeds = negative_embeds.expand_as(prompt_embeds)
    return pipeline(
        prompt_embeds=prompt_embeds, negative_prompt_embeds=negative_embeds, generator=list(generators),
        num_inference_steps=steps, guidance_scale=guidance_scale, height=height, width=width,
        callback_on_step_end=callback, output_type="pil",
    ).images  # fmt: skip
