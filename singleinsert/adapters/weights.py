"""Changes of weights as plain data: the form in which every floor above passes them around."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
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


Lora = Mapping[str, Mapping[str, LoraWeights]]
"""Low-rank updates by part of the model and module path: {"unet": {"mid_block...to_q": LoraWeights}}."""


@dataclass(frozen=True)
class WeightUpdate:
    """What a run has changed in the model.

    Attributes:
        kind: of the adapter that trained it ("lora", "full", ...). lora: the change as low-rank updates, which is
            what clients load.
        error: by how much ``lora`` misses the trained change, as a share of its norm; 0 where it is exact.
    """

    kind: str
    lora: Lora
    error: float = 0.0

    def digest(self) -> str:
        """A short fingerprint of the weights, by which several concepts of one run know their common update."""
        content = hashlib.sha256()
        for part in sorted(self.lora):
            for path in sorted(self.lora[part]):
                weights = self.lora[part][path]
                content.update(f"{part}.{path}.{weights.alpha!r}".encode())
                for tensor in (weights.down, weights.up):
                    content.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return content.hexdigest()[:16]
