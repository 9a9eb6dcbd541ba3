"""The look after training: a few pictures of a plain prompt, with each concept and without, and what they say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from singleinsert.config import Settings
from singleinsert.data.pictures import image_to_tensor
from singleinsert.data.prompts import fill
from singleinsert.data.subject import BACKGROUND, Handle
from singleinsert.errors import InputError, first_line
from singleinsert.models.family import Family
from singleinsert.training.entanglement import PROMPT, Entanglement, Reference, advise, measure
from singleinsert.training.explained import (
    Errors,
    Phrasing,
    errors_under,
    kept,
    phrase_passes,
    phrasings_of,
    returned_phrase,
)
from singleinsert.training.loop import Loop, Run
from singleinsert.training.prepare import Material
from singleinsert.training.samples import autoencoder_at_work, batch_of, draw_in_chunks, draw_latents
from singleinsert.training.signals import StopSignal
from singleinsert.training.stages import Stage, wants_bank
from singleinsert.training.step import EncodedPicture

STEPS, MOST, LEAST = 10, 8, 3
"""Sampling steps of a picture; pictures of each concept, as many as may cost so much, and not fewer."""
LARGEST_SHARE = 0.1
"""Of the training's cost, for a look that nobody has asked for."""
FIRST_SEED = 20_000

DrawLatents = Callable[[str, bool, Sequence[int]], Tensor]
"""(prompt, by the tuned model?, seeds) -> latents (n, c, h, w) in float32."""


@dataclass(frozen=True)
class Looked:
    """What the look found.

    Attributes:
        found: of each concept. advice: what to do, "" where nothing seems entangled.
        passes: of the denoiser, for one picture each. share: the same as a share of the training's; 0 where unknown.
    """

    found: tuple[Entanglement, ...]
    advice: str
    passes: int
    share: float = 0.0

    @property
    def short(self) -> str:
        """For the sheet: "comes back: background 71 %, pose 3 %"."""
        named = len(self.found) > 1
        return "comes back: " + "; ".join(f"{each.name} {each.shares}" if named else each.shares for each in self.found)

    @property
    def line(self) -> str:
        """For the log: what was measured, what seems entangled, what to do."""
        cost = f"{self.found[0].pictures} pictures" + (
            f", {self.share:.1%} of the training's cost" if self.share else ""
        )
        return f"{self.short} ({cost}). {self.advice or 'Nothing seems entangled'}"

    def numbers(self, with_phrases: bool = True) -> dict[str, dict[str, Any]]:
        """For files, by concept; ``with_phrases``: of a description, which tell what a picture shows."""
        found = self.found if with_phrases else [replace(each, phrases={}) for each in self.found]
        return {each.name: each.numbers() for each in found}


def look_after(run: Run, loop: Loop, material: Material) -> Looked | None:
    """Look at what a finished training has learnt, while its adapters are still in; on the main process alone.

    Whatever goes wrong is a line for the user, and the run goes on. None where nothing was looked at.
    """
    looked = None
    if run.settings.run.check != "off" and run.accelerator.is_main_process:
        try:
            with StopSignal() as stop:
                looked = _look_after(run, loop, material, stop)
        except Exception as problem:  # a look must not cost anybody a training
            run.watch.line(f"no look for what is entangled: {first_line(problem)}")
        if looked is not None:
            run.watch.line(looked.line)
            run.watch.looked(looked.numbers())
    run.accelerator.wait_for_everyone()
    return looked


def _look_after(run: Run, loop: Loop, material: Material, stop: StopSignal) -> Looked | None:
    handles = [handle for handle in material.handles if handle.name != BACKGROUND]
    shown = {name for _, encoded in as_given(material, run.pictures) for name in encoded.masks}
    handles = [handle for handle in handles if handle.name in shown]
    if not handles:
        return None
    phrasings, training = phrasings_of_material(material), training_passes(run)

    def cost(pictures: int) -> int:
        return look_passes(handles, phrasings, run.settings.sample.guidance_scale, pictures)

    affordable = [n for n in range(LEAST, MOST + 1) if cost(n) <= LARGEST_SHARE * training]
    if not affordable and run.settings.run.check == "auto":
        return None
    pictures = max(affordable, default=LEAST)
    with torch.no_grad():
        references = references_of(run.model, run.pictures, material, handles, run.settings)
        found = look(drawing_of(run, loop, stop), errors_of(run, loop), handles, references, phrasings, pictures)
    passes = cost(pictures)
    return Looked(found, advice_for(found, run.settings, material), passes, passes / training if training else 0.0)


def look(
    draw: DrawLatents,
    errors: Errors,
    handles: Sequence[Handle],
    references: Mapping[str, Sequence[Reference]],
    phrasings: Sequence[Phrasing],
    pictures: int,
) -> tuple[Entanglement, ...]:
    """Draw every concept and every class word ``pictures`` times from the same noise, and measure.

    Args:
        errors: the frozen model's. phrasings: what is looked for of a single concept's descriptions.
    """
    seeds = range(FIRST_SEED, FIRST_SEED + pictures)
    plain = {word: draw(fill(PROMPT, "", word), False, seeds) for word in dict.fromkeys(h.class_word for h in handles)}
    found = []
    for handle in handles:
        drawn = draw(PROMPT.replace("{concept}", handle.words), True, seeds)
        seen = measure(handle.name, drawn, plain[handle.class_word], references[handle.name])
        found.append(
            replace(
                seen,
                phrases=_phrases(kept(errors), phrasings, drawn, plain[handle.class_word], references[handle.name]),
            )
        )
    return tuple(found)


def _phrases(
    errors: Errors, phrasings: Sequence[Phrasing], drawn: Tensor, plain: Tensor, references: Sequence[Reference]
) -> dict[str, float]:
    values = {
        each.text: returned_phrase(errors, each, drawn, plain, references[each.picture].latents) for each in phrasings
    }
    return {text: value for text, value in values.items() if value is not None}


def phrasings_of_material(material: Material) -> tuple[Phrasing, ...]:
    """What a single concept's pictures are said to show beside it; nothing of several, which have no descriptions."""
    if len(material.handles) > 1:
        return ()
    return phrasings_of([picture.description for picture in material.given], material.handles[0].class_word)


def look_passes(handles: Sequence[Handle], phrasings: Sequence[Phrasing], guidance_scale: float, pictures: int) -> int:
    """Denoiser passes of a whole look."""
    drawn = len(handles) + len({handle.class_word for handle in handles})
    return drawn * STEPS * (2 if guidance_scale > 1 else 1) * pictures + phrase_passes(phrasings, pictures)


def training_passes(run: Run) -> int:
    """Denoiser passes of the whole training on one process, a backward pass counted as two."""
    accumulated, bank = run.accelerator.gradient_accumulation_steps, wants_bank(run.settings, run.stages)

    def passes(stage: Stage) -> int:
        objective = stage.objective
        frozen = objective.needs_frozen and not (bank and stage is not run.stages[0])
        return stage.steps * stage.settings.batch_size * accumulated * (3 + frozen + 3 * objective.needs_class)

    return sum(passes(stage) for stage in run.stages) // run.accelerator.num_processes


def references_of(
    model: Family,
    pictures: Sequence[EncodedPicture],
    material: Material,
    handles: Sequence[Handle],
    settings: Settings,
) -> dict[str, list[Reference]]:
    """The training pictures that show each concept, as they were given.

    Args:
        pictures: those of ``material``, encoded.
    """
    size = settings.data.resolution
    given = [(image_to_tensor(image, size), encoded) for image, encoded in as_given(material, pictures)]

    def encode(pixels: Tensor) -> Tensor:
        return model.encode_picture(pixels).mean

    with autoencoder_at_work(model, settings.run.moves_denoiser):
        return {
            handle.name: [
                Reference.of(pixels, encoded.fine_masks[handle.name], encoded.latents.mean, encode)
                for pixels, encoded in given
                if handle.name in encoded.masks
            ]
            for handle in handles
        }


def as_given(material: Material, pictures: Sequence[EncodedPicture]) -> list[tuple[Image.Image, EncodedPicture]]:
    """``pictures``, those of ``material``, without the ones that were made out of others: collages, mirror images."""
    rows = zip(material.pictures, pictures, strict=True)
    return [(picture.image, encoded) for picture, encoded in rows if any(picture is each for each in material.given)]


def drawing_of(run: Run, loop: Loop, stop: StopSignal) -> DrawLatents:
    """Draws with the run's model: as it is tuned now, or with its adapters off. A signal ends it before its time."""
    model, sampling, size = run.model, run.settings.sample, run.settings.data.resolution

    def draw(prompt: str, tuned: bool, seeds: Sequence[int]) -> Tensor:
        with nullcontext() if tuned else loop.adapters.disabled():
            condition, empty = (
                model.encode(run.book.prompt(text), run.concepts.vectors()).to(model.device, model.dtype)
                for text in (prompt, "")
            )

            def chunk(part: Sequence[int]) -> Tensor:
                if stop.received:  # what was learnt is to be saved now, and nothing else
                    raise InputError("it was asked to end")
                return draw_latents(
                    model, [condition] * len(part), empty, part, steps=STEPS,
                    guidance_scale=sampling.guidance_scale, size=size,
                ).float()  # fmt: skip

            return draw_in_chunks(chunk, seeds, batch_of(run), torch.cat)

    return draw


def errors_of(run: Run, loop: Loop) -> Errors:
    """The run's model with its adapters off."""
    model = run.model

    def errors(latents: Tensor, prompt: str) -> Tensor:
        with loop.adapters.disabled():
            condition = model.encode(run.book.prompt(prompt), {}).to(model.device, model.dtype)
            return errors_under(model, condition, latents)

    return errors


def advice_for(found: Sequence[Entanglement], settings: Settings, material: Material) -> str:
    """What the user of these settings can do against what was found."""
    learnt = {kind for each in found for kind in each.learnt}
    masked = all(stage.objective != "full_image" for stage in settings.stages.values())
    return advise(learnt, described=any(picture.description for picture in material.given), masked=masked)
