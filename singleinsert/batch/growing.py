"""A list of jobs that grows while workers are at it: ``--watch`` reads it again and again, and stays.

In place of a list, a folder may hold ``queue/``: lists of jobs, one or more in a file, in the order in which the
files were written. A job whose file is taken away is no longer wanted; a file ``queue/paused`` lets workers
finish what they are at and take nothing more. Pages, scripts and other machines put files there, whole, by a rename.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from singleinsert.batch.jobs import HIDDEN, PAUSED, QUEUE, Job, read_jobs
from singleinsert.batch.plan import conflicts
from singleinsert.batch.store import Store
from singleinsert.claims import is_held, kept_fresh, make_exclusively, read_object, this_host
from singleinsert.errors import SingleInsertError, first_line
from singleinsert.work.queue import FAILED, Queue

WORKERS = "workers"
"""In a batch's hidden folder: a file for every worker that waits for jobs."""


class Growing:
    """The jobs of a list as it is now.

    Attributes:
        jobs: by name, in the order in which they are wanted.
    """

    def __init__(
        self, source: Path, read: Callable[[], tuple[list[Job], list[str]]], queue: Queue, store: Store, folder: Path,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        """
        Args:
            read: the jobs of ``source``, and what is wrong with others. folder: the batch's.
        """
        self.source, self.read, self.queue, self.store, self.folder, self.say = source, read, queue, store, folder, say
        self.jobs: dict[str, Job] = {}
        self._told: set[str] = set()

    @property
    def paused(self) -> bool:
        return (self.source / QUEUE / PAUSED).exists()

    def look(self) -> None:
        """Read the list again; the queue then knows of its jobs. What is wrong with a job is said once."""
        try:
            jobs, problems = self.read()
        except SingleInsertError as problem:  # an empty list, a file that somebody is writing
            jobs, problems = [], [] if "holds no jobs" in str(problem) else [first_line(problem)]
        for line in problems:
            if line not in self._told:
                self.say(f"left out: {line}")
        self._told |= set(problems)
        new = [job for job in jobs if job.name not in self.jobs]
        self.jobs = {job.name: job for job in jobs}
        self.queue.names = list(self.jobs)
        self._refuse_conflicts(new)

    def _refuse_conflicts(self, new: Sequence[Job]) -> None:
        """A job whose name is taken by another one's files has failed; those that were done are left alone."""
        states = self.queue.states()
        for job in new:
            if states[job.name].attempt:
                continue
            found = conflicts([job], {job.name: self.store.record(job.name)}, self.folder)
            claim = self.queue.claim_this(job.name) if found else None
            if claim is not None:
                self.queue.finish(claim, FAILED, found[0])


def read_queue(source: Path, folder: Path, options: Mapping[str, Any]) -> Callable[[], tuple[list[Job], list[str]]]:
    """Reads the jobs of ``source`` anew each time; ``options`` of :func:`~singleinsert.batch.jobs.read_jobs`."""
    return lambda: read_jobs(source, folder, **options)


@contextmanager
def worker_mark(folder: Path) -> Iterator[None]:
    """Within it, :func:`live_workers` of a batch's ``folder`` counts this process."""
    place = folder / HIDDEN / WORKERS
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"{this_host().split()[0]}.{os.getpid()}.json"
    path.unlink(missing_ok=True)  # of a process that had this number before
    make_exclusively(path, time.time())
    with kept_fresh(path):
        yield


def live_workers(folder: Path) -> list[dict[str, Any]]:
    """What the workers that wait for jobs say of themselves: host, pid, started; those that are gone are left out."""
    found = []
    for path in sorted((folder / HIDDEN / WORKERS).glob("*.json")):
        record = read_object(path)
        if is_held(path, path.parent):
            found.append(record)
        elif record.get("host") == this_host():
            path.unlink(missing_ok=True)
    return found
