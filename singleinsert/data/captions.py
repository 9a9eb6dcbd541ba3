"""Captions: ``photo.txt`` or ``photo.caption`` by a photo, or a row of ``metadata.jsonl``; what means the concept."""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

from singleinsert.errors import InputError

CONCEPT = "{concept}"
CAPTION_SUFFIXES = (".txt", ".caption")
"""What is written, and kohya's own."""
METADATA = "metadata.jsonl"
"""The image-folder layout of the datasets library: {"file_name": "photo.jpg", "text": "..."} a line."""

# as in prompts, a star of its own; [trigger] is ai-toolkit's word
_STANDS_FOR_CONCEPT = re.compile(r"\{concept\}|\{placeholder\}|\[trigger\]|(?<![\w*])\*(?![\w*])", re.IGNORECASE)


def caption_file(picture: str | Path) -> Path:
    """Where the caption of a picture is: ``photo.txt`` beside ``photo.jpg``, or ``photo.caption`` if it is there.

    Raises:
        InputError: both are there.
    """
    files = [Path(picture).with_suffix(suffix) for suffix in CAPTION_SUFFIXES]
    found = [file for file in files if file.is_file()]
    if len(found) > 1:
        raise InputError(f"{found[0]} and {found[1].name} are both captions of {Path(picture).name}: delete one")
    return found[0] if found else files[0]


def read_caption(path: str | Path) -> str | None:
    """The caption of the picture at ``path``, in which ``{concept}`` stands for the concept; None where it has none.

    Its file goes before its row in ``metadata.jsonl``. Of a file the first line that is not empty counts.

    Raises:
        InputError: a file that is no text or holds no caption.
    """
    file = caption_file(path)
    if file.is_file():
        text = next(iter(caption_lines(file)), "")
        if not text:
            raise InputError(f"caption file {file} is empty: write one sentence into it, or delete it")
        return with_braces(text)
    rows = read_metadata(Path(path).parent)
    row = rows.get(Path(path).name)
    return None if row is None or not row.get("text", "").strip() else with_braces(row["text"])


def caption_lines(file: Path) -> list[str]:
    """The lines of a caption file that are not empty; the first is the caption.

    Raises:
        InputError: a file that is no text.
    """
    return [line for line in map(str.strip, _read_text(file).splitlines()) if line]


def unread_lines(picture: str | Path) -> str:
    """A sentence on the lines of the picture's caption file that are not read; "" where it has one line or no file."""
    file = caption_file(picture)
    more = len(caption_lines(file)) - 1 if file.is_file() else 0
    if more < 1:
        return ""
    return f"the first line of {file.name} is the description, {more} more {'lines' if more > 1 else 'line'} of it " + (
        "are not read" if more > 1 else "is not read"
    )


def with_braces(text: str) -> str:
    """``*``, ``[trigger]`` and ``{placeholder}`` become ``{concept}``; spaces and line breaks become one space each."""
    return _STANDS_FOR_CONCEPT.sub(CONCEPT, one_line(text))


def one_line(text: str) -> str:
    """A text on one line that UTF-8 can hold: halves of characters, as JSON and command lines may have, become "?"."""
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())


def with_concept(text: str, class_word: str, source: str = "the caption") -> str:
    """A caption with ``{concept}`` in it, which stands for placeholder and class word ("* face") together.

    with_concept("a photo of a * face", "face") and with_concept("a photo of a face", "face") are both
    "a photo of a {concept}": the class word after a placeholder is part of it, and where there is no placeholder the
    first class word becomes one.

    Args:
        source: where the text is from, for the message.

    Raises:
        InputError: neither a placeholder nor the class word is in it.
    """
    text = with_braces(text)
    word = class_pattern(class_word)
    if class_word:  # "<dog>" and "[dog]", as prompts of several concepts name them
        text = re.sub(rf"[<\[]{word.pattern}[>\]]", CONCEPT, text, flags=re.IGNORECASE)
    if CONCEPT in text:
        return re.sub(rf"\{{concept\}} {word.pattern}", CONCEPT, text, flags=re.IGNORECASE)
    if not class_word or not word.search(text):
        raise InputError(
            f"{source}: {text[:80]!r} says neither {class_word or 'a class word'} nor * nor {{concept}}, so nothing in "
            'it stands for the concept: write * where it is named, as in "a photo of a *, red hat, beach"'
        )
    return word.sub(CONCEPT, text, count=1)


def class_pattern(class_word: str) -> re.Pattern[str]:
    """The class word as a whole word, in singular or plural."""
    words = r"\s+".join(re.escape(part) for part in class_word.split())
    return re.compile(rf"(?<![\w-]){words}(?:e?s)?(?![\w-])", re.IGNORECASE)


def read_metadata(folder: str | Path) -> dict[str, dict[str, Any]]:
    """File name -> row of the folder's ``metadata.jsonl``, in its order; empty where there is none.

    Raises:
        InputError: a line that is no such row.
    """
    file = Path(folder) / METADATA
    if not file.is_file():
        return {}
    rows: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(_read_text(file).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as problem:
            raise InputError(f"{file}, line {number}: is not JSON ({problem})") from problem
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            raise InputError(f'{file}, line {number}: is not {{"file_name": "photo.jpg", "text": "..."}}')
        if not isinstance(row.get("text", ""), str):
            raise InputError(f'{file}, line {number}: "text" is not a text')
        name = PurePosixPath(row["file_name"]).as_posix()  # "./photo.jpg" is photo.jpg
        if name in rows:
            raise InputError(f"{file}, line {number}: {name} has a row already: leave one of them")
        rows[name] = row
    return rows


def metadata_text(rows: dict[str, dict[str, Any]]) -> str:
    """What :func:`read_metadata` reads, as the file holds it."""
    lines = (json.dumps(row, ensure_ascii=False) for row in rows.values())
    # a half of a character, which only its escape can hold, stays as it was
    return "".join((line if line.isprintable() else json.dumps(json.loads(line))) + "\n" for line in lines)


def _read_text(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(f"caption file {file} cannot be read as UTF-8 text ({problem})") from problem
    if "\0" in text:
        raise InputError(f"caption file {file} is no UTF-8 text (UTF-16?): save it as UTF-8")
    return text
