"""Trains mini-sd's UNet2DConditionModel on cached latents and cached text conditions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from .common import HalfTrainer, device, run, schedule
from .judge import Network
from .reader import disturb, unread
from .text import WIDTH

BATCH = 32
MAX_X0_WEIGHT, MAX_WEIGHT = 5.0, 60.0
DENSE_SHARE = 0.8
SUBJECT_WEIGHT = 3.0
"""What an error counts where the subject is, against 1 elsewhere: most that captions say is small and lies there."""
LEARNING = 0.95
"""Share of the steps in which words are pressed for; the rest are for pictures as they are."""
UNREAD_WEIGHT = 0.1
"""What a named attribute that the reader does not find in the prediction of x0 counts, against x0's squared error."""


def config_of(model: Any) -> dict[str, Any]:
    """A UNet's config, for another one after it, without the place that it was loaded from."""
    return {key: value for key, value in model.config.items() if key != "_name_or_path"}


def build_scheduler() -> DDPMScheduler:
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


def build_unet() -> UNet2DConditionModel:
    torch.manual_seed(14)
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(48, 96, 192),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=(2, 4, 4),
        cross_attention_dim=WIDTH,
        norm_num_groups=16,
    )


@dataclass(frozen=True)
class Captions:
    """Text conditions float16 (n * each, L, d), `each` captions a picture, and what each caption names, int8
    (n * each, heads), -1 where it does not name it or it does not show."""

    conditions: np.ndarray
    named: np.ndarray


def weight_of(snr: Tensor) -> Tensor:
    """Weight of the epsilon error at each signal-to-noise ratio, both (b,)."""
    return ((snr + 1).clamp(max=MAX_X0_WEIGHT) / snr).clamp(max=MAX_WEIGHT)


@dataclass(frozen=True)
class Noised:
    """Latents under noise: timesteps (b,), noise and noisy latents (b, 4, h, w), alphas_cumprod (b, 1, 1, 1)."""

    t: Tensor
    noise: Tensor
    noisy: Tensor
    abar: Tensor

    @property
    def snr(self) -> Tensor:
        """(b,)"""
        a = self.abar.flatten()
        return a / (1 - a)

    def guess(self, out: Tensor) -> Tensor:
        """The x0 that a prediction of the noise `out` means."""
        return (self.noisy.float() - (1 - self.abar).sqrt() * out) / self.abar.sqrt()


def towards_noise(place: Tensor) -> Tensor:
    """Where in [0, 1) a timestep lies, of a uniform place: more of them near the noise, where text decides."""
    return 1 - (1 - place).square()


def add_noise(
    x0: Tensor, abar: Tensor, generator: torch.Generator, shift: Callable[[Tensor], Tensor] | None = None
) -> Noised:
    """Stratified timesteps: one from each of as many slices as there are samples, equal ones or moved by `shift`. The
    noisy latents are bfloat16, channels last; `abar` (1000,)."""
    count = len(x0)
    place = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    t = (1000 * (place if shift is None else shift(place))).long().clamp(max=999).to(x0.device)
    noise = torch.randn(x0.shape, generator=generator).to(x0.device)
    a = abar[t].view(-1, 1, 1, 1)
    noisy = (a.sqrt() * x0 + (1 - a).sqrt() * noise).bfloat16().contiguous(memory_format=torch.channels_last)
    return Noised(t, noise, noisy, a)


def error_of(out: Tensor, noised: Noised, covers: Tensor) -> Tensor:
    """Weighted squared error of a prediction; `covers` uint8 (b, h, w), the subjects' share of each latent pixel."""
    weight = 1 + (SUBJECT_WEIGHT - 1) / 255 * covers.to(out.device, torch.float32).unsqueeze(1)
    per_sample = ((out - noised.noise).square() * weight).mean(dim=(1, 2, 3)) / weight.mean()
    return (per_sample * weight_of(noised.snr)).mean()


def urgency(snr: Tensor) -> Tensor:
    """(b,) what an attribute that a prediction misses counts: 1, and less where there is little but noise."""
    return (MAX_WEIGHT * snr).clamp(max=1)


def train_unet(
    latents: np.ndarray,
    scaling: float,
    covers: np.ndarray,
    captions: Captions,
    dense: Captions,
    share: np.ndarray,
    reader: Network,
    folder: Path,
    steps: int,
    start: UNet2DConditionModel | None = None,
    compile: bool = False,
    on_interval: Callable[[UNet2DConditionModel, HalfTrainer, int], None] | None = None,
) -> UNet2DConditionModel:
    """Epsilon prediction; averaged float32 weights.

    An error of x0 counts snr + 1 (as in v-prediction and in Karras et al. 2022, table 1), at most 5 (as in Hang et
    al. 2023): with epsilon's own snr, the noisy timesteps, where text and not x_t says what is to be drawn, hardly
    count.

    `latents` float16 (n, 4, 16, 16) unscaled; `covers` uint8 (n, 16, 16), the subjects' share of each latent pixel;
    `dense`, one caption a picture that names most of what it shows, which most samples take until the last steps;
    `share` (n,), how often each picture is drawn while words are pressed for; `reader`, what finds named attributes in
    predictions of x0; `start`, weights to begin from; `compile`: by torch.compile, a third quicker after a few minutes.
    """
    dev = device()
    unet = (start or build_unet()).to(dev, memory_format=torch.channels_last).train()
    if dev.type == "cpu":  # PyTorch's fused attention has a slow backward on CPUs at these sizes
        unet.set_attn_processor(AttnProcessor())
    trainer = HalfTrainer([unet], lr=6e-4, ema=0.9992)
    predict: Any = torch.compile(unet) if compile else unet
    unread_of: Any = torch.compile(unread) if compile else unread
    abar = build_scheduler().alphas_cumprod.to(dev)
    each = len(captions.conditions) // len(latents)

    def loss_of_step(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([step, 4])
        learning = step < LEARNING * steps
        rows = rng.choice(len(latents), BATCH, p=share if learning else None)
        x0 = torch.from_numpy(latents[rows].astype(np.float32) * scaling).to(dev)
        chosen = rows * each + rng.integers(0, each, BATCH)
        said, named = captions.conditions[chosen], captions.named[chosen]
        if schedule(step, steps) > 0.4:
            much = rng.random(BATCH) < DENSE_SHARE
            said[much], named[much] = dense.conditions[rows[much]], dense.named[rows[much]]
        text = torch.from_numpy(said).to(dev, torch.bfloat16)
        generator = torch.Generator().manual_seed(step)
        noised = add_noise(x0, abar, generator, towards_noise if learning else None)
        out = predict(noised.noisy, noised.t, text).sample.float()
        guess = disturb(noised.guess(out), generator).bfloat16().contiguous(memory_format=torch.channels_last)
        missing = unread_of(reader, guess, torch.from_numpy(named.astype(np.int64)).to(dev))
        return {
            "mse": error_of(out, noised, torch.from_numpy(covers[rows])),
            "unread": UNREAD_WEIGHT * (missing * urgency(noised.snr)).mean(),
        }

    interval = None if on_interval is None else lambda step: on_interval(unet, trainer, step)
    run("unet", folder, trainer, loss_of_step, steps, interval, report_every=100)
    trainer.finish()
    unet.set_default_attn_processor()
    return unet.eval()
