"""What gives the concept's embedding: an image encoder, or free vectors; by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from singleinsert.concepts.base import Concept
from singleinsert.concepts.encoder import ImageConcept
from singleinsert.concepts.vector import VectorConcept
from singleinsert.errors import ConfigError

__all__ = ["CONCEPT_TYPES", "Concept", "ImageConcept", "VectorConcept", "build_concept"]

CONCEPT_TYPES = ("vit", "clip_vit", "vector")


def build_concept(
    type: str,
    *,
    placeholder: str,
    num_vectors: int,
    widths: Mapping[str, int],
    class_embedding: Mapping[str, Tensor] | None,
    pixels: Tensor | None,
    generator: torch.Generator,
    init_std: float = 1.0,
    clip_model: str = "",
    **vit_sizes: Any,
) -> Concept:
    """Build a concept by name.

    Args:
        type: "vit" (image encoder from random weights, as the authors), "clip_vit" (from CLIP's), "vector" (free).
        widths: input width of each text encoder, by its part's name.
        class_embedding: each encoder's (k, d) of the class word's own tokens; given, the concept is a residual on them.
        pixels: (P, 3, S, S) in [-1, 1], the pictures at the encoder's image size; not needed for "vector".
        generator: draws every random weight, on the CPU, so that a seed means the same on any machine.
        init_std: standard deviation per element of the first output (of the residual, if it is one).
        clip_model: folder or hub id for "clip_vit".
        vit_sizes: patch_size, hidden_size, num_hidden_layers, num_attention_heads for "vit".
    """
    base = None
    if class_embedding is not None:
        base = {part: residual_base(embedding, num_vectors) for part, embedding in class_embedding.items()}
    common: dict[str, Any] = {
        "placeholder": placeholder, "num_vectors": num_vectors, "widths": widths, "base": base,
    }  # fmt: skip
    if type == "vector":
        return VectorConcept(**common, init_std=init_std, generator=generator)
    if type not in CONCEPT_TYPES:
        raise ConfigError(f"concept.type {type!r} is none of {', '.join(CONCEPT_TYPES)}")
    assert pixels is not None
    build = ImageConcept.from_random if type == "vit" else ImageConcept.from_clip
    extra: dict[str, Any] = vit_sizes if type == "vit" else {"clip_model": clip_model}
    return build(**common, pixels=pixels, init_std=init_std, generator=generator, **extra)


def residual_base(class_embedding: Tensor, num_vectors: int) -> Tensor:
    """(n, d) from the class word's k token embeddings (k, d).

    One vector stands on their mean, whatever k. Of several, vector i stands on token i modulo k.
    """
    if num_vectors == 1:
        return class_embedding.mean(dim=0, keepdim=True)
    return class_embedding[torch.arange(num_vectors) % len(class_embedding)]
