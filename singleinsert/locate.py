"""What a user named, a file, a folder or a name, as the concepts in it. Damage is an error, never taken for absence."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from singleinsert.adapters.naming import is_lora
from singleinsert.artifact import HEADER_KEY, SUFFIX, Artifact
from singleinsert.errors import InputError, ModelError
from singleinsert.interchange import (
    BUNDLE_PREFIX,
    DIFFUSERS_EMBEDDING,
    DIFFUSERS_LORA,
    gather_scene,
    load_pair,
    own_description,
)
from singleinsert.specs import OUTPUT, located
from singleinsert.tensorfile import read_safetensors_header


def load_concept(where: str | Path, *, allow_pickle: bool = False) -> Artifact:
    """One concept or several from whatever the user named.

    Args:
        where: an artifact; an embedding (the LoRA beside it, ``X_lora.safetensors`` of ``X.safetensors``, goes with
            it); two files as ``EMBEDDING+LORA``; a bundle; a folder that holds one of these, or the files of one
            artifact; or a name, for ``output/NAME``.

    Raises InputError or ModelError, one line each.
    """
    path = located(where)
    there = path.exists()
    if not there and "+" in str(where):
        embedding, _, lora = str(where).rpartition("+")
        return load_pair(Path(embedding), Path(lora), allow_pickle=allow_pickle)
    if path.is_dir():
        return _from_folder(path, allow_pickle)
    if not there:
        raise InputError(f"no concept '{where}': neither a file, nor a folder, nor a name under {OUTPUT}{os.sep}")
    if path.suffix == ".safetensors" and _kind(path) == "artifact":
        return Artifact.load(path)
    return load_pair(path, _lora_of(path), allow_pickle=allow_pickle)


def _lora_of(embedding: Path) -> Path | None:
    """The LoRA file that goes with an embedding's: what its header names, else what is called like it; if there."""
    names = [f"{embedding.stem}_lora"]
    if embedding.suffix == ".safetensors":
        names = [own_description(embedding).lora_file, *names]
    found = (embedding.with_name(f"{name}.safetensors") for name in names if name and Path(name).name == name)
    return next((path for path in found if path.is_file()), None)


def _from_folder(folder: Path, allow_pickle: bool) -> Artifact:
    """The folder's artifact, else its embeddings and LoRA; of several, what is called like the folder."""
    kinds = {path: _kind(path) for path in sorted(folder.glob("*.safetensors")) if not path.name.startswith(".")}
    artifact = _one([path for path, kind in kinds.items() if kind == "artifact"], folder, "artifacts")
    if artifact is not None:
        return Artifact.load(artifact)
    plain = [path for path, kind in kinds.items() if kind == "embedding"]
    scenes = {own_description(path).scene for path in plain}
    if len(plain) > 1 and len(scenes) == 1 and (scene := scenes.pop()):
        parts = [load_pair(path, _scene_lora(path, folder), allow_pickle=allow_pickle) for path in plain]
        return gather_scene(parts, scene)
    embedding = _one(plain or [path for path, kind in kinds.items() if kind == "bundle"], folder, "embeddings")
    if embedding is None:
        begun = sorted(folder.glob("*_config.toml")) if (folder / "checkpoints").is_dir() else []
        more = f": go on with --config_file {begun[0]} --resume_from_checkpoint latest" if begun else ""
        raise InputError(f"{folder} holds no artifact and no embedding (.safetensors){more}")
    others = [path for path, kind in kinds.items() if kind == "lora"]
    lora = _lora_of(embedding) or _one(others, folder, "LoRA files")
    concept = load_pair(embedding, lora, allow_pickle=allow_pickle)
    if embedding.name != DIFFUSERS_EMBEDDING:
        return concept
    name = folder.resolve().name.removesuffix("_diffusers")
    return replace(concept, name=name, concepts=(replace(concept.concept, name=name),))


def _scene_lora(embedding: Path, folder: Path) -> Path | None:
    """A scene's LoRA. ModelError where its header names one and the folder has none: it is not drawn without."""
    default = folder / DIFFUSERS_LORA
    found = _lora_of(embedding) or (default if default.is_file() else None)
    if found is None and (name := own_description(embedding).lora_file):
        raise ModelError(f"{embedding} goes with {name}.safetensors, which is not in {folder}: put it there")
    return found


def _one(paths: list[Path], folder: Path, what: str) -> Path | None:
    """The one path, or the one called like the folder; None of none. InputError where it is unclear."""
    named = [path for path in paths if path.stem.removesuffix("_artifact") == folder.resolve().name]
    if len(named or paths) > 1:
        raise InputError(f"{folder} holds several {what} ({', '.join(path.name for path in paths)}): name the file")
    return next(iter(named or paths), None)


def _kind(path: Path) -> str:
    """What a safetensors file is: "artifact", "lora", "embedding", "bundle", or "" for anything else.

    A damaged artifact is one too: what it holds must not be taken from the rounded files beside it without a word.
    ModelError where the file cannot be read: without it, less than everything would be loaded.
    """
    if path.name.endswith(SUFFIX):
        return "artifact"
    keys, header = read_safetensors_header(path)
    if HEADER_KEY in header and "version" in header[HEADER_KEY] and any(k.startswith("embedding") for k in keys):
        return "artifact"
    if any(key.startswith(BUNDLE_PREFIX) for key in keys):
        return "bundle"
    if is_lora(keys):
        return "lora"
    return "embedding" if len(keys) == 1 or set(keys) == {"clip_l", "clip_g"} else ""
