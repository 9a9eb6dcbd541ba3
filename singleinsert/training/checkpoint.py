"""Checkpoints: the whole state of a run in one safetensors file, there whole or not at all."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from singleinsert.atomic import write_atomically
from singleinsert.config import FREE_SECTIONS, keys_declared
from singleinsert.errors import ConfigError, InputError, ModelError
from singleinsert.terms import STAGES

LATEST = "latest"
_NAME = re.compile(r"step_(\d+)\.safetensors$")
_HEADER = "singleinsert_checkpoint"


def save_checkpoint(folder: Path, global_step: int, state: dict[str, Any], limit: int = 0) -> Path:
    """Write ``folder/step_<n>.safetensors``; keep the newest ``limit`` (0: all).

    Args:
        state: nested dicts and lists of tensors, numbers, strings, None.
    """
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    header = json.dumps(_pack(state, "", tensors))
    path = checkpoint_path(folder, global_step)
    write_atomically(path, lambda target: save_file(tensors, target, metadata={_HEADER: header}))
    if limit:
        for old in checkpoints(folder)[:-limit]:
            old.unlink()
    return path


def checkpoint_path(folder: Path, global_step: int) -> Path:
    """Where :func:`save_checkpoint` puts it."""
    return folder / f"step_{global_step:06d}.safetensors"


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state that :func:`save_checkpoint` was given, tensors on the CPU. ModelError where it is no checkpoint."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {})[_HEADER]
            return _unpack(json.loads(header), {key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ModelError(f"{path} is not a checkpoint of a training run, or is cut short: {error}") from error


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, oldest step first."""
    found = [path for path in folder.glob("step_*.safetensors") if _NAME.search(path.name)]
    return sorted(found, key=lambda path: int(_NAME.search(path.name)[1]))  # type: ignore[index]


def find_checkpoint(asked: str, folder: Path) -> Path | None:
    """The file behind ``--resume_from_checkpoint``: "latest" in ``folder`` (None if there is none yet) or a path.

    Raises:
        InputError: a path that is not there.
    """
    if asked == LATEST:
        return next(reversed(checkpoints(folder)), None)
    path = Path(asked)
    if path.is_dir():
        newest = next(reversed(checkpoints(path)), None)
        if newest is None:
            raise InputError(f"no checkpoint in folder {path}: its files are called step_<n>.safetensors")
        return newest
    if not path.is_file():
        raise InputError(f"no checkpoint {path}: give a file, a folder of them, or {LATEST}")
    return path


def not_reached(state: dict[str, Any]) -> set[str]:
    """Sections of the settings that say nothing of a checkpoint yet: those of the stages after its own, and the
    adapter's while there is none. A run that differs in these alone can go on from it."""
    begun = [name for name in STAGES if state["identity"].get(f"{name}.steps")][: state["stage"] + 1]
    adapted = any(not name.startswith("concept.") for name in state["parameters"])
    later = STAGES[STAGES.index(begun[-1]) + 1 :] if begun else ()
    return {*later} | (set() if adapted else {"adapter"})


def check_same_run(path: Path, ours: dict[str, Any], theirs: dict[str, Any], free: Collection[str] = ()) -> None:
    """Refuse a checkpoint of another run, naming the first setting that differs.

    Args:
        ours, theirs: flat ``{"section.key": value}``, with the digest of picture and mask as "data.digest".
        free: sections that may differ, see :func:`not_reached`.
    """
    unimportant = keys_declared("free")
    for key in sorted(set(ours) | set(theirs)):
        section = key.split(".")[0]
        if key in unimportant or section in FREE_SECTIONS or section in free or ours.get(key) == theirs.get(key):
            continue
        if key == "data.digest":
            raise ConfigError(f"checkpoint {path} is of another picture or mask: resume with the ones it was made from")
        raise ConfigError(
            f"checkpoint {path} is of another run: {key} was {theirs.get(key)!r} there and is {ours.get(key)!r} here"
        )


def _pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """JSON with ``{"tensor": name}`` where ``value`` has a tensor; tuples become lists, keys strings or ints."""
    if isinstance(value, Tensor):
        stored = value.detach().cpu().contiguous()
        # bitsandbytes shares a table between parameters, which safetensors refuses
        shared = any(stored.data_ptr() == other.data_ptr() for other in tensors.values())
        tensors[name] = stored.clone() if shared else stored
        return {"tensor": name}
    if isinstance(value, dict):
        return {"items": [[key, _pack(item, f"{name}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_pack(item, f"{name}/{i}", tensors) for i, item in enumerate(value)]
    return value


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: _unpack(item, tensors) for key, item in value["items"]}
    return [_unpack(item, tensors) for item in value] if isinstance(value, list) else value


def digest(*tensors: Tensor) -> str:
    """A short fingerprint of tensors' contents."""
    import hashlib

    text = b"".join(tensor.detach().to("cpu", torch.float32).numpy().tobytes() for tensor in tensors)
    return hashlib.sha256(text).hexdigest()[:16]
