"""What the checks together say of each phrase. Only what the words AND the critic call subject is dropped by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from singleinsert.captions.geometry import Placement
from singleinsert.captions.phrases import MEANING, Phrase
from singleinsert.captions.rho import Rho

Letter = Literal["A", "B", "C", "D", "E", "F"]
Status = Literal["keep", "look", "drop"]

SAID: dict[str, str] = {
    "A": "the subject's own lasting looks",
    "B": "worn, held or contained",
    "C": "another thing, or the place",
    "D": "pose, view or expression",
    "E": "light or style",
    "F": "not to be seen in the picture",
}
"""The critic's answers, by letter."""


@dataclass(frozen=True)
class Verdict:
    """Attributes: status: keep; look (a person should); drop (left out). reasons: in words, never empty."""

    phrase: Phrase
    status: Status
    reasons: tuple[str, ...]

    def line(self) -> str:
        """ "look  with brown hair: by the words, the subject's own looks"."""
        return f"{self.status}  {self.phrase.text}: {'; '.join(self.reasons)}"


def judge(
    phrase: Phrase,
    critic: str | None = None,
    placement: Placement | None = None,
    rho: Rho | None = None,
    *,
    may_drop: bool = False,
) -> Verdict:
    """The verdict on a phrase from what is known of it.

    Args:
        critic: the letter that the model gave, None where none was asked or its answer could not be read.
        placement: where the phrase's mask lies. rho: of the caption with it, to the caption without it.
        may_drop: of a model's sentence; a user's is only looked at.
    """
    reasons = [f"by the words, {MEANING[phrase.role]}"]
    doubts = phrase.role in ("subject", "unsure")
    if critic:
        reasons.append(f"by the model, {SAID[critic]}")
        doubts = doubts or critic in "AF"
    if placement is not None:
        reasons.append(placement.reason)
        doubts = doubts or placement.kind == "subject"
    if rho is not None:
        reasons.append(rho.reason)
        doubts = doubts or rho.is_wrong
    if may_drop and phrase.role == "subject" and critic == "A":
        return Verdict(phrase, "drop", tuple(reasons))
    return Verdict(phrase, "look" if doubts else "keep", tuple(reasons))
