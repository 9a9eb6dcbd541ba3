"""From a model's answer to a caption, or the reason why it cannot be one. Nothing here is passed over in silence."""

from __future__ import annotations

import re
from collections import Counter

from singleinsert.captions import words
from singleinsert.captions.ask import clean_sentence, is_refusal, without_thoughts
from singleinsert.captions.form import says_something
from singleinsert.captions.instruction import MAX_WORDS, beginning, is_style, with_article
from singleinsert.captions.phrases import split_caption
from singleinsert.data.captions import CONCEPT, class_pattern, with_concept
from singleinsert.errors import InputError

AFTERWORD = 12
"""Words beside the sentence ("Sure! Here is a caption:") that are not worth a remark."""

LONGEST = 2 * MAX_WORDS
"""Words of a sentence that was asked to have MAX_WORDS; what is longer was not written to the instruction."""


class UnusableError(InputError):
    """An answer that is no caption; the text says why, as a verb: "declines", "is empty"."""


def caption_from_answer(answer: str, class_word: str) -> tuple[str, list[str]]:
    """(the caption, with ``{concept}`` for the subject; what was changed, a sentence each).

    Raises:
        UnusableError: a refusal, nothing, rambling, a loop, no subject, or nothing beside the subject.
    """
    sentence = clean_sentence(answer)
    if not re.search(r"[a-z]{2}", sentence, re.IGNORECASE):
        raise UnusableError("has no word in English letters" if sentence else "is empty")
    if is_refusal(without_thoughts(answer)):
        raise UnusableError(f"declines: {sentence[:80]!r}")
    listed = re.findall(r"[\w'-]+", sentence.lower())
    if len(listed) > LONGEST:
        raise UnusableError(f"rambles: {len(listed)} words in one sentence")
    if loop := _loop(listed):
        raise UnusableError(f"repeats itself: {loop!r}")
    caption, notes = _with_subject(sentence, class_word)
    if (more := len(without_thoughts(answer).split()) - len(sentence.split())) > AFTERWORD:
        notes.append(f"went on for {more} words more, which are left out: only the first sentence counts")
    caption = caption[:1].lower() + caption[1:]
    if not says_something(split_caption(caption, class_word)):
        raise UnusableError(f"says nothing beside the {class_word}: {sentence[:80]!r}")
    return caption, notes


def _loop(listed: list[str]) -> str | None:
    """Words that come again and again, as of a model that has lost its thread."""
    for size, often in ((1, 4), (3, 3)):
        groups = Counter(" ".join(listed[i : i + size]) for i in range(len(listed) - size + 1))
        for group, count in groups.most_common():
            if count >= often and (size > 1 or group not in _COMMON):
                return group
    return None


_COMMON = words.DETERMINERS | set(words.PLACING) | {"and", "of", "with", "is", "are", "wearing", "to"}


def _with_subject(sentence: str, class_word: str) -> tuple[str, list[str]]:
    """The sentence with ``{concept}``: for the class word, or for what the sentence calls the subject instead."""
    if class_pattern(class_word).search(sentence):
        return with_concept(sentence, class_word), []
    start = re.match(
        r"(?:an? )?(?:photo|picture|image|painting|drawing|portrait|close-up|photograph)"
        r"(?: in the style of(?: [\w'-]+){1,2}?)? of ", sentence, re.I,
    )  # fmt: skip
    rest = sentence[start.end() if start else 0 :]
    if is_style(class_word):  # everything that is to be seen is said, and none of it is the concept
        caption = f"{beginning(class_word).removesuffix(class_word)}{CONCEPT} of {rest[:1].lower()}{rest[1:]}"
        return caption, [f"does not name the {class_word}: what it shows is said behind it"]
    listed = re.match(
        r"(?:(?:an?|the|one|this) )((?:[\w'-]+,? )*?[\w'-]+)(?=[,.;]| (?:" + _ENDS + r")\b|$)", rest, re.I
    )
    if listed is None:
        raise UnusableError(f"does not name the {class_word}: {sentence[:80]!r}")
    before, _, noun = listed[1].rpartition(" ")
    article = "" if start else beginning(class_word).removesuffix(with_article(class_word))
    caption = f"{sentence[: start.end()] if start else article}a {before} {CONCEPT}{rest[listed.end() :]}"
    return " ".join(caption.split()), [f"calls the {class_word} {noun!r}: is it the same thing?"]


_ENDS = "|".join(
    re.escape(word)
    for word in sorted(
        {*words.WEARING, *words.HAVING, *words.PLACING, "and", "of"}
        | {word for word in words.STATE if word.endswith(("ing", "ed"))} | {"sits", "stands", "lies"},
        key=len, reverse=True,
    )
)  # fmt: skip
