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
        trigger_word: the embedding's key in its file, for diffusers; "" stands for the artifact's name.
        overwrite: replace files that are there.

    Nothing is written before everything is converted. Raises InputError where a file is there already, a
    format or precision is unknown, or the weights do not fit the precision.
    """
    from singleinsert.artifact import check

    check(artifact, artifact.name)
    files = _files(artifact, formats, precision, preview, trigger_word or artifact.name)
    paths = {output_dir / name: write for name, write in files.items()}
    there = [path for path in paths if path.exists()]
    if there and not overwrite:
        raise InputError(f"{there[0]} is there already: choose another folder, or pass --overwrite")
    for path, write in paths.items():
        write_atomically(path, write)
    return list(paths)


def _files(
    artifact: Artifact, formats: Sequence[str], precision: str, preview: Image | None, trigger_word: str
) -> dict[str, Callable[[Path], None]]:
    from singleinsert.export.bundle import bundle_files
    from singleinsert.export.diffusers import diffusers_files
    from singleinsert.export.tensors import dtype_of
    from singleinsert.export.webui import webui_files

    dtype_of(precision)
    files: dict[str, Callable[[Path], None]] = {}
    for name in formats:
        if name == "webui":
            files |= webui_files(artifact, precision, preview, trigger_word)
        elif name == "diffusers":
            files |= diffusers_files(artifact, precision, trigger_word)
        elif name == "bundle":
            files |= bundle_files(artifact, precision, preview)
        else:
            raise InputError(f"export format '{name}' is none of {', '.join(FORMATS)}")
    return files


__all__ = ["FORMATS", "export"]
