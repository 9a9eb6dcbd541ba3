"""Changes of weights as plain data: the form in which every floor above passes them around."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from singleinsert.adapters.ranks import RankByNoise


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
"""Low-rank updates by part of the model and module path: {"unet": {"mid_block...to_q": LoraWeights}}."""


@dataclass(frozen=True)
class WeightUpdate:
    """What a run has changed in the model. Several concepts of one run share one.

    Attributes:
        kind: of the adapter that trained it ("lora", "full", ...). lora: the change as low-rank updates, which is
            what clients load; a component may be left out.
        error: by how much ``lora`` misses the trained change, as a share of its norm; 0 where it is exact.
        ranks: which components of the denoiser's layers are on at which noise level; None: all of them always, which is
            also how clients' files are read.
        origin: :meth:`digest` of the update that this one was rounded from, as an exported file's header tells it; ""
            where this is the first.
    """

    kind: str
    lora: Lora
    error: float = 0.0
    origin: str = ""
    ranks: RankByNoise | None = None

    @property
    def key(self) -> str:
        """Equal for one update in all of its files, whatever their precision and layout."""
        return self.origin or self.digest()

    def digest(self) -> str:
        """A short fingerprint of the weights: every name, tensor and alpha."""
        content = hashlib.sha256()
        for part in sorted(self.lora):
            for path, weights in sorted(self.lora[part].items()):
                content.update(f"{part}.{path} {tuple(weights.down.shape)} {float(weights.alpha)!r}".encode())
                for tensor in (weights.down, weights.up):
                    content.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return content.hexdigest()[:16]

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
