"""ComfyUI's model folders as this pack sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .concepts import Concept, ConceptError, find_concepts


def folder_paths() -> Any:
    """ComfyUI's own module of this name."""
    import folder_paths as paths

    return paths


def list_files(kind: str) -> dict[str, Path]:
    """Name in ComfyUI's list -> file, of "embeddings" or "loras"; safetensors alone."""
    paths = folder_paths()
    names = [name for name in paths.get_filename_list(kind) if name.lower().endswith(".safetensors")]
    files = {name: paths.get_full_path(kind, name) for name in names}
    return {name.replace("\\", "/"): Path(file) for name, file in files.items() if file}


def concepts() -> dict[str, Concept]:
    """All concepts by name, as the folders are now."""
    return find_concepts(list_files("embeddings"), list_files("loras"))


def concept(name: str) -> Concept:
    """One of them.

    Raises:
        ConceptError: there is none of this name.
    """
    known = concepts()
    if name not in known:
        raise ConceptError(
            f"no concept {name!r}: copy NAME.safetensors into models/embeddings and NAME_lora.safetensors into "
            f"models/loras ({', '.join(known) or 'none is'} there now)"
        )
    return known[name]
