"""Prompts with concepts in them: tokenised in pieces, the vectors written in where the embedding is looked up.

The vocabulary is never changed: a placeholder is found in the prompt's text and stands for as many consecutive
positions as its concept has vectors, wherever it is and however many concepts there are.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from singleinsert.errors import InputError
from singleinsert.placeholders import split_at_placeholders

log = logging.getLogger(__name__)


class Slot(NamedTuple):
    """One position of a prompt, which the ``vector``-th vector of a concept takes."""

    position: int
    placeholder: str
    vector: int


@dataclass(frozen=True)
class TokenizedPrompt:
    """Attributes: input_ids (1, L) int64, padded to the model's length; slots in the order of their positions."""

    input_ids: Tensor
    slots: tuple[Slot, ...] = ()


def tokenize(tokenizer: Any, prompt: str, placeholders: Mapping[str, int]) -> TokenizedPrompt:
    """Tokenise ``prompt``, leaving ``placeholders[p]`` consecutive slots for each placeholder p.

    A placeholder is matched ignoring case, as the tokenizer and the WebUIs do, and not inside a longer word.

    Raises:
        InputError: the prompt is so long that a slot would be cut off. Plain words are cut off with a warning.
    """
    ids: list[int] = []
    slots: list[Slot] = []
    free_id = id_for_slots(tokenizer)
    for piece, placeholder in split_at_placeholders(prompt, placeholders):
        if placeholder is None:
            ids += tokenizer(piece, add_special_tokens=False)["input_ids"]
            continue
        slots += [Slot(1 + len(ids) + i, placeholder, i) for i in range(placeholders[placeholder])]
        ids += [free_id] * placeholders[placeholder]
    length = tokenizer.model_max_length
    if len(ids) > length - 2:
        refuse_lost_slots(prompt, slots, length - 1, length - 2)
        log.warning("prompt cut to its first %d tokens of %d: %.80r", length - 2, len(ids), prompt)
        ids = ids[: length - 2]
    padding = [tokenizer.pad_token_id] * (length - 2 - len(ids))
    return TokenizedPrompt(
        torch.tensor([[tokenizer.bos_token_id, *ids, tokenizer.eos_token_id, *padding]]), tuple(slots)
    )


def encode(encoder: Any, tokenized: TokenizedPrompt, vectors: Mapping[str, Tensor]) -> Tensor:
    """The text condition (1, L, d) in the encoder's dtype, differentiable in ``vectors`` (placeholder -> (n, d))."""
    return run_text_encoder(encoder, tokenized, vectors)[0]


def run_text_encoder(encoder: Any, tokenized: TokenizedPrompt, vectors: Mapping[str, Tensor], **options: Any) -> Any:
    """As :func:`run_on_prompts`, for one."""
    return run_on_prompts(encoder, [tokenized], vectors, **options)


def run_on_prompts(
    encoder: Any, prompts: Sequence[TokenizedPrompt], vectors: Mapping[str, Tensor], **options: Any
) -> Any:
    """transformers' output for a batch of prompts, with ``vectors`` (placeholder -> (n, d)) written in at the lookup.

    The result is bit for bit that of an embedding table that held the vectors. ``options`` go to the encoder.

    Raises:
        InputError: a prompt holds a placeholder that ``vectors`` does not have.
    """
    slots = [(row, slot) for row, tokenized in enumerate(prompts) for slot in tokenized.slots]
    missing = {slot.placeholder for _, slot in slots} - set(vectors)
    if missing:
        raise InputError(f"the prompt holds {', '.join(sorted(missing))}, for which no concept is loaded")

    def write_vectors(module: Any, args: Any, embedded: Tensor) -> Tensor:
        embedded = embedded.clone()  # (b, L, d)
        for row, (position, placeholder, vector) in slots:
            written = vectors[placeholder][vector].to(embedded)  # (d,)
            embedded[row, position] = written if scale is None else written * scale.to(written)
        return embedded

    module = lookup(encoder)
    scale = lookup_scale(module)
    hook = module.register_forward_hook(write_vectors) if slots else None
    try:
        return encoder(torch.cat([tokenized.input_ids for tokenized in prompts]).to(encoder.device), **options)
    finally:
        if hook is not None:
            hook.remove()


def lookup(encoder: Any) -> Any:
    """The embedding table that the encoder's FORWARD calls.

    T5 in transformers 5 has two modules over one weight: ``get_input_embeddings()`` is ``shared``, and the forward
    calls ``encoder.embed_tokens``; a vector written into the former would train nothing, in silence.
    """
    inner = getattr(encoder, "encoder", None)
    return getattr(inner, "embed_tokens", None) or encoder.get_input_embeddings()


def lookup_scale(module: Any) -> Tensor | None:
    """What the lookup multiplies its rows with on their way out (Gemma: sqrt(d)); None where it does not."""
    scale = getattr(module, "embed_scale", None)
    return None if scale is None else torch.as_tensor(scale)


def word_embeddings(tokenizer: Any, encoder: Any, word: str) -> Tensor:
    """The text encoder's own input embeddings (k, d) float32 of the k tokens of ``word``.

    Raises:
        InputError: the tokenizer does not know the word.
    """
    ids = known_tokens(tokenizer, word, "class word")
    weight = encoder.get_input_embeddings().weight
    return weight[torch.tensor(ids, device=weight.device)].detach().float()


def word_positions(tokenizer: Any, tokenized: TokenizedPrompt, word: str, after: int = -1) -> list[int]:
    """Where the tokens of ``word`` stand for the first time behind ``after``, outside of slots; [] where not."""
    wanted = tokenizer(word, add_special_tokens=False)["input_ids"]
    ids = tokenized.input_ids[0].tolist()
    taken = {slot.position for slot in tokenized.slots}
    for start in range(after + 1, len(ids) - len(wanted) + 1):
        places = list(range(start, start + len(wanted)))
        if wanted and ids[start : start + len(wanted)] == wanted and not taken & set(places):
            return places
    return []


def known_tokens(tokenizer: Any, word: str, role: str) -> list[int]:
    """The token ids of ``word``; InputError that names ``role`` where it is empty or not in the vocabulary."""
    ids = tokenizer(word, add_special_tokens=False)["input_ids"]
    if not ids or tokenizer.unk_token_id in ids:
        raise InputError(f"{role} {word!r} is unknown to the model's tokenizer: choose another word")
    return ids


def check_words(tokenizer: Any, placeholder: str, class_word: str) -> None:
    """Refuse a class word or placeholder that the tokenizer does not know, and one that hides a word of its own.

    Raises:
        InputError: one line that says which word and why.
    """
    known_tokens(tokenizer, class_word, "class word")
    tokens = known_tokens(tokenizer, placeholder, "placeholder")
    if any(part is not None for _, part in split_at_placeholders(class_word, {placeholder: 1})):
        raise InputError(f"placeholder {placeholder!r} is part of the class word {class_word!r}: choose another")
    if len(tokens) == 1 and placeholder.isalnum():
        raise InputError(
            f"placeholder {placeholder!r} is a word the tokenizer already has, prompts could no longer say it: "
            "choose another, such as *"
        )


def id_for_slots(tokenizer: Any) -> int:
    """Any ordinary token will do, its embedding is overwritten; a special one could be taken for the prompt's end."""
    special = set(tokenizer.all_special_ids)
    return next(i for i in range(len(tokenizer)) if i not in special)


def refuse_lost_slots(prompt: str, slots: list[Slot], end: int, tokens: int) -> None:
    """InputError where a slot lies at position ``end`` or beyond; ``tokens``: how many the text encoder reads."""
    lost = sorted({slot.placeholder for slot in slots if slot.position >= end})
    if lost:
        shown = [name if name.isprintable() else "a concept" for name in lost]  # a slot is no character to print
        raise InputError(
            f"prompt too long: {', '.join(shown)} lies beyond the {tokens} tokens that the text encoder reads: "
            f"shorten it or move the placeholder to the front: {prompt[:80]!r}"
        )
