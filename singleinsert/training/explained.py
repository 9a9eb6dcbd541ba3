"""Is what a phrase names in these pictures? The frozen model tells: its error is then smaller with the phrase.

It is rho of :mod:`singleinsert.captions.rho` for drawn latents, each phrase of the description by itself. So what is
worn or held can be looked for, which lies inside the mask and is otherwise not to be told from the subject.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from singleinsert.captions.phrases import split_caption, without_phrase
from singleinsert.data.captions import CONCEPT
from singleinsert.models.condition import Condition
from singleinsert.models.family import Family

DRAWS, EARLIEST, LATEST, AT_A_TIME = 4, 0.3, 0.8, 4
"""Timesteps as shares of the schedule, and latents that go through the denoiser at a time."""
MOST_PHRASES = 4
LEAST_SHARE = 0.02
"""What a phrase explains of the training picture more than of the class word's, or nothing can be told by it."""
NOISE_SEED = 0

Errors = Callable[[Tensor, str], Tensor]
"""(latents (n, c, h, w), prompt) -> the frozen model's errors (n,)."""


@dataclass(frozen=True)
class Phrasing:
    """A phrase of a training picture's description, and the two prompts that differ by it.

    Attributes:
        text: the phrase. picture: number of the training picture.
    """

    text: str
    said: str
    unsaid: str
    picture: int


def phrasings_of(descriptions: Sequence[str], class_word: str) -> tuple[Phrasing, ...]:
    """The first few phrases of the pictures' descriptions, each alone with the class word; a phrase is asked once."""
    found: dict[str, Phrasing] = {}
    for number, description in enumerate(descriptions):
        phrases = split_caption(description, class_word)
        for phrase in phrases:
            alone, plain = description, description
            for other in reversed(phrases):  # from the end, so that the places of those before it stay right
                plain = without_phrase(plain, other)
                alone = alone if other is phrase else without_phrase(alone, other)
            said, unsaid = (text.replace(CONCEPT, class_word) for text in (alone, plain))
            found.setdefault(phrase.text.lower(), Phrasing(phrase.text, said, unsaid, number))
    return tuple(found.values())[:MOST_PHRASES]


def returned_phrase(
    errors: Errors, phrasing: Phrasing, drawn: Tensor, plain: Tensor, reference: Tensor
) -> float | None:
    """``(s(drawn) - s(plain)) / (s(reference) - s(plain))``, s the mean share of the error that the phrase takes away.

    Args:
        drawn, plain, reference: latents (n, c, h, w) of the concept's pictures, the class word's, the training picture.

    Returns:
        None where the phrase explains hardly anything of the training picture either.
    """

    def share(latents: Tensor) -> float:
        return float((1 - errors(latents, phrasing.said) / errors(latents, phrasing.unsaid)).mean())

    without, whole = share(plain), share(reference)
    return (share(drawn) - without) / (whole - without) if whole - without >= LEAST_SHARE else None


@torch.no_grad()
def errors_under(model: Family, condition: Condition, latents: Tensor) -> Tensor:
    """The model's mean squared error in x0 (n,) of each latent, over a few timesteps with the same noise for all."""
    schedule, device = model.schedule, model.device
    t = torch.linspace(EARLIEST, LATEST, DRAWS).mul(schedule.num_timesteps - 1).round().long().to(device)
    noise = torch.randn((DRAWS, *latents.shape[1:]), generator=torch.Generator().manual_seed(NOISE_SEED)).to(device)
    total = torch.zeros(len(latents), device=device)
    for k in range(DRAWS):
        parts = []
        for x0 in latents.to(device).split(AT_A_TIME):
            steps = t[k : k + 1].expand(len(x0))
            x_t = schedule.add_noise(x0, noise[k : k + 1].expand_as(x0), steps)
            output = model.predict(x_t, steps, condition.expand(len(x0)))
            parts.append((schedule.x0_from(output, x_t, steps) - x0).square().mean((1, 2, 3)))
        total += torch.cat(parts)
    return total.cpu() / DRAWS


def kept(errors: Errors) -> Errors:
    """The same, each latents and prompt computed once: phrases share the prompt without them."""
    known: dict[tuple[int, str], Tensor] = {}

    def once(latents: Tensor, prompt: str) -> Tensor:
        key = (id(latents), prompt)
        if key not in known:
            known[key] = errors(latents, prompt)
        return known[key]

    return once


def phrase_passes(phrasings: Sequence[Phrasing], pictures: int) -> int:
    """Denoiser passes for ``pictures`` with the concept, as many without it, and the training pictures. At most: a
    phrase that explains nothing of its training picture is not followed further."""
    texts = {text for each in phrasings for text in (each.said, each.unsaid)}
    references = {(text, each.picture) for each in phrasings for text in (each.said, each.unsaid)}
    return DRAWS * (2 * pictures * len(texts) + len(references))
