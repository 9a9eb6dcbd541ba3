"""What happens in a run, as lines of JSON that any program can follow, and files by which any program can ask it.

``logs/NAME/events.jsonl`` is appended to and flushed at every event, so that a page, ``tail -f`` or a report after a
crash see the run as it is. A file ``logs/NAME/stop`` asks the run to save its state and leave after the step, and
``logs/NAME/sample`` to draw its sample prompts now: files work over NFS, under Slurm and Ray, and on Windows, where
signals do not. Both are looked for once a step, and removed when they are obeyed.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from singleinsert.training.watch import SilentWatch

EVENTS, STOP, SAMPLE = "events.jsonl", "stop", "sample"


class EventLog(SilentWatch):
    """Writes a run's events. Every line has "time" (unix seconds) and "event": "begun", "line", "step", "samples",
    "checkpoint", "looked", "done" or "failed"; a run that goes on appends to what is there.
    """

    def __init__(self, folder: Path) -> None:
        """``folder``: the run's logs."""
        self.folder = folder
        self._before = time.monotonic()

    def begin(self, stages: Mapping[str, int], resumed_from: str = "") -> None:
        """The run begins; ``stages``: steps by name. Requests that were meant for an earlier one are gone."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in (STOP, SAMPLE):
            (self.folder / name).unlink(missing_ok=True)
        self._write("begun", stages=dict(stages), resumed_from=resumed_from)

    def line(self, text: str) -> None:
        self._write("line", text=text)

    def step(self, stage: str, step: int, steps: int, losses: Mapping[str, float]) -> None:
        now = time.monotonic()
        seconds, self._before = round(now - self._before, 4), now
        self._write("step", stage=stage, step=step, of=steps, seconds=seconds, **losses)

    def pictures(self, stage: str, step: int, prompts: Sequence[str], files: Sequence[Path]) -> None:
        self._write("samples", stage=stage, step=step, prompts=list(prompts), files=[str(path) for path in files])

    def checkpoint(self, file: Path) -> None:
        self._write("checkpoint", file=str(file))

    def looked(self, found: Mapping[str, Mapping[str, Any]]) -> None:
        self._write("looked", concepts=found)

    def done(self, artifact: Path) -> None:
        """Everything is written."""
        self._write("done", artifact=str(artifact))

    def failed(self, reason: str) -> None:
        """The run has ended without its result; ``reason`` is one line."""
        self._write("failed", reason=reason)

    def interrupted(self, reason: str) -> None:
        """The run was asked to end and has saved its state; ``reason`` says how to go on."""
        self._write("interrupted", reason=reason)

    def asked_to_stop(self) -> int:
        return signal.SIGTERM if self._asked(STOP) else 0

    def asked_for_samples(self) -> bool:
        return self._asked(SAMPLE)

    def _asked(self, name: str) -> bool:
        path = self.folder / name
        if not path.exists():
            return False
        path.unlink(missing_ok=True)
        return True

    def _write(self, event: str, **facts: Any) -> None:
        text = json.dumps({"time": round(time.time(), 3), "event": event} | facts, ensure_ascii=False)
        with (self.folder / EVENTS).open("a", encoding="utf-8") as file:
            file.write(text + "\n")
