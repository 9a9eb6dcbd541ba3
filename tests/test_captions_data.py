"""Caption files: what stands for the concept, which line counts, and that every file is a value or one line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from singleinsert.captions.files import write_caption
from singleinsert.data.captions import CONCEPT, read_caption, read_metadata, with_concept
from singleinsert.errors import InputError


@pytest.mark.parametrize(
    ("text", "word", "caption"),
    [
        ("a photo of a face on a beach", "face", "a photo of a {concept} on a beach"),
        ("a photo of a * face on a beach", "face", "a photo of a {concept} on a beach"),
        ("a photo of [trigger] on a beach", "face", "a photo of {concept} on a beach"),
        ("a {concept} beside another face", "face", "a {concept} beside another face"),
        ("a photo of a Face, faces", "face", "a photo of a {concept}, faces"),
        ("two cats on a sofa", "cat", "two {concept} on a sofa"),
        ("a coffee  cup on a table", "coffee cup", "a {concept} on a table"),
        ("5*3 and f*ck, * in the snow", "face", "5*3 and f*ck, {concept} in the snow"),
        ("a catfish beside a cat", "cat", "a catfish beside a {concept}"),
        ("a photo of a <dog> beside a dog", "dog", "a photo of a {concept} beside a dog"),
        ("a [Dog] dog on grass", "dog", "a {concept} on grass"),
    ],
)
def test_what_stands_for_the_concept(text, word, caption):
    assert with_concept(text, word) == caption


@pytest.mark.parametrize(("text", "word"), [("a red hat", "face"), ("a red hat", ""), ("the surface", "face")])
def test_a_caption_of_nothing_is_one_line(text, word):
    with pytest.raises(InputError, match="stands for the concept") as error:
        with_concept(text, word)
    assert "\n" not in str(error.value)


def test_the_first_line_of_the_file_beside_the_picture(tmp_path):
    photo = tmp_path / "photo.jpg"
    assert read_caption(photo) is None
    (tmp_path / "photo.txt").write_bytes(b"\xef\xbb\xbf\r\n  a * face   on a beach \r\nsecond line\r\n")
    assert read_caption(photo) == "a {concept} face on a beach"
    assert read_caption(tmp_path / "other.jpg") is None


def test_kohyas_suffix_is_read_and_two_captions_are_refused(tmp_path):
    photo = tmp_path / "me.png"
    (tmp_path / "me.caption").write_text("a * face in snow")
    assert read_caption(photo) == "a {concept} face in snow"
    assert write_caption(photo, "a {concept} on a beach", overwrite=True) == tmp_path / "me.caption"
    (tmp_path / "me.txt").write_text("a * face")
    with pytest.raises(InputError, match="me.txt and me.caption are both captions of me.png: delete one"):
        read_caption(photo)


def test_a_row_of_metadata_counts_where_there_is_no_file(tmp_path):
    rows = [{"file_name": "a.jpg", "text": "a * face\u2028on snow"}, {"file_name": "b.jpg", "extra": 1}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows))
    assert read_caption(tmp_path / "a.jpg") == "a {concept} face on snow"
    assert read_caption(tmp_path / "b.jpg") is None and read_caption(tmp_path / "c.jpg") is None
    (tmp_path / "a.txt").write_text("a * face by hand")
    assert read_caption(tmp_path / "a.jpg") == "a {concept} face by hand"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"\xff\xfe\x00", "cannot be read as UTF-8"),
        ("a face".encode("utf-16-le"), "is no UTF-8 text"),
    ],
)
def test_a_damaged_caption_is_one_line(tmp_path, content, said):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputError, match=said) as error:
        read_caption(tmp_path / "a.jpg")
    assert "\n" not in str(error.value) and "a.txt" in str(error.value)


def test_a_name_from_the_folder_on_is_the_same_name(tmp_path):
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "./a.jpg", "text": "a face on snow"}')
    assert read_caption(tmp_path / "a.jpg") == "a face on snow"


@pytest.mark.parametrize(
    "line",
    ["{", "[]", '{"text": "x"}', '{"file_name": "./z.jpg"}', '{"file_name": 3}', '{"file_name": "a", "text": 4}'],
)
def test_a_damaged_row_is_named_by_its_line(tmp_path, line):
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "z.jpg"}\n' + line)
    with pytest.raises(InputError, match="line 2") as error:
        read_caption(tmp_path / "a.jpg")
    assert "\n" not in str(error.value)


def test_what_is_there_is_never_lost(tmp_path):
    photo = tmp_path / "a.jpg"
    assert write_caption(photo, "a {concept} on snow").read_text() == "a {concept} on snow\n"
    with pytest.raises(InputError, match="--overwrite"):
        write_caption(photo, "second")
    for overwrite in (False, True):  # a row that no one would read
        with pytest.raises(InputError, match="goes before metadata.jsonl"):
            write_caption(photo, "second", metadata=True, overwrite=overwrite)
    assert read_caption(photo) == "a {concept} on snow"
    write_caption(tmp_path / "b.jpg", "first", metadata=True)
    for metadata in (False, True):
        with pytest.raises(InputError, match="a text for b.jpg is already there"):
            write_caption(tmp_path / "b.jpg", "second", metadata=metadata)
    write_caption(tmp_path / "b.jpg", "third", metadata=True, overwrite=True)
    assert read_caption(tmp_path / "b.jpg") == "third"


def test_metadata_keeps_what_others_wrote(tmp_path):
    (tmp_path / "metadata.jsonl").write_text(
        '{"file_name": "z.jpg", "text": "z", "score": 1}\n{"file_name": "a.jpg", "n": 2}\n'
    )
    write_caption(tmp_path / "a.jpg", "a {concept} \u00fcber", metadata=True)
    write_caption(tmp_path / "b.jpg", "b {concept}", metadata=True)
    assert read_metadata(tmp_path) == {
        "z.jpg": {"file_name": "z.jpg", "text": "z", "score": 1},
        "a.jpg": {"file_name": "a.jpg", "n": 2, "text": "a {concept} \u00fcber"},
        "b.jpg": {"file_name": "b.jpg", "text": "b {concept}"},
    }


def test_half_a_character_is_no_traceback(tmp_path):
    """JSON may hold one, UTF-8 cannot: it is a question mark in the caption, and stays as it is in others' rows."""
    file = tmp_path / "metadata.jsonl"
    file.write_text(
        '{"file_name": "a.jpg", "text": "a * face \\ud800"}\n{"file_name": "b.jpg", "note": "\\ud800 \u00fc"}\n'
    )
    assert read_caption(tmp_path / "a.jpg") == "a {concept} face ?"
    write_caption(tmp_path / "c.jpg", "c \u00fc", metadata=True)
    assert read_metadata(tmp_path)["b.jpg"]["note"] == "\ud800 \u00fc"
    assert file.read_text(encoding="utf-8").splitlines()[2] == '{"file_name": "c.jpg", "text": "c \u00fc"}'
    assert with_concept("a face \udcff in snow", "face") == "a {concept} ? in snow"


@given(content=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_every_file_is_a_caption_or_one_line(tmp_path, content):
    for name in ("a.txt", "metadata.jsonl"):
        file = tmp_path / name
        file.write_bytes(content)
        try:
            text = read_caption(tmp_path / "a.jpg")
            assert text is None or (text and "\n" not in text and text == " ".join(text.split()))
            if text is not None:
                assert CONCEPT in with_concept(text, "face")
        except InputError as problem:
            assert str(problem) and "\n" not in str(problem)
        finally:
            file.unlink()
