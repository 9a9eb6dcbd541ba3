"""Which picture a sample sees, which of its subjects, and in what words: one answer per sample, from named draws."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from singleinsert.config import StageSettings
from singleinsert.data.prompts import fill, says_class_word
from singleinsert.data.subject import Handle, TrainingPicture
from singleinsert.training.seeds import named_generator


@dataclass(frozen=True)
class StepPrompt:
    """What one sample is shown and asked.

    Attributes:
        picture: its place among the run's pictures. handles: the concepts that the prompt names, in its order.
        prompt: with the concepts, for the tuned model. frozen_prompt: without, which the frozen model is asked for what
            lies outside the subjects. class_prompt: without, which both are asked for the semantic term.
        shown: does the picture show what ``prompt`` asks for, so that the subject may be learnt from it?
    """

    picture: int
    handles: tuple[str, ...]
    prompt: str
    frozen_prompt: str
    class_prompt: str
    shown: bool = True


class Prompting(Protocol):
    """How a method talks to the model. The same sample gets the same answer, however many processes there are."""

    def at(self, stage: str, sample: int) -> StepPrompt:
        """The answer for one sample of a stage, by named draws alone."""

    def all_prompts(self) -> Sequence[StepPrompt]:
        """One answer of every kind that may come, so that each can be checked before training."""


@dataclass(frozen=True)
class Words:
    """Templates of prompts: "{concept}" stands for placeholder and class word, or for the class word alone.

    Attributes:
        prompt, class_prompt: of a picture without a description.
        mode: which words each term is asked with where a picture has a description: "off" the bare prompts
            everywhere, "O1" the description with the concept alone, "O2" and "auto" everywhere, "O3" everywhere but in
            every second sample's semantic term, "O4" everywhere but in the semantic term, "O5" as "O2" (what differs
            is the mask).
    """

    prompt: str = "{placeholder} {class_word}"
    class_prompt: str = "{class_word}"
    mode: str = "auto"

    def of(self, description: str, handle: Handle, sample: int) -> tuple[str, str, str]:
        """(prompt, frozen prompt, class prompt) of one subject."""
        word = handle.class_word
        bare = fill(self.prompt, handle.placeholder, word), fill(self.class_prompt, handle.placeholder, word)
        if not description or self.mode == "off":
            return bare[0], bare[1], bare[1]
        told = fill(description, handle.placeholder, word)
        without = fill(description.replace("{placeholder}", "{class_word}"), "", word)
        if self.mode == "O1":
            return told, bare[1], bare[1]
        plain = self.mode == "O4" or (self.mode == "O3" and sample % 2 == 1)
        return told, without, bare[1] if plain else without


@dataclass(frozen=True)
class OneSubject:
    """SingleInsert: one concept, of one or several pictures; each sample draws its picture.

    Attributes:
        descriptions: of the pictures, in their order. drop: share of the samples that do without.
    """

    seed: int
    handle: Handle
    descriptions: tuple[str, ...]
    words: Words = Words()
    drop: float = 0.0

    def at(self, stage: str, sample: int) -> StepPrompt:
        picture = 0
        if len(self.descriptions) > 1:
            generator = named_generator(self.seed, stage, "picture", sample)
            picture = int(torch.randint(0, len(self.descriptions), (1,), generator=generator))
        described = self.descriptions[picture]
        if described and self.drop:
            u = torch.rand(1, generator=named_generator(self.seed, stage, "drop", sample))
            described = "" if float(u) < self.drop else described
        return StepPrompt(picture, (self.handle.name,), *self.words.of(described, self.handle, sample))

    def is_described(self, picture: int) -> bool:
        """Is it said what this picture shows besides the subject?"""
        return bool(self.descriptions[picture]) and self.words.mode != "off"

    def all_prompts(self) -> Sequence[StepPrompt]:
        return [
            StepPrompt(i, (self.handle.name,), *self.words.of(text, self.handle, sample))
            for i, description in enumerate(self.descriptions)
            for text in (description, "")
            for sample in (0, 1)
        ]


@dataclass(frozen=True)
class Variation:
    """How a stage varies its prompts.

    Attributes:
        places, edits: templates with "{concept}"; those in which the subject stays what it is, those that change it.
        share: of the samples that are asked with one.
        foreground: may the subject be learnt from a sample that is asked with one of ``places``? Not of a picture with
            a description, whose words keep out what such a prompt would let in.
    """

    places: tuple[str, ...] = ()
    edits: tuple[str, ...] = ()
    share: float = 0.5
    foreground: bool = False

    @classmethod
    def of_stage(cls, section: StageSettings) -> Variation:
        """As a stage's ``section`` of the settings says; none for an objective that does not ask the frozen model what
        else a prompt means."""
        if section.objective != "singleinsert":
            return cls()
        return cls(section.prompt_places, section.prompt_edits, section.prompt_share, section.prompt_foreground)

    @property
    def templates(self) -> tuple[str, ...]:
        return (*self.places, *self.edits)

    def draw(self, generator: torch.Generator) -> str:
        """A template, or "" for the training prompt."""
        templates = self.templates
        if not templates or float(torch.rand(1, generator=generator)) >= self.share:
            return ""
        return templates[int(torch.randint(0, len(templates), (1,), generator=generator))]

    def varied(self, plain: StepPrompt, template: str, handle: Handle, described: bool) -> StepPrompt:
        """``plain`` asked with ``template``."""
        told = fill(template, handle.placeholder, handle.class_word)
        without = without_placeholder(template, handle.class_word)
        shown = self.foreground and template in self.places and not described
        return replace(plain, prompt=told, frozen_prompt=without, class_prompt=without, shown=shown)


@dataclass(frozen=True)
class VariedPrompts:
    """One concept, asked about as it will be asked for: the surroundings, and the class, stay the frozen model's in
    other places, styles and clothes too, so that the words for them are still obeyed after training.

    Attributes:
        plain: gives each sample's picture, and the prompts of those that are not varied. stages: name -> variation.
    """

    plain: OneSubject
    stages: Mapping[str, Variation]

    def at(self, stage: str, sample: int) -> StepPrompt:
        plain = self.plain.at(stage, sample)
        variation = self.stages.get(stage, Variation())
        template = variation.draw(named_generator(self.plain.seed, stage, "template", sample))
        described = self.plain.is_described(plain.picture)
        return variation.varied(plain, template, self.plain.handle, described) if template else plain

    def all_prompts(self) -> Sequence[StepPrompt]:
        plain = self.plain.all_prompts()
        return [
            *plain,
            *(
                variation.varied(plain[0], template, self.plain.handle, self.plain.is_described(0))
                for variation in self.stages.values()
                for template in variation.templates
            ),
        ]


@dataclass(frozen=True)
class Shown:
    """A picture as union sampling sees it.

    Attributes:
        handles: of its subjects. weight: how often it is drawn, against the others'. whole: every subject is named
            whenever it is drawn, as in a collage, which was made of the subset that it shows.
    """

    handles: tuple[str, ...]
    weight: float = 1.0
    whole: bool = False


@dataclass(frozen=True)
class UnionSampling:
    """Break-A-Scene: each sample draws a picture, then a random subset of its subjects, in random order.

    The paper draws the size uniformly and then the subset (section 3.2; ``1 / (N C(N, k))`` for a subset of k of N).

    Attributes:
        subset: "size" as the paper; "subset", uniform over all non-empty subsets; "one", a single subject; "all".
        phrase: how a subject is named, such as "a {placeholder} {class_word}" (the paper: "{placeholder}").
        template: what the joined phrases are put into in the place of "{concepts}".
    """

    seed: int
    handles: Mapping[str, Handle]
    pictures: tuple[Shown, ...]
    subset: str = "size"
    phrase: str = "a {placeholder} {class_word}"
    template: str = "a photo of {concepts}"
    joiner: str = " and "

    def at(self, stage: str, sample: int) -> StepPrompt:
        generator = named_generator(self.seed, stage, "subjects", sample)
        weights = torch.tensor([picture.weight for picture in self.pictures], dtype=torch.float64)
        picture = int(torch.multinomial(weights, 1, generator=generator))
        shown = self.pictures[picture]
        order = torch.randperm(len(shown.handles), generator=generator).tolist()
        chosen = order if shown.whole else _subset(order, self.subset, generator)
        return self._prompt(picture, [shown.handles[i] for i in chosen])

    def all_prompts(self) -> Sequence[StepPrompt]:
        """Everything that each picture shows, and each subject alone."""
        found = []
        for i, shown in enumerate(self.pictures):
            found.append(self._prompt(i, shown.handles))
            found += [] if shown.whole else [self._prompt(i, [handle]) for handle in shown.handles]
        return found

    def _prompt(self, picture: int, names: Sequence[str]) -> StepPrompt:
        chosen = [self.handles[name] for name in names]
        told = self.joiner.join(fill(self.phrase, handle.placeholder, handle.class_word) for handle in chosen)
        plain = self.joiner.join(without_placeholder(self.phrase, handle.class_word) for handle in chosen)
        prompt, class_prompt = (self.template.replace("{concepts}", words) for words in (told, plain))
        return StepPrompt(picture, tuple(names), prompt, class_prompt, class_prompt)


def _subset(order: list[int], kind: str, generator: torch.Generator) -> list[int]:
    """Some of ``order``, which is random already, at least one."""
    number = len(order)
    if kind == "subset":
        code = int(torch.randint(1, 2**number, (1,), generator=generator))
        return [i for i in order if code >> i & 1]
    size = int(torch.randint(1, number + 1, (1,), generator=generator))
    return order[: {"one": 1, "all": number}.get(kind, size)]


def without_placeholder(phrase: str, class_word: str) -> str:
    """A subject's phrase for the frozen model: its class word, and where the phrase does not say it, in the place of
    the placeholder ("{placeholder}" and "a {placeholder}" -> "a cat")."""
    if says_class_word(phrase, class_word):
        return fill(phrase, "", class_word)
    article = re.search(r"\b(?:an?|the|one|my|this)\s+(?:\{placeholder\}|\*)", phrase, re.IGNORECASE)
    return fill(phrase, class_word if article else f"a {class_word}", class_word)


def one_subject_in_each(pictures: Sequence[TrainingPicture]) -> bool:
    """Is it SingleInsert's case: every picture shows the same single concept?"""
    return {picture.handles for picture in pictures} == {pictures[0].handles} and len(pictures[0].handles) == 1
