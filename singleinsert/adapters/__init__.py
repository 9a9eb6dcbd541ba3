"""What changes the weights of the base model; every adapter injects and ejects without a trace.

A kind of adapter is a file of this folder that is called as the settings call it (``adapter.type``) and holds one
subclass of :class:`~singleinsert.adapters.base.Adapters`. docs/extending.md says how to add one.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from singleinsert.errors import ConfigError

if TYPE_CHECKING:
    from singleinsert.adapters.base import Adapters

_SHARED = {"__init__", "base", "folded", "naming", "parametrized", "ranks", "weights"}
"""Files of this folder that are no kind of adapter."""


def adapter_kinds() -> list[str]:
    """The values that ``adapter.type`` may have."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in _SHARED)


def adapter_class(kind: str) -> type[Adapters]:
    """The class of a kind of adapter, imported now: some are slow to import, and a run wants one.

    Raises:
        ConfigError: there is no such kind.
    """
    from singleinsert.adapters.base import Adapters

    if kind not in adapter_kinds():
        raise ConfigError(f"adapter.type {kind!r} is none of {', '.join(adapter_kinds())}")
    module = importlib.import_module(f"{__name__}.{kind}")
    found = (value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Adapters))
    return next(each for each in found if each.__module__ == module.__name__)
