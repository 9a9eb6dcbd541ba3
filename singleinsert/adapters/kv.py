"""Custom Diffusion (Kumari et al. 2023): only what cross-attention makes of the text trains, in full."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from singleinsert.adapters.full import FullAdapters


class KeyValueAdapters(FullAdapters):
    """The key and value matrices of cross-attention; for faces also queries and outputs, by the setting of targets."""

    kind = "kv"
    own_targets: ClassVar[Mapping[str, tuple[str, ...]]] = {"denoiser": ("attn2.to_k", "attn2.to_v"), "text": ()}

    @classmethod
    def wants(cls, name: str) -> bool:
        return name == "weight"
