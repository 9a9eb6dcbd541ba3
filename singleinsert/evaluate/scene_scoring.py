"""Every column of the pictures of one scene by one method."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from PIL import Image

from singleinsert.data.subject import TrainingPicture
from singleinsert.evaluate.prompt_lists import EditPrompt
from singleinsert.evaluate.protocol import NONE
from singleinsert.evaluate.scene_prompts import with_class_words
from singleinsert.evaluate.scoring import Score, Scorer
from singleinsert.metrics.scenes import Chosen, CutOuts, Found, choose_segments, counts_right, leaks, margin


class SceneScorer(Scorer):
    """Measures pictures of several concepts by the rules of :mod:`singleinsert.metrics.scenes`."""

    parts = ("clip", "dino", "judge", "finder", "looks")

    @cached_property
    def finder(self) -> Any:
        from singleinsert.metrics.segments import load_finder

        return None if self.protocol.masks == NONE else load_finder(self.protocol.masks, self.device)

    @cached_property
    def looks(self) -> Any:
        from singleinsert.metrics.backbones import load_looks

        if self.protocol.looks in ("", self.protocol.dino):
            return self.dino
        return None if self.protocol.looks == NONE else load_looks(self.protocol.looks, self.device)

    def score(
        self, pictures: Sequence[Image.Image], prompts: Sequence[EditPrompt], shown: TrainingPicture
    ) -> list[Score]:
        """Measure ``pictures``, each of the prompt in its place.

        Args:
            shown: the training picture with all of the scene's subjects, square, of the pictures' size.
        """
        from singleinsert.metrics import scores

        words = {subject.handle: subject.class_word for subject in shown.subjects}
        rows: list[dict[str, float]] = [{} for _ in pictures]
        matrices: list[dict[str, dict[str, float]]] = [{} for _ in pictures]
        if self.finder is not None:
            matrices = self._segments(rows, pictures, prompts, shown)
        if self.clip is not None:
            texts = [with_class_words(prompt.text, words) for prompt in prompts]
            for row, value in zip(rows, scores.prompt_similarity(self.clip, pictures, texts), strict=True):
                row["prompt"] = value
        targets = self._verdicts(pictures, prompts)
        if self.judge is not None:
            for row, value in zip(rows, scores.editing_success(targets), strict=True):
                row["ESR"] = value
        return [Score(*each) for each in zip(rows, targets, matrices, strict=True)]

    def _segments(
        self, rows: list[dict[str, float]], pictures: Sequence[Image.Image], prompts: Sequence[EditPrompt],
        shown: TrainingPicture,
    ) -> list[dict[str, dict[str, float]]]:  # fmt: skip
        """Fill ``rows`` with all that segments say; the similarity of every segment to every concept."""
        from singleinsert.metrics.regions import mask_array

        words = {subject.handle: subject.class_word for subject in shown.subjects}
        masks = {subject.handle: mask_array(subject.mask) for subject in shown.subjects}
        cuts = None if self.looks is None else CutOuts(self.looks, shown.image, masks)
        chosen: list[Chosen] = []
        for row, picture, prompt in zip(rows, pictures, prompts, strict=True):
            found: Found = {word: self.finder.find(picture, word) for word in dict.fromkeys(words.values())}
            chosen.append(choose_segments(picture, found, prompt.handles, words, cuts))
            row["found"] = _mean([mask is not None for mask in chosen[-1].values()])
            row["count"] = float(counts_right(found, prompt.handles, words))
            leak = leaks(found, prompt.handles, words)
            row |= {} if leak is None else {"leak": float(leak)}
        if self.dino is not None:
            self._identity(rows, pictures, chosen, shown)
        return [{} for _ in rows] if cuts is None else _compare(rows, pictures, chosen, cuts)

    def _identity(
        self, rows: list[dict[str, float]], pictures: Sequence[Image.Image], chosen: list[Chosen],
        shown: TrainingPicture,
    ) -> None:  # fmt: skip
        """The paper's identity similarity: the mean over the concepts that a picture was asked for."""
        from singleinsert.metrics.regions import mask_array
        from singleinsert.metrics.scores import image_similarity

        values: list[list[float]] = [[] for _ in rows]
        for subject in shown.subjects:
            asked = [i for i, each in enumerate(chosen) if subject.handle in each]
            found = image_similarity(
                self.dino, [pictures[i] for i in asked], shown.image, masks=[chosen[i][subject.handle] for i in asked],
                reference_mask=mask_array(subject.mask), region="foreground",
            )  # fmt: skip
            for i, value in zip(asked, found, strict=True):
                values[i].append(value)
        for row, found in zip(rows, values, strict=True):
            row["identity"] = _mean(found)


def _compare(
    rows: list[dict[str, float]], pictures: Sequence[Image.Image], chosen: list[Chosen], cuts: CutOuts
) -> list[dict[str, dict[str, float]]]:
    """Looks, margin and mixing into ``rows``; {handle that was found: {handle: similarity}} of each picture."""
    there = [(i, handle, mask) for i, each in enumerate(chosen) for handle, mask in each.items() if mask is not None]
    similar = cuts.similarities([pictures[i] for i, _, _ in there], [mask for _, _, mask in there])
    matrices: list[dict[str, dict[str, float]]] = [{} for _ in rows]
    for (i, handle, _), values in zip(there, similar, strict=True):
        matrices[i][handle] = {other: float(v) for other, v in zip(cuts.handles, values, strict=True)}
    for row, matrix in zip(rows, matrices, strict=True):
        if matrix:
            margins = [margin(values, handle) for handle, values in matrix.items()]
            row["looks"] = _mean([values[handle] for handle, values in matrix.items()])
            row["margin"], row["mixing"] = _mean(margins), _mean([m < 0 for m in margins])
    return matrices


def _mean(values: Sequence[float]) -> float:
    return float(sum(values) / len(values))
