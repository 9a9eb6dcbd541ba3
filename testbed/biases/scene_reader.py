"""Who reads the pictures that mini-scenes draws: the judge of scenes, of the whole and of the subject cut out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from PIL import Image
from torch import Tensor

from ..judge import Answer, Judge, Pictures, Reading
from ..scenes_judge import SCENES_ASSET, WHOLE_HEADS, cut_out
from ..scenes_reader import finder


class SceneReader:
    """Of one subject's class: place, style and classes from the whole picture, its looks from its cut-out.

    A subject that is not found has no looks, and is nobody.
    """

    def __init__(self, cls: str) -> None:
        self.cls = cls

    @cached_property
    def _judge(self) -> Judge:
        return Judge.load(SCENES_ASSET)

    def read(self, images: Pictures, classes: Sequence[str] | None = None) -> list[Reading]:
        pictures = _listed(images)
        whole, cuts = self._judge.read(pictures), [self._cut(picture) for picture in pictures]
        shown = [cut if cut is not None else pictures[k] for k, cut in enumerate(cuts)]
        own = self._judge.read(shown, classes or [self.cls] * len(pictures))
        return [
            Reading(own[k].cls, _answers(whole[k], own[k], cuts[k] is not None), whole[k].present)
            for k in range(len(pictures))
        ]

    def embed(self, images: Pictures) -> Tensor:
        cuts = [self._cut(picture) for picture in _listed(images)]
        found = self._judge.embed([cut if cut is not None else Image.new("RGB", (64, 64)) for cut in cuts])
        for k, cut in enumerate(cuts):
            if cut is None:
                found[k] = 0
        return found

    def _cut(self, picture: Image.Image) -> Image.Image | None:
        """The likeliest subject of the class, cut out; None where there is none."""
        segments = finder.find(picture, self.cls)
        return cut_out(picture, Image.fromarray((segments[0].mask * 255).astype(np.uint8))) if segments else None


def _answers(whole: Reading, own: Reading, found: bool) -> dict[str, Answer]:
    looks = own.answers if found else {name: Answer("", 0.0) for name in own.answers}
    return {**looks, **{name: whole.answers[name] for name in WHOLE_HEADS}}


def _listed(images: Pictures) -> list[Image.Image]:
    assert not isinstance(images, Tensor), "pictures are cut out, which needs them as such"
    return list(images)
