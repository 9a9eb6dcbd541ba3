"""Trains mini-sd's AutoencoderKL: 64 x 64 pictures to 16 x 16 latents of 4 channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from .common import HalfTrainer, device, run, to_tensor

BATCH = 24
KL_WEIGHT = 2e-6


def build_vae() -> AutoencoderKL:
    torch.manual_seed(11)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(24, 48, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
    )


def edges(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]


def train_vae(pictures: np.ndarray, folder: Path, steps: int, start: AutoencoderKL | None = None) -> AutoencoderKL:
    """L1 on pixels and on their differences, a slight KL; returns the averaged weights in float32."""
    dev = device()
    vae = (start or build_vae()).to(dev, memory_format=torch.channels_last).train()
    trainer = HalfTrainer([vae], lr=1.2e-3 if start is None else 2e-4, weight_decay=1e-4, ema=0.995)

    def loss_of_step(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([step, 1])
        x = to_tensor(pictures[np.sort(rng.integers(0, len(pictures), BATCH))]).to(dev)
        posterior = vae.encode(x.bfloat16()).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        generator = torch.Generator().manual_seed(step)
        noise = torch.randn(mean.shape, generator=generator).to(dev)
        out = vae.decode((mean + (0.5 * logvar).exp() * noise).bfloat16()).sample.float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3)).mean()
        sharp = sum((F.l1_loss(a, b) for a, b in zip(edges(out), edges(x), strict=True)), start=torch.zeros(()).to(dev))
        return {"l1": F.l1_loss(out, x), "l2": F.mse_loss(out, x), "edges": 0.5 * sharp, "kl": KL_WEIGHT * kl}

    run("vae", folder, trainer, loss_of_step, steps)
    trainer.finish()
    return vae.eval()


@torch.no_grad()
def encode_all(vae: AutoencoderKL, pictures: np.ndarray, cache: Path) -> tuple[np.ndarray, float]:
    """Posterior means of every picture, float16 (n, 4, 16, 16), and the scaling factor 1 / std."""
    file = cache / f"latents-{len(pictures)}.npy"
    if not file.exists():
        dev = device()
        half = vae.to(dev, torch.bfloat16)
        out = [
            half.encode(to_tensor(pictures[i : i + 128]).to(dev, torch.bfloat16)).latent_dist.mean.float().cpu().numpy()
            for i in range(0, len(pictures), 128)
        ]
        np.save(file, np.concatenate(out).astype(np.float16))
        vae.float()
    latents = np.load(file)
    return latents, round(1.0 / float(latents[:5000].astype(np.float32).std()), 5)
