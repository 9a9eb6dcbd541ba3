"""Texts in which a concept is read, and the second moments of what the text encoders make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from singleinsert.artifact import Artifact
from singleinsert.data.prompts import fill
from singleinsert.models.family import Embedding, Family

TEMPLATES = (
    "a photo of {concept}", "{concept}", "a picture of {concept}", "an image of {concept}", "{concept} on the beach",
    "{concept} in the snow", "{concept} in the jungle", "{concept} in the city", "{concept} at night",
    "{concept} in the desert", "{concept} in the water", "{concept} on a wooden floor", "{concept} on a table",
    "a pencil sketch of {concept}", "pixel art of {concept}", "an oil painting of {concept}",
    "left side view of {concept}", "right side view of {concept}", "{concept} wearing a red hat",
    "{concept} wearing a yellow scarf", "a photo of {concept} and a cat", "a photo of {concept} and a face",
    "a dog and {concept}", "a cup and {concept}", "a photo of {concept} with a tree in the snow",
    "{concept} under the night sky", "a red {concept}", "a small {concept}", "a photo of the {concept} in the city",
    "a car and {concept} on the beach",
)  # fmt: skip
THINGS = (
    "cat", "dog", "face", "cup", "car", "tree", "man", "woman", "person", "house", "chair", "flower", "bird", "bag",
    "shoe", "book",
)  # fmt: skip
HELD_OUT = 5
"""Every fifth template is kept for measuring what the others have been made for."""
SLOT = "\ue000"


def of_concepts(model: Family, artifact: Artifact, templates: Sequence[str]) -> Tensor:
    """G (d, d) float64: the mean of t t^T over the features t of the artifact's concepts and, where prompts have them,
    the class words behind them, in every template.

    Raises:
        InputError: a concept's text cannot be read, such as an embedding of another width.
    """
    rows = []
    for concept in artifact.concepts:
        vectors = {SLOT: {part: tensor.to(model.text_device) for part, tensor in concept.embeddings.items()}}
        for template in templates:
            word = "" if concept.alone else concept.class_word
            states, own, behind = _encode(model, template, SLOT, word, vectors, concept.num_vectors)
            rows.append(states[[*own, *behind]])
    return _moment(rows)


def of_other_words(model: Family, class_words: Sequence[str], templates: Sequence[str]) -> Tensor:
    """G (d, d) float64 of all positions, start and end among them, of the templates about ordinary things."""
    words = list(dict.fromkeys([*THINGS, *filter(None, class_words)]))
    texts = [fill(template, "", word) for template in templates for word in words]
    return _moment([_encode(model, text, "", "", {}, 0)[0] for text in texts])


def split_templates() -> tuple[list[str], list[str]]:
    """(for solving, for measuring)."""
    measured = list(TEMPLATES[HELD_OUT - 1 :: HELD_OUT])
    return [text for text in TEMPLATES if text not in measured], measured


@torch.no_grad()
def _encode(
    model: Family, template: str, slot: str, class_word: str, vectors: Mapping[str, Embedding], count: int
) -> tuple[Tensor, list[int], list[int]]:
    """States (L, d) float64 on the CPU, and the positions of the vectors and of the class word behind them."""
    prompt = model.tokenize(fill(template, slot, class_word), {slot: count} if count else {})
    states = model.encode(prompt, vectors).states[0].double().cpu()
    own = prompt.positions(slot) if count else []
    behind = model.word_positions(prompt, class_word, after=own[-1]) if own and class_word else []
    return states, own, behind


def _moment(rows: Sequence[Tensor]) -> Tensor:
    stacked = torch.cat(list(rows))  # (n, d)
    return stacked.T @ stacked / len(stacked)
