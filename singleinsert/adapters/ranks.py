"""Which components of a low-rank update are on at which noise level (T-LoRA, Soboleva et al. 2025, equation 7)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class RankByNoise:
    """``r(t) = floor(((T - t) / T)^power (rank - least)) + least``: all components on clean pictures, few on noise.

    What one picture is overfitted by, its layout and place, is learnt at high noise; there the update is kept small.

    Attributes:
        rank: components of a layer. least: how many are on whatever the noise. power: alpha in the paper.
    """

    rank: int
    least: int = 1
    power: float = 1.0

    def at(self, noise: Tensor) -> Tensor:
        """(b,) int64 components that are on for noise levels t / T (b,) in [0, 1]."""
        clean = (1 - noise.double()).clamp(0, 1)
        return (clean**self.power * (self.rank - self.least)).floor().long() + self.least

    def mask(self, noise: Tensor) -> Tensor:
        """(b, rank) float32, 1 where a component is on."""
        return (torch.arange(self.rank, device=noise.device) < self.at(noise)[:, None]).float()


class RankGate:
    """Turns components of an update off as :class:`RankByNoise` says, by the noise level that a denoiser is at, seen
    from what it is called with.

    Attributes:
        noise: (b,) or (1,) t / T of the call in progress; None before the first.
    """

    def __init__(self, ranks: RankByNoise, time_span: float) -> None:
        """``time_span``: T in the denoiser's own time, which the noisiest timestep is next to."""
        self.ranks, self.time_span = ranks, time_span
        self.noise: Tensor | None = None

    def watch(self, denoiser: nn.Module) -> Callable[[], None]:
        """Look at every call of ``denoiser``; returns what ends it."""

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            time = torch.as_tensor(kwargs["timestep"] if "timestep" in kwargs else args[1])
            self.noise = time.detach().double().reshape(-1) / self.time_span

        return denoiser.register_forward_pre_hook(before, with_kwargs=True).remove

    def apply(self, components: Tensor) -> Tensor:
        """(b, L, k rank) with those that are off at 0; k updates of the same rank may lie behind each other."""
        if self.noise is None:
            return components
        mask = self.ranks.mask(self.noise.to(components.device)).to(components.dtype)  # (1 or b, rank)
        repeats = components.shape[-1] // self.ranks.rank
        return components * mask.repeat(1, repeats)[:, None, :]
