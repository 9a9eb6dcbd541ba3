"""The second question to the model that wrote a caption: what is each phrase about, and what did it forget?"""

from __future__ import annotations

import re
from collections.abc import Sequence

from PIL import Image

from singleinsert.captions.ask import Ask, clean_sentence, is_refusal, without_thoughts
from singleinsert.captions.phrases import Phrase
from singleinsert.captions.verdicts import SAID
from singleinsert.data.captions import CONCEPT
from singleinsert.errors import SingleInsertError

QUESTION = (
    'Picture of a {class_word}. Phrase: "{phrase}". Is it about (A) the {class_word}\'s own lasting appearance, '
    "(B) something it wears, holds or contains, (C) another thing or the place, (D) its pose, view or expression, "
    "(E) light or style, (F) not visible? Answer with one letter."
)
FORGOTTEN = (
    'List the visible things that this sentence does not mention: "{sentence}". Answer with a short list, separated by '
    'commas, or with "nothing".'
)
MOST_FORGOTTEN = 5


def criticize(ask: Ask, picture: Image.Image, phrase: Phrase, class_word: str) -> str | None:
    """The letter of ``verdicts.SAID``; None where the model gives none, or cannot be asked."""
    if ask.captions_only:
        return None
    return ask.choose(picture, QUESTION.format(class_word=class_word, phrase=phrase.text), tuple(SAID))


def remarks_on(letters: Sequence[str | None], ask: Ask) -> list[str]:
    """What a person should know of a critic's answers: how many could not be read."""
    unread = 0 if ask.captions_only else sum(letter is None for letter in letters)
    if not unread:
        return []
    return [f"was judged by the words alone in {unread} of its {len(letters)} phrases: the model's answers say nothing"]


def forgotten_remarks(ask: Ask, picture: Image.Image, caption: str, class_word: str) -> list[str]:
    """What a person should know of what a caption leaves out; where the model does not say, that: the caption is
    there already, and is not lost for it."""
    try:
        things = forgotten(ask, picture, caption, class_word)
    except SingleInsertError as problem:
        return [f"was not compared with all that is to be seen: {problem}"]
    return [f"does not name, says the model: {', '.join(things)}"] if things else []


def forgotten(ask: Ask, picture: Image.Image, caption: str, class_word: str) -> list[str]:
    """Things to be seen that the caption does not name, by the model; empty where it knows of none."""
    if ask.captions_only:
        return []
    sentence = caption.replace(CONCEPT, class_word)
    answer = without_thoughts(ask(picture, FORGOTTEN.format(sentence=sentence)))
    if is_refusal(answer):
        return []
    things: list[str] = []
    for part in re.split(r"[,;\n]|\d+[.)]|(?:^|\s)[-*]\s", answer):
        thing = clean_sentence(part).lower()
        named = re.findall(r"[a-z'-]+", thing)
        if named and len(named) <= 5 and named[-1] not in ("nothing", "none") and named[-1] not in sentence.lower():
            things.append(thing)
    return list(dict.fromkeys(things))[:MOST_FORGOTTEN]
