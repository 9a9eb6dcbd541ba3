"""Losses on their way to the bar, the trackers and the table; read from the device only now and then."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from singleinsert.atomic import write_atomically
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

    @property
    def due(self) -> bool:
        return len(self._pending) >= self.interval

    def flush(self) -> dict[str, float]:
        """Read what is pending, tell the trackers, and return the last step's terms.

        Raises:
            SingleInsertError: a loss is not a number.
        """
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

    def write(self, path: Path) -> None:
        """The whole table as CSV."""
        columns = list(dict.fromkeys(key for row in self.rows for key in row))

        def fill(target: Path) -> None:
            with target.open("w", newline="") as file:
                table = csv.DictWriter(file, columns)
                table.writeheader()
                table.writerows(self.rows)

        write_atomically(path, fill)


class ProgressLines:
    """In place of a bar where standard error is a file, in which a bar would be a line for each step: ten a stage."""

    def __init__(self, name: str, step: int, steps: int) -> None:
        self.name, self.step, self.steps = name, step, steps
        self._tenths = 10 * step // steps

    def __enter__(self) -> ProgressLines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self) -> None:
        self.step += 1

    def set_postfix(self, losses: Mapping[str, str]) -> None:
        """Write a line where another tenth is done; ``losses`` as they are shown."""
        if (tenths := 10 * self.step // self.steps) > self._tenths:
            self._tenths = tenths
            shown = ", ".join(f"{name}={value}" for name, value in losses.items())
            share = 100 * self.step // self.steps
            print(f"{self.name}: {share}% {self.step}/{self.steps} {shown}", file=sys.stderr, flush=True)
