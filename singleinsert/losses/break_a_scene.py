"""Break-A-Scene (Avrahami et al. 2023): a masked loss over the union of the subset, and where each handle looks.

The paper's loss is ``L_rec + 0.01 L_attn`` (equations 1 and 2): L_rec is :class:`SingleInsert`'s foreground term in the
epsilon space on the union of the sampled subjects' masks, with nothing outside of it. Ours may keep SingleInsert's
background term there: what lies outside the union, unnamed concepts among it, stays the frozen model's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from singleinsert.losses.diffusion import Attention, Views
from singleinsert.losses.singleinsert import SingleInsert

AttentionLoss = Literal["mse_max", "cross_entropy", "mass"]

LEAST_INSIDE = 0.1
"""Mean attention that a handle is to have on its own subject, in the "mass" form."""
SMALL = 1e-8


@dataclass(frozen=True)
class BreakAScene(SingleInsert):
    """SingleInsert's terms on the union of the named subjects, and an attention term.

    Attributes:
        attention_weight: of the attention term; the paper's is 0.01.
        attention_loss: its form, see :func:`attention_term`.
        attention_level: layers are read where the latents' side is divided by this; the paper's are 16 of 64.
        masked: False lets the foreground term count everywhere, as in the paper's ablation of its masked loss.
    """

    attention_weight: float = 0.01
    attention_loss: AttentionLoss = "mse_max"
    attention_level: int = 4
    masked: bool = True

    @property
    def needs_attention(self) -> bool:
        return self.attention_weight != 0

    def concept_terms(self, views: Views) -> dict[str, Tensor]:
        """SingleInsert's and "attention"."""
        terms = super().concept_terms(views if self.masked else replace(views, mask=torch.ones_like(views.mask)))
        if self.attention_weight:
            assert views.attention is not None
            terms["attention"] = self.attention_weight * attention_term(views.attention, self.attention_loss)
        return terms


def attention_term(attention: Attention, form: AttentionLoss) -> Tensor:
    """(b,): the mean over the handles that each sample names.

    - "mse_max", the paper's: ``mean_x (A_i / max A_i - m_i)^2``. It does not see how much a handle is looked at, and a
      handle that looks at one point of a small subject costs less than one that looks nowhere in particular.
    - "cross_entropy": ``-mean_{x in m_i} log q_i``, ``q_i = A_i / (sum of the named handles' A + mean of the other
      words')``: handles compete for each point.
    - "mass": ``(1 - sum_x m_i A_i / sum_x A_i)^2 + relu(0.1 - mean_{x in m_i} A_i) / 0.1``: most of a handle's
      attention lies on its subject, and there is some.
    """
    maps, masks = attention.maps.float(), attention.masks.float()  # both (b, N, h, w)
    area = masks.sum(dim=(2, 3)).clamp_min(SMALL)  # (b, N)
    if form == "mse_max":
        highest = maps.amax(dim=(2, 3), keepdim=True).clamp_min(SMALL)
        each = (maps / highest - masks).square().mean(dim=(2, 3))
    elif form == "cross_entropy":
        named = attention.named[:, :, None, None]
        everything = (maps * named).sum(dim=1, keepdim=True) + attention.rest.float()[:, None]  # (b, 1, h, w)
        share = (maps / everything.clamp_min(SMALL)).clamp_min(SMALL)
        each = -(masks * share.log()).sum(dim=(2, 3)) / area
    else:
        inside = (masks * maps).sum(dim=(2, 3))
        outside_share = 1 - inside / maps.sum(dim=(2, 3)).clamp_min(SMALL)
        each = outside_share.square() + (LEAST_INSIDE - inside / area).relu() / LEAST_INSIDE
    return _mean_of_named(each, attention.named)


def _mean_of_named(each: Tensor, named: Tensor) -> Tensor:
    """(b,) from (b, N), over the handles that count; 0 where none does."""
    return (torch.where(named > 0, each, 0.0)).sum(dim=1) / named.sum(dim=1).clamp_min(1)
