"""How methods are compared: concepts, prompts, seeds, and what measures the pictures. As TOML; flags win over it."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from singleinsert.config.load import presets_in
from singleinsert.errors import ConfigError
from singleinsert.evaluate.lists import check_keys
from singleinsert.evaluate.prompt_lists import AUTO
from singleinsert.reading import read_toml

FOLDER = Path(__file__).resolve().parent / "protocols"
NONE, MINI, MINI_SCENES = "none", "mini", "mini-scenes"
PAPER = "paper"


def _option(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Protocol:
    """What is asked of every method. Sampling steps, guidance and first seed are the preset's [sample]."""

    concepts: str = _option(
        "", "a folder of pictures (class by folder, masks beside them) or a list of jobs, as singleinsert.batch takes; "
        "or python:MODULE:FUNCTION that writes such a folder",
    )  # fmt: skip
    prompts: str = _option(
        AUTO, "a prompt list's name or file; auto: the one of the concept's class; beside: each picture's"
    )
    seeds: int = _option(10, "pictures per prompt")
    prompt_limit: int = _option(0, "take the first so many prompts of a class; 0: all")
    concept_limit: int = _option(0, "take the first so many concepts; 0: all")
    batch_size: int = _option(4, "pictures drawn at a time")
    masks: str = _option(
        "grounded", "mask backend that finds the subject in the pictures drawn; of scenes also mini-scenes, "
        "maskformer:MODEL or python:MODULE:ATTRIBUTE, see docs/metrics.md",
    )  # fmt: skip
    clip: str = _option("openai/clip-vit-base-patch32", "CLIP: hub id, folder, or mini; none: not measured")
    dino: str = _option("facebook/dino-vits16", "DINO, likewise")
    looks: str = _option(
        "", "scenes: encoder that tells concepts apart by their cut-outs, like --dino or python:MODULE:ATTRIBUTE; "
        "empty: the same as --dino",
    )  # fmt: skip
    lpips: str = _option("alex", "LPIPS, likewise")
    judge: str = _option(NONE, "judge of editing success, see docs/evaluation.md; none: not measured")
    attention: int = _option(2, "concepts whose cross-attention is drawn")


def load_protocol(preset: str, file: Path | None = None, **given: Any) -> Protocol:
    """The protocol of ``file``, else the one that goes with a preset, else the paper's; changed by what is ``given``.

    Raises:
        ConfigError: an unknown key or a wrong type in the file, a number below its least.
    """
    paths = [file] if file else [FOLDER / f"{name}.toml" for name in (*presets_in(preset), PAPER)]
    path = next(path for path in paths if file or path.is_file())
    table = read_toml(path)
    check_keys(table, tuple(f.name for f in fields(Protocol)), (), str(path))
    protocol = Protocol(**table | {key: value for key, value in given.items() if value is not None})
    for f in fields(Protocol):
        value: Any = getattr(protocol, f.name)
        kind = type(f.default)
        if type(value) is not kind:
            raise ConfigError(f"{f.name} must be {'a number' if kind is int else 'a text'}, not {value!r}")
        least: int = 1 if f.name in ("seeds", "batch_size") else 0
        if isinstance(value, int) and value < least:
            raise ConfigError(f"{f.name} is {value}, but must be at least {least}")
    return protocol


def measures(protocol: Protocol) -> dict[str, str]:
    """What the scores of given pictures depend on: names, and the bundled miniatures' own bytes."""
    names = {name: getattr(protocol, name) for name in ("masks", "clip", "dino", "lpips", "judge")}
    names |= {"looks": protocol.looks} if protocol.looks else {}
    bundled = {MINI: _digest_of("mini-eval", "mini-sd/segmenter")} if MINI in names.values() else {}
    bundled |= {MINI_SCENES: _digest_of("mini-scenes/segmenter")} if MINI_SCENES in names.values() else {}
    return names | bundled


@cache
def _digest_of(*folders: str) -> str:
    from singleinsert.models.bundled import ASSETS

    files = [p for folder in folders for p in sorted((ASSETS / folder).rglob("*")) if p.is_file()]
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)).hexdigest()[:16]


def to_values(protocol: Protocol) -> dict[str, Any]:
    return dataclasses.asdict(protocol)
