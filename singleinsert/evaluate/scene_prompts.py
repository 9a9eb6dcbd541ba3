"""Prompts of a scene: each format with every subset of its concepts, worded for each method as it was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from singleinsert.data.prompts import fill
from singleinsert.data.subject import Handle
from singleinsert.evaluate.prompt_lists import EditPrompt


def powerset_prompts(formats: Sequence[EditPrompt], handles: Sequence[Handle], joiner: str) -> tuple[EditPrompt, ...]:
    """Break-A-Scene's prompts (supplement B.2): every format with every non-empty subset, smaller subsets first.

    ``a photo of {concept} in the snow`` becomes ``a photo of {cat} and {cup} in the snow``.
    """
    return tuple(
        EditPrompt(
            fill(form.text, joiner.join(f"{{{handle.name}}}" for handle in subset), ""), form.targets, form.classes,
            tuple(handle.name for handle in subset),
        )
        for size in range(1, len(handles) + 1)
        for subset in combinations(handles, size)
        for form in formats
    )  # fmt: skip


def worded(text: str, handles: Sequence[Handle], phrase: str) -> str:
    """The prompt as a pipeline takes it: each ``{handle}`` in the words of ``scene.phrase``, its vectors as
    ``<handle>``."""
    for handle in handles:
        text = text.replace(f"{{{handle.name}}}", fill(phrase, f"<{handle.name}>", handle.class_word))
    return text


def with_class_words(text: str, class_words: Mapping[str, str]) -> str:
    """The prompt for CLIP: class words in the handles' places, as in the paper ("a photo of a cat at the beach")."""
    for handle, word in class_words.items():
        text = text.replace(f"{{{handle}}}", f"{_article(word)} {word}")
    return text


def _article(word: str) -> str:
    return "an" if word[:1].lower() in "aeiou" else "a"
