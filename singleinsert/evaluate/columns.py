"""The columns of the papers' tables: what each is called, which way is better, and what it says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """``better``: +1 where more is better, -1 where less is."""

    better: int
    says: str

    @property
    def arrow(self) -> str:
        return "\u2191" if self.better > 0 else "\u2193"


COLUMNS = {
    "CLIP-I-f": Column(+1, "CLIP similarity of subject and subject, all else masked out in both pictures"),
    "CLIP-I-b": Column(-1, "CLIP similarity of background and background: what was learnt besides the subject"),
    "DINO-f": Column(+1, "DINO similarity of subject and subject"),
    "DINO-b": Column(-1, "DINO similarity of background and background"),
    "CLIP-T": Column(+1, "CLIP similarity of picture and prompt, the class word in the concept's place"),
    "DIV": Column(+1, "mean LPIPS between the pictures of one prompt"),
    "ESR": Column(+1, "share of editing targets that a judge finds"),
    "SA": Column(+1, "SID's subject alignment: CLIP similarity of the picture to the training picture's subject"),
    "NSD": Column(+1, "SID's non-subject disentanglement: 1 - CLIP similarity of the picture to the rest of it"),
    "found": Column(+1, "share of pictures in which the subject was found; where it was not, -f is 0"),
}
"""In the order of the SingleInsert paper's tables, then SID's, then how far the masks go."""

PAPER = ("CLIP-I-f", "CLIP-I-b", "DINO-f", "DINO-b", "CLIP-T", "DIV", "ESR")
