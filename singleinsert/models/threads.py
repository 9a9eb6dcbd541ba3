"""How many threads torch takes, chosen by the model's size before torch is imported."""

from __future__ import annotations

import os
from pathlib import Path

from singleinsert.models.bundled import place_of_model

OF_THE_USER = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
SMALL = 200e6
"""Bytes of weights. A smaller model's operators are done before a second thread has begun, and where other programs run
too, threads that wait for each other cost a run twice to three times its time."""


def choose_threads(source: str) -> None:
    """One thread for a miniature, unless the user has said how many; torch's own choice for every other model.

    To be called before torch is imported. ``source``: of ``model.pretrained_model_name_or_path``.
    """
    if any(name in os.environ for name in OF_THE_USER):
        return
    folder = Path(place_of_model(source))
    weights = [path.stat().st_size for path in folder.glob("*/*.safetensors")] if folder.is_dir() else []
    if weights and sum(weights) < SMALL:
        os.environ["OMP_NUM_THREADS"] = "1"
