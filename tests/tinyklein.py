"""A tiny FLUX.2 klein of the true classes, with weights set by formula. Every width is one of its own.

Its language model has as many layers as are read, and one that is not; its tokenizer is byte-level BPE with Qwen3's
chat template. The statistics of the packed latents differ by channel, so that a mistake in their order shows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tinymodels import WORDS, hashed, set_weights_by_formula

WIDTH, LATENTS = 128, 3
CHANNELS = 4 * LATENTS
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
LIBRARIES = {
    "scheduler": "diffusers", "vae": "diffusers", "transformer": "diffusers", "text_encoder": "transformers",
    "tokenizer": "transformers",
}  # fmt: skip


def tiny_qwen_tokenizer() -> Any:
    """A Qwen2Tokenizer: any text, byte by byte; of ``WORDS``, and of those after a space, one token each or a few."""
    from tokenizers import pre_tokenizers
    from transformers import Qwen2Tokenizer

    words = [word for word in dict.fromkeys([*WORDS, "user", "assistant"]) if len(word) > 1]
    merges: list[tuple[str, str]] = []
    for word in (*words, *("\u0120" + word for word in words)):  # a space is written so
        for end in range(1, len(word)):
            merges.append((word[:end], word[end]))
    merges = list(dict.fromkeys(merges))
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *dict.fromkeys("".join(pair) for pair in merges)]
    vocabulary = {token: i for i, token in enumerate((*tokens, SPECIAL[0]))}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=merges, model_max_length=4096)
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL[1:])})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def tiny_klein_models() -> dict[str, Any]:
    """Tokenizer, language model, transformer and VAE. Pictures 32x32, latents (12, 8, 8), states of width 384."""
    from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = tiny_qwen_tokenizer()
    encoder = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=192, num_hidden_layers=30,
            num_attention_heads=4, num_key_value_heads=2, head_dim=32, max_position_embeddings=1024,
            tie_word_embeddings=True, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
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
    encoder.model.embed_tokens.weight.copy_(0.5 * hashed(tuple(encoder.model.embed_tokens.weight.shape), 3))
    vae.bn.running_mean.copy_(0.5 * hashed((CHANNELS,), 4))
    vae.bn.running_var.copy_(1 + 0.5 * hashed((CHANNELS,), 5))
    return {"tokenizer": tokenizer, **models}


def write_tiny_klein(folder: Path, distilled: bool = False) -> Path:
    """Write a whole diffusers folder (float32 safetensors); returns ``folder``."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    models = {**tiny_klein_models(), "scheduler": scheduler}
    for name, model in models.items():
        model.save_pretrained(folder / name)
    index: dict[str, Any] = {name: [LIBRARIES[name], type(models[name]).__name__] for name in LIBRARIES}
    index |= {"_class_name": "Flux2KleinPipeline", "is_distilled": distilled}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder


def random_latents(batch: int = 1, side: int = 8) -> torch.Tensor:
    return hashed((batch, CHANNELS, side, side), 7)
