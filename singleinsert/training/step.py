"""One training step, read top to bottom. No host synchronisation, nothing that depends on a tensor's value."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from singleinsert.adapters.base import Adapters
from singleinsert.data.pictures import area_resample
from singleinsert.data.subject import Frame
from singleinsert.losses import Objective, Views
from singleinsert.models.condition import Condition
from singleinsert.models.family import Family
from singleinsert.models.latents import LatentDistribution
from singleinsert.training.attention import read_attention
from singleinsert.training.draws import Draws
from singleinsert.training.prior import PriorDraws
from singleinsert.training.prompting import StepPrompt
from singleinsert.training.texts import StepConditions

OVERLAP = 0.02
"""Of the sum of two masks above 1: what rounding in 8 bits makes of disjoint ones."""


@dataclass(frozen=True)
class EncodedPicture:
    """A training picture as the model sees it: its latents' posterior, and each subject's mask. Float32.

    Attributes:
        masks: handle -> (1, 1, h, w) in [0, 1] at latent size.
        fine_masks: handle -> (1, 1, H, W) at the picture's own size, from which any other size is made by area.
    """

    latents: LatentDistribution
    masks: Mapping[str, Tensor]
    frame: Frame
    fine_masks: Mapping[str, Tensor]

    @cached_property
    def overlaps(self) -> bool:
        """Do subjects share more than the soft edges of disjoint masks do (``data.overlap`` "keep")?"""
        return bool((torch.stack([*self.fine_masks.values()]).sum(0) > 1 + OVERLAP).any())

    @cached_property
    def _unions(self) -> dict[frozenset[str], Tensor]:
        return {}

    def union(self, handles: Sequence[str]) -> Tensor:
        """(1, 1, h, w): the share of each latent pixel that belongs to any of ``handles``.

        Of disjoint masks the shares add up, to 1 at most; of masks that overlap, the union is that of the fine ones.
        """
        if len(handles) > 1 and self.overlaps:
            named = frozenset(handles)
            if named not in self._unions:  # made once: it comes from main memory
                fine = torch.stack([self.fine_masks[handle] for handle in handles]).amax(0)
                first = self.masks[handles[0]]
                self._unions[named] = area_resample(fine, (first.shape[-2], first.shape[-1])).to(first)
            return self._unions[named]
        total = self.masks[handles[0]]
        for handle in handles[1:]:
            total = (total + self.masks[handle]).clamp_max(1)
        return total


def latents_of(pictures: Sequence[EncodedPicture], prompts: Sequence[StepPrompt], posterior: Tensor) -> Tensor:
    """x0 (b, c, h, w) of each sample's picture, from unit normal noise of that shape."""
    places = [prompt.picture for prompt in prompts]
    if len(set(places)) == 1:
        return pictures[places[0]].latents.sample(posterior)
    means = torch.cat([pictures[place].latents.mean for place in places])  # (b, c, h, w)
    stds = torch.cat([pictures[place].latents.std for place in places])
    return LatentDistribution(means, stds).sample(posterior)


def masks_of(pictures: Sequence[EncodedPicture], prompts: Sequence[StepPrompt]) -> Tensor:
    """(b, 1, h, w), or (1, 1, h, w) where all samples agree: the union of the subjects that each prompt names."""
    asked = [(prompt.picture, prompt.handles) for prompt in prompts]
    unions = {(p, h): pictures[p].union(h) for p, h in dict.fromkeys(asked)}
    return next(iter(unions.values())) if len(unions) == 1 else torch.cat([unions[each] for each in asked])


def shown_in(prompts: Sequence[StepPrompt], device: torch.device) -> Tensor | None:
    """(b,) 1 where the picture shows what its prompt asks for, else 0; None where all do."""
    shown = [prompt.shown for prompt in prompts]
    return None if all(shown) else torch.tensor(shown, device=device, dtype=torch.float32)


def predict_frozen(
    draws: Draws,
    prompts: Sequence[StepPrompt],
    pictures: Sequence[EncodedPicture],
    conditions: StepConditions,
    model: Family,
    adapters: Adapters,
) -> Tensor:
    """The frozen model's output (b, c, h, w) for draws of any number of steps, no graph."""
    x_t = model.schedule.add_noise(latents_of(pictures, prompts, draws.posterior), draws.noise, draws.t)
    texts = [prompt.frozen_prompt for prompt in prompts]
    return _ask_frozen(x_t, draws.t, texts, prompts, conditions, model, adapters)


def _ask_frozen(
    x_t: Tensor,
    t: Tensor,
    texts: Sequence[str],
    prompts: Sequence[StepPrompt],
    conditions: StepConditions,
    model: Family,
    adapters: Adapters,
) -> Tensor:
    with torch.no_grad(), adapters.disabled():  # the frozen model is the same weights
        return model.predict(x_t, t, conditions.frozen(texts, prompts))


def training_step(
    draws: Draws,
    prompts: Sequence[StepPrompt],
    pictures: Sequence[EncodedPicture],
    conditions: StepConditions,
    model: Family,
    adapters: Adapters,
    objective: Objective,
    keep_frozen: Callable[[Tensor], None] | None = None,
    prior: PriorDraws | None = None,
    together: bool = False,
) -> Iterator[dict[str, Tensor]]:
    """Yield the weighted loss terms (b,) of one micro-batch, prompt after prompt.

    The loop owns backward, clipping and the optimiser. Backward is to be called on each yield before the next is
    asked for: a graph is then gone before another is built, and the peak is that of one forward pass. With ``together``
    the prompts with the concept and those of the class are one batch, where an objective needs both: half the
    operators, twice the memory, and the same numbers but for how sums over a batch are rounded. ``keep_frozen`` is
    handed the frozen model's output; ``prior`` are the class pictures that an objective with a
    prior term sees beside these samples.
    """
    schedule, t = model.schedule, draws.t
    x0 = latents_of(pictures, prompts, draws.posterior)
    x_t = schedule.add_noise(x0, draws.noise, t)  # (b, c, h, w), as everything below
    weight = schedule.weight(t, objective.loss_space, objective.min_snr_gamma)
    shown = shown_in(prompts, x0.device)
    views = Views(x0, None, None, None, masks_of(pictures, prompts), weight, shown=shown)

    if objective.needs_frozen:
        texts = [prompt.frozen_prompt for prompt in prompts]
        frozen = draws.frozen
        if frozen is None:
            frozen = _ask_frozen(x_t, t, texts, prompts, conditions, model, adapters)
        if keep_frozen is not None:
            keep_frozen(frozen)
        views = replace(views, x0_frozen=schedule.x0_from(frozen, x_t, t))
        if objective.needs_class and any(prompt.class_prompt != prompt.frozen_prompt for prompt in prompts):
            texts = [prompt.class_prompt for prompt in prompts]
            frozen = _ask_frozen(x_t, t, texts, prompts, conditions, model, adapters)
            views = replace(views, x0_frozen_class=schedule.x0_from(frozen, x_t, t))

    together = together and objective.needs_class and not objective.needs_attention
    if together:
        condition = Condition.concatenate([conditions.concept(prompts), conditions.tuned_class(prompts)])
        both = model.predict(torch.cat([x_t, x_t]), torch.cat([t, t]), condition)
        concept, tuned_class = (schedule.x0_from(part, x_t, t) for part in both.chunk(2))
        views_of_both = replace(views, x0_concept=concept, x0_class=tuned_class)
        yield draws.weigh({**objective.concept_terms(views_of_both), **objective.class_terms(views_of_both)})
        del both, concept, tuned_class, views_of_both
    else:
        yield from _one_after_the_other(draws, prompts, pictures, conditions, model, objective, views, x_t)

    if prior is not None:
        x_t = schedule.add_noise(prior.x0, prior.noise, prior.t)
        weight = schedule.weight(prior.t, objective.loss_space, objective.min_snr_gamma)
        output = model.predict(x_t, prior.t, conditions.prior(len(prior.t)))
        seen = Views(prior.x0, None, schedule.x0_from(output, x_t, prior.t), None, views.mask, weight)
        yield objective.prior_terms(seen)


def _one_after_the_other(
    draws: Draws,
    prompts: Sequence[StepPrompt],
    pictures: Sequence[EncodedPicture],
    conditions: StepConditions,
    model: Family,
    objective: Objective,
    views: Views,
    x_t: Tensor,
) -> Iterator[dict[str, Tensor]]:
    """The terms of the prompts with the concept, and then those of the class prompts."""
    schedule, t = model.schedule, draws.t
    with read_attention(objective, model, conditions, prompts, pictures, x_t) as reading:
        prediction = schedule.x0_from(model.predict(x_t, t, conditions.concept(prompts)), x_t, t)
        yield draws.weigh(objective.concept_terms(replace(views, x0_concept=prediction, attention=reading.views())))
    del prediction, reading

    if objective.needs_class:
        tuned_class = schedule.x0_from(model.predict(x_t, t, conditions.tuned_class(prompts)), x_t, t)
        yield draws.weigh(objective.class_terms(replace(views, x0_class=tuned_class)))
        del tuned_class
