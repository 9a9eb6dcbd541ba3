"""The parts of mini-flow: a miniature FLUX.2 klein of the true classes, in the drawn world of mini-sd.

The autoencoder is mini-sd's, in klein's class, with a mean for each packed channel. The deviation is the same for all,
so that noise that is white here is white for mini-sd, whose predictions the transformer learns from:

    x_s = (1 - s) x0 + s eps,  x0 = (z - mean) k,  so  (x_s + (1 - s) mean k) / r = sqrt(a) z k + sqrt(1 - a) eps
    with  r^2 = (1 - s)^2 + s^2  and  a = (1 - s)^2 / r^2:  mini-sd's own noisy latents, of the alphas_cumprod a
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    UNet2DConditionModel,
)
from tokenizers import pre_tokenizers
from torch import Tensor, nn
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

from singleinsert.models.families.flux2 import PATCH, TAPS
from singleinsert.models.schedule import NoiseSchedule

from .tokenizer import learn_merges, words

WIDTH = 96
LENGTH = 64
"""Tokens of a prompt, its template among them. klein's own prompts have 512."""
LAYERS = TAPS[-1] + 1
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""What Qwen3's own template makes of one message of a user."""
END, *SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")


def build_tokenizer(folder: Path) -> Any:
    """Qwen3's kind of tokenizer, saved in `folder`: every word of the world, and every word after a space, is one
    token, any other text falls into bytes."""
    spelled = list(dict.fromkeys(["user", "assistant", *words()]))
    merges = learn_merges([*spelled, *("\u0120" + word for word in spelled if word[0].isalpha())], end="")
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *dict.fromkeys("".join(pair) for pair in merges), END]
    tokenizer = Qwen2Tokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=merges, model_max_length=LENGTH)
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return Qwen2Tokenizer.from_pretrained(folder)


def build_text_encoder(tokenizer: Any) -> Qwen3ForCausalLM:
    """As deep as klein reads, and very narrow."""
    with torch.random.fork_rng():
        torch.manual_seed(20)
        return Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=LAYERS,
                num_attention_heads=3, num_key_value_heads=3, head_dim=32, max_position_embeddings=LENGTH,
                tie_word_embeddings=True, bos_token_id=None, eos_token_id=tokenizer.convert_tokens_to_ids(SPECIAL[1]),
                pad_token_id=tokenizer.pad_token_id,
            )
        )  # fmt: skip


def build_transformer(channels: int) -> Flux2Transformer2DModel:
    with torch.random.fork_rng():
        torch.manual_seed(21)
        return Flux2Transformer2DModel(
            in_channels=channels, num_layers=2, num_single_layers=6, attention_head_dim=32, num_attention_heads=6,
            joint_attention_dim=len(TAPS) * WIDTH, timestep_guidance_channels=64, mlp_ratio=3.0,
            axes_dims_rope=(8, 8, 8, 8), guidance_embeds=False,
        )  # fmt: skip


def pack(latents: Tensor) -> Tensor:
    """(b, c, 2 h, 2 w) -> (b, 4 c, h, w), as klein packs."""
    return nn.functional.pixel_unshuffle(latents, PATCH)


@torch.no_grad()
def flow_autoencoder(vae: Any, latents: np.ndarray) -> AutoencoderKLFlux2:
    """mini-sd's autoencoder in klein's class; statistics from unscaled latents (n, 4, 16, 16)."""
    wanted = ("in_channels", "out_channels", "down_block_types", "up_block_types", "block_out_channels",
              "layers_per_block", "latent_channels", "norm_num_groups", "sample_size")  # fmt: skip
    other = AutoencoderKLFlux2(**{name: vae.config[name] for name in wanted})
    missing, unexpected = other.load_state_dict(vae.state_dict(), strict=False)
    assert not unexpected and all(name.startswith("bn.") for name in missing)
    other.bn.running_mean.copy_(pack(torch.from_numpy(latents[:5000].astype(np.float32))).mean(dim=(0, 2, 3)))
    other.bn.running_var.fill_(vae.config.scaling_factor**-2 - other.config.batch_norm_eps)
    return other.eval()


def build_pipeline(vae: Any, transformer: Any, encoder: Any, tokenizer: Any) -> Flux2KleinPipeline:
    """``save_pretrained`` makes the folder."""
    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True), vae=vae, text_encoder=encoder,
        tokenizer=tokenizer, transformer=transformer, is_distilled=False,
    )  # fmt: skip


class Teacher:
    """mini-sd, asked for the velocity of the flow.

    It knows noise levels between those of its first and last rows, s from 0.028 to 0.936: others are for the data.
    """

    def __init__(
        self, unet: UNet2DConditionModel, schedule: NoiseSchedule, vae: AutoencoderKLFlux2, scale: float
    ) -> None:
        """`scale`: of mini-sd's latents. `unet` is left as it is."""
        self.unet, self.schedule = unet, schedule.to(unet.device)
        self.mean = vae.bn.running_mean.view(1, -1, 1, 1).to(unet.device) * scale
        signal, sigma = (factor.double() for factor in schedule.factors(torch.arange(schedule.num_timesteps)))
        levels = sigma / (signal + sigma)  # s of each row: abar = (1 - s)^2 / ((1 - s)^2 + s^2)
        self.lowest, self.highest = float(levels[0]), float(levels[-1])
        self.levels = levels.to(unet.device)

    def row(self, s: Tensor) -> Tensor:
        """The row (b,) whose noise level is nearest to s (b,)."""
        return (s.double()[:, None] - self.levels).abs().argmin(dim=1)

    def knows(self, s: Tensor) -> Tensor:
        """bool (b,): whether s lies within its rows."""
        return (s > self.lowest) & (s < self.highest)

    def levels_of(self, rows: Tensor) -> Tensor:
        """The noise levels s (b,) of rows, float32."""
        return self.levels[rows].float()

    @torch.no_grad()
    def velocity(self, x_s: Tensor, rows: Tensor, states: Tensor) -> Tensor:
        """v (b, 4 c, h, w) for noisy latents x_s of the levels of `rows`, and its own text states (b, L, 256)."""
        s = self.levels_of(rows).view(-1, 1, 1, 1)
        radius = ((1 - s) ** 2 + s**2).sqrt()
        noisy = nn.functional.pixel_shuffle((x_s + (1 - s) * self.mean) / radius, PATCH)
        output = self.unet(noisy.to(self.unet.dtype), rows, states.to(self.unet.dtype), return_dict=False)[0].float()
        x0 = pack(self.schedule.x0_from(output, noisy, rows)) - self.mean
        return (x_s - x0) / s
