"""Every column of the pictures of one concept by one method, and what measures them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from singleinsert.captions.words import STYLES
from singleinsert.data.pictures import area_resample
from singleinsert.data.subject import TrainingPicture
from singleinsert.evaluate.prompt_lists import EditPrompt
from singleinsert.evaluate.protocol import NONE, Protocol


@dataclass(frozen=True)
class Score:
    """Of a picture: values by column, which of its prompt's targets were found, and a scene's matrix (results.py)."""

    values: dict[str, float]
    targets: list[bool]
    matrix: dict[str, dict[str, float]] = field(default_factory=dict)


class Scorer:
    """Measures pictures with the protocol's backbones, loaded when they are first needed."""

    def __init__(self, protocol: Protocol, device: Any) -> None:
        self.protocol, self.device = protocol, device

    @cached_property
    def clip(self) -> Any:
        from singleinsert.metrics.backbones import load_clip

        return None if self.protocol.clip == NONE else load_clip(self.protocol.clip, self.device)

    @cached_property
    def dino(self) -> Any:
        from singleinsert.metrics.backbones import load_dino

        return None if self.protocol.dino == NONE else load_dino(self.protocol.dino, self.device)

    @cached_property
    def lpips(self) -> Any:
        from singleinsert.metrics.backbones import load_lpips

        return None if self.protocol.lpips == NONE else load_lpips(self.protocol.lpips, self.device)

    @cached_property
    def judge(self) -> Any:
        from singleinsert.metrics.esr import load_judge

        return None if self.protocol.judge == NONE else load_judge(self.protocol.judge, self.device)

    @cached_property
    def backends(self) -> Any:
        from singleinsert.masks.backends import Backends

        return None if self.protocol.masks == NONE else Backends(self.protocol.masks)

    parts = ("clip", "dino", "lpips", "judge", "backends")

    def load(self) -> None:
        """Load everything now, so that what is missing is known before anything is trained."""
        for part in self.parts:
            getattr(self, part)

    def score(
        self, pictures: Sequence[Image.Image], prompts: Sequence[EditPrompt], shown: TrainingPicture
    ) -> list[Score]:
        """Measure ``pictures``, each of the prompt in its place.

        Args:
            shown: the training picture with its subject, square, of the pictures' size.
        """
        from singleinsert.metrics import scores
        from singleinsert.metrics.regions import generated_masks, mask_array

        subject, reference = shown.subjects[0], shown.image
        class_word, reference_mask = subject.class_word, mask_array(subject.mask)
        columns: dict[str, Sequence[float]] = {}
        is_style = class_word in STYLES  # which is everywhere: there is nothing to mask
        if self.backends is not None and not is_style and (self.clip is not None or self.dino is not None):
            masks = generated_masks(pictures, class_word, backends=self.backends)
            columns["found"] = [float(mask is not None) for mask in masks]
            regions = {"masks": masks, "reference_mask": reference_mask}
            for name, encoder in (("CLIP-I", self.clip), ("DINO", self.dino)):
                if encoder is None:
                    continue
                for end, region in (("f", "foreground"), ("b", "background")):
                    found = scores.image_similarity(encoder, pictures, reference, region=region, **regions)  # type: ignore[arg-type]
                    columns[f"{name}-{end}"] = found
        if self.clip is not None:
            references = [(reference, reference_mask)]
            if not is_style:
                columns["SA"] = scores.subject_alignment(self.clip, pictures, references)
                columns["NSD"] = scores.non_subject_disentanglement(self.clip, pictures, references)
            texts = [prompt.without_concept(class_word) for prompt in prompts]
            columns["CLIP-T"] = scores.text_similarity(self.clip, pictures, texts)
        if self.lpips is not None:
            columns |= self._diversity(pictures, prompts)
        targets = self._verdicts(pictures, prompts)
        if self.judge is not None:
            columns["ESR"] = scores.editing_success(targets)
        return [
            Score({name: float(values[i]) for name, values in columns.items()}, targets[i])
            for i in range(len(pictures))
        ]

    def attention_inside(
        self, picture: Image.Image, class_words: Sequence[str], maps: Mapping[str, Tensor]
    ) -> dict[str, float]:
        """Share of each word's attention (h, w) that lies on the subject of the picture; {} where none is found, and
        of several concepts."""
        from singleinsert.metrics.regions import generated_masks

        if self.backends is None or len(class_words) > 1 or class_words[0] in STYLES:
            return {}
        (mask,) = generated_masks([picture], class_words[0], backends=self.backends)
        if mask is None:
            return {}
        shares = {}
        for word, heat in maps.items():
            size = (heat.shape[-2], heat.shape[-1])
            small = area_resample(torch.from_numpy(np.asarray(mask, np.float32))[None, None], size)[0, 0]
            shares[word] = float((heat * small).sum() / heat.sum().clamp_min(1e-12))
        return shares

    def _verdicts(self, pictures: Sequence[Image.Image], prompts: Sequence[EditPrompt]) -> list[list[bool]]:
        """For each picture, whether the judge finds each of its prompt's targets; empty lists without a judge."""
        if self.judge is None:
            return [[] for _ in pictures]
        found = self.judge(pictures, [list(prompt.targets) for prompt in prompts])
        return [[bool(answer) for answer in each] for each in found]

    def _diversity(self, pictures: Sequence[Image.Image], prompts: Sequence[EditPrompt]) -> dict[str, Sequence[float]]:
        """DIV of a prompt stands with each of its pictures, so that means over pictures are means over prompts."""
        from singleinsert.metrics import scores

        groups: dict[str, list[Image.Image]] = {}
        for picture, prompt in zip(pictures, prompts, strict=True):
            groups.setdefault(prompt.text, []).append(picture)
        if any(len(group) < 2 for group in groups.values()):
            return {}
        values = {text: scores.diversity(self.lpips, group) for text, group in groups.items()}
        return {"DIV": [values[prompt.text] for prompt in prompts]}
