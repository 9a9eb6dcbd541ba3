"""Has a concept taken more with it than the subject? Measured on latents alone, no other model is needed.

A plain prompt is drawn twice from the same noise: with the concept by the tuned model ("a photo of * face"), and with
the class word by the frozen one ("a photo of face"). What makes the first come nearer to the training picture than the
second, where the subject is not, has been learnt with the concept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from singleinsert.data.pictures import area_resample

PROMPT = "a photo of {concept}"
"""Says nothing of a place, a pose or anything beside the subject."""

BACKGROUND_LEARNT, POSE_LEARNT, PHRASE_LEARNT = 0.33, 0.43, 0.68
"""Above these shares the look says that it seems to be learnt: chosen in docs/research/entanglement.md."""
LEAST_ASYMMETRY = 0.2
"""A picture that is nearer than this to its mirror image, as a share of its own variance, does not show a side. Of 60
drawn faces that are seen from the front all are nearer, of ten subjects that are turned none."""
LEAST_OUTSIDE = 0.02
"""Share of the picture that must lie outside of the mask for a background to be there."""


@dataclass(frozen=True)
class Reference:
    """A training picture with one of its subjects.

    Attributes:
        latents: (1, c, h, w), in the denoiser's scale. mask: the subject's, (1, 1, h, w) in 0..1.
        mirrored: latents of the picture mirrored at the middle of the mask. Latents themselves cannot be mirrored: an
            autoencoder writes an edge's two sides in different channels.
        where: (1, 1, h, w), the part of the mask that its mirror image covers too.
    """

    latents: Tensor
    mask: Tensor
    mirrored: Tensor
    where: Tensor

    @classmethod
    def of(cls, pixels: Tensor, fine_mask: Tensor, latents: Tensor, encode: Callable[[Tensor], Tensor]) -> Reference:
        """
        Args:
            pixels: (1, 3, H, W). fine_mask: (1, 1, H, W). latents: the picture's. encode: pixels -> latents.
        """
        size = (latents.shape[-2], latents.shape[-1])
        where = fine_mask * mirror(fine_mask, fine_mask)
        mask, where = (area_resample(each, size).to(latents) for each in (fine_mask, where))
        return cls(latents, mask, encode(mirror(pixels, fine_mask)).to(latents), where)


@dataclass(frozen=True)
class Entanglement:
    """What came back of the training pictures with one concept.

    Attributes:
        name: the concept's, as prompts have it. pictures: drawn with the concept, and as many without.
        background: 0, the surroundings are no nearer to a training picture's than the class word's; 1, they are its
            own. None where a mask leaves nothing of the picture.
        pose: 0, the subject is turned no more to the training picture's side than the class word's is; 1, as it is
            there. None where the training pictures are nearly their own mirror images, which shows no side.
        phrases: by phrase of a description, see :func:`~singleinsert.training.explained.returned_phrase`; those alone
            by which something can be told.
    """

    name: str
    pictures: int
    background: float | None
    pose: float | None
    phrases: Mapping[str, float] = field(default_factory=dict)

    @property
    def learnt(self) -> tuple[str, ...]:
        """What seems to be entangled: "background", "pose", and phrases."""
        limits = {"background": (self.background, BACKGROUND_LEARNT), "pose": (self.pose, POSE_LEARNT)}
        limits |= {text: (value, PHRASE_LEARNT) for text, value in self.phrases.items()}
        return tuple(name for name, (value, limit) in limits.items() if value is not None and value > limit)

    @property
    def shares(self) -> str:
        """ "background 71 %, pose 3 %"; what is below 0 came back less than by chance, and is shown as 0."""
        shown = {"background": self.background, "pose": self.pose}
        shown |= {f'"{text}"': value for text, value in self.phrases.items()}
        known = [f"{name} {max(0.0, value):.0%}" for name, value in shown.items() if value is not None]
        return ", ".join(known) or "nothing that could be measured"

    def numbers(self) -> dict[str, Any]:
        """For files: rounded, by name."""
        shown = {"background": self.background, "pose": self.pose}
        rounded = {key: None if value is None else round(value, 3) for key, value in shown.items()}
        phrases = {text: round(value, 3) for text, value in self.phrases.items()}
        return {"pictures": self.pictures, **rounded, "phrases": phrases, "learnt": list(self.learnt)}


def measure(name: str, drawn: Tensor, plain: Tensor, references: Sequence[Reference]) -> Entanglement:
    """The measures of one concept, each of the training picture that came back most.

    Args:
        drawn: latents (n, c, h, w) of the concept's pictures. plain: the class word's, from the same noise.
    """
    grounds = [returned_background(drawn, plain, each) for each in references]
    poses = [returned_pose(drawn, plain, each) for each in references]
    return Entanglement(name, len(drawn), _most(grounds), _most(poses))


def _most(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def returned_background(drawn: Tensor, plain: Tensor, reference: Reference) -> float | None:
    """``1 - mean d(drawn) / mean d(plain)``, d the squared distance to the reference outside of its mask."""
    outside = 1 - reference.mask.float()
    if float(outside.mean()) < LEAST_OUTSIDE:
        return None
    near, far = (((x.float() - reference.latents.float()).square() * outside).sum() for x in (drawn, plain))
    return 1 - float(near / far)


def returned_pose(drawn: Tensor, plain: Tensor, reference: Reference) -> float | None:
    """How much more the drawn subjects look to the reference's side than the class word's do, in shares of it.

    ``side(x) = corr(x, r) - corr(x, r')``, r' the reference mirrored at the middle of its mask, correlations over where
    both masks are; the measure is ``(mean side(drawn) - mean side(plain)) / side(r)``. What is the same from both sides
    (colours, most of what makes a subject itself) falls out.
    """
    latents, mirrored, where = (x.float() for x in (reference.latents, reference.mirrored, reference.where))
    alike = float(correlation(latents, latents, where))  # 1, or 0 where it is flat or nothing is left of the mask
    own = alike - float(correlation(mirrored, latents, where))
    if own < LEAST_ASYMMETRY:
        return None

    def side(x: Tensor) -> float:
        return float((correlation(x.float(), latents, where) - correlation(x.float(), mirrored, where)).mean())

    return (side(drawn) - side(plain)) / own


def mirror(x: Tensor, mask: Tensor) -> Tensor:
    """x (b, c, h, w) mirrored left to right at the middle of ``mask`` (1, 1, h, w); 0 comes in at the edge."""
    width = mask.shape[-1]
    columns = mask.sum((0, 1, 2))
    middle = float((columns * torch.arange(width).to(columns)).sum() / columns.sum().clamp_min(1e-6))
    shift = round(2 * middle) - (width - 1)  # column i of the result is column 2 * middle - i
    source = x.flip(-1)
    if shift:
        moved = torch.zeros_like(source)
        if shift > 0:
            moved[..., shift:] = source[..., : width - shift]
        else:
            moved[..., :shift] = source[..., -shift:]
        return moved
    return source


def correlation(x: Tensor, y: Tensor, where: Tensor) -> Tensor:
    """Pearson's (b,) of x (b, c, h, w) and y (1, c, h, w) over ``where`` (1, 1, h, w); channels are centred first."""
    total = where.sum().clamp_min(1e-6)
    x, y = ((each - (each * where).sum((2, 3), keepdim=True) / total) for each in (x, y))
    dot = (x * y * where).sum((1, 2, 3))
    norms = ((x.square() * where).sum((1, 2, 3)) * (y.square() * where).sum((1, 2, 3))).sqrt()
    return dot / norms.clamp_min(1e-12)


def advise(learnt: Collection[str], *, described: bool, masked: bool) -> str:
    """What seems entangled and what to do, as one sentence; "" where nothing is.

    Args:
        learnt: as :attr:`Entanglement.learnt`. described: do training's prompts say what else the picture shows?
            masked: do its losses look at the mask?
    """
    if not learnt:
        return ""
    kinds = [kind for kind in ("background", "pose") if kind in learnt]
    phrases = [f'"{text}"' for text in learnt if text not in kinds]
    todo = []
    if "background" in learnt and not masked:
        todo.append("train with the mask (objective singleinsert)")
    if kinds and not described:
        words = {"background": "the place", "pose": "the side it is seen from"}
        todo.append(f'say {" and ".join(words[kind] for kind in kinds)} in a description (--scene_words "...")')
    if "background" in learnt and masked:
        todo.append("look whether the mask holds more than the subject")
    if phrases:
        if masked:
            todo.append("cut what is named out of the mask (--set mask.subtract=...)")
        if not described:
            todo.append("name it in a description")
    todo.append("train fewer steps")
    what = [f"the picture's {' and '.join(kinds)}"] if kinds else []
    seems = " and ".join([*what, *phrases])
    verb = "seem" if len(kinds) + len(phrases) > 1 else "seems"
    return f"Learnt with the subject {verb} {seems}: {', '.join(todo)}, or give the LoRA a lower weight (0.7)"
