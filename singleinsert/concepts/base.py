"""The protocol of concepts."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Concept(nn.Module):
    """Something that trains, and says which vectors take the placeholder's place.

    Args:
        placeholder: the word of the prompt that stands for it.
        num_vectors: how many consecutive positions it takes there.
        width: input width d of the text encoder.
        base: (n, d) that the output is added to, or None.
    """

    base: Tensor | None

    def __init__(self, *, placeholder: str, num_vectors: int, width: int, base: Tensor | None) -> None:
        super().__init__()
        if num_vectors < 1:
            raise ValueError("a concept has at least one vector")
        self.placeholder, self.num_vectors, self.width = placeholder, num_vectors, width
        self.register_buffer("base", None if base is None else base.detach().float().clone(), persistent=False)

    def vectors(self) -> Tensor:
        """(n, d) float32, with a graph to whatever trains."""
        offset = self.offset()
        return offset if self.base is None else self.base + offset

    def offset(self) -> Tensor:
        """(n, d) float32: the vectors themselves, or what is added to the class word's embedding."""
        raise NotImplementedError


def seeded(generator: torch.Generator) -> int:
    """A seed for modules that draw their own weights, from ``generator``."""
    return int(torch.randint(0, 2**62, (1,), generator=generator))
