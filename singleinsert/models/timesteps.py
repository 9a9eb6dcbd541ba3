"""Densities of timesteps: importance sampling, by which no expectation changes, and other targets than uniform."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

UNIFORM_SHARE = 0.1


@dataclass(frozen=True)
class TimestepDensity:
    """Probabilities p(t) over T timesteps.

    Attributes:
        cumulative: (T,) float64, the last one 1.
        weights: (T,) float32, ``1 / (T p(t))``: the mean of ``weights[t] f(t)`` over drawn t is that of ``f(t)`` over
            uniform t, for any f.
    """

    cumulative: Tensor
    weights: Tensor

    @classmethod
    def proportional_to(cls, importance: Tensor) -> TimestepDensity:
        """p(t) as ``importance`` (T,) >= 0, mixed with a tenth of the uniform density: no weight exceeds 10."""
        importance, steps = importance.detach().to("cpu", torch.float64), len(importance)
        p = (1 - UNIFORM_SHARE) * importance / importance.sum() + UNIFORM_SHARE / steps
        return cls(p.cumsum(0) / p.sum(), (1 / (steps * p)).float())

    def at(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Timesteps (b,) int64 and their weights (b,) for u (b,) float64 in [0, 1): uniform u gives t with p(t)."""
        t = torch.searchsorted(self.cumulative, u, right=True).clamp_max(len(self.cumulative) - 1)
        return t, self.weights[t]
