"""What became of runs, read from their files: those of the queue, and those that anybody trained into the folder."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from singleinsert.batch.jobs import Job
from singleinsert.batch.local import clear_work
from singleinsert.batch.store import RECORD_END
from singleinsert.data.subject import name_handles
from singleinsert.errors import InputError, SingleInsertError
from singleinsert.names import problem_with_name
from singleinsert.placeholders import STAR
from singleinsert.reading import read_toml
from singleinsert.training.events import EVENTS, FINISH, SAMPLE, STOP, Event
from singleinsert.training.files import LATEST, RunFiles, find_checkpoint
from singleinsert.training.progress import TimeLeft
from singleinsert.ui.fixes import fixes_for
from singleinsert.ui.place import INPUTS, RESERVED, Place
from singleinsert.work.queue import DONE, FAILED, QUEUED, RUNNING, Claim, State

LOADING, INTERRUPTED = "loading", "interrupted"
QUIET = 120.0
"""Seconds without an event after which a run of the command line is not taken to be alive."""
HEAD = 40
"""Bytes, with the time in them, by which a file of events is known again."""
SHOWN_FILE = re.compile(r"[^/\\]+\.(png|json|toml|safetensors|csv)")


class EventReader:
    """Reads event files as they grow; what was read once is kept."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[bytes, int, int, list[Event]]] = {}
        self._lock = threading.Lock()

    def read(self, path: Path) -> list[Event]:
        """All events of a file so far; [] where there is none."""
        with self._lock:
            try:
                stat = path.stat()
            except OSError:
                self._known.pop(path, None)
                return []
            head, changed, done, events = self._known.get(path, (b"", 0, 0, []))
            if stat.st_mtime_ns == changed:
                return events
            with path.open("rb") as file:
                begins = file.read(HEAD)
                if stat.st_size <= done or not begins.startswith(head):  # another file than the one that was read
                    done, events = 0, []
                file.seek(done)
                text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            events = events + [event for line in whole.splitlines() if (event := _event(line)) is not None]
            self._known[path] = (begins, stat.st_mtime_ns, done + len(whole), events)
            return events


def _event(line: bytes) -> Event | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("event"), str) else None


@dataclass(frozen=True)
class Run:
    """A run as its files say. ``folder`` holds its files now; ``job`` and ``queued`` where it came by the queue."""

    name: str
    folder: Path
    job: Job | None
    queued: State | None
    record: dict[str, Any] | None

    @property
    def files(self) -> RunFiles:
        return RunFiles(self.folder, self.name)


class Runs:
    """The runs of a place."""

    def __init__(self, place: Place) -> None:
        self.place, self.reader = place, EventReader()

    def names(self) -> list[str]:
        """Those in the queue, then those in the folder."""
        queued = [job.name for job in self.place.jobs()[0]]
        return [*queued, *sorted(set(self._finished()) - set(queued))]

    def _finished(self) -> list[str]:
        if not self.place.folder.is_dir():
            return []
        ends = ("_artifact.safetensors", RECORD_END, "_config.toml")
        folders = [path for path in self.place.folder.iterdir() if path.is_dir() and path.name not in RESERVED]
        return [
            path.name for path in folders
            if not problem_with_name(path.name)
            and any((path / f"{path.name}{end}").is_file() for end in ends)
        ]  # fmt: skip

    def all(self) -> list[Run]:
        states = self.place.states()
        jobs = {job.name: job for job in self.place.jobs()[0]}
        return [self._run(name, jobs.get(name), states.get(name)) for name in self.names()]

    def get(self, name: str) -> Run:
        """InputError where there is none of that name; a name is no path."""
        found = next((run for run in self.all() if run.name == name), None)
        if found is None:
            raise InputError(f"there is no run called {name[:80]}: it may have been deleted")
        return found

    def _run(self, name: str, job: Job | None, state: State | None) -> Run:
        done = self.place.folder / name
        record = _record(done / f"{name}{RECORD_END}")
        folder = done
        if record is None and state is not None and state.attempt:
            tries = [self._work(name, attempt) for attempt in range(state.attempt, 0, -1)]
            folder = next((path for path in tries if path.is_dir()), tries[0])
        return Run(name, folder, job, state, record)

    def _work(self, name: str, attempt: int) -> Path:
        return self.place.hidden / "work" / f"{name}.{attempt:03d}"

    def events(self, run: Run) -> list[Event]:
        return self.reader.read(run.files.logs / EVENTS)

    # what a screen shows

    def summary(self, run: Run) -> dict[str, Any]:
        """State, progress and what can be done, as plain data."""
        events = self.events(run)
        state, reason = self._state(run, events)
        reason = self.without_folder(reason)
        progress = _progress(events)
        mask = next((event for event in reversed(events) if event["event"] == "mask"), None)
        settings = run.job.settings if run.job else None
        failed = next((event for event in reversed(events) if event["event"] == "failed"), {})
        return progress | {
            "name": run.name, "state": state, "reason": reason, "place": self._place_in_queue(run, state),
            "class_word": self._class_word(run), "base": self._base(run), "mask_share": mask and mask["share"],
            "mask_source": mask and mask["source"], "finished": run.record and run.record.get("finished"),
            "seconds": run.record and run.record.get("seconds"), "own": run.job is not None,
            "preview": self._preview(run), "sheet": run.files.sheet.name if run.files.sheet.is_file() else "",
             "prompts": list(settings.sample.prompts) if settings else [],
            "fixes": fixes_for(state, reason, bool(failed.get("out_of_memory"))),
            "asked": [name for name in (STOP, FINISH, SAMPLE) if (run.files.logs / name).exists()],
            "source": self._source(run), "things": self._things(run),
            "background": self._learns_background(run), "ended_early": self.ended_early(run),
            "state_bytes": kept.stat().st_size if (kept := self.state_file(run)) else 0,
        }  # fmt: skip

    def state_file(self, run: Run) -> Path | None:
        """The checkpoint that a finished run has kept, from which another can go on."""
        return find_checkpoint(LATEST, run.files.checkpoints) if run.record is not None else None

    def ended_early(self, run: Run) -> bool:
        """Was it asked to end before its last step?"""
        last = self.events(run)[-1:]
        return bool(last and last[0].get("finished_early"))

    def without_folder(self, reason: str) -> str:
        """A reason whose paths are seen from the folder that the page shows."""
        for folder in (f"{self.place.queue_folder}/../", f"{self.place.folder}/"):
            reason = reason.replace(folder, "")
        return reason

    def _state(self, run: Run, events: Sequence[Event]) -> tuple[str, str]:
        if run.record is not None:
            return DONE, ""
        last = events[-1] if events else {}
        if run.queued is not None:
            state, reason = run.queued.state, run.queued.reason
            began = float(run.queued.record.get("started", 0))  # events of earlier tries were copied
            if state == RUNNING and not any(e["event"] == "step" and e.get("time", 0) >= began for e in events):
                return LOADING, ""
            if state == QUEUED and run.queued.attempt and run.queued.lost:
                return QUEUED, "its worker was killed; it goes on from its last checkpoint"
            return state, reason
        if (run.folder / f"{run.name}_artifact.safetensors").is_file():
            return DONE, ""
        if last.get("event") in ("failed", "interrupted"):
            return (FAILED if last["event"] == "failed" else INTERRUPTED), str(last.get("reason", ""))
        alive = time.time() - float(last.get("time", 0)) < QUIET
        return (RUNNING, "") if alive else (INTERRUPTED, "its process is gone")

    def _place_in_queue(self, run: Run, state: str) -> int:
        if state != QUEUED:
            return 0
        waiting = [name for name, s in self.place.states().items() if s.state == QUEUED]
        return waiting.index(run.name) + 1 if run.name in waiting else 0

    def _class_word(self, run: Run) -> str:
        if run.job is not None:
            return ", ".join(run.job.settings.data.class_word)
        return str(self._card(run).get("class_word", ""))

    def _things(self, run: Run) -> list[str]:
        """What prompts call the concepts of a run that learnt several; [] where it learnt one."""
        if run.job is not None:
            return _names_of(run.job.settings.data.class_word, run.job.settings.data.handles)
        return list(self._config(run).get("things", []))

    def _learns_background(self, run: Run) -> bool:
        return run.job.settings.data.learn_background if run.job else bool(self._config(run).get("background"))

    def _base(self, run: Run) -> str:
        if run.job is not None:
            return Path(run.job.settings.model.pretrained_model_name_or_path).name
        return str(self._card(run).get("base", ""))

    def _card(self, run: Run) -> dict[str, Any]:
        """Class word and base model of a run that is not in the queue."""
        return run.record if run.record is not None else self._config(run)

    def _config(self, run: Run) -> dict[str, Any]:
        try:
            return _told_by_config(run.files.config, run.files.config.stat().st_mtime_ns)
        except OSError:
            return {}

    def _preview(self, run: Run) -> str:
        for name in (f"{run.name}.preview.png", f"{run.name}_lora.preview.png"):
            if (run.folder / name).is_file():
                return name
        return ""

    def _source(self, run: Run) -> bool:
        return self.source_picture(run) is not None

    def source_picture(self, run: Run) -> Path | None:
        """The first picture that the run learns from, where it is one of this folder's own inputs."""
        if run.job is None or not run.job.settings.data.image:
            return None
        path = Path(run.job.settings.data.image[0])
        inside = path.resolve().is_relative_to((self.place.folder / INPUTS).resolve())
        return path if inside and path.is_file() else None

    def file(self, run: Run, name: str) -> Path:
        """A file of the run by its name, of those that are there. InputError for any other."""
        folders = (run.folder, run.files.samples, run.files.logs)
        known = {path.name: path for folder in folders if folder.is_dir() for path in folder.iterdir()
                 if path.is_file() and SHOWN_FILE.fullmatch(path.name) and not path.name.startswith(".")
                 and not path.is_symlink()}  # fmt: skip
        if name not in known:
            raise InputError("there is no such file of this run")
        return known[name]

    # what a screen asks for

    def ask(self, run: Run, request: str) -> None:
        """Leave a request where the run looks for it. InputError where it does not run."""
        state, _ = self._state(run, self.events(run))
        if state != RUNNING:
            raise InputError(f"{run.name} is not training now: it is {state}")
        if request not in (STOP, FINISH, SAMPLE):
            raise InputError("that cannot be asked of a run")
        if not run.files.logs.is_dir():
            raise InputError(f"{run.name} is being prepared: ask again in a moment")
        (run.files.logs / request).touch()

    def resume(self, run: Run) -> None:
        """Let a worker go on with a run that failed or was stopped."""
        if run.job is None:
            raise InputError(f"{run.name} was not started here: {run.files.resume_command}")
        if not self.place.queue().ask_again(run.name):
            raise InputError(f"{run.name} is queued, running or done already")
        self.place.ensure_worker(asked=True)

    def delete(self, run: Run) -> None:
        """Remove a run with its inputs and everything that it has made. InputError where it runs."""
        state, _ = self._state(run, self.events(run))
        if state in (RUNNING, LOADING):
            raise InputError(f"{run.name} is running: stop it first")
        (self.place.queue_folder / f"{run.name}.toml").unlink(missing_ok=True)
        if run.queued is not None:
            claim = Claim(run.name, run.queued.attempt, Path(), 0.0)
            clear_work(self.place.hidden / "work", claim)
            for path in (self.place.hidden / "state").glob(f"{run.name}.*"):
                if re.fullmatch(rf"{re.escape(run.name)}\.\d+\.(json|log)", path.name):
                    path.unlink(missing_ok=True)
        for folder in (self.place.folder / run.name, self.place.folder / INPUTS / run.name):
            shutil.rmtree(folder, ignore_errors=True)


def _names_of(class_words: Sequence[str], names: Sequence[str]) -> list[str]:
    return [handle.name for handle in name_handles(class_words, names, STAR)] if len(class_words) > 1 else []


@lru_cache(maxsize=1000)
def _told_by_config(path: Path, changed: int) -> dict[str, Any]:
    """Class word, base model and things in a run's resolved settings, which are read once for each time they change."""
    try:
        told = read_toml(path)
        words, model = told["data"]["class_word"], told["model"]["pretrained_model_name_or_path"]
        things = _names_of(words, told["data"].get("handles", []))
        return {"class_word": ", ".join(words), "base": Path(model).name, "things": things,
                "background": told["data"].get("learn_background", False)}  # fmt: skip
    except (SingleInsertError, KeyError, TypeError, ValueError):
        return {}


def _record(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _progress(events: Sequence[Event]) -> dict[str, Any]:
    """Which step of how many, and the time left: of the last beginning, which may have gone on from a checkpoint."""
    steps: dict[str, int] = {}
    costs: dict[str, float] = {}
    stage, step, seconds, loading = "", 0, list[tuple[str, float]](), ""
    for event in events:
        kind = event["event"]
        if kind == "begun":
            steps, costs, seconds = event.get("stages", {}), event.get("costs", {}), []
        elif kind == "step":
            stage, step = str(event.get("stage")), int(event.get("step", 0))
            if "seconds" in event:
                seconds.append((stage, float(event["seconds"])))
        elif kind == "loading":
            loading = str(event.get("what", ""))
    left = TimeLeft(steps, costs)
    for name, value in seconds:
        left.add(name, value)
    before = sum(list(steps.values())[: list(steps).index(stage)]) if stage in steps else 0
    return {
        "stage": stage, "step": step, "stages": steps, "done_steps": before + step, "steps": sum(steps.values()),
        "seconds_left": left.seconds(stage, step), "loading": loading,
    }  # fmt: skip
