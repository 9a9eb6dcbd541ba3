"""The mean of what trains over a stage's last steps: the noise of single steps averages out (Polyak and Juditsky 1992).

A LoRA's two matrices are averaged each by itself. That is the mean of their products only as far as they stay near each
other, which they do over some steps of one run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class RunningMean:
    """Sums parameters step by step; float64, so that the order of the steps is all that rounds.

    Attributes:
        count: steps that were added. sums: name -> tensor, on the CPU.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        """``state``: what :meth:`state` has given, of a run that goes on."""
        self.count: int = state["count"] if state else 0
        self.sums: dict[str, Tensor] = dict(state["sums"]) if state else {}

    @torch.no_grad()
    def add(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Count the values that the parameters have now."""
        for name, parameter in parameters.items():
            value = parameter.detach().to("cpu", torch.float64, copy=True)
            self.sums[name] = self.sums[name].add_(value) if name in self.sums else value
        self.count += 1

    @torch.no_grad()
    def finish(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Give the parameters the mean, where something was counted, and begin anew."""
        for name, parameter in parameters.items() if self.count else ():
            parameter.copy_((self.sums[name] / self.count).to(parameter))
        self.count, self.sums = 0, {}

    def state(self) -> dict[str, Any] | None:
        """For a checkpoint; None before the first step."""
        return {"count": self.count, "sums": dict(self.sums)} if self.count else None
