"""Memory that a process has freed, kept for its next operator."""

from __future__ import annotations

import os

KEPT = 512 * 2**20
"""Bytes at most that stay with the process while nothing uses them."""
LARGEST = 32 * 2**20
"""Bytes of the largest piece that is kept; glibc takes no more."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_OF_THE_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> None:
    """Let this process keep what it frees. On Linux with glibc, unless the user has set its malloc; else nothing.

    On a CPU each operator's result is new memory. glibc hands large pieces back to the system as soon as they are free,
    and the next operator pays a page fault for every 4 KiB of its own: 4,300 in one pass of mini-sd's UNet.
    """
    if any(name in os.environ for name in _OF_THE_USER):
        return
    import ctypes

    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another system, or another library of C
        return
    mallopt(_MMAP_THRESHOLD, LARGEST)
    mallopt(_TRIM_THRESHOLD, KEPT)
