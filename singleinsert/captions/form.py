"""The form of a caption: does it name the concept once, does it fit the text encoder, is it a plain statement?"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from singleinsert.captions import words
from singleinsert.captions.phrases import Phrase, split_caption, without_phrase
from singleinsert.config import Settings
from singleinsert.data.captions import CONCEPT, class_pattern
from singleinsert.models.bundled import place_of_model
from singleinsert.reading import read_json
from singleinsert.terms import PROMPT_LENGTH

TokenCount = Callable[[str], int]
CLIP_LENGTH = 77
"""Tokens that CLIP reads, begin and end among them."""


@dataclass(frozen=True)
class Room:
    """How much text the text encoder reads.

    Attributes:
        count: tokens of a text, without begin and end.
        limit: tokens that are read, 75 for CLIP. vectors: how many of them the concept takes.
    """

    count: TokenCount
    limit: int = CLIP_LENGTH - 2
    vectors: int = 1

    def tokens(self, caption: str, class_word: str) -> int:
        """Of the training prompt, in which ``{concept}`` is the concept's vectors and the class word."""
        return self.count(caption.replace(CONCEPT, class_word)) + self.vectors * caption.count(CONCEPT)


def room_of(settings: Settings) -> Room:
    """What the base model's text encoder reads; CLIP's room, where the model is no folder with a tokenizer of its own.
    A vocabulary is read when the first text is counted."""
    folder = Path(place_of_model(settings.model.pretrained_model_name_or_path), "tokenizer")
    config = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    place, limit = (str(folder), config.get("model_max_length", PROMPT_LENGTH)) if config else ("", CLIP_LENGTH)
    if not config or str(config.get("tokenizer_class", "")).startswith("CLIP"):
        limit = min(limit, CLIP_LENGTH) - 2  # begin and end

    def count(text: str) -> int:  # verbose: its own warning of a long text, which the caller says better
        return len(_tokenizer(place)(text, add_special_tokens=False, verbose=False)["input_ids"])

    return Room(count, min(limit, PROMPT_LENGTH), settings.concept.num_vectors)


@cache
def _tokenizer(folder: str) -> Any:
    if not folder:
        from singleinsert.models.vocabulary import clip_tokenizer

        return clip_tokenizer("sd1")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


_CUT_OFF = re.compile(r"\b(?:a|an|the|and|or|of|with|in|on|at|by|to|from|his|her|its|their)$", re.IGNORECASE)


def form_warnings(caption: str, class_word: str, room: Room) -> list[str]:
    """What is wrong with the form of a caption that holds ``{concept}``, a sentence each."""
    found = []
    if (count := caption.count(CONCEPT)) > 1:
        found.append(f"names the concept {count} times: once is enough, or two of it are drawn")
    if class_word and class_pattern(class_word).search(caption.replace(CONCEPT, " ")):
        found.append(f"says {class_word} again beside the concept: is there another one?")
    tokens, phrases = room.tokens(caption, class_word), split_caption(caption, class_word)
    if tokens > room.limit:
        lost = len(phrases) - len(phrases_read(phrases, caption, class_word, room))
        vectors = f"{room.vectors} vector{'s' * (room.vectors != 1)}"
        found.append(
            f"has {tokens} tokens with the concept's {vectors}, of which the text encoder reads {room.limit}: the end "
            "is cut off" + (f", and {lost} of {len(phrases)} phrases are not read at all" if lost else "")
        )
    for names, what in ((words.HEDGES, "guesses"), (words.META, "speaks of the picture itself"),
                        (words.NEGATIONS, "says what is not there, which draws it")):  # fmt: skip
        if said := _first_of(names, caption):
            found.append(f"{what}: {said!r}")
    if '"' in caption:
        found.append("has quotation marks, which may draw letters")
    if braces := re.findall(r"[{<\[][^{}<>\[\]]*[}>\]]", caption.replace(CONCEPT, "")):
        found.append(f"has {' and '.join(braces)}, which stands for nothing")
    if weights := re.findall(r"\([^()]*:\s*\d*\.?\d+\s*\)", caption):
        found.append(f"has {' and '.join(weights)}: weights in brackets are words in training, and no weights")
    if cut := _CUT_OFF.search(caption):
        found.append(f"ends with {cut[0]!r}: was it cut off?")
    if strange := dict.fromkeys(letter for letter in caption if not letter.isascii()):
        found.append(f"has {', '.join(map(repr, strange))}: CLIP learnt English in plain letters")
    if not says_something(phrases):
        found.append(f"says nothing beside the {class_word}: that is plain training")
    return found


def phrases_read(
    phrases: Sequence[Phrase], caption: str, class_word: str, room: Room
) -> tuple[Phrase, ...]:  # fmt: skip
    """Those of the caption's phrases that begin within what the text encoder reads."""
    return tuple(each for each in phrases if room.tokens(caption[: each.start], class_word) < room.limit)


def says_something(phrases: Sequence[Phrase]) -> bool:
    """Whether any phrase is about anything but the subject's own looks."""
    return any(phrase.role != "subject" for phrase in phrases)


def missing_aspects(phrases: Sequence[Phrase], class_word: str) -> list[str]:
    """What a description should say and this one does not: the subject's state, the place, the light."""
    roles = {phrase.role for phrase in phrases}
    if class_word.lower() in words.STYLES:
        return [] if "thing" in roles else ["what is to be seen"]
    state = "pose, view or facial expression" if is_living(class_word, words.WITH_EXPRESSION) else "pose or view"
    wanted = (("state", state), ("thing", "place"), ("light", "light"))
    return [what for role, what in wanted if role not in roles]


def is_living(class_word: str, kinds: frozenset[str] = words.LIVING) -> bool:
    return bool(set(class_word.lower().split()) & kinds)


def fit(caption: str, class_word: str, room: Room) -> tuple[str, list[str]]:
    """(the caption without its last phrases, as many as make it fit; those phrases). The concept is never cut."""
    cut: list[str] = []
    while room.tokens(caption, class_word) > room.limit:
        phrases = split_caption(caption, class_word)
        if not phrases:
            break
        cut.append(phrases[-1].text)
        caption = without_phrase(caption, phrases[-1])
    return caption, cut[::-1]


def _first_of(names: Sequence[str], text: str) -> str | None:
    found = re.search(rf"(?<![\w'-])(?:{'|'.join(map(re.escape, names))})(?![\w'-])", text, re.IGNORECASE)
    return found[0] if found else None
