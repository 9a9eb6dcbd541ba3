"""What changes the weights of the base model; every adapter injects and ejects without a trace."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from singleinsert.adapters.base import Adapters

ADAPTERS = {
    "lora": ("singleinsert.adapters.lora", "LoraAdapters"),
    "full": ("singleinsert.adapters.full", "FullAdapters"),
    "kv": ("singleinsert.adapters.kv", "KeyValueAdapters"),
    "svd": ("singleinsert.adapters.svd", "SpectralAdapters"),
}
"""Kinds of adapters, by the name that settings have for them: module and class. Imported when one is wanted."""


def adapter_class(kind: str) -> type[Adapters]:
    """The class of a kind of adapter."""
    import importlib

    module, name = ADAPTERS[kind]
    return getattr(importlib.import_module(module), name)
