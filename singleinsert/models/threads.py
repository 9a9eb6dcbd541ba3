"""How many threads torch takes on the CPU, chosen by the model's size."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path

from singleinsert.models.bundled import place_of_model

OF_THE_USER = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
SMALL = 200e6
"""Bytes of weights. A smaller model's operators are done before a second thread has begun, and where other programs run
too, threads that wait for each other cost a run twice to three times its time."""


def choose_threads(source: str | Path) -> None:
    """One thread for a miniature, unless the user has said how many; torch's own choice for every other model.

    Every model that is loaded comes here, so that one process may train with a large one after a miniature. A command
    that knows its model before torch is imported comes here then, for the other libraries with threads.

    Args:
        source: what a user named: a folder, a file, a hub id or a bundled model.
    """
    if any(name in os.environ for name in OF_THE_USER):
        return
    small = 0 < bytes_of_weights(Path(place_of_model(str(source)))) < SMALL
    if "torch" in sys.modules:
        import torch

        own = _threads_of_torch()
        torch.set_num_threads(1 if small else own)
    elif small:
        os.environ["OMP_NUM_THREADS"] = "1"


def bytes_of_weights(place: Path) -> int:
    """Of a model's folder, as diffusers or transformers write it, or of one file; 0 where there is none."""
    files = [place] if place.is_file() else [*place.glob("*.safetensors"), *place.glob("*/*.safetensors")]
    return sum(path.stat().st_size for path in files)


@cache
def _threads_of_torch() -> int:
    """What torch chose when it was imported: asked before anything is changed."""
    import torch

    return torch.get_num_threads()
