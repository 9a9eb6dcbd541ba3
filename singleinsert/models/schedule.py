"""The noise schedule in float32 tables: add noise, and turn any model output into x0, epsilon or v."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from singleinsert.errors import ModelError

PredictionType = Literal["epsilon", "v_prediction", "sample"]


@dataclass(frozen=True)
class NoiseSchedule:
    """``x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps``, with ``abar`` the table ``alphas_cumprod``.

    Attributes:
        alphas_cumprod: (T,) float32.
        prediction_type: what the UNet's output means.
    """

    alphas_cumprod: Tensor
    prediction_type: PredictionType

    @classmethod
    def from_scheduler(cls, scheduler: Any, prediction_type: str = "auto") -> NoiseSchedule:
        """Take the tables of a diffusers scheduler; ``prediction_type`` other than "auto" overrules its config."""
        kind: Any = scheduler.config.prediction_type if prediction_type == "auto" else prediction_type
        if kind not in get_args(PredictionType):
            raise ModelError(
                f"prediction_type {kind!r} is not supported: it is one of {', '.join(get_args(PredictionType))}"
            )
        abar = scheduler.alphas_cumprod.detach().float().clone()
        if kind == "epsilon" and abar.min() <= 0:
            raise ModelError(
                "the scheduler has zero terminal SNR (rescale_betas_zero_snr), from which an epsilon model cannot "
                "recover x0: set prediction_type to what the model was trained for, usually v_prediction"
            )
        return cls(abar, kind)

    def to(self, device: torch.device | str) -> NoiseSchedule:
        return replace(self, alphas_cumprod=self.alphas_cumprod.to(device))

    @property
    def num_timesteps(self) -> int:
        return len(self.alphas_cumprod)

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Uniform timesteps (b,) int64 and unit normal noise (b, c, h, w) float32, on the generator's device."""
        device = generator.device
        t = torch.randint(0, self.num_timesteps, (shape[0],), generator=generator, device=device)
        return t, torch.randn(tuple(shape), generator=generator, device=device)

    def snr(self, t: Tensor) -> Tensor:
        """(b,) ``abar_t / (1 - abar_t)``."""
        abar = self.alphas_cumprod[t]
        return abar / (1 - abar)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t (b, c, h, w) float32."""
        signal, sigma = self._factors(t)
        return signal * x0.float() + sigma * noise.float()

    def x0_from(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The clean latents (b, c, h, w) float32 that a model output stands for."""
        signal, sigma = self._factors(t)
        output = output.float()
        if self.prediction_type == "epsilon":
            return (x_t.float() - sigma * output) / signal
        if self.prediction_type == "v_prediction":
            return signal * x_t.float() - sigma * output
        return output

    def epsilon_from(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The noise (b, c, h, w) float32 that a model output stands for."""
        signal, sigma = self._factors(t)
        output = output.float()
        if self.prediction_type == "epsilon":
            return output
        if self.prediction_type == "v_prediction":
            return signal * output + sigma * x_t.float()
        return (x_t.float() - signal * output) / sigma

    def v_from(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The velocity ``sqrt(abar) eps - sqrt(1 - abar) x0`` (b, c, h, w) float32 that a model output stands for."""
        if self.prediction_type == "v_prediction":
            return output.float()
        signal, sigma = self._factors(t)
        return signal * self.epsilon_from(output, x_t, t) - sigma * self.x0_from(output, x_t, t)

    def _factors(self, t: Tensor) -> tuple[Tensor, Tensor]:
        abar = self.alphas_cumprod[t].reshape(-1, 1, 1, 1)
        return abar.sqrt(), (1 - abar).sqrt()
