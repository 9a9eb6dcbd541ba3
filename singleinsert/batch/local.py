"""A worker's life in this process: take a job from the queue, do it, say how it went, until none is left."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

from singleinsert.batch.growing import Growing
from singleinsert.batch.jobs import Job
from singleinsert.batch.progress import counts, progress_line
from singleinsert.batch.store import Store
from singleinsert.batch.worker import INPUTS_END, Outcome, Task, Worker
from singleinsert.errors import first_line
from singleinsert.work.queue import DONE, FAILED, QUEUED, RUNNING, STOPPED, Claim, Queue

AGAIN = "stopped: start the same batch again to go on"
POLL = 2.0
"""Seconds between two looks at what others are doing."""

Report = Callable[[], object]


def work_off(
    jobs: Sequence[Job], queue: Queue, store: Store, folder: Path, *, wait: bool, say: Callable[[str], None],
    report: Report,
) -> None:  # fmt: skip
    """Do jobs until none is left.

    Args:
        folder: for what is being worked on. wait: while others are at the last jobs, stay, in case they are lost.
        report: called after every job.

    Raises:
        Interrupted, KeyboardInterrupt: a signal; the job in hand is queued again, from its last checkpoint.
    """
    by_name = {job.name: job for job in jobs}
    worker, told = Worker(), False
    with stopped_by_signals():
        while True:
            if not do_next(worker, by_name, queue, store, folder, say, report):
                if queue.settled() or not wait:
                    return
                if not told:
                    say("nothing left to take; waiting for the others' last jobs (--no_wait leaves)")
                told = True
                time.sleep(POLL)
                continue


def stay(
    growing: Growing, queue: Queue, store: Store, folder: Path, *, idle: float, say: Callable[[str], None],
    report: Callable[[Sequence[Job]], object], between: Callable[[Worker], bool] = lambda worker: False,
) -> None:  # fmt: skip
    """Do the jobs of a list that grows, and wait for more.

    Args:
        idle: seconds without anything to do after which to leave. report: called with the jobs after each of them.
        between: other work of this process, before each job; False where there was none.

    Raises:
        As :func:`work_off`.
    """
    worker, last, shown = Worker(), time.monotonic(), False
    with stopped_by_signals():
        while True:
            growing.look()
            did = between(worker)
            if not growing.paused:
                write_report = partial(report, list(growing.jobs.values()))
                did |= do_next(worker, growing.jobs, queue, store, folder, say, write_report)
            if did:
                last, shown = time.monotonic(), False
                continue
            if not shown:
                say("waiting for jobs")
                shown = True
            if time.monotonic() - last >= idle:
                return
            time.sleep(min(POLL, idle) if idle else POLL)


def do_next(
    worker: Worker, jobs: Mapping[str, Job], queue: Queue, store: Store, folder: Path, say: Callable[[str], None],
    report: Report,
) -> bool:  # fmt: skip
    """Take the next job and do it; False where there is none now."""
    claim = queue.claim(lambda name: worker.prefers(jobs[name].settings))
    if claim is None:
        return False
    outcome = finished_before(claim, store)
    if outcome is None:
        say(f"{claim.name}: begins")
        report()
        outcome = _do(worker, jobs[claim.name], claim, queue, store, folder)
    settle(outcome, claim, queue, folder, say)
    report()
    return True


def _do(worker: Worker, job: Job, claim: Claim, queue: Queue, store: Store, folder: Path) -> Outcome:
    from singleinsert.training.signals import Interrupted

    try:
        return worker.do(Task(job.name, job.settings, work_folder(folder, claim)), store)
    except Interrupted as stop:  # the run's own words are of one run, and not of a batch
        if stop.by_request:
            return Outcome(STOPPED, "stopped, its state is saved")
        queue.finish(claim, QUEUED, "stopped")
        raise Interrupted(stop.exit_code - 128, AGAIN) from stop
    except BaseException as stop:
        queue.finish(claim, QUEUED, f"stopped: {first_line(stop)}")
        raise


def work_folder(folder: Path, claim: Claim) -> Path:
    """A folder for this try, with the last one's samples, logs and checkpoints: copies, for its holder may be slow.

    The checkpoints come last and at once, so that a try with checkpoints has all that belongs to them.
    """
    mine = folder / f"{claim.name}.{claim.attempt:03d}"
    mine.mkdir(parents=True, exist_ok=True)
    half_written = shutil.ignore_patterns(".*")
    for attempt in range(claim.attempt - 1, 0, -1):
        left = folder / f"{claim.name}.{attempt:03d}"
        if (left / "checkpoints").is_dir():
            for part in ("samples", "logs"):
                if (left / part).is_dir():
                    shutil.copytree(left / part, mine / part, dirs_exist_ok=True, ignore=half_written)
            shutil.copytree(left / "checkpoints", mine / "copying", ignore=half_written)
            (mine / "copying").rename(mine / "checkpoints")
            break
    return mine


def clear_work(folder: Path, claim: Claim) -> None:
    """Drop what this and earlier tries at a job that is done have left."""
    for attempt in range(1, claim.attempt + 1):
        for end in ("", INPUTS_END):
            shutil.rmtree(folder / f"{claim.name}.{attempt:03d}{end}", ignore_errors=True)


def finished_before(claim: Claim, store: Store) -> Outcome | None:
    """A worker that was killed after its job appeared and before it said so has left nothing to do."""
    record = store.record(claim.name)
    return None if record is None else Outcome(DONE, "", "", record)


def settle(outcome: Outcome, claim: Claim, queue: Queue, folder: Path, say: Callable[[str], None]) -> None:
    """Write how a job went, and say it with how far the batch is."""
    if outcome.state == DONE:
        clear_work(folder, claim)  # before it is said: who is killed in between is followed by one who clears the rest
    queue.finish(claim, outcome.state, outcome.reason, outcome.log)
    states = queue.states()
    seconds = states[claim.name].record.get("seconds", 0)
    text = f"done in {seconds:.0f} s" if outcome.state == DONE else f"{outcome.state}: {outcome.reason}"
    if outcome.record:
        text += f", mask {outcome.record['mask_share']:.1%}" + " (low memory)" * outcome.record["low_memory"]
    number = counts(states)
    place = f"[{number[DONE] + number[FAILED]}/{len(states)}]"
    say(f"{place} {claim.name}: {text}; {progress_line(states, number[RUNNING] + 1)}")


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP are exceptions like Ctrl-C; while a stage trains, the loop's own handler saves first."""
    from singleinsert.training.signals import Interrupted, stopping_signals

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Interrupted(signum, AGAIN)

    before = {one: signal.signal(one, stop) for one in stopping_signals() if one != signal.SIGINT}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
