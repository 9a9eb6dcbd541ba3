"""Checkpoints: the whole state of a run in one safetensors file, there whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from singleinsert.config import FREE_SECTIONS, keys_declared, values_off
from singleinsert.errors import ConfigError, ModelError
from singleinsert.tensorfile import read_safetensors, write_safetensors
from singleinsert.terms import STAGES
from singleinsert.training.files import LATEST, checkpoint_path, checkpoints, find_checkpoint

_HEADER = "singleinsert_checkpoint"


def save_checkpoint(folder: Path, global_step: int, state: dict[str, Any], limit: int = 0) -> Path:
    """Write ``folder/step_<n>.safetensors``; keep the newest ``limit`` (0: all).

    Args:
        state: nested dicts and lists of tensors, numbers, strings, None.
    """
    tensors: dict[str, Tensor] = {}
    header = json.dumps(_pack(state, "", tensors))
    path = checkpoint_path(folder, global_step)
    write_safetensors(path, tensors, {_HEADER: header})
    if limit:
        for old in checkpoints(folder)[:-limit]:
            old.unlink()
    return path


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state that :func:`save_checkpoint` was given, tensors on the CPU. ModelError where it is no checkpoint."""
    tensors, texts = read_safetensors(path)
    try:
        return _unpack(json.loads(texts[_HEADER]), tensors)
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise ModelError(f"{path} is not a checkpoint of a training run, or is damaged: {error!r:.200}") from error


SHAPE: dict[str, Any] = {
    "stage": int, "step": int, "parameters": dict, "optimizer": (dict, type(None)), "lr_scheduler": (dict, type(None)),
    "scaler": (dict, type(None)), "losses": list, "bank": (Tensor, type(None)), "identity": dict,
}  # fmt: skip
"""What a run's state holds, and of which type."""
GONE = {"average"}
"""What checkpoints held once, and nothing reads any more."""


def check_state(path: Path, state: Any) -> None:
    """ModelError where a checkpoint's content is not built as a run's state is."""
    if not isinstance(state, dict) or set(state) - GONE != set(SHAPE):
        found = ", ".join(map(str, state)) if isinstance(state, dict) else type(state).__name__
        raise _damaged(path, f"it holds {found:.200}")
    for key, kind in SHAPE.items():
        if not isinstance(state[key], kind) or isinstance(state[key], bool):
            raise _damaged(path, f"its {key} is {state[key]!r:.100}")
    for name, value in state["parameters"].items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or not value.is_floating_point():
            raise _damaged(path, f"its parameter {name!r:.100} is no tensor of numbers")
        if not bool(torch.isfinite(value).all()):
            raise ModelError(f"checkpoint {path}: {name} holds NaN or infinity, the training diverged: begin anew")
    for row in state["losses"]:
        if not isinstance(row, dict) or row.get("stage") not in STAGES or type(row.get("step")) is not int:
            raise _damaged(path, f"a row of its losses is {row!r:.100}")


def check_place(path: Path, state: dict[str, Any], steps: Mapping[str, int]) -> None:
    """ModelError where a checkpoint stands at a step that its own run had not; ConfigError where ours has fewer.

    Args:
        steps: of each stage that ours has, by name.
    """
    stage, step, begun = state["stage"], state["step"], _begun(state)
    if not 0 <= stage == len(begun) - 1 or not 0 <= step <= state["identity"][f"{begun[stage]}.steps"]:
        raise _damaged(path, f"it stands at step {step} of stage {stage + 1}")
    own = begun[stage]
    if own not in steps or step > steps[own]:
        raise ConfigError(
            f"checkpoint {path} has made {step} steps of {own}: set {own}.steps to {max(step, 1)} or more"
        )
    if step == steps[own] or (state["optimizer"] is not None and state["lr_scheduler"] is not None):
        return
    if is_grown(state, steps):
        raise ConfigError(f"checkpoint {path} was written when {own} was over, and cannot be given more steps of it")
    raise _damaged(path, "it has no optimizer")


def is_grown(state: dict[str, Any], steps: Mapping[str, int]) -> bool:
    """Has our run another number of steps in the stage in which the checkpoint stands?"""
    own = _begun(state)[-1]
    return bool(state["identity"][f"{own}.steps"] != steps[own])


def _damaged(path: Path, what: str) -> ModelError:
    return ModelError(f"checkpoint {path} is damaged: {what}; go on from another, or begin anew")


def not_reached(state: dict[str, Any]) -> set[str]:
    """Sections and keys of the settings that say nothing of a checkpoint yet: those of the stages after its own, the
    number of its own's steps, the adapter's while there is none, what stage I keeps for later. A run that differs in
    these alone can go on from it."""
    begun = _begun(state)
    later = {*STAGES[STAGES.index(begun[-1]) + 1 :], f"{begun[-1]}.steps"} if begun else set()
    kept = {"run.teacher_bank"} if len(begun) == 1 else set()
    return later | (set() if has_adapters(state) else {"adapter"}) | kept


def _begun(state: dict[str, Any]) -> list[str]:
    """The stages of a checkpoint's run that had begun, its own the last."""
    numbers = {name: state["identity"].get(f"{name}.steps") for name in STAGES}
    return [name for name in STAGES if type(numbers[name]) is int and numbers[name] > 0][: state["stage"] + 1]


def has_adapters(state: dict[str, Any]) -> bool:
    """Does a checkpoint's state hold changes of the model's weights?"""
    return any(not name.startswith("concept.") for name in state["parameters"])


def check_same_run(path: Path, ours: dict[str, Any], theirs: dict[str, Any], free: Collection[str] = ()) -> None:
    """Refuse a checkpoint of another run, naming the first setting that differs.

    Args:
        ours, theirs: flat ``{"section.key": value}``, with the digest of picture and mask as "data.digest".
        free: sections and keys that may differ, see :func:`not_reached`.
    """
    unimportant, offs = keys_declared("free") | {*free}, values_off()
    for key in sorted(set(ours) | set(theirs)):
        section = key.split(".")[0]
        before, now = (identity.get(key, offs.get(key)) for identity in (theirs, ours))
        if {key, section} & {*unimportant, *FREE_SECTIONS} or before == now:
            continue
        if key == "data.digest":
            raise ConfigError(f"checkpoint {path} is of another picture or mask: resume with the ones it was made from")
        raise ConfigError(f"checkpoint {path} is of another run: {key} was {before!r} there and is {now!r} here")


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


__all__ = [
    "LATEST", "check_place", "check_same_run", "check_state", "checkpoint_path", "checkpoints", "digest",
    "find_checkpoint", "is_grown", "load_checkpoint", "not_reached", "save_checkpoint",
]  # fmt: skip
