"""A run's prompts on their way to the model: tokenised once, frozen conditions kept, tuned ones encoded once a step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from singleinsert.adapters.base import Adapters
from singleinsert.concepts import Concept
from singleinsert.data.subject import Frame
from singleinsert.models.condition import Condition, GradientCut
from singleinsert.models.family import Embedding, Family, Prompt
from singleinsert.training.prompting import StepPrompt


class ConceptSet(nn.Module):
    """The concepts of a run, by handle; each trains, and gives the vectors that take its placeholder's place."""

    def __init__(self, concepts: Mapping[str, Concept]) -> None:
        super().__init__()
        self.by_handle = nn.ModuleDict(concepts)

    def __getitem__(self, handle: str) -> Concept:
        found = self.by_handle[handle]
        assert isinstance(found, Concept)
        return found

    @property
    def handles(self) -> list[str]:
        return list(self.by_handle)

    def slots(self) -> dict[str, int]:
        """How many positions of a prompt each placeholder stands for."""
        return {self[handle].placeholder: self[handle].num_vectors for handle in self.handles}

    def vectors(self, handles: Iterable[str] | None = None) -> dict[str, Embedding]:
        """Embeddings by placeholder, with a graph to whatever trains; of all concepts, or of ``handles`` alone."""
        wanted = self.handles if handles is None else [handle for handle in self.handles if handle in set(handles)]
        return {self[handle].placeholder: self[handle].vectors() for handle in wanted}


class PromptBook:
    """Every prompt of a run, tokenised once; and what the frozen text encoders say of those without a concept.

    Attributes:
        slots: positions that each placeholder stands for. words: handle -> (placeholder, class word).
    """

    def __init__(self, model: Family, concepts: ConceptSet, class_words: Mapping[str, str]) -> None:
        """``class_words``: by handle."""
        self.model, self.slots = model, concepts.slots()
        self.words = {handle: (concepts[handle].placeholder, class_words[handle]) for handle in concepts.handles}
        self._tokenized: dict[str, Prompt] = {}
        self._frozen: dict[tuple[str, Frame], Condition] = {}

    def prompt(self, text: str) -> Prompt:
        """``text`` tokenised, with slots for every concept of the run that it names."""
        if text not in self._tokenized:
            self._tokenized[text] = self.model.tokenize(text, self.slots)
        return self._tokenized[text]

    def frozen(self, text: str, frame: Frame, adapters: Adapters) -> Condition:
        """The frozen model's condition of ``text`` on the denoiser's device, no graph. Encoded once a run."""
        key = (text, frame)
        if key not in self._frozen:
            with torch.no_grad(), adapters.disabled():
                self._frozen[key] = self.model.encode(self.prompt(text), {}, frame).to(self.model.device)
        return self._frozen[key]


@dataclass
class ConstantConditions:
    """Conditions that a stage does not change, since it trains the denoiser alone: encoded once, by (text, frame)."""

    of_concepts: dict[tuple[str, Frame], Condition] = field(default_factory=dict)
    of_classes: dict[tuple[str, Frame], Condition] = field(default_factory=dict)


class StepConditions:
    """The conditions of one optimiser step: each different prompt goes through the text encoders once, all as a batch.

    What has a graph is cut from it (:class:`~singleinsert.models.condition.GradientCut`): each micro-batch adds to the
    leaves' gradients, and :meth:`backward` sends the sums on once.
    """

    def __init__(
        self,
        book: PromptBook,
        concepts: ConceptSet,
        adapters: Adapters,
        prompts: Sequence[StepPrompt],
        frames: Sequence[Frame],
        tunes_text: bool,
        prior: str = "",
        constant: ConstantConditions | None = None,
    ) -> None:
        """``prompts``: of the step's samples. ``frames``: of the run's pictures. ``tunes_text``: do class prompts need
        the tuned text encoders, which are then other than the frozen ones? ``prior``: prompt of the class pictures, ""
        where they are not needed. ``constant``: the stage's, where nothing that conditions depend on trains in it."""
        self.book, self.adapters, self.frames = book, adapters, frames
        self._cut = GradientCut(book.model.device)
        model, kept = book.model, constant or ConstantConditions()
        self._concept, self._class = kept.of_concepts, kept.of_classes
        prompts = [each for each in prompts if not self._known(each, tunes_text)]
        vectors = concepts.vectors({handle for prompt in prompts for handle in prompt.handles})
        wanted = [(each.prompt, frames[each.picture]) for each in prompts]
        classes = [(each.class_prompt, frames[each.picture]) for each in prompts] if tunes_text else []
        tunes_prior = bool(prior) and any(part in adapters.parts for part in model.text_parts)
        priors = [(prior, frames[0])] if tunes_prior else []
        keys = list(dict.fromkeys([*wanted, *classes, *priors]))
        texts, seen = [book.prompt(text) for text, _ in keys], [frame for _, frame in keys]
        # of what stays constant no gradient is wanted, though checkpointed encoders would give one to any input
        with torch.set_grad_enabled(torch.is_grad_enabled() and constant is None):
            encoded = model.encode_all(texts, vectors, seen) if keys else []
        tuned = dict(zip(keys, (self._cut.cut(condition) for condition in encoded), strict=True))
        self._concept.update({key: tuned[key] for key in wanted if key not in self._concept})
        self._class.update({key: tuned[key] for key in classes if key not in self._class})
        self._prior: Condition | None = None
        if prior:
            self._prior = tuned[priors[0]] if priors else book.frozen(prior, frames[0], adapters)

    def _known(self, prompt: StepPrompt, tunes_text: bool) -> bool:
        """Whether an earlier step of the stage has encoded all that is wanted of a sample's prompts."""
        frame = self.frames[prompt.picture]
        return (prompt.prompt, frame) in self._concept and (
            not tunes_text or (prompt.class_prompt, frame) in self._class
        )

    def concept(self, prompts: Sequence[StepPrompt]) -> Condition:
        """Of a micro-batch's prompts with the concepts, as leaves."""
        return Condition.concatenate([self._concept[each.prompt, self.frames[each.picture]] for each in prompts])

    def tuned_class(self, prompts: Sequence[StepPrompt]) -> Condition:
        """Of a micro-batch's class prompts, by the tuned text encoders."""
        if not self._class:
            return self.frozen([each.class_prompt for each in prompts], prompts)
        return Condition.concatenate([self._class[each.class_prompt, self.frames[each.picture]] for each in prompts])

    def prior(self, count: int) -> Condition:
        """Of ``count`` class pictures, by the tuned text encoders."""
        assert self._prior is not None
        return Condition.concatenate([self._prior] * count)

    def frozen(self, texts: Sequence[str], prompts: Sequence[StepPrompt]) -> Condition:
        """Of a micro-batch's ``texts``, by the frozen text encoders."""
        pairs = zip(texts, prompts, strict=True)
        return Condition.concatenate(
            [self.book.frozen(text, self.frames[each.picture], self.adapters) for text, each in pairs]
        )

    def backward(self) -> None:
        """Send what the micro-batches have left in the leaves through text encoders and concepts."""
        self._cut.backward()
