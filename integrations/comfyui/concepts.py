"""Concepts in ComfyUI's own folders, found by what their files' headers say. No import but the standard library's."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

HEADER_KEY = "singleinsert"
LONGEST_HEADER = 100_000_000
"""Bytes, safetensors' own limit."""


class ConceptError(ValueError):
    """One line for the user: what is wrong, where, and what to do."""


@dataclass(frozen=True)
class Word:
    """A concept's name, the embedding's name as prompts write it (its path below the folder, without its suffix; "" if
    there is no such file), and the class word that prompts say behind it: "" where it was trained alone."""

    name: str
    embedding: str
    class_word: str

    @property
    def prompt(self) -> str:
        """ "embedding:mexyz face" """
        return f"embedding:{self.embedding} {self.class_word}".strip()


@dataclass(frozen=True)
class Concept:
    """What a run left: its concepts' words and its LoRA's name in the loras folder, "" where it has none."""

    name: str
    words: tuple[Word, ...]
    lora: str = ""
    base: str = ""


def read_header(path: Path) -> dict[str, str]:
    """The texts in a safetensors file's header; {} where the file is none."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > LONGEST_HEADER:
                return {}
            header = json.loads(file.read(length))
    except (OSError, ValueError, struct.error, RecursionError):
        return {}
    texts = header.get("__metadata__") if isinstance(header, dict) else None
    return texts if isinstance(texts, dict) else {}


def read_own(path: Path) -> dict[str, Any]:
    """What SingleInsert's export says in a file's header; {} of another program's file."""
    try:
        own = json.loads(read_header(path).get(HEADER_KEY, "{}"))
    except (ValueError, TypeError, RecursionError):
        return {}
    return own if isinstance(own, dict) and isinstance(own.get("concepts"), list) else {}


def find_concepts(embeddings: Mapping[str, Path], loras: Mapping[str, Path]) -> dict[str, Concept]:
    """All concepts by name. Both arguments: name in ComfyUI's list, such as "people/mexyz.safetensors" -> its file.

    A LoRA belongs to the embeddings that its header names by their triggers. Where several folders hold embeddings of
    one name, the one beside the LoRA's own folder name counts first, then the first of the list.
    """
    of_embedding = {name: own for name, path in embeddings.items() if (own := read_own(path))}
    found: dict[str, Concept] = {}
    taken: set[str] = set()
    for name, path in loras.items():
        own = read_own(path)
        if not own:
            continue
        words = tuple(_words(own, name, of_embedding))
        taken |= {f"{word.embedding}.safetensors" for word in words}
        own_name = PurePath(name).with_suffix("").as_posix().removesuffix("_lora")
        found[own_name] = Concept(own_name, words, name, _base(own))
    for name, own in of_embedding.items():
        if name not in taken:
            stem = PurePath(name).with_suffix("").as_posix()
            found.setdefault(stem, Concept(stem, tuple(_words(own, name, of_embedding)), "", _base(own)))
    return dict(sorted(found.items()))


def _words(own: Mapping[str, Any], beside: str, embeddings: Iterable[str]) -> Iterable[Word]:
    for described in own["concepts"]:
        if not isinstance(described, dict):
            continue
        trigger = str(described.get("trigger") or described.get("name") or "")
        named = [name for name in embeddings if PurePath(name).stem.lower() == trigger.lower()]
        named.sort(key=lambda name: PurePath(name).parent != PurePath(beside).parent)
        embedding = PurePath(named[0]).with_suffix("").as_posix() if named else ""
        more = described.get("metadata")
        alone = isinstance(more, dict) and more.get("alone")
        class_word = "" if alone else str(described.get("class_word", ""))
        yield Word(str(described.get("name", trigger)), embedding, class_word)


def _base(own: Mapping[str, Any]) -> str:
    base = own.get("base")
    return str(base.get("name", "")) if isinstance(base, dict) else ""


def fill_prompt(prompt: str, concept: Concept) -> str:
    """``{concept}`` becomes "embedding:mexyz face"; of a scene's concepts, ``{cat}`` the one called cat, ``{concept}``
    all of them, joined by "and".

    ComfyUI finds an embedding's name only after white space or at the start, and reads it up to the next one, so spaces
    are put around it where there are none.

    Raises:
        ConceptError: an embedding is missing, or the prompt names no concept, or one that is not there.
    """
    missing = [word.name for word in concept.words if not word.embedding]
    if missing or not concept.words:
        raise ConceptError(
            f"concept {concept.name}: no embedding {', '.join(missing) or concept.name} in ComfyUI's embeddings "
            "folder: copy its .safetensors there, and press R to read the folders again"
        )
    by_name = {word.name: word.prompt for word in concept.words} | {"concept": _joined(w.prompt for w in concept.words)}
    fields = re.findall(r"\{([^{}]*)\}", prompt)
    unknown = [field for field in fields if field not in by_name]
    if unknown:
        raise ConceptError(f"{{{unknown[0]}}} names no concept of {concept.name}: write {_known(by_name)}")
    if not fields:
        raise ConceptError(f"the prompt names no concept: write {_known(by_name)} where it belongs, such as "
                           '"{concept} on the beach"')  # fmt: skip
    parts = re.split(r"\{([^{}]*)\}", prompt)
    text = parts[0]
    for field, after in zip(parts[1::2], parts[2::2], strict=True):
        text = f"{text}{'' if not text or text[-1].isspace() else ' '}{by_name[field]}"
        text += f"{'' if not after or after[0] in ' ,.;:!?)' else ' '}{after}"
    return text


def _joined(prompts: Iterable[str]) -> str:
    return " and ".join(prompts)


def _known(names: Iterable[str]) -> str:
    return " or ".join(f"{{{name}}}" for name in names)
