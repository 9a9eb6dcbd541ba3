"""safetensors files: read with one line for whatever is wrong with them, written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from singleinsert.atomic import write_atomically
from singleinsert.errors import InputError, ModelError, first_line

if TYPE_CHECKING:  # the heavy import is left to who reads or writes one
    from torch import Tensor

T = TypeVar("T")


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, header texts) of a safetensors file. Raises InputError or ModelError, one line each."""
    return _open(path, lambda file: {key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118


def read_safetensors_header(path: Path) -> tuple[list[str], dict[str, str]]:
    """(keys, header texts) of a safetensors file. Raises InputError or ModelError, one line each."""
    return _open(path, lambda file: list(file.keys()))


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write copies of ``tensors``, so that views and shared memory are no matter. InputError where it cannot be."""
    import torch
    from safetensors.torch import save_file

    copies = {
        key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for key, tensor in tensors.items()
    }
    write_atomically(path, lambda target: save_file(copies, target, metadata=dict(header)))


def _open(path: Path, read: Callable[[Any], T]) -> tuple[T, dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(f"no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            return read(file), file.metadata() or {}
    # a header may name types that torch has not, and shapes that do not fit the data
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError, AttributeError, KeyError) as error:
        reason = f"({first_line(error):.200}): it may be cut short"
        raise ModelError(f"{path} is not a readable safetensors file {reason}") from error
