"""Python's garbage collector, put off while modules are imported."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """To be put around imports of thousands of modules, such as torch and diffusers.

    Their million objects all stay, and yet the collector would go through them again and again, a sixth of what a
    command costs until its first step. So it rests meanwhile, and leaves out what there is then (``gc.freeze``).
    """
    was_on, before = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > before:  # not again for each run of a batch, whose own garbage would then stay
            gc.freeze()
        if was_on:
            gc.enable()
