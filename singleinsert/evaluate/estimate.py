"""What an evaluation will take, from a moment's timing of the model; said by ``--dry_run``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from singleinsert.batch.progress import duration
from singleinsert.config import FREE_SECTIONS, Settings
from singleinsert.evaluate.plan import ConceptPlan, Plan
from singleinsert.inference.pipeline import ConceptPipeline, Picture
from singleinsert.models.family import Family
from singleinsert.terms import STAGES
from singleinsert.training.results import flatten
from singleinsert.training.stages import stages_of, wants_bank

BATCH = 4
"""Samples of the timed passes."""
BACKWARD = 2.0
"""A backward pass through activations and weights takes twice a forward pass."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one sample: a pass forward through the denoiser, and what a picture takes besides its passes."""

    forward: float
    decode: float

    def trained(self, settings: Settings, shared: bool = False) -> float:
        """Of one run: for every sample one pass with the concepts, forward and backward, and those that the objective
        asks for beside it. A stage that draws from kept predictions has none of the frozen model's.

        Args:
            shared: stage I is another row's, and kept.
        """
        stages, seconds = stages_of(settings), 0.0
        for i, stage in enumerate(stages):
            if shared and stage.name == STAGES[0]:
                continue
            kept = i > 0 and wants_bank(settings, stages)
            passes = 1 + BACKWARD
            passes += (1 + BACKWARD) * stage.objective.needs_class
            passes += (1 + BACKWARD) * stage.objective.needs_prior
            passes += 1.0 * (stage.objective.needs_frozen and not kept)
            seconds += stage.steps * stage.settings.batch_size * passes * self.forward
        return seconds

    def drawn(self, settings: Settings, pictures: int) -> float:
        """Of so many pictures: two passes a step where there is guidance."""
        sample = settings.sample
        passes = sample.num_inference_steps * (2 if sample.guidance_scale > 1 else 1)
        return pictures * (passes * self.forward + self.decode)


def measure(model: Family, settings: Settings) -> Timing:
    """Draw a few pictures in one step and in three: the difference is the passes, the rest is decoding.

    On a CPU it is the processor's time, which other processes do not lengthen.
    """
    clock = time.process_time if model.device.type == "cpu" else time.perf_counter
    size = settings.data.resolution
    pipeline = ConceptPipeline(model)
    seconds = {}
    try:
        for steps in (1, 1, 3):  # the first one warms up
            pictures = [Picture("", seed, "", steps, 2.0, size, size) for seed in range(BATCH)]
            started = clock()
            list(pipeline.render(pictures, batch_size=BATCH))
            seconds[steps] = (clock() - started) / BATCH
    finally:
        pipeline.close()
    forward = max(seconds[3] - seconds[1], 1e-6) / 4  # two steps, two passes each
    if model.device.type == "cuda":
        torch.cuda.empty_cache()
    return Timing(forward, max(seconds[1] - 2 * forward, 0.0))


def describe(plan: Plan, timing: Timing, done: Callable[[ConceptPlan, str], bool]) -> Iterator[str]:
    """A line for each row: runs, samples, pictures, and about how long it takes; then all of them together.

    Args:
        done: whether a row of a concept is measured already.
    """
    total, begun = 0.0, set[tuple[str, str]]()
    for method in plan.methods.methods:
        runs = pictures = samples = left = 0
        training = drawing = 0.0
        for concept in plan.concepts:
            if method.name not in concept.settings:
                continue  # a style, which a method with a mask cannot have
            settings, asked = concept.settings[method.name], len(concept.prompts) * concept.seeds
            each = len(concept.handles) if method.apart else 1
            runs, pictures = runs + each, pictures + asked
            samples += each * sum(stage.steps * stage.batch_size for stage in settings.stages.values())
            if not done(concept, method.name):
                left += 1
                stage, whole = ((concept.name, text) for text in _depends_on(settings, method.apart))
                if whole not in begun:
                    training += each * timing.trained(settings, stage in begun)
                begun |= {stage, whole}
                drawing += timing.drawn(settings, asked)
        total += training + drawing
        yield (
            f"{method.name}: {runs} runs of {samples} samples, {pictures} pictures; {left} of {len(plan.concepts)} to "
            f"do, about {duration(training)} of training and {duration(drawing)} of drawing"
        )
    yield (
        f"all rows: about {duration(total)} of one undisturbed process, without scoring; "
        f"{timing.forward * 1000:.1f} ms a pass of one sample"
    )


def _depends_on(settings: Settings, apart: bool) -> tuple[str, str]:
    """What stage I depends on, and what all of the training does: rows that agree in it train it once."""
    values = {key: value for key, value in flatten(settings).items() if key.split(".")[0] not in FREE_SECTIONS}
    later = (*STAGES[1:], "adapter")
    first = {key: value for key, value in values.items() if key.split(".")[0] not in later}
    return repr([apart, first]), repr([apart, "whole", values])
