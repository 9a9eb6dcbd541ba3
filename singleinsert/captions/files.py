"""Captions from and onto the disk: beside the picture, or in its folder's metadata.jsonl. None is ever lost."""

from __future__ import annotations

from pathlib import Path

from singleinsert.atomic import write_text
from singleinsert.captions.ask import is_refusal
from singleinsert.data.captions import METADATA, caption_file, metadata_text, read_caption, read_metadata, with_concept
from singleinsert.errors import InputError, shown


def read_description(picture: Path, class_word: str) -> str | None:
    """The picture's own caption, as :func:`checked_caption` gives it; None where it has none.

    Raises:
        InputError: what is there cannot be read or is no caption; names the file.
    """
    text = read_caption(picture)
    return None if text is None else checked_caption(text, class_word, place_of_caption(picture))


def place_of_caption(picture: Path) -> str:
    """Where :func:`singleinsert.data.captions.read_caption` reads the picture's caption, for messages."""
    file = caption_file(picture)
    return f"caption file {file}" if file.is_file() else f"{picture.parent / METADATA}, {picture.name}"


def checked_caption(text: str, class_word: str, source: str) -> str:
    """A caption that a user gave, with ``{concept}`` in it and otherwise unchanged.

    Args:
        source: where it is from, for messages.

    Raises:
        InputError: a model's refusal, which some tool has saved as the caption, or nothing stands for the concept.
    """
    if is_refusal(text):
        raise InputError(
            f"{source}: {shown(text)} is a refusal and no caption: write what is to be seen beside the subject, or "
            "delete it"
        )
    return with_concept(text, class_word, source)


def refuse_existing(picture: Path, metadata: bool, overwrite: bool) -> None:
    """InputError where a caption is there, in either place, that may have been written by hand.

    Also where the new one could not be seen: a text file goes before a row of metadata.jsonl.
    """
    file = caption_file(picture)
    if metadata and file.exists():
        raise InputError(f"{file} goes before {METADATA}: move it away first")
    if not overwrite and read_caption(picture) is not None:
        place = file if file.exists() else f"in {picture.parent / METADATA} a text for {picture.name}"
        raise InputError(f"{place} is already there: --overwrite replaces it")


def write_caption(picture: Path, text: str, *, metadata: bool = False, overwrite: bool = False) -> Path:
    """The file that now holds the picture's caption.

    Raises:
        InputError: one is there, and not `overwrite`; or the place cannot be written to.
    """
    refuse_existing(picture, metadata, overwrite)
    if not metadata:
        write_text(caption_file(picture), text + "\n")
        return caption_file(picture)
    file, rows = picture.parent / METADATA, read_metadata(picture.parent)
    rows[picture.name] = {"file_name": picture.name} | rows.get(picture.name, {}) | {"text": text}
    write_text(file, metadata_text(rows))
    return file
