"""A plan carried out: trained, drawn, scored, and, once everything is there or the time is over, its report."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from singleinsert.cli import print_next
from singleinsert.evaluate.cache import Cache
from singleinsert.evaluate.plan import Plan
from singleinsert.evaluate.report import write_report
from singleinsert.evaluate.results import Results
from singleinsert.evaluate.runner import Runner
from singleinsert.evaluate.scoring import Scorer
from singleinsert.work.launch import stand_alone


def says() -> Callable[[str], None]:
    """Prints lines at once; of several processes, with this one's number."""
    rank, processes = stand_alone()
    prefix = f"{rank}: " if processes > 1 else ""
    return lambda line: print(prefix + line, flush=True)


def make_runner(
    plan: Plan, folder: Path, cache: Path, make_scorer: Callable[..., Any] = Scorer, until: float | None = None,
    keep_stages: bool = False,
) -> Runner:  # fmt: skip
    """This process's share of a plan. ``until``, ``keep_stages``: see :class:`Runner`."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    processes = stand_alone()[1]
    return Runner(
        plan, folder, Cache(cache), processes=processes, say=says(), keep_stages=keep_stages, make_scorer=make_scorer,
        until=until,
    )  # fmt: skip


def carry_out(runner: Runner) -> bool:
    """Work on a plan; its results and report are written however that ends. Whether all is done.

    Raises:
        SingleInsertError: one line.
    """
    started = time.perf_counter()
    try:
        done = runner.run()
    finally:
        write_results(runner, time.perf_counter() - started)
    runner.clear()
    return done


def write_results(runner: Runner, seconds: float) -> None:
    """Results, table and report of all that is there; nothing where nothing is."""
    studio = runner.studio
    facts = {
        "cache": os.path.relpath(studio.cache.folder, runner.folder),
        "model_digest": runner.model,
        "processes": runner.processes,
        "last_run": {
            "seconds": round(seconds, 1),
            "of_this_process": {
                "wall_seconds": {kind: round(value, 1) for kind, value in studio.clock.wall.items()},
                "processor_seconds": {kind: round(value, 1) for kind, value in studio.clock.processor.items()},
                "counts": dict(studio.counts),
            },
        },
    }  # fmt: skip
    results = runner.results(facts)
    if not results.samples:
        return
    results.save(runner.folder)
    runner.say(f"{report(runner.folder)}")
    print_next(("evaluate", "report", runner.folder))


def report(folder: Path) -> Path:
    """Write the report of the results in ``folder``."""
    results = Results.load(folder)
    return write_report(results, folder, Cache(folder / results.facts["cache"]).load_picture)
