"""The same batch on a Ray cluster: the queue stays with this process, each GPU has an actor that keeps its model.

Pictures travel with the job. Finished concepts go to a folder that all machines share, or to an fsspec URL.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from singleinsert.batch.jobs import Job
from singleinsert.batch.local import POLL, Report, finished_before, settle, stopped_by_signals, work_folder
from singleinsert.batch.store import Store, open_store
from singleinsert.batch.worker import Outcome, Task, Worker, read_inputs, source_key
from singleinsert.errors import InputError, MissingPackageError, first_line, last_line
from singleinsert.work.queue import FAILED, LOST_LIMIT, QUEUED, Claim, Queue

PASSED_ON = ("HF_HUB_OFFLINE", "OMP_NUM_THREADS", "ACCELERATE_MIXED_PRECISION", "TQDM_DISABLE", "WANDB_MODE")
"""Of this process's environment. Not tokens: Ray's dashboard shows what is passed on."""
STORE_BYTES = 256 * 2**20
"""Of a local Ray's shared memory; only pictures on their way in pass through it."""


class Trainer:
    """A worker on a cluster, one per GPU; Ray makes an actor of it."""

    def __init__(self, folder: str, url: str, home: str) -> None:
        if os.path.isdir(home):
            os.chdir(home)  # where paths of models are seen from
        self.worker, self.store = Worker(), open_store(Path(folder), url)
        self.work = Path(tempfile.mkdtemp(prefix="singleinsert-")) if url else None

    def ready(self) -> None:
        """Comes back once the actor has its place."""

    def do(self, task: Task) -> Outcome:
        """As :meth:`Worker.do`; told to stop, the job is queued again."""
        from dataclasses import replace

        from singleinsert.training.signals import Interrupted

        if self.work is not None:
            task = replace(task, work=self.work / task.work.name)
        try:
            return self.worker.do(task, self.store)
        except Interrupted as stop:
            return Outcome(QUEUED, str(stop))


@dataclass
class Busy:
    """What an actor is at; no claim: it is being started."""

    actor: Any
    claim: Claim | None = None


class Fleet:
    """The actors: which are idle, what the others are at, and what the last model of each was."""

    def __init__(self, ray: Any, options: dict[str, Any], arguments: Sequence[str], size: int) -> None:
        self.ray, self.arguments = ray, arguments
        self._actor = ray.remote(Trainer).options(max_restarts=0, **options)
        self.idle: list[Any] = []
        self.busy: dict[Any, Busy] = {}
        self.models: dict[Any, tuple[Any, ...]] = {}
        for _ in range(size):
            self.start()

    def start(self) -> None:
        """Ask for one more; it is idle once the cluster has found a place for it."""
        actor = self._actor.remote(*self.arguments)
        self.busy[actor.ready.remote()] = Busy(actor)

    def give(self, task: Task, claim: Claim) -> None:
        """Hand a job to an idle actor, to one that has its model if there is one."""
        key = source_key(task.settings)
        actor = next((actor for actor in self.idle if self.models.get(actor) == key), self.idle[0])
        self.idle.remove(actor)
        self.models[actor] = key
        self.busy[actor.do.remote(task)] = Busy(actor, claim)

    def returned(self, seconds: float) -> list[tuple[Claim, Outcome | None]]:
        """What came back within ``seconds``; None for a worker that was lost, in whose place another one starts."""
        ready, _ = self.ray.wait(list(self.busy), num_returns=1, timeout=seconds)
        found: list[tuple[Claim, Outcome | None]] = []
        for reference in ready:
            busy, outcome = self.busy.pop(reference), None
            try:
                outcome = self.ray.get(reference)
                self.idle.append(busy.actor)
            except self.ray.exceptions.RayActorError:
                self.models.pop(busy.actor, None)
                self.start()
            except self.ray.exceptions.RayError as problem:
                outcome = Outcome(FAILED, last_line(problem), str(problem))
                self.idle.append(busy.actor)
            if busy.claim is not None:
                found.append((busy.claim, outcome))
        return found

    def claims(self) -> list[Claim]:
        return [busy.claim for busy in self.busy.values() if busy.claim is not None]


def work_off_on_ray(
    jobs: Sequence[Job], queue: Queue, store: Store, folder: Path, *, url: str, address: str, workers: int,
    say: Callable[[str], None], report: Report,
) -> None:  # fmt: skip
    """Do jobs on a cluster until none is left.

    Args:
        folder: for what is being worked on, seen by all machines; not used where ``url`` takes the results.
        address: of the cluster, "auto" for the one of this machine, "" for one that is started and ended here.
        workers: 0 is one for each GPU, or one where there is none.
    """
    ray = start_ray(address, workers)
    by_name, lost = {job.name: job for job in jobs}, Counter[str]()
    home, fleet = str(Path.cwd()), None
    try:
        options, size = resources(ray.cluster_resources(), workers)
        say(f"Ray: {size} workers, each with {', '.join(f'{n:g} {key[4:].upper()}' for key, n in options.items())}")
        fleet = Fleet(ray, options, (str(folder.resolve().parents[1]), url, home), size)
        with stopped_by_signals():
            while not queue.settled() or fleet.claims():
                _hand_out(fleet, by_name, queue, store, folder.resolve(), say)
                for claim, outcome in fleet.returned(POLL) if fleet.busy else ():
                    if outcome is None or outcome.state == QUEUED:
                        lost[claim.name] += 1
                        outcome = _after_loss(lost[claim.name])
                    settle(outcome, claim, queue, folder, say)
                    report()
                if not fleet.busy:
                    time.sleep(POLL)  # others have the last jobs
    finally:
        for claim in fleet.claims() if fleet else ():
            queue.finish(claim, QUEUED, "stopped")
        ray.shutdown()


def _hand_out(
    fleet: Fleet, by_name: dict[str, Job], queue: Queue, store: Store, folder: Path, say: Callable[[str], None]
) -> None:
    while fleet.idle:
        loaded = {fleet.models.get(actor) for actor in fleet.idle}
        claim = queue.claim(lambda name: source_key(by_name[name].settings) in loaded)  # noqa: B023 (called at once)
        if claim is None:
            return
        job, before = by_name[claim.name], finished_before(claim, store)
        if before is not None:
            settle(before, claim, queue, folder, say)
            continue
        say(f"{job.name}: begins")
        fleet.give(Task(job.name, job.settings, work_folder(folder, claim), read_inputs(job.settings)), claim)


def _after_loss(times: int) -> Outcome:
    if times < LOST_LIMIT:
        return Outcome(QUEUED, "its worker was lost, it will be done by another one")
    return Outcome(FAILED, f"took {times} workers down with it (out of memory?)")


def start_ray(address: str, workers: int) -> Any:
    """Connect, or start a Ray of this process's own. MissingPackageError, InputError."""
    try:
        import ray
    except ImportError as problem:
        raise MissingPackageError("--ray needs Ray: pip install 'ray[default]'") from problem
    variables = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    source = str(Path(__file__).resolve().parents[2])  # where a checkout is the package, on this machine
    variables["PYTHONPATH"] = os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "runtime_env": {"env_vars": variables}}
    if not address:
        cores = max(workers, os.cpu_count() or 1)
        options |= {"include_dashboard": False, "object_store_memory": STORE_BYTES, "num_cpus": cores}
    try:
        ray.init(address=address or "local", **options)
    except Exception as problem:  # a plain Exception, too, where its processes do not come up in time
        raise InputError(f"--ray {address}: {first_line(problem)}") from problem
    return ray


def resources(cluster: dict[str, float], workers: int) -> tuple[dict[str, float], int]:
    """(what each worker takes of the cluster, how many workers)."""
    gpus = int(cluster.get("GPU", 0))
    if gpus:
        return {"num_gpus": 1, "num_cpus": 1}, workers or gpus
    size = workers or 1
    return {"num_cpus": max(1, int(cluster.get("CPU", 1)) // size)}, size
