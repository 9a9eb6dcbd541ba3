"""A tiny Stable Diffusion XL of the true classes, with weights set by formula. Every width is one of its own.

What the UNet is told by pooled vector and time ids shows in its output, so that a mistake in either does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tinymodels import EOS, MAX_LENGTH, hashed, set_weights_by_formula, tiny_tokenizer

WIDTHS = {"text_encoder": 32, "text_encoder_2": 48}
POOLED, TIME_DIM = 40, 8
NAMES = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "vae", "scheduler")


def tiny_sdxl_models(vocab_size: int | None = None) -> dict[str, Any]:
    """Tokenizers, text encoders, UNet and VAE. Pictures 32x32, latents (4, 16, 16), cross-attention width 80."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    tokenizers = {"tokenizer": tiny_tokenizer(EOS), "tokenizer_2": tiny_tokenizer("!")}
    encoders = {
        part: cls(text_config(tokenizer, part, vocab_size))
        for part, cls, tokenizer in zip(
            WIDTHS, (CLIPTextModel, CLIPTextModelWithProjection), tokenizers.values(), strict=True
        )
    }
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=sum(WIDTHS.values()), attention_head_dim=(2, 4), transformer_layers_per_block=(1, 2),
        norm_num_groups=8, use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=TIME_DIM, projection_class_embeddings_input_dim=POOLED + 6 * TIME_DIM,
    )  # fmt: skip
    vae = AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, layers_per_block=1, block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4,
        sample_size=32, scaling_factor=0.4, force_upcast=True,
    )  # fmt: skip
    models = {**encoders, "unet": unet, "vae": vae}
    for scope, model in models.items():
        set_weights_by_formula(model, scope)
        model.eval().requires_grad_(False)
    for number, linear in enumerate((unet.add_embedding.linear_1, unet.add_embedding.linear_2)):
        linear.weight.data.copy_(hashed(tuple(linear.weight.shape), number) / linear.in_features**0.5)
    return {**tokenizers, **models}


def text_config(tokenizer: Any, part: str, vocab_size: int | None) -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=vocab_size or len(tokenizer), hidden_size=WIDTHS[part], intermediate_size=64, num_hidden_layers=3,
        num_attention_heads=4, max_position_embeddings=MAX_LENGTH, projection_dim=POOLED,
        hidden_act="quick_gelu" if part == "text_encoder" else "gelu", bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip


def write_tiny_sdxl(folder: Path, prediction_type: str = "epsilon", zero_snr: bool = False) -> Path:
    """Write a whole diffusers folder (float32 safetensors); returns ``folder``."""
    from diffusers import EulerDiscreteScheduler

    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000, steps_offset=1,
        prediction_type=prediction_type, rescale_betas_zero_snr=zero_snr, timestep_spacing="leading",
    )  # fmt: skip
    models = {**tiny_sdxl_models(), "scheduler": scheduler}
    for name, model in models.items():
        model.save_pretrained(folder / name)
    libraries = {name: "transformers" if "te" in name[:2] or "to" in name[:2] else "diffusers" for name in models}
    index: dict[str, Any] = {name: [libraries[name], type(models[name]).__name__] for name in NAMES}
    index |= {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder


def random_latents(batch: int = 1, side: int = 16) -> torch.Tensor:
    return hashed((batch, 4, side, side), 7)
