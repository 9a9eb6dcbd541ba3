"""One training step, read top to bottom. No host synchronisation, nothing that depends on a tensor's value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from singleinsert.concepts import Concept
from singleinsert.losses import Objective, Views
from singleinsert.models.base import BaseModel
from singleinsert.models.latents import LatentDistribution
from singleinsert.models.text import TokenizedPrompt, encode
from singleinsert.training.draws import Draws


@dataclass(frozen=True)
class Subject:
    """The one picture: its latents' posterior, and its mask (1, 1, h, w) in [0, 1] at latent size. Float32."""

    latents: LatentDistribution
    mask: Tensor


@dataclass
class Conditions:
    """The text conditions (1, L, d) of one optimiser step, encoded once and on one sample.

    ``concept`` and ``tuned_class`` are cut from the text encoder's graph: each micro-batch adds to their float32
    gradient, and :meth:`backward` sends the sum through text encoder and concept once. They lie on the UNet's device,
    wherever the encoders work.
    """

    frozen_class: Tensor
    concept: Tensor
    tuned_class: Tensor | None = None
    _graphs: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @classmethod
    def encode(
        cls,
        model: BaseModel,
        concept: Concept,
        prompt: TokenizedPrompt,
        class_prompt: TokenizedPrompt | None,
        frozen_class: Tensor,
    ) -> Conditions:
        """``class_prompt`` is None where the tuned text encoder's view of it is not needed, or is the frozen one's."""
        conditions = cls(frozen_class, frozen_class, frozen_class)
        with_concept = encode(model.text_encoder, prompt, {concept.placeholder: concept.vectors()})
        conditions.concept = conditions._cut(with_concept)
        if class_prompt is not None:
            conditions.tuned_class = conditions._cut(encode(model.text_encoder, class_prompt, {}))
        return conditions

    def _cut(self, encoded: Tensor) -> Tensor:
        leaf = encoded.detach().to(self.frozen_class.device, torch.float32).requires_grad_(encoded.requires_grad)
        if encoded.requires_grad:
            self._graphs.append((encoded, leaf))
        return leaf

    def backward(self) -> None:
        used = [(encoded, leaf.grad) for encoded, leaf in self._graphs if leaf.grad is not None]
        if used:
            torch.autograd.backward([e for e, _ in used], [grad.to(e) for e, grad in used])


def training_step(
    draws: Draws,
    subject: Subject,
    conditions: Conditions,
    model: BaseModel,
    adapters: Any,
    objective: Objective,
    keep_frozen: Callable[[Tensor], None] | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Yield the weighted loss terms (b,) of one micro-batch, prompt after prompt.

    The loop owns backward, clipping and the optimiser. Backward is to be called on each yield before the next is
    asked for: a graph is then gone before another is built, and the peak is that of one forward pass.
    ``keep_frozen`` is handed the frozen model's output where it is computed.
    """
    schedule, t = model.schedule, draws.t
    x0 = subject.latents.sample(draws.posterior)
    x_t = schedule.add_noise(x0, draws.noise, t)
    views = Views(x0, None, None, None, subject.mask, schedule.snr(t))
    if objective.needs_frozen:
        frozen = draws.frozen
        if frozen is None:
            with torch.no_grad(), adapters.disabled():  # the frozen model is the same weights
                frozen = unet_output(model, x_t, t, conditions.frozen_class)
            if keep_frozen is not None:
                keep_frozen(frozen)
        views = replace(views, x0_frozen=schedule.x0_from(frozen, x_t, t))
    prediction = schedule.x0_from(unet_output(model, x_t, t, conditions.concept), x_t, t)
    yield draws.weigh(objective.concept_terms(replace(views, x0_concept=prediction)))
    del prediction
    if objective.needs_class:
        assert conditions.tuned_class is not None
        tuned_class = schedule.x0_from(unet_output(model, x_t, t, conditions.tuned_class), x_t, t)
        yield draws.weigh(objective.class_terms(replace(views, x0_class=tuned_class)))


def unet_output(model: BaseModel, x_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
    """(b, c, h, w) in the model's dtype; the one condition (1, L, d) is expanded to the batch."""
    condition = condition.to(model.dtype).expand(len(x_t), -1, -1)
    return model.unet(x_t.to(model.dtype), t, condition, return_dict=False)[0]
