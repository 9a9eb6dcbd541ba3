"""What a concept may be called: the one rule for files, prompts, and the clients' trigger words."""

from __future__ import annotations

import re

FORBIDDEN = frozenset('/\\:<>"|?*{}')
"""No name holds these: it is a file name, a word of prompts, and a part of ``<lora:...>``."""
LONGEST_FILE_NAME = 255
"""Bytes of UTF-8 that file systems take for a file's name."""
LONGEST = 200
"""In a concept's name: its files have endings and, for a moment, a prefix."""
FILLED_IN = ("concept", "placeholder", "class_word")
"""Words that mean something else in a prompt's braces."""

# A1111, Forge and ComfyUI weigh words by brackets; ComfyUI's "embedding:NAME" ends at a space, and it drops a comma
# after it
_NOT_IN_TRIGGERS = re.compile(r"[\s()\[\]{}:\\|<>\"?*/]+|,+$")


def problem_with_name(name: str) -> str:
    """Why ``name`` cannot be a concept's; "" where it can. Files of others may have any name that passes."""
    if not name.isprintable():
        return "it holds characters that cannot be seen"
    if set(name) & FORBIDDEN:
        return f"none of {' '.join(sorted(FORBIDDEN))} can be in a file's name and a prompt's word"
    if not name.strip(" .") or name != name.strip() or name.startswith("."):
        return "it is empty, begins with a dot, which hides files, or has a space at an end"
    if (size := len(name.encode("utf-8", "replace"))) > LONGEST:
        return f"it is {size} bytes long, and file systems take {LONGEST} beside the endings of its files"
    if name.lower() in FILLED_IN:
        return "it means something else in prompts"
    return ""


def problem_with_trigger(name: str) -> str:
    """Why prompts of A1111, Forge or ComfyUI could not call a concept by ``name``; "" where all of them can."""
    if problem := problem_with_name(name):
        return problem
    if found := _NOT_IN_TRIGGERS.search(name):
        letter = "a space" if found[0][0].isspace() else found[0][0]
        return f"it holds {letter}, and prompts of A1111, Forge or ComfyUI would break it there"
    return ""


def problem_with_bundled(name: str) -> str:
    """Why A1111's bundle of embeddings and LoRA could not hold the trigger ``name``; "" where it can."""
    return "A1111 splits the names in a bundle at dots, so that this one would never trigger" if "." in name else ""


def safe_trigger(text: str) -> str:
    """``text``, a photo's file name, as a name that works as a trigger word: "IMG (1)" becomes "IMG_1".

    "" where nothing is left of it.
    """
    name = _NOT_IN_TRIGGERS.sub("_", "".join(letter if letter.isprintable() else " " for letter in text))
    name = re.sub(r"_{2,}", "_", name).strip("_. ,")
    while len(name.encode("utf-8", "replace")) > LONGEST:
        name = name[:-1]
    return name
