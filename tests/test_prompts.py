"""Templates become prompts; prompt files are read line by line."""

from __future__ import annotations

import pytest

from singleinsert.data.prompts import NOVEL_VIEWS, fill, read_prompt_file
from singleinsert.errors import InputError
from singleinsert.inference.prompts import ConceptName, warn_of_prompt
from singleinsert.placeholders import with_class_words


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ("{concept} in the snow", "<me> face in the snow"),
        ("* face in the snow", "<me> face in the snow"),
        ("{placeholder} {class_word}", "<me> face"),
        ("{class_word}", "face"),
        ("a * hat, * shoes", "a <me> hat, <me> shoes"),
        ("(*:1.2), oil", "(<me>:1.2), oil"),
        ("5*3 f*ck **bold** {other}", "5*3 f*ck **bold** {other}"),
        ("  two   spaces ", "two spaces"),
    ],
)
def test_fill(template, prompt):
    assert fill(template, "<me>", "face") == prompt


def test_class_words_in_the_place_of_concepts():
    words = {"*": "face", "<hat>": "baseball cap"}
    assert with_class_words("* face wearing a <Hat> in the snow", words) == "face wearing a baseball cap in the snow"
    assert with_class_words("* faces and *, 5*3", words) == "face faces and face, 5*3"
    assert with_class_words("* <hat>", words) == "face baseball cap"


def test_words_for_the_first_of_several_concepts_are_said_to_be_its(capsys):
    names = [ConceptName("kitchencat", "cat", handle="cat"), ConceptName("kitchenmug", "mug", handle="mug")]
    warn_of_prompt("{cat} and {mug}", names)
    warn_of_prompt("* in snow", names[:1])
    assert capsys.readouterr().err == ""
    warn_of_prompt("{concept} in the snow", names)
    assert "the first of 2 concepts is meant, kitchencat: write {mug} for another" in capsys.readouterr().err


def test_fill_does_not_fill_what_it_put_in():
    assert fill("{concept}", "*", "{placeholder}") == "* {placeholder}"
    assert fill("{concept} and *", "*", "baseball cap") == "* baseball cap and *"


def test_an_empty_class_word_leaves_no_space():
    assert fill("{concept} in the snow", "*", "") == "* in the snow"


def test_every_novel_view_names_the_concept():
    assert len(NOVEL_VIEWS) == 4
    assert all("* face" in fill(view, "*", "face") for view in NOVEL_VIEWS)


def test_prompt_file(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeff* face\r\n\r\n# a remark\r\n  a painting of {concept}, \u00e0 la Manet  \r\n".encode())
    assert read_prompt_file(path) == ["* face", "a painting of {concept}, \u00e0 la Manet"]


def test_prompt_files_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match="not found"):
        read_prompt_file(tmp_path / "absent.txt")
    with pytest.raises(InputError, match="not found"):
        read_prompt_file(tmp_path)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match="UTF-8"):
        read_prompt_file(tmp_path / "latin.txt")
    (tmp_path / "empty.txt").write_text("# nothing\n\n")
    with pytest.raises(InputError, match="no prompt"):
        read_prompt_file(tmp_path / "empty.txt")
