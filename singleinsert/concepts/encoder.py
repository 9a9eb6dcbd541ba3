"""An image encoder that sees one or several pictures and gives the concept's vectors (the paper's section 3.2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from singleinsert.concepts.base import Concept, seeded
from singleinsert.errors import ModelError, first_line

# what CLIP's own preprocessing subtracts and divides by, for pixels in [0, 1]
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class ImageConcept(Concept):
    """A vision transformer, and a linear layer from its class token to n vectors.

    The class token comes out of a layer norm, near unit variance, so a layer of standard deviation
    ``init_std / sqrt(hidden)`` makes vectors of ``init_std`` per element. Everything is float32 and runs on the
    pictures (P, 3, S, S), which were preprocessed once and are kept here (not in the state dict); of several pictures
    the vectors are the mean.
    """

    pixels: Tensor

    def __init__(
        self, *, vit: nn.Module, hidden: int, pixels: Tensor, init_std: float, generator: torch.Generator, **common: Any
    ) -> None:
        super().__init__(**common)
        self.vit = vit
        with torch.random.fork_rng(devices=[]):  # what nn.Linear draws is overwritten
            self.head = nn.Linear(hidden, self.num_vectors * self.width)
        with torch.no_grad():
            weight = torch.randn(self.head.weight.shape, generator=generator, device=generator.device)
            self.head.weight.copy_(weight * init_std / hidden**0.5)
            self.head.bias.zero_()
        self.register_buffer("pixels", pixels.detach().float(), persistent=False)

    def offset(self) -> Tensor:
        tokens = self.vit(self.pixels).pooler_output  # (P, hidden)
        return self.head(tokens).mean(dim=0).reshape(self.num_vectors, self.width)

    @classmethod
    def from_random(
        cls, *, pixels: Tensor, generator: torch.Generator, patch_size: int, hidden_size: int, num_hidden_layers: int,
        num_attention_heads: int, **rest: Any,
    ) -> ImageConcept:  # fmt: skip
        """ViT from random weights; ViT-B/32 is patch 32, hidden 768, 12 layers, 12 heads. Pixels stay in [-1, 1]."""
        from transformers import CLIPVisionConfig, CLIPVisionModel

        config = CLIPVisionConfig(
            image_size=pixels.shape[-1], patch_size=patch_size, hidden_size=hidden_size,
            intermediate_size=4 * hidden_size, num_hidden_layers=num_hidden_layers,
            num_attention_heads=num_attention_heads, hidden_act="gelu",
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeded(generator))
            vit = CLIPVisionModel(config)
        return cls(vit=vit, hidden=hidden_size, pixels=pixels, generator=generator, **rest)

    @classmethod
    def from_clip(
        cls, *, pixels: Tensor, generator: torch.Generator, clip_model: str, **rest: Any
    ) -> ImageConcept:  # fmt: skip
        """ViT from CLIP's weights; pixels are normalised as CLIP was trained with."""
        from transformers import CLIPVisionModel

        try:
            vit = CLIPVisionModel.from_pretrained(clip_model, dtype=torch.float32, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise ModelError(f"concept.clip_model {clip_model}: cannot be loaded: {first_line(error)}") from error
        mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
        size = vit.config.image_size
        if pixels.shape[-1] != size:
            raise ModelError(
                f"concept.clip_model {clip_model} reads pictures of {size}: set concept.image_size to {size}"
            )
        normalised = ((pixels + 1) / 2 - mean) / std
        return cls(vit=vit, hidden=vit.config.hidden_size, pixels=normalised, generator=generator, **rest)
