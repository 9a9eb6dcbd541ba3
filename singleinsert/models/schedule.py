"""Noise schedules as float32 tables: add noise, turn any output into x0, weigh an error of x0.

A schedule has T rows; row t says how much signal and how much noise is in ``x_t = signal_t x0 + sigma_t eps``. Two
kinds exist: tables of ``alphas_cumprod`` (:class:`NoiseSchedule`: Stable Diffusion, SDXL) and straight lines between
picture and noise (:class:`~singleinsert.models.flow.FlowSchedule`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from singleinsert.errors import ConfigError, ModelError

PredictionType = Literal["epsilon", "v_prediction", "sample", "flow"]
PREDICTION_TYPES: tuple[str, ...] = get_args(PredictionType)
LossSpace = Literal["x0", "epsilon", "v"]
_ZERO_SNR = 1e-6  # diffusers' Euler schedulers write 2^-24 for a terminal alpha-bar of zero; SD's own is 0.0047


class Schedule(ABC):
    """Tables over T timesteps, all float32, and what follows from them.

    Attributes:
        prediction_type: what the denoiser's output means.
    """

    prediction_type: PredictionType

    @property
    @abstractmethod
    def num_timesteps(self) -> int:
        """T."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the tables are."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """The same tables on another device."""

    @abstractmethod
    def factors(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(signal, sigma), each (b,) for t (b,) int64."""

    @abstractmethod
    def snr(self, t: Tensor) -> Tensor:
        """(b,) ``signal^2 / sigma^2``."""

    @abstractmethod
    def x0_from(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The clean latents (b, c, h, w) float32 that a model output stands for."""

    def with_shift(self, shift: float) -> Schedule:
        """The same network's schedule with another shift of its noise levels. ConfigError where it has none."""
        raise ConfigError("model.timestep_shift is for flow models, and this one has its own table of noise levels")

    def network_time(self, t: Tensor) -> Tensor:
        """What the denoiser wants to be told for rows t (b,)."""
        return t

    @property
    def time_span(self) -> float:
        """T in the denoiser's own time, a step beyond the noisiest row's; 0 where its time runs the other way."""
        before, last = self.network_time(torch.arange(self.num_timesteps, device=self.device)[-2:]).tolist()
        return max(0.0, float(2 * last - before))

    def at(self, u: Tensor) -> Tensor:
        """Rows t (b,) int64 for uniform u (b,) in [0, 1)."""
        return (u * self.num_timesteps).long()

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Uniform rows (b,) int64 and unit normal noise (b, c, h, w) float32, on the generator's device."""
        device = generator.device
        t = torch.randint(0, self.num_timesteps, (shape[0],), generator=generator, device=device)
        return t, torch.randn(tuple(shape), generator=generator, device=device)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t (b, c, h, w) float32."""
        signal, sigma = self._spread(t)
        return signal * x0.float() + sigma * noise.float()

    def epsilon_from(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The noise (b, c, h, w) float32 that a model output stands for."""
        signal, sigma = self._spread(t)
        return (x_t.float() - signal * self.x0_from(output, x_t, t)) / sigma

    def weight(self, t: Tensor, space: LossSpace, min_snr_gamma: float = 0.0) -> Tensor:
        """What a squared error of x0 counts (b,) where the loss is taken in ``space``.

        With the same x_t, ``eps_hat - eps = -(signal / sigma) (x0_hat - x0)``, and a velocity's error is
        ``-(1 / sigma) (x0_hat - x0)`` both for ``v = signal eps - sigma x0`` with signal^2 + sigma^2 = 1 and for the
        flow's ``v = eps - x0`` with signal + sigma = 1. So x0 weighs 1, epsilon snr, v sigma^-2.

        Min-SNR (Hang et al. 2023, eq. 8) is ``min(snr, gamma)`` on the x0 error whichever space it is written in, so
        ``min_snr_gamma > 0`` takes the place of ``space``.
        """
        if min_snr_gamma > 0:
            return self.snr(t).clamp_max(min_snr_gamma)
        if space == "x0":
            return torch.ones(len(t), device=t.device)
        return self.snr(t) if space == "epsilon" else self._v_weight(t)

    def _v_weight(self, t: Tensor) -> Tensor:
        return self.factors(t)[1] ** -2

    def _spread(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The factors as (b, 1, 1, 1), to multiply latents with."""
        signal, sigma = self.factors(t)
        return signal.reshape(-1, 1, 1, 1), sigma.reshape(-1, 1, 1, 1)


@dataclass(frozen=True)
class NoiseSchedule(Schedule):
    """``x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps``, with ``abar`` the table ``alphas_cumprod``.

    Attributes:
        alphas_cumprod: (T,) float32.
        prediction_type: "epsilon", "v_prediction" (``sqrt(abar) eps - sqrt(1 - abar) x0``) or "sample" (x0).
    """

    alphas_cumprod: Tensor
    prediction_type: PredictionType

    @classmethod
    def from_scheduler(cls, scheduler: Any, prediction_type: str = "auto") -> NoiseSchedule:
        """Take the tables of a diffusers scheduler; ``prediction_type`` other than "auto" overrules its config."""
        kind: Any = scheduler.config.prediction_type if prediction_type == "auto" else prediction_type
        known = [name for name in PREDICTION_TYPES if name != "flow"]
        if kind not in known:
            raise ModelError(f"prediction_type {kind!r} is not supported: it is one of {', '.join(known)}")
        abar = scheduler.alphas_cumprod.detach().float().clone()
        if kind == "epsilon" and abar.min() < _ZERO_SNR:
            raise ModelError(
                "the scheduler has zero terminal SNR (rescale_betas_zero_snr), from which an epsilon model cannot "
                "recover x0: set prediction_type to what the model was trained for, usually v_prediction"
            )
        return cls(abar, kind)

    @property
    def num_timesteps(self) -> int:
        return len(self.alphas_cumprod)

    @property
    def device(self) -> torch.device:
        return self.alphas_cumprod.device

    def to(self, device: torch.device | str) -> NoiseSchedule:
        return replace(self, alphas_cumprod=self.alphas_cumprod.to(device))

    def factors(self, t: Tensor) -> tuple[Tensor, Tensor]:
        abar = self.alphas_cumprod[t]
        return abar.sqrt(), (1 - abar).sqrt()

    def snr(self, t: Tensor) -> Tensor:
        abar = self.alphas_cumprod[t]
        return abar / (1 - abar)

    def x0_from(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        signal, sigma = self._spread(t)
        output = output.float()
        if self.prediction_type == "epsilon":
            return (x_t.float() - sigma * output) / signal
        if self.prediction_type == "v_prediction":
            return signal * x_t.float() - sigma * output
        return output

    def epsilon_from(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        if self.prediction_type == "epsilon":
            return output.float()
        if self.prediction_type == "v_prediction":
            signal, sigma = self._spread(t)
            return signal * output.float() + sigma * x_t.float()
        return super().epsilon_from(output, x_t, t)

    def v_from(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The velocity ``sqrt(abar) eps - sqrt(1 - abar) x0`` (b, c, h, w) float32 that a model output stands for."""
        if self.prediction_type == "v_prediction":
            return output.float()
        signal, sigma = self._spread(t)
        return signal * self.epsilon_from(output, x_t, t) - sigma * self.x0_from(output, x_t, t)

    def _v_weight(self, t: Tensor) -> Tensor:
        return 1 + self.snr(t)  # the same number as sigma^-2, and exact where the table is coarse
