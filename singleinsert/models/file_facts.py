"""What the files of a family's concepts say, for the clients that read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class FileFacts:
    """What the clients' files say of models of one kind.

    Attributes:
        prefixes: what the names of a part's LoRA layers begin with, by part; a LoRA is on these parts alone.
        base_version: ``ss_base_model_version``. architecture: modelspec's, without "/lora". resolution: side in pixels.
        card: "sd version" on A1111's cards.
        layout: of the LoRA's file. "kohya": flat names, with alphas; "diffusers": module paths after the prefix, and
            alpha multiplied into the weights, for clients that read no alpha.
        embedding_keys: the embedding's key in its file, by text encoder; without it what the client itself makes of the
            file's name.
        blocks: first names of the denoiser's layers, by which a LoRA of another trainer is known for one of this kind.
    """

    prefixes: Mapping[str, str]
    base_version: str
    architecture: str
    resolution: int
    card: str = "Other"
    layout: Literal["kohya", "diffusers"] = "kohya"
    embedding_keys: Mapping[str, str] = field(default_factory=dict)
    blocks: tuple[str, ...] = ()
