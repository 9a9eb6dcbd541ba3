"""The protocol of concepts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Concept(nn.Module):
    """Something that trains, and says which vectors take the placeholder's place.

    Args:
        placeholder: the word of the prompt that stands for it.
        num_vectors: how many consecutive positions it takes there.
        widths: input width of each text encoder, by its part's name; 768 for SD 1.x.
        base: each encoder's (n, width) that the output is added to, or None.
    """

    base: Tensor | None

    def __init__(
        self, *, placeholder: str, num_vectors: int, widths: Mapping[str, int], base: Mapping[str, Tensor] | None,
    ) -> None:  # fmt: skip
        super().__init__()
        if num_vectors < 1:
            raise ValueError("a concept has at least one vector")
        self.placeholder, self.num_vectors, self.widths = placeholder, num_vectors, dict(widths)
        joined = None if base is None else torch.cat([base[part].detach().float() for part in self.widths], dim=1)
        self.register_buffer("base", joined, persistent=False)  # (n, sum of widths)

    @property
    def width(self) -> int:
        """Of all text encoders together."""
        return sum(self.widths.values())

    def vectors(self) -> dict[str, Tensor]:
        """Each text encoder's (n, width) float32, with a graph to whatever trains."""
        offset = self.offset()  # (n, sum of widths)
        joined = offset if self.base is None else self.base + offset
        parts = joined.split(list(self.widths.values()), dim=1) if len(self.widths) > 1 else (joined,)
        return dict(zip(self.widths, parts, strict=True))

    def offset(self) -> Tensor:
        """(n, sum of widths) float32: the vectors themselves, or what is added to the class word's embedding."""
        raise NotImplementedError


def seeded(generator: torch.Generator) -> int:
    """A seed for modules that draw their own weights, from ``generator``."""
    return int(torch.randint(0, 2**62, (1,), generator=generator))
