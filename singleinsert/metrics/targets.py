"""What an editing prompt asks for, said so that a judge can answer it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Target:
    """One edit that a prompt asks for. A prompt of two edits ("... with teal hair, in front of a pink wall") has two.

    Attributes:
        question: a yes/no question for a vision-language model or a person: "Is the person wearing a red hat?"
        label: attribute -> value for a judge that reads attributes ({"hat": "top hat", "hat_color": "red"}), all of
            which must hold; empty where no such judge is meant.
    """

    question: str
    label: Mapping[str, str] = field(default_factory=dict)
