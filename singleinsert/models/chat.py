"""Prompts for language models as text encoders: inside a chat template, tokenised in pieces as ComfyUI does it.

ComfyUI fills the template with the whole prompt, cuts the text in front of each ``embedding:NAME``, and tokenises what
is left piece by piece. The first piece keeps the space before the embedding. Of every later one only the words are
kept, with single spaces between them, because it has split the piece at white space to find the embedding's name: so
the line breaks of the template's end become spaces too. A prompt without an embedding is one piece, and its tokens
are those of diffusers' pipelines. (ComfyUI, ``comfy/sd1_clip.py``: ``SDTokenizer.tokenize_with_weights``.)
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from singleinsert.errors import ModelError
from singleinsert.models.text import Slot, TokenizedPrompt, id_for_slots, refuse_lost_slots
from singleinsert.placeholders import split_at_placeholders

log = logging.getLogger(__name__)
_MARK = "PROMPT"


class ChatTemplate(NamedTuple):
    """What stands before and after the user's words."""

    before: str
    after: str

    @classmethod
    def of(cls, tokenizer: Any, **options: Any) -> ChatTemplate:
        """The tokenizer's own, for one message of the user, ready for the answer.

        Args:
            options: of the template, such as ``enable_thinking=False``.

        Raises:
            ModelError: the tokenizer has none.
        """
        messages = [{"role": "user", "content": _MARK}]
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)
        except ValueError as error:
            raise ModelError("the tokenizer has no chat template: its chat_template.jinja is missing") from error
        before, mark, after = text.partition(_MARK)
        if not mark:
            raise ModelError("the tokenizer's chat template leaves the prompt out")
        return cls(before, after)


def tokenize_in_chat(
    tokenizer: Any,
    template: ChatTemplate,
    prompt: str,
    placeholders: Mapping[str, int],
    length: int,
    padded: bool = True,
) -> TokenizedPrompt:
    """Tokenise ``prompt`` inside ``template``, leaving ``placeholders[p]`` consecutive slots for each placeholder p.

    Args:
        length: of the result, at most. padded: are shorter prompts padded on the right, to that length?

    Raises:
        InputError: the prompt is so long that a slot would be cut off. Plain words are cut off with a warning.
    """
    ids: list[int] = []
    slots: list[Slot] = []
    free_id = id_for_slots(tokenizer)
    for text, placeholder in _pieces(template, prompt, placeholders):
        if placeholder is None:
            words = " ".join(text.split()) if slots else text
            ids += tokenizer(words, add_special_tokens=False)["input_ids"] if words else []
            continue
        slots += [Slot(len(ids) + i, placeholder, i) for i in range(placeholders[placeholder])]
        ids += [free_id] * placeholders[placeholder]
    if len(ids) > length:
        refuse_lost_slots(prompt, slots, length, length)
        log.warning("prompt cut to its first %d tokens of %d: %.80r", length, len(ids), prompt)
        ids = ids[:length]
    padding = [tokenizer.pad_token_id] * (length - len(ids)) if padded else []
    return TokenizedPrompt(torch.tensor([[*ids, *padding]]), tuple(slots))


def _pieces(template: ChatTemplate, prompt: str, placeholders: Mapping[str, int]) -> list[tuple[str, str | None]]:
    """Texts and placeholders by turns. Placeholders are looked for in the prompt alone: the template may hold one."""
    pieces = split_at_placeholders(prompt, placeholders)
    if pieces and pieces[0][1] is None:
        pieces[0] = (template.before + pieces[0][0], None)
    else:
        pieces.insert(0, (template.before, None))
    if pieces[-1][1] is None:
        pieces[-1] = (pieces[-1][0] + template.after, None)
    else:
        pieces.append((template.after, None))
    return pieces
