"""Masks: given, pointed at, or found from a class word. `find_mask` is the one entry point of a training run.

Names are imported when they are asked for, so that the command line's help waits for nothing heavy.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from singleinsert.masks.backends import Backends
    from singleinsert.masks.candidates import Candidate, Segmenter
    from singleinsert.masks.files import check_mask, mask_from_alpha, mask_from_file, paired_mask, share_of
    from singleinsert.masks.find import MaskResult, find_mask, write_mask

__all__ = [
    "Backends",
    "Candidate",
    "MaskResult",
    "Segmenter",
    "check_mask",
    "find_mask",
    "mask_from_alpha",
    "mask_from_file",
    "paired_mask",
    "share_of",
    "write_mask",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in __all__:
        for home in ("backends", "candidates", "files", "find"):
            module = import_module(f"{__name__}.{home}")
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
