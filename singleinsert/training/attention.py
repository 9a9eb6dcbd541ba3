"""Attention of the concepts' tokens in training: read in the tuned pass with the concepts, handed to the objective."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from singleinsert.data.pictures import area_resample
from singleinsert.losses import Attention, Objective
from singleinsert.models.family import Family
from singleinsert.training.prompting import StepPrompt
from singleinsert.training.texts import ConceptSet, PromptBook, StepConditions

if TYPE_CHECKING:
    from singleinsert.training.step import EncodedPicture


LEVELS = (0.2, 0.4, 0.6, 0.8)
"""Times at which a finished run's maps are read, as shares of the schedule."""


class Reading:
    """What was read; nothing where the objective looks at no attention."""

    def __init__(self, reader: Any = None, build: Any = None) -> None:
        self._reader, self._build = reader, build

    def views(self) -> Attention | None:
        return None if self._reader is None else self._build(self._reader.probabilities())


@contextmanager
def read_attention(
    objective: Objective,
    model: Family,
    conditions: StepConditions,
    prompts: Sequence[StepPrompt],
    pictures: Sequence[EncodedPicture],
    x_t: Tensor,
) -> Iterator[Reading]:
    """Within it, one call of the denoiser is read, with its graph, at the level that the objective names."""
    if not objective.needs_attention:
        yield Reading()
        return
    with model.read_probabilities((x_t.shape[-2], x_t.shape[-1]), objective.attention_level) as reader:
        yield Reading(reader, lambda found: attention_of(found, model, conditions.book, prompts, pictures))


def attention_of(
    probabilities: Tensor,
    model: Family,
    book: PromptBook,
    prompts: Sequence[StepPrompt],
    pictures: Sequence[EncodedPicture],
) -> Attention:
    """The handles' maps out of all tokens' (b, h, w, L), with masks at their size."""
    handles = list(dict.fromkeys(handle for picture in pictures for handle in picture.masks))
    size = (probabilities.shape[1], probabilities.shape[2])
    nothing = torch.zeros_like(probabilities[0, :, :, 0])  # (h, w)
    maps, masks, rest, named = [], [], [], []
    for row, prompt in zip(probabilities, prompts, strict=True):  # row (h, w, L)
        tokens = handle_tokens(model, book, prompt)
        taken = {0} | {place for own, words in tokens.values() for place in (*own, *words)}
        length = next(iter(book.prompt(prompt.prompt).tokens.values())).input_ids.shape[1]
        others = [place for place in range(length) if place not in taken]
        rest.append(row[..., others].mean(dim=-1))
        maps.append(torch.stack([_mean(row, tokens.get(h, ((), ()))[0], nothing) for h in handles]))
        shown = pictures[prompt.picture].fine_masks
        masks.append(
            torch.stack([area_resample(shown[h], size)[0, 0] if h in shown else nothing.float() for h in handles])
        )
        named.append([float(h in prompt.handles) for h in handles])
    return Attention(
        torch.stack(maps), torch.stack(rest), torch.stack(masks).to(probabilities.device),
        torch.tensor(named, device=probabilities.device),
    )  # fmt: skip


@torch.no_grad()
def handle_maps(
    model: Family, book: PromptBook, concepts: ConceptSet, prompt: StepPrompt, picture: EncodedPicture, level: int,
    generator: torch.Generator,
) -> dict[str, Tensor]:  # fmt: skip
    """handle -> (h, w) float32 on the CPU: the share of the attention that its vectors have on the noised picture.

    The mean over the noise levels of :data:`LEVELS`, at the feature maps that :func:`read_attention` reads.

    Args:
        prompt: names the handles. picture: what the prompt is of. level: an objective's ``attention_level``.
    """
    condition = model.encode(book.prompt(prompt.prompt), concepts.vectors(), picture.frame)
    condition, x0 = condition.to(model.device, model.dtype), picture.latents.mean.to(model.device)
    tokens = handle_tokens(model, book, prompt)
    found: dict[str, Tensor] = {}
    for u in LEVELS:  # one after the other: there may be memory for one picture only
        t = model.schedule.at(torch.tensor([u])).to(model.device)
        noise = torch.randn(x0.shape, generator=generator).to(model.device)
        with model.read_probabilities((x0.shape[-2], x0.shape[-1]), level) as reader:
            model.predict(model.schedule.add_noise(x0, noise, t), t, condition)
            (row,) = reader.probabilities().cpu()  # (h, w, L)
        for handle, (own, _) in tokens.items():
            share = row[..., own].sum(dim=-1) / len(LEVELS)
            found[handle] = found[handle] + share if handle in found else share
    return found


def handle_tokens(model: Family, book: PromptBook, prompt: StepPrompt) -> dict[str, tuple[list[int], list[int]]]:
    """handle -> positions of its vectors, and of its class word's tokens right behind them ([] where none stand)."""
    tokenized = book.prompt(prompt.prompt)
    found = {}
    for handle in prompt.handles:
        placeholder, word = book.words[handle]
        own = tokenized.positions(placeholder)
        behind = model.word_positions(tokenized, word, after=own[-1]) if own else []
        found[handle] = (own, behind)
    return found


def _mean(row: Tensor, places: Sequence[int], nothing: Tensor) -> Tensor:
    return row[..., list(places)].mean(dim=-1) if places else nothing
