"""Standard output and error that may go away, as they do behind ``| head`` or with a terminal, and end nothing."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

GONE = (errno.EPIPE, errno.EIO, errno.ESHUTDOWN)
"""The reader has closed the pipe; the terminal was closed."""


class Unbreakable:
    """A stream whose reader may leave: what is written after that is lost in silence."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, act: Callable[[], object]) -> None:
        try:
            act()
        except OSError as problem:
            if problem.errno not in GONE:
                raise
            self._to_nowhere()

    def _to_nowhere(self) -> None:
        """What is still buffered, and flushed when Python ends, goes there too."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, self._stream.fileno())
        except (OSError, ValueError, AttributeError):  # a stream without a file: nothing will fail later
            pass
        finally:
            os.close(nowhere)


@contextmanager
def unbreakable_streams() -> Iterator[None]:
    """Within it, and when Python flushes them at its end, no message can stop the program."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Unbreakable(before[0]), Unbreakable(before[1])
    try:
        yield
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        sys.stdout, sys.stderr = before
