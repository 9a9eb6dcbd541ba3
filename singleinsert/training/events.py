"""What happens in a run, as lines of JSON that any program can follow, and files by which any program can ask it.

``logs/NAME/events.jsonl`` is appended to and flushed at every event, so that a page, ``tail -f`` or a report after a
crash see the run as it is; ``losses.csv`` beside it is made from it. A file ``logs/NAME/stop`` asks the run to save its
state and leave after the step, ``logs/NAME/finish`` to end after the step with what it has learnt, and
``logs/NAME/sample`` to draw its sample prompts now: files work over NFS, under Slurm and Ray, and on Windows, where
signals do not. They are looked for once a step, and removed when they are obeyed.
"""

from __future__ import annotations

import csv
import json
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from singleinsert.atomic import write_atomically
from singleinsert.training.watch import SilentWatch

EVENTS, LOSSES = "events.jsonl", "losses.csv"
STOP, FINISH, SAMPLE = "stop", "finish", "sample"
REQUESTS = (STOP, FINISH, SAMPLE)
NOT_LOSSES = ("time", "event", "of", "seconds")
"""Of a "step" event: what is no column of the table of losses."""

Event = dict[str, Any]


class EventLog(SilentWatch):
    """Writes a run's events. Every line has "time" (unix seconds) and "event": "loading", "mask", "begun", "line",
    "step", "samples", "checkpoint", "out_of_memory", "looked", "done", "failed" or "interrupted"; a run that goes on
    appends to what is there.
    """

    def __init__(self, folder: Path) -> None:
        """``folder``: the run's logs. Nothing is written there before the run begins: a refused one leaves no trace."""
        self.folder = folder
        self._before = time.monotonic()
        self._kept: list[str] | None = []

    def loading(self, what: str) -> None:
        """Something is read that may take a while."""
        self._write("loading", what=what)

    def mask(self, file: str, class_word: str, share: float, source: str, notes: Sequence[str]) -> None:
        """A mask was given or found; ``share`` of the picture in (0, 1)."""
        self._write("mask", file=file, class_word=class_word, share=round(share, 5), source=source, notes=list(notes))

    def begin(
        self, stages: Mapping[str, int], resumed_from: str = "", costs: Mapping[str, float] | None = None,
        before: Iterable[Mapping[str, Any]] = (), like: str = "",
    ) -> None:  # fmt: skip
        """Training begins. Requests that were meant for an earlier run are gone, and so is half a line that one which
        was killed has left.

        Args:
            stages: steps by name. costs: what a step costs, against other stages' steps. like: what its steps' time
                depends on.
            before: rows of losses of a checkpoint; they are written where no events of its run are here.
        """
        self._open()
        known = bool(loss_rows(read_events(self.folder)))
        self._write("begun", stages=dict(stages), costs=dict(costs or {}), resumed_from=resumed_from, like=like)
        for row in () if known else before:
            self._write("step", of=stages.get(row["stage"], row["step"]), **row)
        self._before = time.monotonic()

    def line(self, text: str) -> None:
        self._write("line", text=text)

    def step(self, stage: str, step: int, steps: int, losses: Mapping[str, float]) -> None:
        now = time.monotonic()
        seconds, self._before = round(now - self._before, 4), now
        self._write("step", stage=stage, step=step, of=steps, seconds=seconds, **losses)

    def pictures(
        self, stage: str, step: int, prompts: Sequence[str], files: Sequence[Path], seeds: Sequence[int] = ()
    ) -> None:
        self._write("samples", stage=stage, step=step, prompts=list(prompts), files=[str(path) for path in files],
                    seeds=list(seeds))  # fmt: skip
        self._before = time.monotonic()  # what they took is no step's time

    def checkpoint(self, file: Path) -> None:
        self._write("checkpoint", file=str(file))
        self.write_losses()

    def looked(self, found: Mapping[str, Mapping[str, Any]]) -> None:
        self._write("looked", concepts=found)

    def out_of_memory(self, text: str) -> None:
        self._write("out_of_memory", text=text)

    def done(self, artifact: Path, finished_early: bool = False) -> None:
        """Everything is written."""
        self._end("done", artifact=str(artifact), finished_early=finished_early)

    def failed(self, reason: str, out_of_memory: bool = False) -> None:
        """The run has ended without its result; ``reason`` is one line."""
        self._end("failed", reason=reason, out_of_memory=out_of_memory)

    def interrupted(self, reason: str) -> None:
        """The run was asked to end and has saved its state; ``reason`` says how to go on."""
        self._end("interrupted", reason=reason)

    def asked_to_stop(self) -> int:
        return signal.SIGTERM if self._asked(STOP) else 0

    def asked_to_finish(self) -> bool:
        return self._asked(FINISH)

    def asked_for_samples(self) -> bool:
        return self._asked(SAMPLE)

    def write_losses(self) -> None:
        """The table of losses, from the events; nothing where no step was made."""
        if rows := loss_rows(read_events(self.folder)):
            write_table(rows, self.folder / LOSSES)

    def _open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in REQUESTS:
            (self.folder / name).unlink(missing_ok=True)
        path = self.folder / EVENTS
        if path.exists() and (text := path.read_bytes()) and not text.endswith(b"\n"):
            path.write_bytes(text[: text.rfind(b"\n") + 1])
        kept, self._kept = self._kept or [], None
        self._append(kept)

    def _end(self, event: str, **facts: Any) -> None:
        self._write(event, **facts)
        if self._kept is None:
            self.write_losses()

    def _asked(self, name: str) -> bool:
        path = self.folder / name
        if not path.exists():
            return False
        path.unlink(missing_ok=True)
        return True

    def _write(self, event: str, **facts: Any) -> None:
        text = json.dumps({"time": round(time.time(), 3), "event": event} | facts, ensure_ascii=False)
        if self._kept is not None:
            self._kept.append(text)
        else:
            self._append([text])

    def _append(self, lines: Sequence[str]) -> None:
        with (self.folder / EVENTS).open("a", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in lines)


def read_events(folder: Path) -> list[Event]:
    """The events of the run whose logs are in ``folder``, in order; [] where there are none.

    A line that is no event is left out: the last one may be half written.
    """
    try:
        lines = (folder / EVENTS).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found: list[Event] = []
    for line in lines:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict) and isinstance(event.get("event"), str):
            found.append(event)
    return found


def loss_rows(events: Iterable[Event]) -> list[Event]:
    """A row for every optimiser step: stage, step, learning_rate, loss and each term.

    A run that went on from a checkpoint makes steps again: the last of a number counts, and what an earlier try had
    after the checkpoint is dropped when that step is made anew.
    """
    rows: dict[tuple[str, int], Event] = {}
    for event in events:
        if event["event"] != "step" or not isinstance(event.get("step"), int):
            continue
        key = (str(event.get("stage")), event["step"])
        if key in rows:
            for later in list(rows)[list(rows).index(key) :]:
                del rows[later]
        rows[key] = {name: value for name, value in event.items() if name not in NOT_LOSSES}
    return list(rows.values())


def write_table(rows: Sequence[Event], path: Path) -> None:
    """Rows as CSV; terms that a stage has not are empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))

    def fill(target: Path) -> None:
        with target.open("w", newline="") as file:
            table = csv.DictWriter(file, columns)
            table.writeheader()
            table.writerows(rows)

    write_atomically(path, fill)
