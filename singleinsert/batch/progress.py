"""A line for every job that ends, with how far the batch is and when it may be through."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from singleinsert.training.progress import duration
from singleinsert.work.queue import DONE, FAILED, QUEUED, RUNNING, STOPPED, State


def counts(states: Mapping[str, State]) -> dict[str, int]:
    return {kind: sum(s.state == kind for s in states.values()) for kind in (DONE, FAILED, STOPPED, RUNNING, QUEUED)}


def time_left(states: Mapping[str, State], workers: int) -> float | None:
    """Seconds until all is done, if jobs go on taking what most took so far; None while none is finished."""
    took = [float(s.record["seconds"]) for s in states.values() if s.state == DONE and s.record.get("seconds")]
    if not took:
        return None
    left = sum(s.state in (QUEUED, RUNNING) for s in states.values())
    return statistics.median(took) * left / max(1, workers)


def progress_line(states: Mapping[str, State], workers: int) -> str:
    """``"5 of 12 done, 1 failed, 2 running, about 6 min left"``."""
    number = counts(states)
    parts = [f"{number[DONE]} of {len(states)} done"]
    parts += [f"{number[kind]} {kind}" for kind in (FAILED, STOPPED, RUNNING) if number[kind]]
    left = time_left(states, workers)
    if left and number[QUEUED] + number[RUNNING]:
        parts.append(f"about {duration(left)} left")
    return ", ".join(parts)
