"""Finding every subject of a word in a generated picture, for the measures of scenes. Chosen by a short text.

Break-A-Scene takes MaskFormer, Swin-L, trained on COCO's panoptic segmentation (supplement B.2). It is run through
transformers, where the user has its weights; its outputs become segments by the rule that its authors published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from singleinsert.errors import InputError, ModelError, first_line
from singleinsert.metrics.esr import of_ones_own
from singleinsert.metrics.regions import Mask, mask_array

MASKFORMER = "facebook/maskformer-swin-large-coco"
KINDS = "maskformer, maskformer:MODEL, mini-scenes, a mask backend, or python:MODULE:ATTRIBUTE"
SURE, WHOLE = 0.8, 0.8
"""MaskFormer's published thresholds: least class probability of a segment, and the least share of its own mask's area
that it has where segments overlap."""
SCENES = "mini-scenes"
SCENES_SURE = 0.6
"""Least score of a subject with the miniature's segmenter (docs/research/mini-scenes.md)."""


@dataclass(frozen=True)
class Segment:
    """One subject in a picture: its mask, (h, w) in [0, 1], and how sure the finder is, in [0, 1]."""

    mask: Mask
    score: float


class SegmentFinder(Protocol):
    """Finds subjects. One of a user's own needs no more than this."""

    name: str

    def find(self, picture: Image.Image, word: str) -> Sequence[Segment]:
        """Every subject of the word in an RGB picture, the surest first; none where there is none."""
        ...


def load_finder(spec: str, device: torch.device | str = "cpu") -> SegmentFinder:
    """A finder by its text: one of :data:`KINDS`.

    Raises:
        InputError: the text is none of these. ModelError: the model cannot be had.
    """
    kind, _, rest = spec.partition(":")
    if kind == "python":
        found = of_ones_own(rest, "finder")
        if not callable(getattr(found, "find", None)):
            raise InputError(f"finder {spec}: it has no method find(picture, word)")
        return found
    if kind == "maskformer":
        return MaskFormer(rest or MASKFORMER, device)
    return OfMasks(spec)


class OfMasks:
    """A mask backend's candidates as segments."""

    def __init__(self, spec: str) -> None:
        from singleinsert.masks.backends import Backends

        self.name = spec
        if spec == SCENES:
            self._backends = Backends("mini", segmenter=SCENES, threshold=SCENES_SURE)
        else:
            self._backends = Backends(spec)

    def find(self, picture: Image.Image, word: str) -> list[Segment]:
        """Every candidate for the word, the surest first."""
        found = self._backends.get(word, pointed=False, notes=[]).find(picture.convert("RGB"), word)
        segments = [Segment(mask_array(c.mask), c.score if c.score is not None else 1.0) for c in found]
        return sorted(segments, key=lambda segment: -segment.score)


class MaskFormer:
    """MaskFormer (Cheng et al. 2021) or Mask2Former on transformers; words are the names of the model's classes."""

    def __init__(self, source: str, device: torch.device | str = "cpu") -> None:
        """Load it. ModelError where it cannot be had."""
        from transformers import AutoConfig, AutoModelForUniversalSegmentation
        from transformers.models.maskformer.image_processing_pil_maskformer import MaskFormerImageProcessorPil

        try:
            config = AutoConfig.from_pretrained(source)
            self._model = AutoModelForUniversalSegmentation.from_pretrained(source, dtype=torch.float32)
            self._prepare = MaskFormerImageProcessorPil.from_pretrained(source)
        except Exception as problem:  # transformers and the hub have errors of their own
            raise ModelError(
                f"{source} cannot be loaded: it needs config.json, preprocessor_config.json and model.safetensors or "
                f"pytorch_model.bin in the hub's cache, or a folder given in its place ({first_line(problem)})"
            ) from problem
        self._model.eval().requires_grad_(False).to(device)
        self.name = source
        self._labels = {str(label).lower(): int(k) for k, label in config.id2label.items()}
        self._last: tuple[Image.Image, list[tuple[int, Segment]]] | None = None

    def find(self, picture: Image.Image, word: str) -> list[Segment]:
        """Every segment of the class called ``word``. InputError where the model has no such class."""
        if word.lower() not in self._labels:
            raise InputError(f"{self.name} has no class {word!r}: name the concepts as it does, or take other --masks")
        if self._last is None or self._last[0] is not picture:  # all words of a picture are asked one after the other
            self._last = (picture, self._segments(picture.convert("RGB")))
        wanted = self._labels[word.lower()]
        return sorted((s for k, s in self._last[1] if k == wanted), key=lambda segment: -segment.score)

    @torch.no_grad()
    def _segments(self, picture: Image.Image) -> list[tuple[int, Segment]]:
        inputs: Any = self._prepare(picture, return_tensors="pt").to(self._model.device)
        out = self._model(**inputs)
        masks = torch.nn.functional.interpolate(
            out.masks_queries_logits.float().cpu(), size=tuple(inputs["pixel_values"].shape[-2:]), mode="bilinear",
            align_corners=False,
        )  # fmt: skip
        masks = torch.nn.functional.interpolate(
            masks, size=(picture.height, picture.width), mode="bilinear", align_corners=False
        )
        return panoptic_segments(out.class_queries_logits[0].float().cpu(), masks[0])


def panoptic_segments(class_logits: torch.Tensor, mask_logits: torch.Tensor) -> list[tuple[int, Segment]]:
    """MaskFormer's inference for panoptic segmentation (its section 3.4): every pixel goes to the query with the
    highest product of class and mask probability; a segment that is left with too little is dropped.

    Args:
        class_logits: (queries, classes + 1), "no object" last. mask_logits: (queries, h, w).

    Returns:
        (class, segment) of every query that is left.
    """
    probabilities, classes = class_logits.softmax(-1).max(-1)
    kept = (classes != class_logits.shape[-1] - 1) & (probabilities > SURE)
    if not bool(kept.any()):
        return []
    masks = mask_logits[kept].sigmoid()  # (k, h, w)
    owner = (probabilities[kept][:, None, None] * masks).argmax(0)
    found = []
    for k, (cls, sure) in enumerate(zip(classes[kept].tolist(), probabilities[kept].tolist(), strict=True)):
        won, area = owner == k, int((masks[k] >= 0.5).sum())
        if area and int(won.sum()) / area > WHOLE:
            found.append((cls, Segment(np.asarray(won, dtype=np.float32), sure)))
    return found
