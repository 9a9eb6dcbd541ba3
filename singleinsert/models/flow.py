"""Flow matching: straight lines between picture and noise, ``x_s = (1 - s) x0 + s eps``, ``v = eps - x0``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from singleinsert.models.schedule import PredictionType, Schedule

LARGEST_SIGMA = 0.999
"""The noisiest row: at s = 1 nothing of the picture is left, and an error of epsilon counts nothing."""
LARGEST_SHIFT_FOR_X0 = 2.0
"""Of uniform u an x0 loss has 0.61 of its weight above s = 0.8 with it, and 0.69 with 3.16, where hardly any identity
is decided."""


@dataclass(frozen=True)
class FlowSchedule(Schedule):
    """T rows of the noise level s, from nearly 0 to :data:`LARGEST_SIGMA`.

    Attributes:
        sigmas: (T,) float32, rising.
        sign: +1 where the network says ``v = eps - x0``, -1 where it says ``x0 - eps`` (Z-Image, Lumina 2).
        time: what the network is told: "s" itself, or "1-s".
        time_scale: what that is multiplied with before the network sees it.
    """

    sigmas: Tensor
    sign: Literal[1, -1] = 1
    time: Literal["s", "1-s"] = "s"
    time_scale: float = 1.0
    prediction_type: PredictionType = "flow"

    @classmethod
    def shifted(
        cls, shift: float = 1.0, num_timesteps: int = 1000, *, sign: Literal[1, -1] = 1,
        time: Literal["s", "1-s"] = "s", time_scale: float = 1.0,
    ) -> FlowSchedule:  # fmt: skip
        """Rows at the middles of T equal parts of u, ``s = shift u / (1 + (shift - 1) u)`` (Esser et al. 2024, eq. 23).

        Uniform rows of SD's own table have the noise levels of a flow with a shift of 1.6; trainers of flow models
        use 3, with which an x0 loss would look at noise alone: 2 is the most that suits it.
        """
        u = (torch.arange(num_timesteps, dtype=torch.float64) + 0.5) / num_timesteps
        sigmas = (shift * u / (1 + (shift - 1) * u)).clamp_max(LARGEST_SIGMA)
        return cls(sigmas.float(), sign, time, time_scale)

    def with_shift(self, shift: float) -> FlowSchedule:
        """The same network's schedule with another shift."""
        other = self.shifted(shift, self.num_timesteps, sign=self.sign, time=self.time, time_scale=self.time_scale)
        return other.to(self.device)

    @property
    def num_timesteps(self) -> int:
        return len(self.sigmas)

    @property
    def device(self) -> torch.device:
        return self.sigmas.device

    def to(self, device: torch.device | str) -> FlowSchedule:
        return replace(self, sigmas=self.sigmas.to(device))

    def factors(self, t: Tensor) -> tuple[Tensor, Tensor]:
        sigma = self.sigmas[t]
        return 1 - sigma, sigma

    def snr(self, t: Tensor) -> Tensor:
        sigma = self.sigmas[t]
        return ((1 - sigma) / sigma) ** 2

    def network_time(self, t: Tensor) -> Tensor:
        sigma = self.sigmas[t]
        return self.time_scale * (sigma if self.time == "s" else 1 - sigma)

    def x0_from(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        _, sigma = self._spread(t)
        return x_t.float() - sigma * (self.sign * output.float())

    def epsilon_from(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        signal, _ = self._spread(t)
        return x_t.float() + signal * (self.sign * output.float())
