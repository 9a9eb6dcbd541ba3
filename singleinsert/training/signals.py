"""Ctrl-C, SIGTERM, and SIGHUP of a terminal that is closed: finish the step, save, leave."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from singleinsert.errors import SingleInsertError


def launched_by_accelerate() -> bool:
    """Was this process started by ``accelerate launch``?"""
    return "ACCELERATE_MIXED_PRECISION" in os.environ


class Interrupted(SingleInsertError):
    """The run was asked to stop and has saved its state.

    Attributes:
        exit_code: 128 + the signal, as shells have it. by_request: not this process was told, by a signal, but the run,
            by its stop file.
    """

    def __init__(self, signum: int, message: str, by_request: bool = False) -> None:
        super().__init__(message)
        self.exit_code, self.by_request = 128 + signum, by_request


def stopping_signals() -> list[signal.Signals]:
    """What asks a run to stop, but for what it was started to ignore: ``nohup`` does so with SIGHUP."""
    wanted = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    return [one for one in wanted if one == signal.SIGINT or signal.getsignal(one) is not signal.SIG_IGN]


class StopSignal:
    """Within it, the first Ctrl-C, SIGTERM or SIGHUP sets ``received``; a second one acts at once."""

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread set handlers
            for signum in stopping_signals():
                self._before[signum] = signal.signal(signum, self._receive)
        return self

    def __exit__(self, *exception: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before.clear()

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        self.received = signum
        launched = (
            "; the launcher may leave first, a line will say when it is saved" if launched_by_accelerate() else ""
        )
        text = f"\nfinishing the step to save it{launched}; once more leaves at once, without"
        print(text, file=sys.stderr, flush=True)
        self.__exit__()
