"""Where a phrase's thing lies: the subject itself, on the subject, or beside it. Only this tells a hat from hair."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from singleinsert.captions import words
from singleinsert.captions.phrases import Phrase
from singleinsert.data.pictures import solid
from singleinsert.errors import InputError

Find = Callable[[str], Image.Image | None]
"""A thing's name -> its mask (mode "L", the picture's size), or None where it is not found. InputError where it cannot
be looked for: a word that the backend has not."""

COVERS, INSIDE, TIED_COVER, BESIDE = 0.8, 0.6, 0.5, 0.3


@dataclass(frozen=True)
class Placement:
    """Attributes: inside: share of the thing inside the subject; cover: share of the subject that it covers."""

    inside: float
    cover: float

    @property
    def kind(self) -> Literal["subject", "tied", "beside", "unclear"]:
        if self.cover > COVERS and self.inside > COVERS:
            return "subject"
        if self.inside > INSIDE and self.cover < TIED_COVER:
            return "tied"
        return "beside" if self.inside < BESIDE else "unclear"

    @property
    def reason(self) -> str:
        where = {
            "subject": "its mask is the subject's",
            "tied": "it lies inside the subject's mask, from which mask.subtract can cut it",
            "beside": "it lies beside the subject",
            "unclear": "it lies partly on the subject",
        }[self.kind]
        return f"{where} ({self.inside:.0%} inside, covers {self.cover:.0%})"


def place(thing: Image.Image, subject: Image.Image) -> Placement:
    """Of two masks in mode "L" and of one size: ``inside = |g & s| / |g|``, ``cover = |g & s| / |s|``.

    Raises:
        InputError: an empty mask, or two sizes.
    """
    if thing.size != subject.size:
        raise InputError(f"masks of two sizes: {thing.width}x{thing.height} and {subject.width}x{subject.height}")
    g, s = (np.asarray(solid(mask)) > 0 for mask in (thing, subject))
    if not g.any() or not s.any():
        raise InputError("an empty mask has no place")
    both = np.count_nonzero(g & s)
    return Placement(both / np.count_nonzero(g), both / np.count_nonzero(s))


def place_phrases(phrases: Sequence[Phrase], subject: Image.Image, find: Find) -> list[Placement | None]:
    """For each phrase where its thing lies; None for states and light, and where the thing was not found."""
    found: list[Placement | None] = []
    for phrase in phrases:
        mask = None
        if phrase.role in ("worn", "thing", "unsure", "subject"):
            with suppress(InputError):
                mask = find(thing_of(phrase.text))
        usable = mask is not None and solid(mask).getbbox() is not None
        found.append(place(mask, subject) if mask is not None and usable else None)
    return found


def thing_of(phrase: str) -> str:
    """The thing's name: "wearing a red top hat" -> "red top hat"."""
    leading = {*words.DETERMINERS, *(w for g in (*words.WEARING, *words.HAVING, *words.PLACING) for w in g.split())}
    listed = re.findall(r"[\w'-]+", phrase)
    while len(listed) > 1 and listed[0].lower() in leading:
        listed.pop(0)
    return " ".join(listed)
