"""A caption cut into phrases, and what the words alone say of each: is it about the subject, or about all else?

"a photo of a smiling old {concept} wearing a red hat on a beach" has four: "smiling" (state), "old" (subject: a leak),
"wearing a red hat" (worn), "on a beach" (thing).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from singleinsert.captions import words
from singleinsert.data.captions import CONCEPT

Role = Literal["subject", "worn", "state", "thing", "light", "unsure"]

MEANING: dict[Role, str] = {
    "subject": "the subject's own looks",
    "worn": "worn, held or contained",
    "state": "pose, view or expression",
    "thing": "another thing, or the place",
    "light": "light",
    "unsure": "unclear, whose it is",
}


@dataclass(frozen=True)
class Phrase:
    """A part of a caption, ``caption[start:end] == text``. ``role``: what the words take it for."""

    text: str
    start: int
    end: int
    role: Role


_GOVERNORS = sorted((*words.WEARING, *words.HAVING[:-4], *words.PLACING), key=len, reverse=True)
_PARTICIPLES = sorted(word for word in words.STATE if word.endswith(("ing", "ed")) and word not in ("closed", "opened"))
_BREAK = re.compile(
    r"(?P<comma>[,;:])|(?<![\w-])(?:(?P<and>and)\s+(?=(?:a|an|the|his|her|its|their|two|three|some)\b)"
    rf"|(?P<governor>{'|'.join(_GOVERNORS)})(?![\w-])|(?=(?:{'|'.join(_PARTICIPLES)})(?![\w-])))",
    re.IGNORECASE,
)
_MEDIUM = re.compile(
    r"^\s*(?:an?|the)?\s*(?:[\w-]+ )?(?:photo|photograph|picture|image|painting|drawing|cartoon|sketch|illustration|"
    r"portrait)(?: in the style)? of(?=\s)",
    re.IGNORECASE,
)


def split_caption(caption: str, class_word: str) -> tuple[Phrase, ...]:
    """The phrases of a caption that holds ``{concept}``, in their order; the medium ("a photo of") is none."""
    place = caption.find(CONCEPT)
    if place < 0:
        return ()
    end = place + len(CONCEPT)
    before = _before_subject(caption, place, class_word)
    return (*before, *_after_subject(caption, end, class_word))


def without_phrase(caption: str, phrase: Phrase) -> str:
    """The caption with the phrase left out, and what a gap leaves behind tidied: commas, spaces, "an {concept}"."""
    before = re.sub(r"(?:\s+and)?\s*$", "", caption[: phrase.start])
    after = caption[phrase.end :].lstrip()
    if article := re.search(r"(?<![\w-])an?$", before, re.IGNORECASE):
        before = before[: article.start()] + ("an" if after[:1].lower() in "aeiou" and after else "a")
    text = re.sub(r"\s+([,;.])", r"\1", " ".join(f"{before} {after}".split()))
    text = re.sub(r"([,;])(?:\s*[,;])+", r"\1", text)
    return re.sub(r"\s+and(?=\s*[,;]|$)", "", text).strip(" ,;")


def _before_subject(caption: str, place: int, class_word: str) -> list[Phrase]:
    """Adjectives of the subject, a view ("left side view of a"), and whatever was said first."""
    medium = _MEDIUM.match(caption[:place])
    start = medium.end() if medium else 0
    head = caption[start:place]
    if class_word.lower() in words.STYLES and re.fullmatch(r".*\bin the style of\s*(?:an?|the)?\s*", caption[:place]):
        return []
    tokens = list(re.finditer(r"[^\s,;]+", head))
    own = len(tokens)  # where the subject's own words begin: behind the last article, "of" or preposition
    while own and tokens[own - 1][0].lower() not in words.DETERMINERS | {"of"} | set(words.PLACING):
        own -= 1
    phrases: list[Phrase] = []
    earlier = head[: tokens[own - 1].start()] if own else ""
    earlier = re.sub(r"(?<![\w-])(?:an?|the)?\s*$", "", earlier).rstrip()
    if re.search(r"\w", earlier) and earlier.strip().lower() not in words.DETERMINERS:
        phrases += _pieces(caption, start, start + len(earlier), class_word, after_subject=False)
    group: list[re.Match[str]] = []
    role: Role = "subject"
    for token in tokens[own:]:
        found = _adjective_role(token[0])
        if group and found and found != role:
            phrases.append(_of_tokens(caption, start, group, role))
            group = []
        if found or group:
            group.append(token)
        role = found or role
    return [*phrases, *([_of_tokens(caption, start, group, role)] if group else [])]


def _adjective_role(word: str) -> Role | None:
    """None for "and" and "very", which go with their neighbours."""
    word = word.lower().strip(",")
    if word in ("and", "very", "or", "-"):
        return None
    return "state" if word in words.STATE | words.VIEW or word.endswith("ing") else "subject"  # "steaming", "burning"


def _of_tokens(caption: str, offset: int, group: list[re.Match[str]], role: Role) -> Phrase:
    start, end = offset + group[0].start(), offset + group[-1].end()
    return Phrase(caption[start:end], start, end, role)


def _after_subject(caption: str, start: int, class_word: str) -> list[Phrase]:
    return _pieces(caption, start, len(caption), class_word, after_subject=True)


def _pieces(caption: str, start: int, end: int, class_word: str, after_subject: bool) -> list[Phrase]:
    """The phrases of ``caption[start:end]``; a piece without a word of its own goes with the next one."""
    marks = [start, *(m.start() for m in _BREAK.finditer(caption, start, end)), end]
    spans: list[tuple[int, int]] = []
    for left, right in pairwise(marks):
        if spans and _unfinished(caption[spans[-1][0] : spans[-1][1]], caption[left:right]):
            spans[-1] = (spans[-1][0], right)
        elif spans and not after_subject and caption[left:right].strip(" ,").lower() in _GOVERNORS:
            spans[-1] = (spans[-1][0], right)  # "a red cup next to" a {concept}
        elif right > left:
            spans.append((left, right))
    phrases: list[Phrase] = []
    previous: Role = "subject" if after_subject else "thing"
    for left, right in spans:
        text = caption[left:right]
        between = re.match(r"[\s,;:]*(and\s+)?", text, re.IGNORECASE)
        lead, joined = (between.end(), bool(between[1])) if between else (0, False)
        text = caption[left + lead : right].rstrip(" ,;:.")
        if not re.search(r"\w", text):
            continue
        role = _role(text, previous, class_word)
        if joined and role in ("thing", "unsure"):
            role = "thing" if previous in ("subject", "unsure") else previous  # "wearing a hat and a scarf"
        phrases.append(Phrase(text, left + lead, left + lead + len(text), role))
        previous = role
    return phrases


def _unfinished(piece: str, following: str) -> bool:
    """Whether a piece is a governor alone ("while" + "wearing a hat"), or the begin of a list ("a red," "tall hat")."""
    plain = piece.strip(" ,;:").lower()
    if plain in ("", "and"):
        return bool(plain)
    if plain in _GOVERNORS or plain in words.DETERMINERS:
        return True
    listed = following.startswith(",") and plain.split()[-1] in _COLOURS
    return listed and following.strip(" ,").split(" ")[0].lower() not in words.DETERMINERS | set(_GOVERNORS)


_LIGHT_ANYWHERE = frozenset("light lighting lit backlit sunlight shadows".split())
_COLOURS = frozenset(
    "red green blue yellow black white brown grey gray pink purple orange teal beige large small".split()
)


def _role(text: str, previous: Role, class_word: str) -> Role:
    """What a phrase behind the subject is about. ``previous``: what the one before it was about."""
    text = re.sub(r"^(?:while|as|who is|that is|which is)\s+(?=\w)", "", text, flags=re.IGNORECASE)
    listed = re.findall(r"[\w'-]+", text.lower())
    said, first = set(listed), listed[0]
    is_thing = not set(class_word.lower().split()) & words.LIVING
    own = (words.BODY | (words.PARTS if is_thing else frozenset())) - set(class_word.lower().split())
    if class_word.lower() in words.STYLES:
        return "subject" if said & words.STYLE_LOOKS else "light" if said & words.LIGHT else "thing"
    governor = next((g for g in _GOVERNORS if re.match(rf"{g}(?![\w-])", text, re.IGNORECASE)), "").lower()
    parts = said & own
    if parts and said & words.STATE_OF_PART:
        return "state"
    if governor in words.WEARING or (governor == "in" and said & words.CLOTHES):
        return "worn"
    if parts and governor not in words.PLACING:
        return _role_of_part(governor, said, listed[-1] in own, previous)
    if parts and said & words.POSSESSIVES:
        return "worn"  # "on its head": where a thing is worn
    if governor == "made of" and previous == "subject":
        return "subject"
    if listed[-1] in words.LIGHT or said & _LIGHT_ANYWHERE:
        return "light"  # and not "before the night sky"
    if first in words.STATE or said & {"expression", "smile", "grin", "frown", "profile", "pose"}:
        return "state"
    if said & words.VIEW and governor in ("", "from", "in", "seen", "with"):
        return "state"
    if governor in ("is", "are"):
        return "state" if said & words.STATE else "subject"
    if governor in words.HAVING:
        return "worn" if previous in ("subject", "state", "worn") else "thing"
    if not governor and listed[-1] in words.CLOTHES and previous in ("subject", "state", "worn"):
        return "worn"  # ", red hat, glasses"
    if not governor and previous == "subject" and first in words.DETERMINERS:
        return "unsure"  # ", a golden retriever," says again what the subject is; ", a red hat" does not
    return "thing"


def _role_of_part(governor: str, said: set[str], is_head: bool, previous: Role) -> Role:
    """Of a phrase that names a part: "with green eyes", "its bushy tail", "long brown hair"."""
    if governor in words.HAVING:
        return "subject" if previous in ("subject", "state") else "unsure"
    if said & words.POSSESSIVES or is_head:
        return "subject" if previous != "thing" else "unsure"
    return "thing"
