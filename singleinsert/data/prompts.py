"""Prompts: templates, files of them, and the views of the paper's figures."""

from __future__ import annotations

import re
from pathlib import Path

from singleinsert.errors import InputError
from singleinsert.placeholders import STAR, whole_word

NOVEL_VIEWS = (
    "left side view of {concept}",
    "frontal view of {concept}",
    "right side view of {concept}",
    "back view of {concept}",
)


def fill(template: str, placeholder: str, class_word: str) -> str:
    """``{concept}`` -> placeholder and class word ("* face"), ``{placeholder}`` and a lone ``*`` -> placeholder,
    ``{class_word}`` -> class word. Other braces stay as they are.

    fill("{concept} in the snow", "<me>", "face") and fill("* face in the snow", "<me>", "face") are the same prompt.
    """
    words = {
        "{concept}": f"{placeholder} {class_word}".strip(),
        "{placeholder}": placeholder,
        "{class_word}": class_word,
    }
    pattern = "|".join([*(re.escape(key) for key in words), whole_word(STAR)])
    filled = re.sub(pattern, lambda found: words.get(found[0], placeholder), template)
    return " ".join(filled.split())


def says_class_word(phrase: str, class_word: str) -> bool:
    """Does a subject's phrase say what it is one of, beside its placeholder?"""
    return class_word in fill(phrase, "", class_word)


def read_prompt_file(path: str | Path) -> list[str]:
    """One prompt a line; empty lines and lines that start with # are left out.

    Raises:
        InputError: missing, not text, or without a prompt.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"prompt file not found: {path}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(f"prompt file {path} cannot be read as UTF-8 text ({problem})") from problem
    lines = [line.strip() for line in text.splitlines()]
    prompts = [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise InputError(f"prompt file {path} holds no prompt: write one per line")
    return prompts
