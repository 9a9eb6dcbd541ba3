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
        weights: (T,) float32, ``q(t) / p(t)`` with the target q: the mean of ``weights[t] f(t)`` over drawn t is that
            of ``f(t)`` over t from q, for any f. A uniform target has ``q(t) = 1 / T``.
    """

    cumulative: Tensor
    weights: Tensor

    @classmethod
    def proportional_to(cls, importance: Tensor, target: Tensor | None = None) -> TimestepDensity:
        """p(t) as ``importance`` (T,) >= 0 times the target's density, mixed with a tenth of the target: no weight
        exceeds 10.

        Args:
            target: (T,) > 0, proportional to q(t); None is uniform.
        """
        importance = importance.detach().to("cpu", torch.float64)
        target = torch.ones_like(importance) if target is None else target.detach().to("cpu", torch.float64)
        importance, total = importance * target, target.sum()
        p = (1 - UNIFORM_SHARE) * importance / importance.sum() + UNIFORM_SHARE * target / total
        return cls(p.cumsum(0) / p.sum(), (target / (total * p)).float())

    def at(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Timesteps (b,) int64 and their weights (b,) for u (b,) float64 in [0, 1): uniform u gives t with p(t)."""
        t = torch.searchsorted(self.cumulative, u, right=True).clamp_max(len(self.cumulative) - 1)
        return t, self.weights[t]
