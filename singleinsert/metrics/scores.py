"""The papers' metrics as plain functions: lists of pictures in, lists of numbers out, one a picture.

Masks are float arrays (h, w) in [0, 1] of the picture's size, 1 on the subject. A picture whose subject was not found
has None for its mask: its foreground is empty and scores 0, its background is the whole picture (docs/metrics.md).

    SingleInsert   Wu et al. 2023, section 4.1: CLIP-I and DINO on the foreground and the background, CLIP-T, DIV, ESR
    SID            Kim et al. 2024, section 6, equations 1 to 3
    Break-A-Scene  Avrahami et al. 2023, section 4.1 and supplement B.2
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from singleinsert.errors import InputError
from singleinsert.metrics.backbones import ImageEncoder, PerceptualDistance, TextImageEncoder
from singleinsert.metrics.regions import FILL, Mask, centred, only

__all__ = [
    "FILL",
    "diversity",
    "editing_success",
    "identity_similarity",
    "image_similarity",
    "non_subject_disentanglement",
    "prompt_similarity",
    "subject_alignment",
    "text_alignment",
    "text_similarity",
]

Region = Literal["whole", "foreground", "background"]


def image_similarity(
    encoder: ImageEncoder,
    pictures: Sequence[Image.Image],
    reference: Image.Image,
    *,
    masks: Sequence[Mask | None] | None = None,
    reference_mask: Mask | None = None,
    region: Region = "whole",
) -> list[float]:
    """CLIP-I or DINO, whole, -f or -b: cosine of each picture's embedding and the reference's, in [-1, 1].

    For a region the other one is masked out in BOTH pictures: it becomes one flat grey before the encoder sees it
    (SingleInsert, section 4.1). On the foreground more is better, on the background less is.

    Args:
        masks: of the pictures; needed for a region. None in it: nothing was found, the foreground scores 0 and the
            background is the whole picture.
        reference_mask: needed for a region.

    Raises:
        InputError: no masks for a region, not as many as pictures, or of another size than their pictures.
    """
    _check_region(region)
    if not pictures:
        return []
    if region == "whole":
        return _cosines(encoder.images(pictures), encoder.images([reference]))
    if masks is None or reference_mask is None:
        raise InputError(f"similarity on the {region} needs masks of the pictures and of the reference")
    _same_number(pictures, masks, "masks")
    seen, found = _regions(pictures, masks, region)
    if not seen:
        return [0.0] * len(pictures)
    values = _cosines(encoder.images(seen), encoder.images([only(reference, reference_mask, region)]))
    return _spread(values, found)


def text_similarity(clip: TextImageEncoder, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
    """CLIP-T: cosine of each picture and its own prompt, in which the class word stands for the concept.

    The plain cosine, as the papers' tables have it; CLIPScore (Hessel et al. 2021) is max(0, it) times a constant.
    """
    _same_number(pictures, prompts, "prompts")
    if not pictures:
        return []
    return _rowwise(clip.images(pictures), clip.texts(prompts))


def diversity(lpips: PerceptualDistance, pictures: Sequence[Image.Image]) -> float:
    """DIV: mean LPIPS over all pairs of ONE prompt's samples; near 0 where they all look alike.

    Raises:
        InputError: fewer than two pictures, or of different sizes.
    """
    if len(pictures) < 2:
        raise InputError("diversity compares pairs: it needs two samples of the prompt or more")
    pairs = list(combinations(range(len(pictures)), 2))
    distances = lpips([pictures[i] for i, _ in pairs], [pictures[j] for _, j in pairs])
    return float(distances.double().mean())


def editing_success(verdicts: Sequence[Sequence[bool]]) -> list[float]:
    """ESR of each sample: the share of its prompt's targets that happened, 0 or 1 for one, 0, 1/2 or 1 for two.

    The paper's scoring rule is not public; every ESR it reports is a multiple of 1/200, which 100 samples scored so
    would give.

    Raises:
        InputError: a sample without targets.
    """
    if not all(len(each) for each in verdicts):
        raise InputError("editing success needs a target for every sample: leave the prompts out that have none")
    return [sum(map(bool, each)) / len(each) for each in verdicts]


# ---------------------------------------------------------------------------------------------------------- SID
def subject_alignment(
    clip: ImageEncoder, pictures: Sequence[Image.Image], references: Sequence[tuple[Image.Image, Mask]]
) -> list[float]:
    """SID's equation 1: cosine of each generated picture, WHOLE, with the subject segment of the reference, which is
    centred and enlarged as in SID's appendix A; the mean over the references."""
    return _mean_cosines(clip, pictures, [centred(picture, mask) for picture, mask in references])


def non_subject_disentanglement(
    clip: ImageEncoder, pictures: Sequence[Image.Image], references: Sequence[tuple[Image.Image, Mask]]
) -> list[float]:
    """SID's equation 2: 1 - cosine of each generated picture, WHOLE, with the reference without its subject; the mean
    over the references, in [0, 2]. More is better: nothing of the surroundings came along."""
    segments = [only(picture, mask, "background") for picture, mask in references]
    return [1 - value for value in _mean_cosines(clip, pictures, segments)]


def text_alignment(clip: TextImageEncoder, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
    """SID's equation 3: :func:`text_similarity` with the identifier removed from the prompt ("a * cat": "a cat")."""
    return text_similarity(clip, pictures, prompts)


# ------------------------------------------------------------------------------------------------ Break-A-Scene
def prompt_similarity(clip: TextImageEncoder, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
    """:func:`text_similarity`; every handle in the prompt replaced by its class word (CLIP ViT-L/14 in the paper)."""
    return text_similarity(clip, pictures, prompts)


def identity_similarity(
    dino: ImageEncoder,
    pictures: Sequence[Image.Image],
    reference: Image.Image,
    *,
    masks: Sequence[Sequence[Mask | None]],
    reference_masks: Sequence[Mask],
) -> list[list[float]]:
    """Break-A-Scene's identity similarity: for each picture and each concept the cosine of the two pictures with all
    but that concept masked out (DINO ViT-B/16 in the paper).

    Args:
        masks: for each picture one mask per concept, in the order of `reference_masks`; None where it was not found,
            which scores 0. Leave out pictures whose prompt does not name the concept.

    Returns:
        (pictures, concepts); the paper's number is the mean of all.
    """
    _same_number(pictures, masks, "lists of masks")
    if any(len(each) != len(reference_masks) for each in masks):
        raise InputError(f"identity similarity needs {len(reference_masks)} masks of every picture, one per concept")
    columns = [
        image_similarity(dino, pictures, reference, masks=[each[k] for each in masks], reference_mask=mask,
                         region="foreground")
        for k, mask in enumerate(reference_masks)
    ]  # fmt: skip
    return [list(row) for row in zip(*columns, strict=True)] if columns else [[] for _ in pictures]


# ------------------------------------------------------------------------------------------------------ helpers
def _regions(
    pictures: Sequence[Image.Image], masks: Sequence[Mask | None], region: Literal["foreground", "background"]
) -> tuple[list[Image.Image], list[bool]]:
    """The pictures cut to their region, and which of all have one: an empty foreground has nothing to compare."""
    seen, found = [], []
    for picture, mask in zip(pictures, masks, strict=True):
        empty = mask is None or not np.any(mask)
        found.append(not (empty and region == "foreground"))
        if found[-1]:
            seen.append(picture if mask is None or empty else only(picture, mask, region))
    return seen, found


def _spread(values: Sequence[float], found: Sequence[bool]) -> list[float]:
    rest = iter(values)
    return [next(rest) if there else 0.0 for there in found]


def _mean_cosines(
    encoder: ImageEncoder, pictures: Sequence[Image.Image], references: Sequence[Image.Image]
) -> list[float]:
    if not references:
        raise InputError("alignment needs a reference picture and its mask")
    if not pictures:
        return []
    cosines = encoder.images(pictures).double() @ encoder.images(references).double().T
    return cosines.clamp(-1, 1).mean(1).tolist()


def _cosines(pictures: Tensor, reference: Tensor) -> list[float]:
    """(n, d) and (1, d) unit vectors -> n cosines."""
    return _rowwise(pictures, reference.expand_as(pictures))


def _rowwise(a: Tensor, b: Tensor) -> list[float]:
    # in float64, and back into the range that a cosine cannot leave: unit vectors are so up to rounding only
    return (a.to(torch.float64) * b.to(torch.float64)).sum(1).clamp(-1, 1).tolist()


def _check_region(region: str) -> None:
    if region not in ("whole", "foreground", "background"):
        raise InputError(f"region {region!r} is unknown: whole, foreground or background")


def _same_number(pictures: Sequence[object], others: Sequence[object], what: str) -> None:
    if len(pictures) != len(others):
        raise InputError(f"{len(pictures)} pictures but {len(others)} {what}")
