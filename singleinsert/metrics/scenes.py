"""Break-A-Scene's measures for several concepts of one picture, and what they cannot see; pictures in, numbers out.

The paper says neither which of several segments is compared nor what a missing one scores. The rules here:

- Of a class that one concept asked for has, the surest segment is that concept. Of a class that several have, the
  surest as many are theirs, given out so that they look most like their concepts.
- A concept without a segment is missed: identity 0, and no part in margin and mixing.
- A picture has the right count if it shows, of each of the scene's classes, as many subjects as were asked for. It
  leaks if it shows more subjects of a class than were asked for while a concept of that class was not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations

import numpy as np
from PIL import Image
from torch import Tensor

from singleinsert.metrics.backbones import ImageEncoder
from singleinsert.metrics.regions import Mask, centred
from singleinsert.metrics.segments import Segment

Found = Mapping[str, Sequence[Segment]]
"""Class word -> its segments in a picture, the surest first."""
Chosen = dict[str, Mask | None]
"""Handle of each concept asked for -> its segment; None where it is missed."""


class CutOuts:
    """Compares cut-outs with those of a scene's concepts, each centred on grey: place and size do not count.

    Attributes:
        handles: of the scene, in the order of the columns.
    """

    def __init__(self, encoder: ImageEncoder, reference: Image.Image, masks: Mapping[str, Mask]) -> None:
        self.encoder, self.handles = encoder, tuple(masks)
        self._own: Tensor = encoder.images([centred(reference, mask) for mask in masks.values()])

    def similarities(self, pictures: Sequence[Image.Image], masks: Sequence[Mask]) -> np.ndarray:
        """(pictures, concepts): cosine of each cut-out and each concept's own."""
        if not pictures:
            return np.zeros((0, len(self.handles)))
        cuts = [centred(picture, mask) for picture, mask in zip(pictures, masks, strict=True)]
        return (self.encoder.images(cuts).double() @ self._own.double().T).clamp(-1, 1).numpy()


def choose_segments(
    picture: Image.Image, found: Found, asked: Sequence[str], class_words: Mapping[str, str], cuts: CutOuts | None
) -> Chosen:
    """Which segment is which of the concepts asked for.

    Args:
        asked: handles. class_words: of all of the scene's handles. cuts: for classes that several concepts have;
            without it they are given out in order.
    """
    chosen: Chosen = {}
    for word in dict.fromkeys(class_words[handle] for handle in asked):
        handles = [handle for handle in asked if class_words[handle] == word]
        masks = [segment.mask for segment in found.get(word, ()) if np.any(segment.mask)][: len(handles)]
        places: list[int | None] = [k if k < len(masks) else None for k in range(len(handles))]
        if len(handles) > 1 and masks and cuts is not None:
            columns = [cuts.handles.index(handle) for handle in handles]
            places = match(cuts.similarities([picture] * len(masks), masks)[:, columns].T)
        chosen |= {h: None if k is None else masks[k] for h, k in zip(handles, places, strict=True)}
    return {handle: chosen[handle] for handle in asked}


def match(similarity: np.ndarray) -> list[int | None]:
    """(concepts, segments), no more segments than concepts -> each concept's segment, the sum being the largest."""
    concepts, segments = similarity.shape
    best = max(
        permutations(range(concepts), segments), key=lambda owners: sum(similarity[o, s] for s, o in enumerate(owners))
    )
    return [best.index(concept) if concept in best else None for concept in range(concepts)]


def counts_right(found: Found, asked: Sequence[str], class_words: Mapping[str, str]) -> bool:
    """Are there exactly the subjects asked for, of the scene's classes?"""
    return all(len(found.get(word, ())) == _asked_of(word, asked, class_words) for word in class_words.values())


def leaks(found: Found, asked: Sequence[str], class_words: Mapping[str, str]) -> bool | None:
    """Is a concept there that was not asked for? None where all were."""
    others = {word for handle, word in class_words.items() if handle not in asked}
    if not others:
        return None
    return any(len(found.get(word, ())) > _asked_of(word, asked, class_words) for word in others)


def margin(row: Mapping[str, float], handle: str) -> float:
    """How much nearer a concept's segment is to its own cut-out than to the nearest other of the scene.

    Args:
        row: similarity to each of the scene's concepts, two or more. Below 0 looks are mixed up.
    """
    return row[handle] - max(value for other, value in row.items() if other != handle)


def _asked_of(word: str, asked: Sequence[str], class_words: Mapping[str, str]) -> int:
    return sum(class_words[handle] == word for handle in asked)
