"""Free vectors: the embedding itself trains, as in Textual Inversion.

Adam moves each element by about the learning rate per step, where an image encoder's output moves hundreds of times
that: free vectors want a learning rate of 5e-3 or more in a stage of 50 steps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from singleinsert.concepts.base import Concept


class VectorConcept(Concept):
    """``num_vectors`` free vectors, drawn with ``init_std``; 0 starts a residual exactly at the class word."""

    def __init__(self, *, init_std: float, generator: torch.Generator, **common: Any) -> None:
        super().__init__(**common)
        drawn = torch.randn(self.num_vectors, self.width, generator=generator, device=generator.device)
        self.weight = nn.Parameter(init_std * drawn.cpu())

    def offset(self) -> Tensor:
        return self.weight
