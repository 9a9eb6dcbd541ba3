"""From pixels to latents: the VAE's posterior, kept, so that the VAE runs once and can be put away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn


@dataclass(frozen=True)
class LatentDistribution:
    """Posterior of one picture in the UNet's scale: ``x0 = mean + std * noise``. Both (1, c, h, w) float32."""

    mean: Tensor
    std: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """x0 (b, c, h, w) from unit normal noise (b, c, h, w)."""
        return self.mean + self.std * noise

    def to(self, device: torch.device) -> LatentDistribution:
        return LatentDistribution(self.mean.to(device), self.std.to(device))


@torch.no_grad()
def encode_image(vae: Any, pixels: Tensor) -> LatentDistribution:
    """Encode pixels (1, 3, H, W) in [-1, 1], in float32 whatever the VAE's dtype: it happens once.

    ``x0 = (z - shift_factor) * scaling_factor``.
    """
    dtype = vae.dtype
    nn.Module.to(vae, torch.float32)  # diffusers' own .to() warns of a cast that is taken back here
    posterior = vae.encode(pixels.to(vae.device, torch.float32)).latent_dist
    nn.Module.to(vae, dtype)
    scale, shift = _scaling(vae)
    return LatentDistribution((posterior.mean - shift) * scale, posterior.std * scale)


@torch.no_grad()
def decode_latents(vae: Any, latents: Tensor) -> list[Image]:
    """Pictures from latents (b, c, h, w), on the VAE's device: ``z = x0 / scaling_factor + shift_factor``."""
    from diffusers.image_processor import VaeImageProcessor

    scale, shift = _scaling(vae)
    z = latents.to(vae.device, vae.dtype) / scale
    pixels = vae.decode(z + shift if shift else z, return_dict=False)[0]
    return VaeImageProcessor().postprocess(pixels, output_type="pil")


def _scaling(vae: Any) -> tuple[float, float]:
    """(scaling_factor, shift_factor); Stable Diffusion's VAEs have no shift."""
    return vae.config.scaling_factor, getattr(vae.config, "shift_factor", None) or 0.0
