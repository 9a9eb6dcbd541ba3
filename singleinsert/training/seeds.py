"""Named generators: every random number depends on the run's seed and on what it is for, and on nothing else.

A step's draws need no generator state to be saved, and do not depend on the device, the number of processes, the
micro-batch or on what was drawn before.
"""

from __future__ import annotations

import hashlib

import torch


def named_generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator for ``names``, such as ``named_generator(seed, "stage1", "draws", step, sample)``."""
    text = "/".join(str(part) for part in (seed, *names))
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
