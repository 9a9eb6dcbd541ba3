"""The queue: what is to be done, by whom it is being done, and how it went, all of it on disk.

Each try at a job is one file, ``state/NAME.001.json``, ``NAME.002.json``, ...  Making the next one, which only one
process can (O_EXCL), is how a job is claimed; while the job runs, the file's time is touched again and again; at the
end its text says how it went. No file is ever taken away from anyone, so that there is nothing to race for: who finds
that the holder of 001 is gone makes 002. Works on any shared folder; clocks of machines may differ.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from singleinsert.atomic import remove_unfinished, write_text
from singleinsert.claims import STALE, Heart, holder, make_exclusively, process_lives, read_object

QUEUED, RUNNING, DONE, FAILED, STOPPED = "queued", "running", "done", "failed", "stopped"
ENDED = (QUEUED, DONE, FAILED, STOPPED)
"""What the text of a try that is over says; any other text is taken for one that runs, or was edited by hand."""
LOST_LIMIT = 3
"""So many workers in a row that a job may take down with it; then it has failed."""


@dataclass(frozen=True)
class State:
    """How a job stands. ``attempt`` counts from 1, 0 where there was none; ``record`` is the last one's text."""

    state: str
    attempt: int
    record: Mapping[str, Any]
    lost: int = 0

    @property
    def reason(self) -> str:
        return str(self.record.get("reason", ""))


@dataclass(frozen=True)
class Claim:
    """The right to do a job, held by this process until :meth:`Queue.finish`."""

    name: str
    attempt: int
    path: Path
    started: float


class Queue:
    """The jobs of a batch.

    Failures from before this object was made, and jobs that were stopped before, are to be tried again; what fails or
    is stopped later is left.

    Args:
        folder: where the states are kept, made with the first of them.
        names: the jobs, in the order in which they are wanted.
        again: False: no job is tried again unless :meth:`ask_again` asks for it.

    Attributes:
        missing: jobs that are done and whose results were taken away since; to be set by who knows.
    """

    def __init__(self, folder: Path, names: Iterable[str], again: bool = True) -> None:
        self.folder, self.names = folder, list(names)
        self.missing: set[str] = set()
        self._before = self._attempts() if again else {}
        self._seen: dict[Path, tuple[int, float]] = {}
        self._heart = Heart()

    def states(self) -> dict[str, State]:
        """Every job's state now."""
        attempts = self._attempts()
        return {name: self._state(name, attempts.get(name, 0)) for name in self.names}

    def claim(self, prefer: Callable[[str], bool] = lambda name: False) -> Claim | None:
        """The next job that nobody has, those that ``prefer`` names first; None where there is none now."""
        states = self.states()
        for name in sorted(self.names, key=lambda name: not prefer(name)):
            state = states[name]
            if not self._wanted(name, state):
                continue
            claim = self._take(name, state.attempt + 1)
            if claim is not None and state.lost >= LOST_LIMIT:
                reason = f"took {state.lost} workers down with it, each killed without a word (out of memory?)"
                self.finish(claim, FAILED, reason)
            elif claim is not None:
                return claim
        return None

    def claim_this(self, name: str) -> Claim | None:
        """The job of that name, whatever its state; None where another process is quicker."""
        return self._take(name, self._attempts().get(name, 0) + 1)

    def ask_again(self, name: str) -> bool:
        """Let a job that failed or was stopped be taken again; False where it is queued, running or done, or another
        process was quicker."""
        state = self.states()[name]
        if state.state not in (FAILED, STOPPED):
            return False
        self.folder.mkdir(parents=True, exist_ok=True)
        return make_exclusively(self._path(name, state.attempt + 1), time.time(), state=QUEUED)

    def settled(self) -> bool:
        """Is nothing left to do, nor being done?"""
        return not any(s.state == RUNNING or self._wanted(name, s) for name, s in self.states().items())

    def finish(self, claim: Claim, state: str, reason: str = "", log: str = "") -> None:
        """Write how the job went; it is then nobody's."""
        self._heart.leave(claim.path)
        seconds = round(time.time() - claim.started, 1)
        record = holder(claim.started) | {"state": state, "reason": reason, "seconds": seconds}
        if log:
            write_text(claim.path.with_suffix(".log"), log)
        write_text(claim.path, json.dumps(record, indent=1) + "\n")
        remove_unfinished(self.folder, claim.path.stat().st_mtime - STALE)

    def _wanted(self, name: str, state: State) -> bool:
        """Is the job to be done, and free?"""
        old = state.attempt <= self._before.get(name, 0)
        lost = state.state == DONE and name in self.missing  # one that runs has no results yet, and is not lost
        return state.state == QUEUED or (old and (state.state in (FAILED, STOPPED) or lost))

    def _state(self, name: str, attempt: int) -> State:
        if attempt == 0:
            return State(QUEUED, 0, {})
        path = self._path(name, attempt)
        record = read_object(path)
        if record.get("state") in ENDED:
            return State(str(record["state"]), attempt, record)
        if self._alive(path, record):
            return State(RUNNING, attempt, record)
        return State(QUEUED, attempt, record, self._lost_since_start(name, attempt))

    def _lost_since_start(self, name: str, attempt: int) -> int:
        lost = 0
        while attempt > self._before.get(name, 0) and read_object(self._path(name, attempt)).get("state") == RUNNING:
            attempt, lost = attempt - 1, lost + 1
        return lost

    def _alive(self, path: Path, record: Mapping[str, Any]) -> bool:
        """Is its holder? A record that cannot be read was made by someone who wrote no further, on any machine."""
        lives = process_lives(record)
        if lives is not None:
            return lives
        try:
            touched = path.stat().st_mtime_ns
        except OSError:
            return True
        now = time.monotonic()
        known, since = self._seen.setdefault(path, (touched, now))
        if known != touched:
            self._seen[path] = (touched, now)
        return known != touched or now - since < STALE

    def _take(self, name: str, attempt: int) -> Claim | None:
        path, started = self._path(name, attempt), time.time()
        self.folder.mkdir(parents=True, exist_ok=True)
        if not make_exclusively(path, started, state=RUNNING):
            return None
        self._heart.keep(path)
        return Claim(name, attempt, path, started)

    def _attempts(self) -> dict[str, int]:
        """Number of the last try at each job."""
        last: dict[str, int] = {}
        for entry in os.scandir(self.folder) if self.folder.is_dir() else ():
            name, _, number = entry.name.removesuffix(".json").rpartition(".")
            if entry.name.endswith(".json") and number.isdigit() and not entry.name.startswith("."):
                last[name] = max(last.get(name, 0), int(number))
        return last

    def _path(self, name: str, attempt: int) -> Path:
        return self.folder / f"{name}.{attempt:03d}.json"
