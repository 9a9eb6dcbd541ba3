"""Where a prompt names a concept: the one rule, for settings, templates and the tokenizer."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

STAR = "*"
"""Stands for the concept in every prompt of ours, whatever its placeholder is."""
IN_BRACES = ("{placeholder}", "{concept}")


def concept_words(word: str, class_word: str, alone: bool) -> str:
    """What names a concept in a prompt: ``word``, which stands for its vectors, and its class word, unless it was
    trained ``alone``."""
    return word if alone else f"{word} {class_word}".strip()


def split_at_placeholders(prompt: str, placeholders: Collection[str]) -> list[tuple[str, str | None]]:
    """``[(text, None) | (text, placeholder), ...]`` in order; the longest placeholder wins where two match.

    A placeholder is matched ignoring case, as the tokenizer and the WebUIs do, and not inside a longer word.
    """
    if not placeholders:
        return [(prompt, None)]
    names = {name.lower(): name for name in placeholders}
    alternatives = "|".join(whole_word(name) for name in sorted(names, key=len, reverse=True))
    pieces = re.split(f"({alternatives})", prompt, flags=re.IGNORECASE)
    return [(piece, names.get(piece.lower()) if i % 2 else None) for i, piece in enumerate(pieces) if piece]


def with_class_words(prompt: str, class_words: Mapping[str, str]) -> str:
    """A prompt for the base model: each placeholder (a key) becomes its class word, which is not said twice where it
    stands behind anyway."""
    pieces, said = split_at_placeholders(prompt, class_words), list[str]()
    for i, (piece, placeholder) in enumerate(pieces):
        word = piece if placeholder is None else class_words[placeholder]
        behind = "".join(text for text, _ in pieces[i + 1 : i + 2])
        again = placeholder is not None and re.match(rf"\s+{re.escape(word)}\b", behind, re.IGNORECASE)
        said.append("" if again else word)
    return " ".join("".join(said).split())


def whole_word(name: str) -> str:
    """A pattern for ``name`` on its own: "sks" not in "tasks", "*" not in "5*3", "f*ck" or "**"."""
    alone = rf"\w{re.escape(name)}" if len(name) == 1 else r"\w"
    before = f"(?<![{alone}])" if len(name) == 1 or name[0].isalnum() else ""
    after = f"(?![{alone}])" if len(name) == 1 or name[-1].isalnum() else ""
    return f"{before}{re.escape(name)}{after}"


def names_the_concept(template: str, placeholder: str) -> bool:
    """Whether ``template`` holds the concept's vectors once it is filled."""
    if any(braces in template for braces in IN_BRACES):
        return True
    return any(found is not None for _, found in split_at_placeholders(template, {STAR, placeholder} - {""}))
