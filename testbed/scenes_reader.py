"""What the evaluation of scenes asks of the drawn world: where subjects are, how alike they look, where they stand.

`finder`, `looks` and `judge` are named by testbed/scenes_protocol.toml. The segmenter finds pieces of a word, whatever
they look like; a piece is a subject if the judge of cut-outs reads that class in it (docs/research/mini-scenes.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from singleinsert.errors import InputError
from singleinsert.metrics.regions import MARGIN
from singleinsert.metrics.segments import Segment
from singleinsert.metrics.targets import Target

from .judge import SIZE, Judge
from .labels import HEADS
from .scenes_judge import LONGER_SIDE, SCENES_ASSET, WHOLE_HEADS, cut_out
from .scenes_segmenter import SceneSegmenter
from .world.features import CLASSES


class _Judged:
    """What needs the judge of scenes, which is loaded when it is first asked."""

    @cached_property
    def _judge(self) -> Judge:
        return Judge.load(SCENES_ASSET)


class Finder(_Judged):
    """Every subject of a class: pieces in which the judge reads that class, as sure as it is of it."""

    name = "testbed finder of scenes"

    @cached_property
    def _segmenter(self) -> SceneSegmenter:
        return SceneSegmenter(threshold=0.0)

    def find(self, picture: Image.Image, word: str) -> list[Segment]:
        """As singleinsert's SegmentFinder. InputError for a class that the world does not have."""
        if word not in CLASSES:
            raise InputError(f"the drawn world has no {word!r}, only {', '.join(CLASSES)}")
        masks = [found.mask for found in self._segmenter.find(picture, word)]
        if not masks:
            return []
        cuts = [cut_out(picture, Image.fromarray(mask.astype(np.uint8) * 255)) for mask in masks]
        classes = self._judge.outputs(cuts)[0][list(HEADS).index("class")]  # (n, classes)
        own = CLASSES.index(word)
        found = [
            Segment(mask.astype(np.float32), float(sure[own]))
            for mask, sure in zip(masks, classes, strict=True)
            if int(sure.argmax()) == own
        ]
        return sorted(found, key=lambda segment: -segment.score)


class Looks(_Judged):
    """The judge's embedding of who a cut-out shows, as an image encoder of centred cut-outs."""

    name = "testbed looks of scenes"

    def images(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Centred cut-outs -> unit vectors (n, d); framed as the judge's own (58 of 64 pixels)."""
        return self._judge.embed([_framed(picture) for picture in pictures]) if pictures else torch.zeros(0, 1)


def _framed(picture: Image.Image) -> Image.Image:
    """A subject with singleinsert's margin around it, with the judge's."""
    side = picture.width / (1 + 2 * MARGIN) * SIZE / LONGER_SIDE
    edge = (picture.width - side) / 2
    box = (edge, edge, picture.width - edge, picture.height - edge)
    return picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box)


class WholeJudge(_Judged):
    """Reads what is asked of whole scenes: background and style."""

    name = "testbed judge of scenes"

    def __call__(self, pictures: Sequence[Image.Image], targets: Sequence[Sequence[Target]]) -> list[list[bool]]:
        """As singleinsert's EditJudge. InputError for a target with another label."""
        for target in {id(t): t for each in targets for t in each}.values():
            if not target.label or not set(target.label) <= set(WHOLE_HEADS):
                raise InputError(f"target {target.question!r}: of scenes only {' and '.join(WHOLE_HEADS)} are read")
        readings = self._judge.read(list(pictures))
        return [
            [all(reading[name].value == value for name, value in t.label.items()) for t in wanted]
            for reading, wanted in zip(readings, targets, strict=True)
        ]


finder, looks, judge = Finder(), Looks(), WholeJudge()
