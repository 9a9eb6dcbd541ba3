"""Masks: given, pointed at, or found from a class word. `find_mask` is the one entry point of a training run."""

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
