"""Which words of a caption belong to which part of a scene, and the loss that makes cross-attention say the same.

The world knows both exactly, as no data set of photographs does, so that mini-scenes need not find out by itself that
"a gray cat and a tall cup" are two things in two places (TokenCompose, Wang et al. 2023, supervises attention like this
with found masks).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor
from torch import Tensor, nn
from tqdm import tqdm

from .scenes_data import MOST, merges_of
from .tokenizer import MAX_LENGTH
from .world.scene_captions import SceneCaption, scene_caption
from .world.scenes import SCENE_SIZE, draw_scene, scene_from_seed

NOBODY = -1


@dataclass(frozen=True)
class Bindings:
    """Of each caption, which phrase a slot of the prompt belongs to, int8 (n * each, L), and which one a subject has,
    int8 (n * each, 4); NOBODY where none."""

    phrases: np.ndarray
    subjects: np.ndarray


def owners_of(seeds: list[int], cache: Path) -> np.ndarray:
    """Which subject covers a latent pixel by more than half, int8 (n, 24, 24), NOBODY where none does."""
    file = cache / f"scenes-owners-{len(seeds)}.npy"
    if not file.exists():
        owners = np.stack([_owner(seed) for seed in tqdm(seeds, desc="owners", mininterval=10)])
        np.save(file, owners)
    return np.load(file)


def _owner(seed: int) -> np.ndarray:
    covers = np.stack([np.asarray(m.whole.reduce(4)) for m in draw_scene(scene_from_seed(seed)).masks])
    return np.where(covers.max(0) > 127, covers.argmax(0), NOBODY).astype(np.int8)


def bindings_of(seeds: list[int], cache: Path, each: int, dense: bool) -> Bindings:
    """Of the captions of :func:`testbed.scenes_data.conditions_of`, spans that became one slot included."""
    file = cache / f"scenes-bindings-{len(seeds)}-{each}{'-dense' if dense else ''}.npz"
    if not file.exists():
        captions = [scene_caption(scene_from_seed(s), k, dense) for s in seeds for k in range(each)]
        merges = merges_of(captions)
        rows = [bind(c, m) for c, m in zip(captions, merges, strict=True)]
        np.savez(file, phrases=np.stack([r[0] for r in rows]), subjects=np.stack([r[1] for r in rows]))
    data = np.load(file)
    return Bindings(data["phrases"], data["subjects"])


def bind(caption: SceneCaption, merges: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Of one caption: the phrase of each slot (L,) and of each subject (4,). ``merges``: (first, after the last) of the
    spans that became one slot each, the later ones first, counted with the prompt's start."""
    slots = np.full(MAX_LENGTH, NOBODY, np.int8)
    subjects = np.full(MOST, NOBODY, np.int8)
    for nth, ((first, after), whose) in enumerate(zip(caption.spans, caption.subjects, strict=True)):
        slots[1 + first : 1 + after] = nth
        subjects[list(whose)] = nth
    for first, after in merges:
        gone = after - first - 1
        slots = np.concatenate([slots[: first + 1], slots[after:], np.full(gone, NOBODY, np.int8)])
    return slots, subjects


class KeepingProcessor(AttnProcessor):
    """AttnProcessor that keeps the mean over the heads of its probabilities, (b, pixels, L)."""

    def __init__(self) -> None:
        super().__init__()
        self.probabilities: Tensor | None = None

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Any = None, **_: Any
    ) -> Any:  # fmt: skip
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
        value = attn.head_to_batch_dim(attn.to_v(encoder_hidden_states))
        probabilities = attn.get_attention_scores(query, key)
        self.probabilities = probabilities.unflatten(0, (-1, attn.heads)).mean(1)
        out: Any = attn.to_out
        return out[1](out[0](attn.batch_to_head_dim(torch.bmm(probabilities, value))))


class Watched(nn.Module):
    """A UNet of plain attention that also gives what its cross-attention of the two finest levels looks at."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = unet
        self.keepers: list[KeepingProcessor] = []
        processors: dict[str, Any] = {}
        for name in unet.attn_processors:
            keep = "attn2" in name and "mid_block" not in name
            processors[name] = KeepingProcessor() if keep else AttnProcessor()
            if keep:
                self.keepers.append(processors[name])
        unet.set_attn_processor(processors)

    def forward(self, x: Tensor, t: Tensor, hidden: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Prediction (b, 4, h, w) and maps (b, pixels, L)."""
        out = self.unet(x, t, hidden).sample
        return out, [k.probabilities for k in self.keepers if k.probabilities is not None]


def misbound(maps: Sequence[Tensor], owner: Tensor, phrases: Tensor, subjects: Tensor) -> Tensor:
    """How much a subject's pixels look at other subjects' phrases, (b,): the cross-entropy of the phrases' shares of
    the attention, over the pixels of subjects that have one.

    Args:
        maps: each (b, pixels, L). owner: (b, 24, 24). phrases: (b, L). subjects: (b, 4).
    """
    slots = F.one_hot((phrases + 1).long(), MOST + 1)[..., 1:].float()  # (b, L, phrases)
    known = torch.cat([subjects, torch.full_like(subjects[:, :1], NOBODY)], 1).long()  # the last is nobody's
    losses = []
    for seen in maps:
        side = int(seen.shape[1] ** 0.5)
        factor = SCENE_SIZE // 4 // side
        who = owner[:, factor // 2 :: factor, factor // 2 :: factor].flatten(1).long()
        target = known.gather(1, torch.where(who == NOBODY, MOST, who))
        share = (seen.float() @ slots).clamp(min=1e-6)  # (b, pixels, phrases)
        log = share.log() - share.sum(-1, keepdim=True).log()
        picked = log.gather(-1, target.clamp(min=0)[..., None])[..., 0]
        counts = (target != NOBODY).float()
        losses.append(-(picked * counts).sum(1) / counts.sum(1).clamp(min=1))
    return torch.stack(losses).mean(0)
