"""The frozen model's predictions of stage I, kept for stage II: a fifth of stage II's work is not done twice.

They do not depend on what trains. Stage I's samples are independent and equally distributed, so a random selection of
them without repetition is distributed like fresh draws; but stage II then sees noise that stage I has seen. A stage II
of more samples than stage I had sees each at most :data:`ROUNDS` times, and after that fresh draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from singleinsert.config import Settings
from singleinsert.models.schedule import Schedule
from singleinsert.training.draws import PLAIN, Draws, Sampling, draw
from singleinsert.training.seeds import named_generator
from singleinsert.training.stages import Stage, wants_bank

ROUNDS = 2
"""How often a prediction serves. Preset ``mini``, whose stage I is short, was judged with two (docs/research/cost.md).
"""


def build_bank(
    settings: Settings, stages: Sequence[Stage], sampling: Mapping[str, Sampling]
) -> TeacherBank | None:  # fmt: skip
    """A bank of the first stage's frozen predictions, where a later stage can use them.

    Args:
        sampling: of each stage, by name.
    """
    if not wants_bank(settings, stages):
        return None
    first = stages[0]
    own = sampling[first.name]
    return TeacherBank(settings.run.seed, first.name, first.steps * own.batch, own)


class TeacherBank:
    """Outputs of the frozen model for each of ``stage``'s samples; the draws they belong to are remade from seeds.

    Attributes:
        outputs: (``samples``, c, h, w) in the order of the samples, 0 where it is not known; None before the first.
    """

    def __init__(self, seed: int, stage: str, samples: int, sampling: Sampling = PLAIN) -> None:
        self.seed, self.stage, self.samples, self.sampling = seed, stage, samples, sampling
        self.outputs: Tensor | None = None
        self._order: list[int] = []
        self._gathered = False

    def keep(self, samples: range, output: Tensor) -> None:
        """Keep one micro-batch's outputs (b, c, h, w), of b consecutive samples."""
        if self.outputs is None:
            self.outputs = output.new_zeros(self.samples, *output.shape[1:])
        self.outputs[samples.start : samples.stop] = output.detach()

    def gathered(self, accelerator: Any) -> Tensor | None:
        """The outputs that all processes kept. Each row is one process's, the others' are 0, so the sum is exact."""
        if self.outputs is None or accelerator.num_processes == 1 or self._gathered:
            return self.outputs
        return accelerator.reduce(self.outputs.clone(), "sum")

    def gather(self, accelerator: Any) -> None:
        """Let every process have all outputs; before the first :meth:`draw`."""
        self.outputs, self._gathered = self.gathered(accelerator), True

    def restore(self, outputs: Tensor | None, accelerator: Any) -> None:
        """What a checkpoint holds, on one process: the next sum then counts it once. Its run may have had another
        number of samples."""
        if outputs is not None:
            known = outputs.to(accelerator.device)[: self.samples]
            outputs = known.new_zeros(self.samples, *known.shape[1:])
            outputs[: len(known)] = known
            self.outputs = outputs if accelerator.is_main_process else torch.zeros_like(outputs)

    def serves(self, samples: Sequence[int], batch: int) -> bool:
        """Whether the bank has these samples of a stage with ``batch`` samples a step: a whole step's, or none."""
        return self.outputs is not None and samples[0] // batch < ROUNDS * self.samples // batch

    def entries(self, samples: Sequence[int]) -> list[int]:
        """Which of :attr:`stage`'s samples serve as ``samples`` of the stage that draws from the bank.

        They come round in the same order, as often as :meth:`serves` says.
        """
        if not self._order:
            self._order = torch.randperm(self.samples, generator=named_generator(self.seed, "bank")).tolist()
        return [self._order[sample % self.samples] for sample in samples]

    def draw(self, schedule: Schedule, shape: Sequence[int], entries: Sequence[int]) -> Draws:
        """The draws of ``entries``, :attr:`stage`'s samples, with the outputs that belong to them."""
        outputs = self.outputs
        assert outputs is not None
        drawn = draw(schedule, shape, self.seed, self.stage, entries, self.sampling)
        return replace(drawn, frozen=torch.stack([outputs[entry] for entry in entries]))
