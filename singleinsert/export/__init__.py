"""An artifact becomes the clients' files.

Formats: "webui" (A1111, Forge, ComfyUI, kohya, and diffusers too), "diffusers" (a folder in peft's layout),
"bundle" (both in one file, for A1111).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from singleinsert.atomic import write_atomically
from singleinsert.errors import InputError

if TYPE_CHECKING:  # --help must not wait for torch
    from PIL.Image import Image

    from singleinsert.artifact import Artifact

FORMATS = ("webui", "diffusers", "bundle")


def export(
    artifact: Artifact,
    output_dir: Path,
    *,
    formats: Sequence[str] = ("webui",),
    precision: str = "fp16",
    preview: Image | None = None,
    trigger_word: str = "",
    overwrite: bool = False,
) -> list[Path]:
    """Write ``artifact`` for the clients; returns the files' paths.

    Args:
        formats: any of FORMATS.
        precision: "fp16", "fp32" or "bf16".
        preview: picture for the WebUIs' cards and the header's thumbnail.
        trigger_word: the key of a single concept's embedding in its file, for diffusers; "" stands for its trigger.
        overwrite: replace files that are there.

    Nothing is written before everything is converted. Raises InputError where a file is there already, a
    format or precision is unknown, a name cannot be a trigger word, or the weights do not fit the precision.
    """
    from singleinsert.artifact import check
    from singleinsert.models.trigger import check_triggers

    check(artifact, artifact.name)
    check_triggers([artifact.trigger(concept) for concept in artifact.concepts])
    files = _files(artifact, formats, precision, preview, _embedding_keys(artifact, trigger_word))
    paths = {output_dir / name: write for name, write in files.items()}
    there = [path for path in paths if path.exists()]
    if there and not overwrite:
        raise InputError(f"{there[0]} is there already: choose another folder, or pass --overwrite")
    for path, write in paths.items():
        write_atomically(path, write)
    return list(paths)


def _embedding_keys(artifact: Artifact, trigger_word: str) -> dict[str, str]:
    """{concept: its embedding's key}. Of several vectors in lower case: diffusers then makes NAME, NAME_1, ... of it,
    and looks for them as transformers' tokenizer has written them, small."""
    if trigger_word and len(artifact.concepts) > 1:
        raise InputError(f"--trigger_word names one embedding, and {artifact.name} has {len(artifact.concepts)}")
    keys = {concept.name: trigger_word or artifact.trigger(concept) for concept in artifact.concepts}
    return {c.name: keys[c.name].lower() if c.num_vectors > 1 else keys[c.name] for c in artifact.concepts}


def _files(
    artifact: Artifact, formats: Sequence[str], precision: str, preview: Image | None, keys: dict[str, str]
) -> dict[str, Callable[[Path], None]]:
    from singleinsert.export.bundle import bundle_files
    from singleinsert.export.diffusers import diffusers_files
    from singleinsert.export.tensors import dtype_of
    from singleinsert.export.webui import webui_files

    dtype_of(precision)
    files: dict[str, Callable[[Path], None]] = {}
    for name in formats:
        if name == "webui":
            files |= webui_files(artifact, precision, preview, keys)
        elif name == "diffusers":
            files |= diffusers_files(artifact, precision, keys)
        elif name == "bundle":
            files |= bundle_files(artifact, precision, preview)
        else:
            raise InputError(f"export format '{name}' is none of {', '.join(FORMATS)}")
    return files


__all__ = ["FORMATS", "export"]
