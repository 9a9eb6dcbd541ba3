"""DreamBooth's prior term: pictures of the class, each beside a sample of the concept's, so that the class stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from singleinsert.models.latents import LatentDistribution
from singleinsert.models.schedule import Schedule
from singleinsert.training.draws import draw
from singleinsert.training.seeds import named_generator


@dataclass(frozen=True)
class PriorDraws:
    """What a micro-batch sees of the class: clean latents x0 and noise (b, c, h, w), timesteps t (b,)."""

    x0: Tensor
    noise: Tensor
    t: Tensor


@dataclass(frozen=True)
class Prior:
    """The encoded pictures of the class.

    Attributes:
        latents: of all n pictures, (n, c, h, w). prompt: of each of them. seed: the run's.
        device: where draws are wanted. digest: of the pictures.
    """

    latents: LatentDistribution
    prompt: str
    seed: int
    device: torch.device
    digest: str

    def draw(self, schedule: Schedule, stage: str, samples: Sequence[int]) -> PriorDraws:
        """A picture, a uniform timestep and noise for each of a stage's ``samples``, from generators of their own."""
        name, count = f"{stage} prior", len(self.latents.mean)
        drawn = draw(schedule, self.latents.mean.shape[1:], self.seed, name, samples).to(self.device)
        generators = [named_generator(self.seed, name, "picture", sample) for sample in samples]
        chosen = [int(torch.randint(0, count, (1,), generator=generator)) for generator in generators]
        latents = LatentDistribution(self.latents.mean[chosen], self.latents.std[chosen]).to(self.device)
        return PriorDraws(latents.sample(drawn.posterior), drawn.noise, drawn.t)
