"""Base models that may be chosen: the bundled ones, those in the configured folders, and any of the hub's by its id."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from singleinsert.config import Settings
from singleinsert.errors import InputError, ModelError
from singleinsert.models.presence import hub_is_off, is_cached
from singleinsert.terms import BUNDLED_MODELS

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
DEFAULT = Settings().model.pretrained_model_name_or_path
TITLES = {
    "mini-sd": "mini-sd: a miniature to try things out with",
    "mini-scenes": "mini-scenes: the same, for several things",
    "mini-sdxl": "mini-sdxl: a miniature of SDXL",
}


@dataclass(frozen=True)
class Base:
    """A base model. ``key`` is what the browser calls it; ``source`` is a setting's value."""

    key: str
    title: str
    source: str
    state: str


def known_bases(folders: Sequence[Path]) -> list[Base]:
    """The bundled ones, what lies in ``folders``, and the default of the hub."""
    found = [Base(name, TITLES.get(name, f"{name}: a miniature"), name, "bundled") for name in BUNDLED_MODELS]
    for number, folder in enumerate(folders):
        for path in _models_in(folder):
            name, state = path.relative_to(folder).as_posix(), "here"
            if not path.is_dir():
                state = _checkpoint_state(path, path.stat().st_mtime_ns if path.is_file() else 0)
            if not state:
                continue
            found.append(Base(f"folder{number}:{name}", f"{name} in {folder}", str(path.resolve()), state))
    return [*found, Base(DEFAULT, DEFAULT, DEFAULT, hub_state(DEFAULT))]


@cache
def _checkpoint_state(path: Path, changed: int) -> str:
    """ "here" for a checkpoint, "" for a LoRA, an embedding and their like, "cannot be read" for a broken file.

    Args:
        changed: when the file was written, so that another one under its name is looked into too.
    """
    from singleinsert.models.single_file import family_of_checkpoint, read_header

    try:
        shapes, _ = read_header(path)
    except ModelError:
        return "cannot be read"
    try:
        family_of_checkpoint(path, shapes)
    except ModelError:
        return ""
    return "here"


def _models_in(folder: Path) -> list[Path]:
    """Checkpoints and diffusers' folders, two levels deep."""
    files = [path for pattern in ("*.safetensors", "*/*.safetensors") for path in folder.glob(pattern)]
    indexes = [path.parent for pattern in ("model_index.json", "*/model_index.json") for path in folder.glob(pattern)]
    inside = {path.parent for path in files} & {part for index in indexes for part in index.iterdir() if part.is_dir()}
    return sorted({*indexes, *(path for path in files if path.parent not in inside)})


def hub_state(source: str) -> str:
    if is_cached(source):
        return "here"
    return "not here, and HF_HUB_OFFLINE forbids to fetch it" if hub_is_off() else "to be fetched from the hub"


def source_of(key: str, folders: Sequence[Path]) -> str:
    """The setting's value for what the browser has chosen. InputError for anything that is not on offer."""
    for base in known_bases(folders):
        if base.key == key:
            return base.source
    if HUB_ID.fullmatch(key) and not Path(key).exists():
        return key
    raise InputError("that base model is not on offer: choose one of the list, or give the hub's OWNER/NAME")


def key_of(source: str, folders: Sequence[Path]) -> str:
    """What the browser calls a setting's value."""
    return next((base.key for base in known_bases(folders) if base.source == source), source)
