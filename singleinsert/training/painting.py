"""Views of its own: the subject in other surroundings, which the base model paints around it for a run.

A single picture shows the subject in one place, so that a concept may learn the place with it. Its painted views have
the same subject, to the last latent, in places that the frozen model has painted around it; the mask and the place's
prompt go with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from singleinsert.adapters.base import NO_ADAPTERS
from singleinsert.config import Settings
from singleinsert.data.prompts import fill
from singleinsert.data.subject import Handle
from singleinsert.models.condition import Condition
from singleinsert.models.family import Family
from singleinsert.models.latents import LatentDistribution
from singleinsert.models.sampling import paint_around
from singleinsert.training.prompting import Prompting, StepPrompt, without_placeholder
from singleinsert.training.seeds import named_generator
from singleinsert.training.step import EncodedPicture
from singleinsert.training.texts import PromptBook

CHUNK = 4
"""Views painted at a time."""


@dataclass(frozen=True)
class PaintedPrompts:
    """What samples are shown and asked where some see a painted view.

    Attributes:
        plain: for the others. views: of each view, its prompts. share: of the samples that see one.
    """

    plain: Prompting
    seed: int
    views: tuple[StepPrompt, ...]
    share: float

    def at(self, stage: str, sample: int) -> StepPrompt:
        generator = named_generator(self.seed, stage, "painted", sample)
        if float(torch.rand(1, generator=generator)) >= self.share:
            return self.plain.at(stage, sample)
        return self.views[int(torch.randint(0, len(self.views), (1,), generator=generator))]

    def all_prompts(self) -> Sequence[StepPrompt]:
        return [*self.plain.all_prompts(), *self.views]


def paint(
    settings: Settings, model: Family, book: PromptBook, handle: Handle, prompting: Prompting,
    pictures: tuple[EncodedPicture, ...],
) -> tuple[tuple[EncodedPicture, ...], Prompting]:  # fmt: skip
    """The run's pictures with their views behind them, and who sees which; the i-th view is of the i-th picture, and of
    the first one again after the last."""
    part, first = settings.painted, len(pictures)
    prompts = tuple(
        _prompt(first + i, part.places[i % len(part.places)], handle) for i in range(part.views)
    )  # fmt: skip
    sources = [pictures[i % first] for i in range(part.views)]
    views: list[EncodedPicture] = []
    for start in range(0, part.views, CHUNK):
        numbers = range(start, min(start + CHUNK, part.views))
        views += _paint(settings, model, book, handle, prompts, sources, numbers)
    return (*pictures, *views), PaintedPrompts(prompting, settings.run.seed, prompts, part.view_share)


def _prompt(picture: int, template: str, handle: Handle) -> StepPrompt:
    without = without_placeholder(template, handle.class_word)
    return StepPrompt(picture, (handle.name,), fill(template, handle.placeholder, handle.class_word), without, without)


def _paint(
    settings: Settings, model: Family, book: PromptBook, handle: Handle, prompts: Sequence[StepPrompt],
    sources: Sequence[EncodedPicture], numbers: Sequence[int],
) -> list[EncodedPicture]:  # fmt: skip
    """The views of these ``numbers``, each with noise of its own."""
    side, known = settings.data.resolution, [sources[i] for i in numbers]
    conditions = [book.frozen(prompts[i].frozen_prompt, sources[i].frame, NO_ADAPTERS) for i in numbers]
    latents = paint_around(
        model,
        torch.cat([picture.latents.mean for picture in known]),
        torch.cat([picture.masks[handle.name] for picture in known]),
        Condition.concatenate(conditions).to(dtype=model.dtype),
        book.frozen("", known[0].frame, NO_ADAPTERS).to(dtype=model.dtype),
        [named_generator(settings.run.seed, "painted", i) for i in numbers],
        steps=settings.painted.num_inference_steps, guidance_scale=settings.painted.guidance_scale, height=side,
        width=side,
    )  # fmt: skip
    fixed = [LatentDistribution(row[None], torch.zeros_like(row[None])) for row in latents]
    return [
        EncodedPicture(posterior, source.masks, source.frame, source.fine_masks)
        for posterior, source in zip(fixed, known, strict=True)
    ]
