"""What is random in training: timesteps, noise and the VAE's posterior, each sample's from a generator of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from singleinsert.models.schedule import Schedule
from singleinsert.models.timesteps import TimestepDensity
from singleinsert.training.seeds import named_generator


@dataclass(frozen=True)
class Draws:
    """What is random in a micro-batch.

    Attributes:
        t: (b,) int64. noise: (b, c, h, w) of the diffusion. posterior: (b, c, h, w) of the VAE. Float32.
        weight: (b,) by which each sample's loss counts, float32; None where all count the same.
        frozen: (b, c, h, w) the frozen model's OUTPUT for these draws, where it is known already.
    """

    t: Tensor
    noise: Tensor
    posterior: Tensor
    weight: Tensor | None = None
    frozen: Tensor | None = None

    def to(self, device: torch.device) -> Draws:
        """Copy to ``device`` without making the host wait."""

        def move(tensor: Tensor | None) -> Tensor | None:
            if tensor is not None and device.type == "cuda" and tensor.device.type == "cpu":
                tensor = tensor.pin_memory()
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return Draws(*(move(getattr(self, f.name)) for f in fields(self)))  # type: ignore[arg-type]

    def split(self, size: int) -> list[Draws]:
        """In parts of ``size`` samples, as views."""
        values = [getattr(self, f.name) for f in fields(self)]
        columns = [len(self.t) // size * [None] if value is None else value.split(size) for value in values]
        return [Draws(*row) for row in zip(*columns, strict=True)]

    def weigh(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Loss terms (b,), each sample's by its weight."""
        return terms if self.weight is None else {name: self.weight * term for name, term in terms.items()}


@dataclass(frozen=True)
class Sampling:
    """How a stage draws. The default is the paper's: uniform timesteps, everything independent.

    Importance and strata leave the expectation of loss and gradient what it is, and lower their variance; a decay
    changes it, on purpose.

    Attributes:
        batch: samples of one optimiser step, consecutive in the stage's numbering.
        density: of the timesteps; None is uniform.
        stratified: the i-th sample of a batch has its timestep from the i-th of ``batch`` equally probable parts.
    """

    batch: int = 1
    density: TimestepDensity | None = None
    stratified: bool = False

    @classmethod
    def of_stage(cls, section: Any, batch: int, schedule: Schedule) -> Sampling:
        """As a stage's ``section`` of the settings says.

        Timesteps count as ``timestep_importance``-th power of the weight that the loss gives an error in epsilon.
        """
        density, steps = None, schedule.num_timesteps
        if section.timestep_importance:
            rows = torch.arange(steps, device=schedule.device)
            weight = schedule.weight(rows, section.loss_space, section.min_snr_gamma)
            density = TimestepDensity.proportional_to((weight / schedule.snr(rows)) ** section.timestep_importance)
        return cls(batch, density, section.stratified_timesteps)

    def timestep(self, u: Tensor, sample: int, schedule: Schedule) -> tuple[Tensor, Tensor]:
        """Timestep and weight (1,) of a sample from uniform u (1,) in [0, 1), float64."""
        if self.stratified:
            u = (sample % self.batch + u) / self.batch
        if self.density is None:
            return schedule.at(u), torch.ones(1)
        return self.density.at(u)


PLAIN = Sampling()


def draw(
    schedule: Schedule,
    shape: Sequence[int],
    seed: int,
    stage: str,
    samples: Iterable[int],
    sampling: Sampling = PLAIN,
) -> Draws:
    """Draw ``samples`` (numbers within the stage) of latents of ``shape`` (c, h, w)."""
    drawn = [_draw_one(schedule, shape, seed, stage, sample, sampling) for sample in samples]
    t, noise, posterior, weight = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    return Draws(t, noise, posterior, None if sampling.density is None else weight)


def _draw_one(
    schedule: Schedule, shape: Sequence[int], seed: int, stage: str, sample: int, sampling: Sampling
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = named_generator(seed, stage, "draws", sample)
    t, noise = schedule.draw((1, *shape), generator)
    posterior = torch.randn(noise.shape, generator=generator)
    weight = torch.ones(1)
    if sampling.density is not None or sampling.stratified:
        u = torch.rand(1, generator=named_generator(seed, stage, "timestep", sample), dtype=torch.float64)
        t, weight = sampling.timestep(u, sample, schedule)
    return t, noise, posterior, weight
