"""What a vision-language model is asked for. A wording of our own for small models, after Kim et al. 2024, fig. 4."""

from __future__ import annotations

from singleinsert.captions import words
from singleinsert.captions.form import is_living
from singleinsert.errors import InputError

MAX_WORDS = 40

INSTRUCTION = """\
You write the caption of a training picture. The subject is the {class_word}.
Write ONE English sentence of at most {max_words} words that begins with "{beginning}".
Say of the {class_word} nothing but that word: no colour, material, shape, age, breed, markings, hair or face.
Describe everything else in detail, each thing with its colour and material: what the {class_word} wears, holds or \
contains; objects next to it; the place and what is behind it; the {class_word}'s pose{expression} and the side it is \
seen from; the light. Name only what is visible. No "appears", no "image". Answer with the sentence only."""

STYLE_INSTRUCTION = """\
You write the caption of a training picture. The subject is the style that it is painted in.
Write ONE English sentence of at most {max_words} words that begins with "{beginning}".
Describe in detail everything that is to be seen: each person, animal and thing with its colours, what it does, the \
place, what is behind it, the light. Say nothing of the style itself: no technique, material, brush strokes, lines, \
palette or artist. Name only what is visible. Answer with the sentence only."""

AGAIN = (
    '\nYour last answer {why}. Answer with one sentence of at most {max_words} words that begins with "{beginning}".'
)


def is_style(class_word: str) -> bool:
    """Whether the concept is a style ("art"): then everything to be seen is said, and nothing of how it is painted."""
    return class_word.lower().strip() in words.STYLES


def beginning(class_word: str) -> str:
    """How a caption begins, with the class word in the concept's place."""
    if is_style(class_word):
        return f"a painting in the style of {class_word}"
    return f"a photo of {with_article(class_word)}"


def with_article(word: str) -> str:
    return f"{'an' if word[:1].lower() in 'aeiou' else 'a'} {word}"


def instruction(class_word: str, own: str = "") -> str:
    """The text that goes to the model with the picture.

    Args:
        own: the user's, in place of the built-in one; ``{class_word}`` in it is filled in.

    Raises:
        InputError: no class word.
    """
    if not class_word.strip():
        raise InputError("--class_word is missing: what does the picture show, such as face or cat?")
    if own.strip():
        return own.strip().replace("{class_word}", class_word)
    template = STYLE_INSTRUCTION if is_style(class_word) else INSTRUCTION
    expression = ", its facial expression" if is_living(class_word, words.WITH_EXPRESSION) else ""
    return template.format(
        class_word=class_word, max_words=MAX_WORDS, beginning=beginning(class_word), expression=expression
    )


def again(class_word: str, why: str) -> str:
    """What is added where the first answer could not be used."""
    return AGAIN.format(why=why, max_words=MAX_WORDS, beginning=beginning(class_word))
