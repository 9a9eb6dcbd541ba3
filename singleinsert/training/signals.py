"""Ctrl-C and SIGTERM: finish the step, save, leave."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any

from singleinsert.errors import SingleInsertError


class Interrupted(SingleInsertError):
    """The run was asked to stop and has saved its state. ``exit_code`` is 128 + the signal, as shells have it."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signum


class StopSignal:
    """Within it, the first Ctrl-C or SIGTERM sets ``received``; a second one acts at once, as if nothing were here."""

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread set handlers
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._before[signum] = signal.signal(signum, self._receive)
        return self

    def __exit__(self, *exception: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before.clear()

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        self.received = signum
        print("\nfinishing the step to save it; once more leaves at once, without", file=sys.stderr, flush=True)
        self.__exit__()
