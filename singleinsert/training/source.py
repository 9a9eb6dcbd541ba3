"""The samples of a stage's steps: which of them a process takes, what each is asked, and what is drawn for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from singleinsert.adapters.base import Adapters
from singleinsert.training.bank import TeacherBank, build_bank
from singleinsert.training.draws import Draws, Sampling, draw
from singleinsert.training.prompting import StepPrompt
from singleinsert.training.stages import Stage
from singleinsert.training.step import predict_frozen
from singleinsert.training.texts import StepConditions

if TYPE_CHECKING:
    from singleinsert.training.loop import Run

STEPS_AHEAD = 4
"""Of so many steps the frozen model predicts the samples in one pass: a quarter of the operators, the same FLOPs. Four
times the samples without a graph hold less than a step with one (docs/research/cost.md)."""


class SampleSource:
    """Samples by their numbers within a stage.

    Attributes:
        sampling: how each stage draws, by name.
        bank: predictions of the first stage that a later one draws from; None where none does.
        steps_ahead: :data:`STEPS_AHEAD` where launches cost time and memory was not asked to be saved, else 1. A CPU
            computes step by step, so that its numbers do not depend on where a run was interrupted.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.sampling = {
            stage.name: Sampling.of_stage(stage.settings, self.batch(stage), run.model.schedule) for stage in run.stages
        }
        self.bank = build_bank(run.settings, run.stages, self.sampling)
        launches = run.accelerator.device.type != "cpu" and not run.settings.run.micro_batch_size
        self.steps_ahead = STEPS_AHEAD if launches else 1
        self._ahead: dict[tuple[str, int], Draws] = {}

    def batch(self, stage: Stage) -> int:
        """Samples of one optimiser step, over all processes and accumulated batches."""
        return stage.settings.batch_size * self.run.accelerator.gradient_accumulation_steps

    def share(self, stage: Stage, step: int) -> tuple[range, int]:
        """This process's samples of ``step``, and how many of them it may take at a time."""
        batch = self.batch(stage)
        first, processes, rank = step * batch, self.run.accelerator.num_processes, self.run.accelerator.process_index
        mine = range(first + batch * rank // processes, first + batch * (rank + 1) // processes)
        return mine, -(-stage.settings.batch_size // processes)

    def prompts(self, stage: Stage, samples: Sequence[int]) -> list[StepPrompt]:
        """What each sample is shown and asked: in the bank's samples, what their own stage was asked."""
        if bank := self.bank_of(stage, samples):
            return [self.run.prompting.at(bank.stage, entry) for entry in bank.entries(samples)]
        return [self.run.prompting.at(stage.name, sample) for sample in samples]

    def draw(self, stage: Stage, samples: Sequence[int]) -> Draws:
        """What is random in ``samples``, on the run's device."""
        schedule, shape = self.run.model.schedule, self.run.pictures[0].latents.mean.shape[1:]
        if bank := self.bank_of(stage, samples):
            drawn = bank.draw(schedule, shape, bank.entries(samples))
        else:
            drawn = draw(schedule, shape, self.run.settings.run.seed, stage.name, samples, self.sampling[stage.name])
        return drawn.to(self.run.accelerator.device)

    def draw_ahead(self, stage: Stage, step: int, conditions: StepConditions, adapters: Adapters) -> Draws | None:
        """All draws of this process for ``step``, with what the frozen model says to them, predicted for several steps
        at once. None where each step is to predict its own, or none does."""
        samples, _ = self.share(stage, step)
        if self.steps_ahead == 1 or not stage.objective.needs_frozen or self.bank_of(stage, samples):
            return None
        if (stage.name, step) not in self._ahead:
            self._ahead = {}
            self._ahead = self._predict_ahead(stage, step, conditions, adapters)
        return self._ahead.get((stage.name, step))

    def _predict_ahead(
        self, stage: Stage, first: int, conditions: StepConditions, adapters: Adapters
    ) -> dict[tuple[str, int], Draws]:
        """Draws by stage and step, from ``first`` on; {} where memory does not hold so many samples, once for all."""
        from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

        steps = range(first, min(first + self.steps_ahead, stage.steps))
        samples = [sample for step in steps for sample in self.share(stage, step)[0]]
        draws, prompts = self.draw(stage, samples), self.prompts(stage, samples)
        try:
            frozen = predict_frozen(draws, prompts, self.run.pictures, conditions, self.run.model, adapters)
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            self.steps_ahead = 1
            self.run.watch.line(
                "the samples of several steps do not fit before the frozen model: going on step by step"
            )
        else:
            parts = replace(draws, frozen=frozen).split(len(samples) // len(steps))
            return {(stage.name, step): part for step, part in zip(steps, parts, strict=True)}
        clear_device_cache()  # the failed pass's memory is free only when its error is gone
        return {}

    def bank_of(self, stage: Stage, samples: Sequence[int]) -> TeacherBank | None:
        """The bank, where it serves these samples of ``stage``."""
        served = self.bank and stage is not self.run.stages[0] and self.bank.serves(samples, self.batch(stage))
        return self.bank if served else None
