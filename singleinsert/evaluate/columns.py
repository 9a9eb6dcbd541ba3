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
    "prompt": Column(+1, "Break-A-Scene's prompt similarity: CLIP similarity of picture and prompt, with class words"),
    "identity": Column(
        +1, "Break-A-Scene's identity similarity: DINO similarity of each concept asked for, all else masked out in "
        "both pictures; one that is not found counts 0",
    ),
    "looks": Column(+1, "similarity of each concept that was found with its own cut-out, wherever it stands"),
    "margin": Column(+1, "how much nearer a concept is to its own cut-out than to the next of the scene's others"),
    "mixing": Column(-1, "share of the concepts that are nearer to another concept of the scene than to their own"),
    "count": Column(+1, "share of pictures with as many subjects of each of the scene's classes as were asked for"),
    "leak": Column(-1, "share of pictures in which a concept of the scene is found that was not asked for"),
    "rated-prompt": Column(+1, "people's ratings of how well the prompt is obeyed, 1 to 5"),
    "rated-identity": Column(+1, "people's ratings of how well the identity is kept, 1 to 5"),
    "found": Column(+1, "share of the subjects asked for that were found; where one was not, -f and identity are 0"),
}  # fmt: skip
"""In the order of the SingleInsert paper's tables, then SID's, then those of scenes, then how far the masks go."""

PAPER = ("CLIP-I-f", "CLIP-I-b", "DINO-f", "DINO-b", "CLIP-T", "DIV", "ESR")
RATED = {"prompt": "rated-prompt", "identity": "rated-identity"}
"""Columns that Break-A-Scene shows in a figure without numbers, and what people said of the same (its Table 4)."""
TRADE_OFFS = (("CLIP-T", "DINO-f"), ("prompt", "identity"))
"""What is drawn against what: obeying across, keeping the subject up; the first pair that was measured."""
