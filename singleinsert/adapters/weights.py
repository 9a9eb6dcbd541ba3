"""What training changed in a base model's weights: the form in which every floor above passes it around."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class LoraWeights:
    """One layer's low-rank update, ``delta_W = (alpha / rank) * up @ down``.

    Attributes:
        down: (rank, in_features), or (rank, in_channels, k, k) for a convolution; float32.
        up: (out_features, rank), or (out_channels, rank, 1, 1); float32.
        alpha: the layer's scale numerator. It is the real one, never taken from the rank.
    """

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def baked(self) -> LoraWeights:
        """The same update with alpha = rank, for readers that know no alpha: the scale is multiplied into ``up``."""
        return LoraWeights(self.down, self.up * (self.alpha / self.rank), float(self.rank))


Lora = Mapping[str, Mapping[str, LoraWeights]]
"""``{component: {module path: weights}}``; components are named in :mod:`singleinsert.adapters.naming`."""


@dataclass(frozen=True)
class WeightUpdate:
    """What a run changed in the weights. Several concepts of one run share one.

    Attributes:
        lora: the low-rank layers; a component may be left out.
        kind: what made it: "lora".
        origin: :meth:`digest` of the update that this one was rounded from, as an exported file's header tells it; ""
            where this is the first.
    """

    lora: Lora = field(default_factory=dict)
    kind: str = "lora"
    origin: str = ""

    @property
    def key(self) -> str:
        """Equal for one update in all of its files, whatever their precision and layout."""
        return self.origin or self.digest()

    def digest(self) -> str:
        """A short SHA-256 of every tensor, alpha and name."""
        sums = hashlib.sha256(self.kind.encode())
        for component, layers in sorted(self.lora.items()):
            for path, weights in sorted(layers.items()):
                sums.update(f"{component}.{path} {tuple(weights.down.shape)} {float(weights.alpha)!r}".encode())
                for tensor in (weights.down, weights.up):
                    sums.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return sums.hexdigest()[:16]

    def is_near(self, other: WeightUpdate, tolerance: float = 0.02) -> bool:
        """Whether both are one update, but for what half precision rounds away.

        bfloat16 keeps 8 bits, so that a tensor's rounding error is below 2^-8 of its norm; files in which alpha was
        multiplied into ``up`` are compared in that form.
        """
        if {c: set(layers) for c, layers in self.lora.items()} != {c: set(x) for c, x in other.lora.items()}:
            return False
        pairs = ((w.baked(), other.lora[c][p].baked()) for c, layers in self.lora.items() for p, w in layers.items())
        return all(_near(a.down, b.down, tolerance) and _near(a.up, b.up, tolerance) for a, b in pairs)


def _near(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return a.shape == b.shape and bool(torch.linalg.norm(a - b) <= tolerance * torch.linalg.norm(a))
