"""A tiny Z-Image of the true classes, with weights set by formula. Every width is one of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tinymodels import hashed, set_weights_by_formula
from tinyqwen import WIDTH, set_lookup, tiny_qwen, tiny_qwen_tokenizer, write_pipeline

LATENTS = 6


def tiny_zimage_models() -> dict[str, Any]:
    """Tokenizer, language model, transformer and VAE. Pictures 32x32, latents (6, 16, 16), states of width 128."""
    from diffusers import AutoencoderKL, ZImageTransformer2DModel

    tokenizer = tiny_qwen_tokenizer()
    transformer = ZImageTransformer2DModel(
        in_channels=LATENTS, dim=96, n_layers=3, n_refiner_layers=1, n_heads=4, n_kv_heads=4, cap_feat_dim=WIDTH,
        axes_dims=[8, 8, 8], axes_lens=[1024, 64, 64],
    )  # fmt: skip
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16), layers_per_block=1, latent_channels=LATENTS, norm_num_groups=4, sample_size=32,
        scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip
    models = {"text_encoder": tiny_qwen(tokenizer, layers=4), "transformer": transformer, "vae": vae}
    for scope, model in models.items():
        set_weights_by_formula(model, scope)
        model.eval().requires_grad_(False)
    set_lookup(models["text_encoder"])
    for name in ("x_pad_token", "cap_pad_token"):
        token = getattr(transformer, name)
        token.copy_(hashed(tuple(token.shape), len(name)))
    return {"tokenizer": tokenizer, **models}


def write_tiny_zimage(folder: Path) -> Path:
    """Write a whole diffusers folder (float32 safetensors); returns ``folder``."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    models = {**tiny_zimage_models(), "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0)}
    return write_pipeline(folder, models, _class_name="ZImagePipeline")


def random_latents(batch: int = 1, side: int = 16) -> torch.Tensor:
    return hashed((batch, LATENTS, side, side), 7)
