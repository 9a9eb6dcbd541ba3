"""A tiny FLUX.2 klein of the true classes, with weights set by formula. Every width is one of its own.

Its language model has as many layers as are read, and one that is not; its tokenizer is byte-level BPE with Qwen3's
chat template. The statistics of the packed latents differ by channel, so that a mistake in their order shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tinymodels import hashed, set_weights_by_formula
from tinyqwen import WIDTH, set_lookup, tiny_qwen, tiny_qwen_tokenizer, write_pipeline

LATENTS = 3
CHANNELS = 4 * LATENTS


def tiny_klein_models() -> dict[str, Any]:
    """Tokenizer, language model, transformer and VAE. Pictures 32x32, latents (12, 8, 8), states of width 384."""
    from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel

    tokenizer = tiny_qwen_tokenizer()
    encoder = tiny_qwen(tokenizer, layers=30)
    transformer = Flux2Transformer2DModel(
        in_channels=CHANNELS, num_layers=2, num_single_layers=3, attention_head_dim=16, num_attention_heads=4,
        joint_attention_dim=3 * WIDTH, timestep_guidance_channels=16, mlp_ratio=2.0, axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )  # fmt: skip
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16), layers_per_block=1, latent_channels=LATENTS, norm_num_groups=4, sample_size=32,
    )  # fmt: skip
    models = {"text_encoder": encoder, "transformer": transformer, "vae": vae}
    for scope, model in models.items():
        set_weights_by_formula(model, scope)
        model.eval().requires_grad_(False)
    set_lookup(encoder)
    vae.bn.running_mean.copy_(0.5 * hashed((CHANNELS,), 4))
    vae.bn.running_var.copy_(1 + 0.5 * hashed((CHANNELS,), 5))
    return {"tokenizer": tokenizer, **models}


def write_tiny_klein(folder: Path, distilled: bool = False) -> Path:
    """Write a whole diffusers folder (float32 safetensors); returns ``folder``."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    models = {**tiny_klein_models(), "scheduler": scheduler}
    return write_pipeline(folder, models, _class_name="Flux2KleinPipeline", is_distilled=distilled)


def random_latents(batch: int = 1, side: int = 8) -> torch.Tensor:
    return hashed((batch, CHANNELS, side, side), 7)
