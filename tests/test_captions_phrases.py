"""A caption in phrases: what each is about by its words, and what is left when one is left out."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from singleinsert.captions.form import Room, fit, form_warnings, missing_aspects, says_something
from singleinsert.captions.phrases import split_caption, without_phrase
from singleinsert.data.captions import CONCEPT, with_concept

WORDS = Room(lambda text: len(text.replace(",", " ,").split()), limit=75, vectors=1)


def roles(text: str, word: str) -> dict[str, str]:
    return {phrase.text: phrase.role for phrase in split_caption(with_concept(text, word), word)}


@pytest.mark.parametrize(
    ("word", "text", "found"),
    [
        ("face", "a photo of a smiling old face wearing a red hat on a beach",
         {"smiling": "state", "old": "subject", "wearing a red hat": "worn", "on a beach": "thing"}),
        # the paper's own two, Kim et al. 2024
        ("perfume", "a * perfume next to a black Prada purse with silver hardware on a bed of white sheets",
         {"next to a black Prada purse": "thing", "with silver hardware": "thing",
          "on a bed of white sheets": "thing"}),
        ("dog", "a * dog sitting on the fluffy blanket and green couch",
         {"sitting": "state", "on the fluffy blanket and green couch": "thing"}),
        ("face", "left side view of a face with long brown hair, wearing a red, wide-brimmed hat and a blue scarf",
         {"left side view of": "state", "with long brown hair": "subject", "wearing a red, wide-brimmed hat": "worn",
          "a blue scarf": "worn"}),
        ("cat", "a fluffy black and white cat with its mouth open, its green eyes closed, in soft evening light",
         {"fluffy black and white": "subject", "with its mouth open": "state", "its green eyes closed": "state",
          "in soft evening light": "light"}),
        ("cup", "a cup with a large handle, filled with coffee, next to a spoon with a black handle",
         {"with a large handle": "subject", "filled with coffee": "worn", "next to a spoon": "thing",
          "with a black handle": "unsure"}),
        ("dog", "a dog, a golden retriever, lying on grass",
         {"a golden retriever": "unsure", "lying": "state", "on grass": "thing"}),
        ("face", "a photo of a face, red hat, beach", {"red hat": "worn", "beach": "thing"}),
        ("car", "a red cup next to a car parked in the snow",
         {"a red cup next to": "thing", "parked": "state", "in the snow": "thing"}),
        ("face", "a face before the night sky", {"before the night sky": "thing"}),
        ("man", "a man with a beard holding a guitar while wearing a hat on his head",
         {"with a beard": "subject", "holding a guitar": "worn", "while wearing a hat": "worn", "on his head": "worn"}),
        ("art", "a painting in the style of art of bunnies in a meadow with thick brush strokes",
         {"of bunnies": "thing", "in a meadow": "thing", "with thick brush strokes": "subject"}),
        ("dog", "a steaming dog wearing a red cap, glasses and a green scarf in the jungle",
         {"steaming": "state", "wearing a red cap": "worn", "glasses": "worn", "a green scarf": "worn",
          "in the jungle": "thing"}),
        ("face", "a photo of a face", {}),
    ],
)  # fmt: skip
def test_what_each_phrase_is_about(word, text, found):
    assert roles(text, word) == found


@pytest.mark.parametrize(
    ("caption", "phrase", "left"),
    [
        ("a photo of a young {concept} on a beach", "young", "a photo of a {concept} on a beach"),
        ("a photo of an old {concept} on a beach", "old", "a photo of a {concept} on a beach"),
        ("a smiling old {concept} on a beach", "smiling", "an old {concept} on a beach"),
        ("a {concept}, a red hat, on a beach", "a red hat", "a {concept}, on a beach"),
        ("a {concept} and a cup on a beach", "a cup", "a {concept} on a beach"),
        ("a {concept} in snow, wearing a hat", "wearing a hat", "a {concept} in snow"),
        ("left side view of a {concept} in snow", "left side view of", "a {concept} in snow"),
    ],
)
def test_what_is_left(caption, phrase, left):
    (found,) = (each for each in split_caption(caption, "face") if each.text == phrase)
    assert without_phrase(caption, found) == left


words = st.sampled_from(
    "a the red hat face, wearing with and on in next to , ; hair its eyes old while of is no * \u00fc {x}".split()
)


@given(before=st.lists(words, max_size=8), after=st.lists(words, max_size=14))
def test_phrases_lie_in_the_caption_apart_and_the_concept_is_never_lost(before, after):
    caption = " ".join([*before, CONCEPT, *after]).replace("*", "")
    end = 0
    for phrase in split_caption(caption, "face"):
        assert caption[phrase.start : phrase.end] == phrase.text.strip() == phrase.text != ""
        assert phrase.start >= end and CONCEPT not in phrase.text
        end = phrase.end
        left = without_phrase(caption, phrase)
        assert CONCEPT in left and len(left) <= len(caption) + 1  # "a" may become "an"
    short, cut = fit(caption, "face", Room(lambda text: len(text.split()), limit=4, vectors=1))
    assert CONCEPT in short and (bool(cut) == (short != caption))
    assert all("\n" not in warning for warning in form_warnings(caption, "face", WORDS))


def test_a_long_caption_loses_its_end_and_says_so():
    caption = "a photo of a {concept} wearing a red hat, on a beach, in evening light"
    # words and commas: a photo of a face | wearing a red hat | , on a beach | , in evening light = 5 + 4 + 4 + 4,
    # and one for the concept's vector
    assert WORDS.tokens(caption, "face") == 18
    short, cut = fit(caption, "face", Room(WORDS.count, limit=14, vectors=1))
    assert (short, cut) == ("a photo of a {concept} wearing a red hat, on a beach", ["in evening light"])
    assert fit(caption, "face", Room(WORDS.count, limit=14, vectors=5)) == (
        "a photo of a {concept} wearing a red hat", ["on a beach", "in evening light"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("caption", "said"),
    [
        ("a {concept} beside a {concept} in snow", "names the concept 2 times"),
        ("a {concept} beside another face in snow", "says face again"),
        ("a {concept} that appears to sit in snow", "guesses: 'appears'"),
        ("this picture of a {concept} in snow", "speaks of the picture itself"),
        ("a {concept} without a hat in snow", "says what is not there.*'without'"),
        ('a {concept} under a sign "open"', "quotation marks"),
        ("a {concept} in a {red|blue} [hat]", r"has \{red\|blue\} and \[hat\], which stands for nothing"),
        ("a {concept} in a (blue coat:1.4) in snow", r"has \(blue coat:1.4\): weights in brackets are words"),
        ("a {concept} in snow, on a beach with a", "ends with 'a': was it cut off?"),
        ("a {concept} auf der Stra\u00dfe", "plain letters"),
        ("a {concept} in \u00e9t\u00e9 \u00e0 la plage, \u96ea", "has '\u00e9', '\u00e0', '\u96ea': CLIP"),
        ("a young {concept}", "says nothing beside the face"),
        ("a {concept}" + " in snow" * 60, "has 123 tokens with"),  # a face, vector, 2*60
    ],
)
def test_the_form(caption, said):
    (warning,) = form_warnings(caption, "face", WORDS)
    assert re.search(said, warning)


def test_a_good_caption_has_no_remark():
    caption = "a photo of a smiling {concept} wearing a red hat on a beach, seen from the left, in evening light"
    phrases = split_caption(caption, "face")
    assert form_warnings(caption, "face", WORDS) == [] and missing_aspects(phrases, "face") == []
    assert says_something(phrases)
    assert missing_aspects(split_caption("a {concept} on a beach", "cup"), "cup") == ["pose or view", "light"]
    assert missing_aspects(split_caption("a {concept}", "face"), "face")[0] == "pose, view or facial expression"
    assert missing_aspects(split_caption("{concept} of a tree", "art"), "art") == []
