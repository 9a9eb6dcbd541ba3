"""Masks: given, pointed at, or found from a class word. `find_mask` is the one entry point of a training run.

The names are imported when they are used: `python -m singleinsert.masks --help` needs neither torch nor Pillow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from singleinsert.masks.backends import Backends
    from singleinsert.masks.candidates import Candidate, Segmenter
    from singleinsert.masks.files import check_mask, mask_from_alpha, mask_from_file, share_of
    from singleinsert.masks.find import MaskResult, find_mask, mask_file, write_beside, write_mask

__all__ = [
    "Backends",
    "Candidate",
    "MaskResult",
    "Segmenter",
    "check_mask",
    "find_mask",
    "mask_file",
    "mask_from_alpha",
    "mask_from_file",
    "share_of",
    "write_beside",
    "write_mask",
]

MODULES = ("find", "files", "candidates", "backends")
"""Where they are defined, or at least imported."""


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in MODULES:
            found = getattr(importlib.import_module(f"{__name__}.{module}"), name, None)
            if found is not None:
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
