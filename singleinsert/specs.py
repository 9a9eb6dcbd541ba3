"""What ``--concept`` and ``--resume_from_checkpoint`` name, looked at before anything heavy is imported."""

from __future__ import annotations

import math
import os
from pathlib import Path

from singleinsert.errors import InputError

OUTPUT = Path("output")
"""Where training runs write when not told otherwise."""
LARGEST_WEIGHT = 100.0
"""Of a LoRA. Pictures fall apart long before; far beyond, they are black."""


def located(where: str | Path) -> Path:
    """``where`` as a path; a plain name that is no path here stands for ``output/NAME``. InputError for no path."""
    path = Path(where)
    try:
        return OUTPUT / path if not path.exists() and len(path.parts) == 1 and (OUTPUT / path).is_dir() else path
    except (OSError, ValueError) as error:  # a zero byte, a name too long
        raise InputError(f"no concept {str(where)!r:.100}: it cannot be a path ({error})") from error


def split_weight(spec: str) -> tuple[str, float]:
    """(path, weight) of ``PATH`` or ``PATH:WEIGHT``. InputError where the weight is none that a picture survives."""
    path, colon, number = spec.rpartition(":")
    if not colon or located(spec).exists() or len(path) == 1:  # a drive letter's colon is none of ours
        return spec, 1.0
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise InputError(f"--concept {spec}: the weight after the colon, '{number}', is no number")
    if abs(weight) > LARGEST_WEIGHT:
        raise InputError(f"--concept {spec}: a LoRA's weight is at most {LARGEST_WEIGHT:g}; 1 is usual")
    return path, weight


def check_concept(spec: str) -> None:
    """InputError where a ``--concept`` names nothing that is there."""
    where, _ = split_weight(spec)
    if located(where).exists():
        return
    if "+" in where:
        for part in where.rsplit("+", 1):
            if not Path(part).is_file():
                raise InputError(f"no file {part}")
        return
    raise InputError(f"no concept '{where}': neither a file, nor a folder, nor a name under {OUTPUT}{os.sep}")
