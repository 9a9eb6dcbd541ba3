"""Tiny Stable Diffusion folders of the true classes, with weights set by formula.

The weights come from an integer hash of their name and index, never from a random generator, so that golden
values survive an upgrade of torch. Nothing is trained: outputs are noise of a sane scale.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
WORDS = (
    "* a an the of on in at with and photo picture painting drawing sketch face faces cat dog cup car tree person hat "
    "glasses scarf red green blue pink black white beach snow jungle city wall water left right side view frontal "
    "back baseball cap man woman wearing , . ! - : ( ) 0 1 2 3 4 5 6 7 8 9"
).split()
MAX_LENGTH = 32  # not CLIP's 77, so that no code can have that number written into it
CONCEPT_WIDTH = 32


def hashed(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Float32 tensor of unit variance, uniform, from murmur3's finaliser of (index, seed); exact on any machine."""
    x = np.arange(int(np.prod(shape)), dtype=np.uint32) + np.uint32(seed & 0xFFFFFFFF)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        x ^= x >> np.uint32(shift)
        x *= np.uint32(factor)
    unit = x.astype(np.float64) / 2**32 - 0.5
    return torch.from_numpy((unit * 12**0.5).astype(np.float32)).reshape(shape)


@torch.no_grad()
def set_weights_by_formula(module: nn.Module, scope: str) -> None:
    """Norms to identity, biases small, matrices to variance 1 / fan_in, embeddings to 0.02."""
    for name, parameter in module.named_parameters():
        noise = hashed(tuple(parameter.shape), zlib.crc32(f"{scope}.{name}".encode()))
        if "norm" in name or "group_norm" in name:
            parameter.copy_(1 + 0.05 * noise if name.endswith("weight") else 0.05 * noise)
        elif "embedding" in name and "time" not in name and "patch" not in name:
            parameter.copy_(0.02 * noise)
        elif parameter.ndim > 1:
            parameter.copy_(noise / parameter[0].numel() ** 0.5)
        else:
            parameter.copy_(0.02 * noise)


def merges_for(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges (learnt greedily, ties by order) that turn each of ``words`` into ONE token."""
    pieces = [[*word[:-1], word[-1] + "</w>"] for word in words]
    merges: list[tuple[str, str]] = []
    while any(len(piece) > 1 for piece in pieces):
        pairs = Counter(pair for piece in pieces for pair in pairwise(piece))
        best = max(pairs, key=lambda pair: pairs[pair])
        merges.append(best)
        pieces = [_merge(piece, best) for piece in pieces]
    return merges


def _merge(piece: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for part in piece:
        if out and (out[-1], part) == pair:
            out[-1] += part
        else:
            out.append(part)
    return out


def tiny_tokenizer(pad_token: str = EOS) -> Any:
    """A CLIPTokenizer of ``WORDS``. Other words of known letters fall into letters, the rest is unknown."""
    from transformers import CLIPTokenizer

    words = list(dict.fromkeys(WORDS))
    letters = sorted({letter for word in words for letter in word})
    merges = merges_for(words)
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges), BOS, EOS]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad_token, model_max_length=MAX_LENGTH)


def tiny_models(family: str = "sd1", vocab_size: int | None = None) -> dict[str, Any]:
    """Tokenizer, text encoder, UNet and VAE. Pictures 32x32, latents (4, 16, 16), cross-attention width 32."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = tiny_tokenizer("!" if family == "sd2" else EOS)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocab_size or len(tokenizer), hidden_size=CONCEPT_WIDTH, intermediate_size=64,
            num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=MAX_LENGTH,
            projection_dim=CONCEPT_WIDTH, hidden_act="gelu" if family == "sd2" else "quick_gelu",
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=CONCEPT_WIDTH, attention_head_dim=(2, 4) if family == "sd2" else 2, norm_num_groups=8,
        use_linear_projection=family == "sd2",
    )  # fmt: skip
    vae = AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, layers_per_block=1, block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4,
        sample_size=32, scaling_factor=0.5,
    )  # fmt: skip
    models = {"text_encoder": text_encoder, "unet": unet, "vae": vae}
    for scope, model in models.items():
        set_weights_by_formula(model, scope)
        model.eval().requires_grad_(False)
    return {"tokenizer": tokenizer, **models}


def write_tiny_sd(folder: Path, prediction_type: str = "epsilon", family: str = "sd1") -> Path:
    """Write a whole diffusers folder (float32 safetensors); returns ``folder``."""
    from diffusers import DDPMScheduler

    models = tiny_models(family)
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000,
        steps_offset=1, clip_sample=False, prediction_type=prediction_type,
    )  # fmt: skip
    for name, model in {**models, "scheduler": scheduler}.items():
        model.save_pretrained(folder / name)
    index = {
        "_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", "DDPMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
        "safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False,
    }  # fmt: skip
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder


def outputs(models: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    """What a text encoder and a UNet make of fixed input: (1, 12, width) and (2, 4, 16, 16)."""
    dtype = models["unet"].dtype
    text = models["text_encoder"](torch.arange(12)[None])[0]
    noisy, condition = hashed((2, 4, 16, 16), 1).to(dtype), hashed((2, 12, CONCEPT_WIDTH), 2).to(dtype)
    return text, models["unet"](noisy, torch.tensor([10, 900]), condition).sample


def same(a: tuple[torch.Tensor, ...], b: tuple[torch.Tensor, ...]) -> bool:
    """To the last bit."""
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
