"""The weights of one low-rank layer: the form in which every floor above passes LoRA weights around."""

from __future__ import annotations

from dataclasses import dataclass

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
