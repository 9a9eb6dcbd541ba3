"""The folder that the page shows: where its drafts, inputs, queue and concepts lie, and who works there."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from singleinsert.batch.growing import live_workers
from singleinsert.batch.jobs import HIDDEN, PAUSED, QUEUE, Job, read_jobs
from singleinsert.claims import this_host
from singleinsert.config.load import nearest
from singleinsert.errors import ConfigError, InputError, SingleInsertError
from singleinsert.reading import expanded, read_toml
from singleinsert.work.queue import QUEUED, Queue, State

OWN = ".ui"
"""The page's hidden folder."""
DRAFTS, INPUTS = "drafts", "inputs"
RESERVED = (QUEUE, DRAFTS, INPUTS, "samples", "logs", "checkpoints", "pictures", "evaluation")
"""Names in the folder that no concept may have."""
SETTINGS_FILE = "ui.toml"
SETTINGS = {
    "models": "folders of base models",
    "clients": "folders of A1111, Forge or ComfyUI",
    "comfyui": "its address",
}
COMFYUI = "http://127.0.0.1:8188"
STAY = 900
"""Seconds that a worker which the page has started waits for more."""


@dataclass
class Place:
    """A folder, and what the program that serves it was told.

    Attributes:
        models: folders whose base models may be chosen. clients: folders of WebUIs into which files may be copied.
        comfyui: address of a running ComfyUI on this machine.
    """

    folder: Path
    models: Sequence[Path] = ()
    clients: Sequence[Path] = ()
    comfyui: str = COMFYUI
    starts_workers: bool = True
    _child: subprocess.Popen[bytes] | None = None
    _crashed: str = ""
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _jobs: tuple[tuple[Any, ...], list[Job], list[str]] = ((), [], [])

    @property
    def queue_folder(self) -> Path:
        return self.folder / QUEUE

    @property
    def hidden(self) -> Path:
        return self.folder / HIDDEN

    @property
    def worker_log(self) -> Path:
        return self.hidden / "worker.log"

    @property
    def paused(self) -> bool:
        return (self.queue_folder / PAUSED).exists()

    def set_paused(self, paused: bool) -> None:
        path = self.queue_folder / PAUSED
        if paused:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        else:
            path.unlink(missing_ok=True)

    def jobs(self) -> tuple[list[Job], list[str]]:
        """The jobs of the queue's lists, and what is wrong with others; read anew when a file has changed."""
        mark = _mark_of(self.queue_folder)
        with self._lock:
            if mark != self._jobs[0]:
                try:
                    jobs, problems = read_jobs(self.folder, self.folder) if mark else ([], [])
                except SingleInsertError:  # no list in it
                    jobs, problems = [], []
                self._jobs = (mark, jobs, problems)
            return self._jobs[1], self._jobs[2]

    def queue(self) -> Queue:
        return Queue(self.hidden / "state", [job.name for job in self.jobs()[0]], again=False)

    def states(self) -> dict[str, State]:
        return self.queue().states()

    # workers

    def workers(self) -> list[dict[str, Any]]:
        """Those that wait for jobs here, on any machine."""
        return live_workers(self.folder)

    def starting(self) -> bool:
        """Is a worker that this program has started not yet at work?"""
        return self._child is not None and self._child.poll() is None

    @property
    def crashed(self) -> str:
        """Why no worker is started any more: the last line of one that ended by an error of its own; "" otherwise."""
        self._see_child()
        return self._crashed

    def _see_child(self) -> None:
        if self._child is None or (code := self._child.poll()) is None:
            return
        if code > 0:  # below 0 it was killed, and another one goes on
            lines = self.worker_log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            self._crashed = lines[-1] if lines else f"it left with exit code {code}"
        self._child = None

    def ensure_worker(self, asked: bool = False) -> None:
        """Start a worker where there is something to do and none to do it; ``asked`` by a user, also after a crash."""
        with self._lock:
            self._see_child()
            if asked:
                self._crashed = ""
            here = [worker for worker in self.workers() if worker.get("host") == this_host()]
            if not self.starts_workers or self._crashed or self.starting() or here or self.paused:
                return
            if any(state.state == QUEUED for state in self.states().values()) or self.has_requests():
                self._child = self._start()

    def has_requests(self) -> bool:
        """Are pictures asked for that nobody has drawn?"""
        from singleinsert.batch.drawing import open_requests

        return bool(open_requests(self.folder))

    def _start(self) -> subprocess.Popen[bytes]:
        """A worker that outlives this program, its terminal and its browser."""
        self.hidden.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-u", "-m", "singleinsert.batch", str(self.folder), "--watch", str(STAY)]
        options: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            options = {"creationflags": subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP}
        package = str(Path(__file__).resolve().parents[2])
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        with self.worker_log.open("ab") as log:
            log.write(f"\nstarted {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=Path.cwd(),
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)}, **options,
            )  # fmt: skip


def _mark_of(folder: Path) -> tuple[Any, ...]:
    """Changes when a list in the folder does."""
    try:
        return tuple(sorted((e.name, e.stat().st_mtime_ns, e.stat().st_size) for e in os.scandir(folder)
                            if e.name.endswith((".toml", ".csv"))))  # fmt: skip
    except OSError:
        return ()


def open_place(folder: Path, models: Sequence[Path], clients: Sequence[Path], comfyui: str = "") -> Place:
    """The folder with what its ``ui.toml`` says, and what the command line adds.

    Raises:
        ConfigError, InputError: the file says what it cannot, or a folder is not there.
    """
    told = read_toml(folder / SETTINGS_FILE) if (folder / SETTINGS_FILE).is_file() else {}
    for key in told:
        if key not in SETTINGS:
            raise ConfigError(f"{folder / SETTINGS_FILE}: unknown key {key}{nearest(key, SETTINGS)}")
    lists = {}
    for key, given in (("models", models), ("clients", clients)):
        texts = told.get(key, [])
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ConfigError(f"{folder / SETTINGS_FILE}: {key} must be a list of folders in brackets")
        lists[key] = [*given, *(folder / expanded(text) for text in texts)]
        for path in lists[key]:
            if not path.is_dir():
                raise InputError(f"{key}: there is no folder {path}")
    address = comfyui or told.get("comfyui", COMFYUI)
    if not isinstance(address, str) or not address.startswith(("http://127.0.0.1:", "http://localhost:")):
        raise ConfigError(f"comfyui {address!r}: only one on this machine is tested, such as {COMFYUI}")
    folder.mkdir(parents=True, exist_ok=True)
    return Place(folder, lists["models"], lists["clients"], address.rstrip("/"))
