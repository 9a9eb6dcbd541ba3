"""Custom Diffusion (Kumari et al. 2023): only what cross-attention makes of the text trains, in full."""

from __future__ import annotations

from singleinsert.adapters.full import FullAdapters


class KeyValueAdapters(FullAdapters):
    """The key and value matrices of cross-attention; for faces also queries and outputs, by the setting of targets."""

    kind = "kv"
    own_targets = {"denoiser": ("attn2.to_k", "attn2.to_v"), "text": ()}

    @classmethod
    def wants(cls, name: str) -> bool:
        return name == "weight"
