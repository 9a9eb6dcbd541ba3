"""Freed memory stays with the process, so that the next operator's result costs no page faults."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

ROUNDS = """
import ctypes, resource, sys
from singleinsert.heap import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
malloc, free = ctypes.CDLL(None).malloc, ctypes.CDLL(None).free
malloc.restype, malloc.argtypes, free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def step():
    pieces = [malloc(8 * 2**20) for _ in range(8)]
    for piece in pieces:
        ctypes.memset(piece, 1, 8 * 2**20)
    for piece in pieces:
        free(piece)
step(); step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how, **environment):
    found = subprocess.run(
        [sys.executable, "-c", ROUNDS, how], capture_output=True, text=True, check=True, env=environment or None
    )
    return int(found.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another library of C has other ways")
def test_what_is_freed_is_there_for_the_next_step():
    """Four steps of 64 MiB; a page has at most 2 MiB, so that all of them new are 128 faults at least."""
    assert faults("kept") < 32 <= 128 <= faults("handed back")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another library of C has other ways")
def test_a_user_who_has_set_malloc_is_not_overruled():
    assert faults("kept", MALLOC_TRIM_THRESHOLD_="131072", MALLOC_MMAP_THRESHOLD_="131072") >= 128
