"""What a text encoder hands to a denoiser: the named tensors of one prompt, or of a batch of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Condition:
    """Named tensors, each with the prompts along its first dimension.

    Attributes:
        tensors: "states" (b, L, d) in every family; where a family needs them also "pooled" (b, p), "time_ids" (b, 6),
            "mask" (b, L). b is 1 for one prompt.
        lengths: how many rows of the states each prompt has, in families whose prompts are not padded; of a batch the
            shorter ones are followed by zeros. () where all have L.
    """

    tensors: Mapping[str, Tensor]
    lengths: tuple[int, ...] = ()

    @property
    def states(self) -> Tensor:
        """(b, L, d): what cross-attention, or the joint attention, reads."""
        return self.tensors["states"]

    @property
    def batch(self) -> int:
        return len(self.states)

    def expand(self, batch: int) -> Condition:
        """One prompt's tensors, seen ``batch`` times without a copy."""
        tensors = {name: x.expand(batch, *x.shape[1:]) for name, x in self.tensors.items()}
        return Condition(tensors, self.lengths * batch)

    def rows(self) -> list[Tensor]:
        """The states (n, d) of each prompt, n its own length."""
        return [states[:length] for states, length in zip(self.states, self.lengths, strict=True)]

    def to(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Condition:
        """On ``device``; floating-point tensors in ``dtype``. None leaves either as it is."""
        tensors = {
            name: x.to(device or x.device, dtype if dtype and x.is_floating_point() else x.dtype)
            for name, x in self.tensors.items()
        }
        return replace(self, tensors=tensors)

    @staticmethod
    def concatenate(conditions: Sequence[Condition]) -> Condition:
        """The batch of ``conditions``, one after the other. The same object many times in a row is not copied."""
        runs = [(first, list(run)) for first, run in ((run[0], run) for run in _runs(conditions))]
        parts = [first.expand(len(run) * first.batch) if len(run) > 1 else first for first, run in runs]
        if len(parts) == 1:
            return parts[0]
        lengths = tuple(length for part in parts for length in part.lengths)
        parts = [_padded(part, max(lengths)) for part in parts] if lengths else parts
        return Condition(
            {name: torch.cat([part.tensors[name] for part in parts]) for name in parts[0].tensors}, lengths
        )


def _padded(condition: Condition, length: int) -> Condition:
    """With zeros behind the states, up to ``length`` rows."""
    states = nn.functional.pad(condition.states, (0, 0, 0, length - condition.states.shape[1]))
    return replace(condition, tensors={**condition.tensors, "states": states})


def _runs(conditions: Sequence[Condition]) -> list[list[Condition]]:
    """Neighbours that are the same object, together."""
    return [list(group) for _, group in groupby(conditions, key=id)]


@dataclass
class GradientCut:
    """Conditions cut from the text encoders' graph, and the way back.

    Each micro-batch adds to the float32 gradients of the leaves; :meth:`backward` sends the sums through the text
    encoders, and whatever gave the vectors, once. The encoders' graph is walked once per optimiser step, whatever the
    number of micro-batches.
    """

    device: torch.device
    _graphs: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def cut(self, condition: Condition) -> Condition:
        """Float32 leaves on the cut's device in place of ``condition``'s tensors; whole numbers only move."""
        return replace(condition, tensors={name: self._cut(x) for name, x in condition.tensors.items()})

    def _cut(self, encoded: Tensor) -> Tensor:
        if not encoded.is_floating_point():
            return encoded.to(self.device)
        leaf = encoded.detach().to(self.device, torch.float32).requires_grad_(encoded.requires_grad)
        if encoded.requires_grad:
            self._graphs.append((encoded, leaf))
        return leaf

    def backward(self) -> None:
        """Send every leaf's gradient on. Leaves that no loss has looked at are left out."""
        used = [(encoded, leaf.grad) for encoded, leaf in self._graphs if leaf.grad is not None]
        if used:
            torch.autograd.backward([e for e, _ in used], [grad.to(e) for e, grad in used])
