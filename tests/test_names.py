"""What a concept may be called, held against the clients' own rules of where a name ends."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from singleinsert.names import LONGEST, problem_with_bundled, problem_with_name, problem_with_trigger, safe_trigger


def comfyui_finds(name: str) -> bool:
    """ComfyUI (comfy/sd1_clip.py, February 2026): brackets weigh, words end at spaces, a comma is stripped."""
    text = "a embedding:" + name + " face"
    text = text.replace("\\)", "\0\1").replace("\\(", "\0\2")
    segments = re.findall(
        r"\([^()]*\)|[^()]+", text
    )  # token_weights gives the inside of brackets as parts of their own
    words = [word for part in segments for word in part.strip("()").split(" ")]
    found = [word.removeprefix("embedding:") for word in words if word.startswith("embedding:")]
    return any(word == name or word.strip(",") == name for word in found)


RE_ATTENTION = re.compile(r"\\\(|\\\)|\\\[|\\]|\\\\|\\|\(|\[|:\s*([+-]?[.\d]+)\s*\)|\)|]|[^\\()\[\]:]+|:")
"""A1111's modules/prompt_parser.py, the pattern that cuts a prompt."""


def a1111_finds(name: str) -> bool:
    """The name must come through in one piece; it is then looked for as a run of tokens, ignoring case."""
    pieces = [match.group(0) for match in RE_ATTENTION.finditer("a " + name + " face")]
    return any(name in piece for piece in pieces)


NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)


@given(NAMES)
def test_a_trigger_that_passes_is_found_by_the_clients(name):
    if not problem_with_trigger(name):
        assert comfyui_finds(name) and a1111_finds(name)


@given(st.text(max_size=200))
def test_a_safe_trigger_is_one(text):
    """Of any file name; "" and the words of prompts are left to be refused."""
    safe = safe_trigger(text)
    assert safe == "" or not problem_with_trigger(safe) or "means something else" in problem_with_trigger(safe)
    assert len(safe.encode()) <= LONGEST and safe_trigger(safe) == safe


@pytest.mark.parametrize(
    ("name", "safe"),
    [("photo (1)", "photo_1"), ("IMG [x]", "IMG_x"), ("my face", "my_face"), ("zork", "zork"), ("a.b", "a.b"),
     ("\u732b\u3000\u72ac", "\u732b_\u72ac"), ("x\ud800y", "x_y"), ("((", ""), ("face,", "face")],
)  # fmt: skip
def test_names_of_photos(name, safe):
    assert safe_trigger(name) == safe
    assert bool(problem_with_trigger(name)) == (name != safe)


def test_the_clients_do_lose_the_names_that_are_refused():
    """So that the rules above can fail."""
    for name in ("photo (1)", "IMG [x]"):
        assert not a1111_finds(name)
    for name in ("photo (1)", "my face"):
        assert not comfyui_finds(name)


def test_every_file_of_the_longest_name_fits():
    """255 bytes: the longest ending is of a sample, ``NAME_stage2_000100_00.png``."""
    longest = "\u5bb6" * (LONGEST // 3)
    assert not problem_with_name(longest) and problem_with_name(longest + "\u5bb6")
    assert len(f"{longest}_stage2_1000000_00.png".encode()) <= 255


def test_bundles():
    assert problem_with_bundled("a.b") and not problem_with_bundled("ab")
