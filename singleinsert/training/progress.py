"""Losses on their way to the bar, the trackers and the table; read from the device only now and then."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from singleinsert.errors import SingleInsertError

INTERVAL = 10  # steps between two looks at the device; on the CPU a look costs nothing


class LossLog:
    """Keeps each step's loss terms on the device and, every few steps, reads them all in one go.

    Attributes:
        rows: one dict per optimiser step read so far: stage, step, learning_rate, loss, and each term.
    """

    def __init__(
        self,
        accelerator: Any,
        rows: list[dict[str, Any]] | None = None,
        on_row: Callable[[dict[str, Any]], None] = lambda row: None,
    ) -> None:
        """``on_row`` is handed every row once its numbers are known."""
        self.accelerator, self.on_row = accelerator, on_row
        self.rows = rows or []
        self.interval = 1 if accelerator.device.type == "cpu" else INTERVAL
        self._pending: list[tuple[dict[str, Any], list[str], Tensor]] = []

    def add(self, stage: str, step: int, learning_rate: float, terms: dict[str, Tensor]) -> None:
        """``terms``: scalars on the device, this process's share of each term."""
        row = {"stage": stage, "step": step, "learning_rate": learning_rate}
        self._pending.append((row, list(terms), torch.stack(list(terms.values()))))

    def flush(self, wait: bool = False) -> dict[str, float]:
        """Read what is pending, tell the trackers, and return the last step's terms.

        Args:
            wait: until enough is pending; {} while it is not.

        Raises:
            SingleInsertError: a loss is not a number.
        """
        if wait and len(self._pending) < self.interval:
            return {}
        if self._pending:
            values = torch.cat([tensor for _, _, tensor in self._pending])
            if self.accelerator.num_processes > 1:
                values = self.accelerator.reduce(values, "sum")
            numbers = iter(values.tolist())
            for row, names, _ in self._pending:
                terms = {name: next(numbers) for name in names}
                self._take({**row, "loss": sum(terms.values()), **terms})
            self._pending.clear()
        last = self.rows[-1] if self.rows else {}
        return {key: value for key, value in last.items() if key not in ("stage", "step", "learning_rate", "loss")}

    def _take(self, row: dict[str, Any]) -> None:
        if not math.isfinite(row["loss"]):
            raise SingleInsertError(
                f"the loss is {row['loss']} at {row['stage']} step {row['step']}: lower {row['stage']}.learning_rate, "
                "or use mixed_precision no or bf16"
            )
        self.rows.append(row)
        values = {f"{row['stage']}/{key}": value for key, value in row.items() if key not in ("stage", "step")}
        self.accelerator.log(values, step=len(self.rows))
        self.on_row(row)


class TimeLeft:
    """How long a run still takes: the steps to come, of all stages, at the speed of those that were made.

    Args:
        steps: of each stage, by name. costs: what a step of each costs, against the others'.
    """

    def __init__(self, steps: Mapping[str, int], costs: Mapping[str, float]) -> None:
        self.steps, self.costs = dict(steps), dict(costs)
        self._seconds = self._cost = 0.0

    def add(self, stage: str, seconds: float) -> None:
        """A step of ``stage`` took so long."""
        self._seconds += seconds
        self._cost += self.costs.get(stage, 1.0)

    def seconds(self, stage: str, step: int) -> float | None:
        """From after the ``step``-th step of ``stage``; None where no step was timed."""
        if not self._cost or stage not in self.steps:
            return None
        names = list(self.steps)
        later = names[names.index(stage) + 1 :]
        left = (self.steps[stage] - step) * self.costs.get(stage, 1.0)
        left += sum(self.steps[name] * self.costs.get(name, 1.0) for name in later)
        return left * self._seconds / self._cost


class RunBar:
    """A bar in the terminal for all stages of a run, with one time left. Where standard error is a file, in which a bar
    would be a line for each step, ten lines a stage."""

    def __init__(self, time_left: TimeLeft, first: int, shown: bool) -> None:
        """``first``: steps that were made before. ``shown``: is this the process that shows it?"""
        from tqdm.auto import tqdm

        self._in_lines = shown and not sys.stderr.isatty() and "TQDM_DISABLE" not in os.environ
        # a word that is given, even False, would win over TQDM_DISABLE
        hidden = {} if shown and not self._in_lines else {"disable": True}
        self.time_left, self._terms = time_left, dict[str, float]()
        self._bar = tqdm(
            total=sum(time_left.steps.values()), initial=first, dynamic_ncols=True,
            bar_format="{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}", **hidden,
        )  # fmt: skip
        self.rest()

    def __enter__(self) -> RunBar:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def rest(self) -> None:
        """What took time since the last step, such as drawing, was no step."""
        self._since = time.perf_counter()

    def step(self, stage: str, step: int, terms: Mapping[str, float]) -> None:
        """The ``step``-th step of ``stage`` was made; ``terms``: its losses, where they were read."""
        self.time_left.add(stage, time.perf_counter() - self._since)
        self.rest()
        left = self.time_left.seconds(stage, step)
        self._terms = dict(terms) or self._terms
        losses = ", ".join(f"{name}={value:.4f}" for name, value in self._terms.items())
        told = f"about {duration(left)} left" if left else ""
        of = self.time_left.steps[stage]
        if self._in_lines and 10 * step // of > 10 * (step - 1) // of:
            line = f"{stage}: {100 * step // of}% {step}/{of} {losses}" + (f", {told}" if told else "")
            print(line, file=sys.stderr, flush=True)
        self._bar.set_description(stage, refresh=False)
        self._bar.set_postfix_str(", ".join(filter(None, (told, losses))), refresh=False)
        self._bar.update()


def duration(seconds: float) -> str:
    """``"40 s"``, ``"6 min"``, ``"3 h 20 min"``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
