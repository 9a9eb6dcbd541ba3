"""Who holds what on a shared folder: a process's mark, whether that process lives, and the claim of a name.

A claim is a file that only one process can make (O_EXCL). Its time is touched while its holder lives. Who finds that
the holder is gone makes the next one, so that nothing is taken away from anyone. Clocks of machines may differ.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from singleinsert.atomic import os_error
from singleinsert.errors import InputError

HEARTBEAT = 5.0
"""Seconds between two signs of life."""
STALE = 60.0
"""Seconds without one after which a holder on another machine counts as gone. Here, its process is looked up."""


def this_host() -> str:
    """The machine and, where there are such, the name space in which this process's number means something."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def holder(started: float) -> dict[str, Any]:
    """What a claim says of this process."""
    import psutil

    born = psutil.Process().create_time()
    return {"host": this_host(), "pid": os.getpid(), "born": born, "started": round(started, 1)}


def process_lives(record: Mapping[str, Any]) -> bool | None:
    """Does a holder's process live, and not another one that was given its number since? None: it cannot be told."""
    import psutil

    pid, born = record.get("pid"), record.get("born")
    if record.get("host") != this_host() or type(pid) is not int or not isinstance(born, int | float):
        return None
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - born) < 2 and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, ValueError, OverflowError):
        return False
    except psutil.AccessDenied:
        return True


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; {} where the file is empty, half of one, or holds anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


class Heart:
    """Touches the files of what this process holds, from a thread of its own."""

    def __init__(self) -> None:
        self._paths: set[Path] = set()
        self._thread: threading.Thread | None = None

    def keep(self, path: Path) -> None:
        self._paths.add(path)
        if self._thread is None:
            self._thread = threading.Thread(target=self._beat, daemon=True)
            self._thread.start()

    def leave(self, path: Path) -> None:
        self._paths.discard(path)

    def _beat(self) -> None:
        while True:
            time.sleep(HEARTBEAT)
            for path in tuple(self._paths):
                try:
                    os.utime(path)
                except OSError:  # a network folder that is away for a moment
                    continue


def make_exclusively(path: Path, started: float, **more: Any) -> bool:
    """Make ``path`` with this process's mark; False where another process has made it."""
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w") as file:
        json.dump(holder(started) | more, file)
    return True


@contextmanager
def kept_fresh(path: Path) -> Iterator[None]:
    """Within it, this process's mark at ``path`` counts as held; it is gone at the end."""
    heart = Heart()
    heart.keep(path)
    try:
        yield
    finally:
        heart.leave(path)
        path.unlink(missing_ok=True)


@contextmanager
def claimed(folder: Path, name: str) -> Iterator[None]:
    """Within it, no other process claims ``name`` in ``folder``, which must be there.

    Raises:
        InputError: another process has it, or nothing can be written there.
    """
    mark = re.compile(rf"\.{re.escape(name)}\.claim-(\d+)")
    marks = {int(m[1]): path for path in folder.iterdir() if (m := mark.fullmatch(path.name))}
    last = max(marks, default=0)
    if last and is_held(marks[last], folder):
        raise InputError(_taken(folder, name, read_object(marks[last])))
    path = folder / f".{name}.claim-{last + 1:03d}"
    try:
        if not make_exclusively(path, time.time()):
            raise InputError(_taken(folder, name, read_object(path)))
    except OSError as problem:
        raise InputError(f"cannot write in {folder}: {os_error(problem, folder)}") from problem
    for stale in marks.values():
        stale.unlink(missing_ok=True)
    with kept_fresh(path):
        yield


def _taken(folder: Path, name: str, record: Mapping[str, Any]) -> str:
    host = str(record.get("host", "")).split(" ")[0]
    who = f" (process {record.get('pid')}{f' on {host}' if host else ''})" if record else ""
    return (
        f"another run called {name} is writing in {folder}{who}: wait for its end, or choose another --output_name "
        "or --output_dir"
    )


def is_held(mark: Path, folder: Path) -> bool:
    """Is the process that made ``mark`` there? Of another machine's: was it touched lately, by the folder's clock?"""
    lives = process_lives(read_object(mark))
    if lives is not None:
        return lives
    probe = folder / f"{mark.name}.{os.getpid()}"
    try:
        probe.write_bytes(b"")
        return probe.stat().st_mtime - mark.stat().st_mtime < STALE
    except OSError:
        return True
    finally:
        probe.unlink(missing_ok=True)
