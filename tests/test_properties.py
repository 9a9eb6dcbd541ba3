"""A value or one line, whatever a file holds: pictures, masks, masks.toml, lists of jobs and class words.

Some hundred cases each time; SINGLEINSERT_LONG_TESTS=1 makes ten thousand of each.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from singleinsert.batch.jobs import read_jobs
from singleinsert.config.load import toml_string
from singleinsert.data.opening import MAX_BYTES
from singleinsert.data.pictures import load_picture
from singleinsert.errors import SingleInsertError
from singleinsert.masks.batch import class_words
from singleinsert.masks.collection import MaskSet, NamedMask, load_masks, save_masks
from singleinsert.masks.files import mask_from_file, read_mask
from singleinsert.reading import read_json, read_toml

DATA = Path(__file__).parent / "data" / "pictures"
LONGEST = 1100


def value_or_line(read: Callable[[], Any]) -> Any:
    """What was read; None where it ended in one line that can be printed."""
    try:
        return read()
    except SingleInsertError as problem:
        line = str(problem)
        assert line and "\n" not in line and len(line) < LONGEST
        line.encode()
        return None


def written(kind: str, mode: str) -> bytes:
    values = np.random.default_rng(7).integers(0, 256, (24, 20, 4), dtype=np.uint8)
    image = Image.fromarray(values, "RGBA").convert(mode)
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


KINDS = [("PNG", "RGBA"), ("PNG", "P"), ("PNG", "L"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("GIF", "P"), ("BMP", "RGB"),
         ("TIFF", "RGB"), ("TIFF", "CMYK"), ("WEBP", "RGBA"), ("PPM", "RGB"), ("TGA", "RGBA"), ("ICO", "RGBA"),
         ("PCX", "L"), ("SGI", "RGB"), ("JPEG2000", "RGB")]  # fmt: skip
KINDS += [("AVIF", "RGB")] * bool(features.check("avif"))
FILES = [written(*kind) for kind in KINDS] + [path.read_bytes() for path in sorted(DATA.iterdir())]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """One of the pictures with bytes changed, cut out, doubled, or its end lost."""
    content = bytearray(draw(st.sampled_from(FILES)))
    for _ in range(draw(st.integers(0, 6))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        how = draw(st.sampled_from(("set", "cut", "double", "end", "word")))
        if how == "set":
            content[place : place + 1] = bytes([draw(st.integers(0, 255))])
        elif how == "cut":
            del content[place : place + draw(st.integers(1, 64))]
        elif how == "double":
            content[place:place] = content[place : place + draw(st.integers(1, 64))]
        elif how == "end":
            del content[place:]
        else:
            content[place : place + 4] = draw(st.sampled_from((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4))))
    return bytes(content)


@given(content=st.one_of(damaged(), st.binary(max_size=200)), suffix=st.sampled_from((".png", ".jpg", ".avif", "")))
def test_a_picture_is_a_picture_or_a_line(tmp_path, content, suffix):
    path = tmp_path / f"picture{suffix}"
    path.write_bytes(content)
    picture = value_or_line(lambda: load_picture(path))
    if picture is not None:
        assert picture.image.mode == "RGB" and picture.image.width * picture.image.height <= MAX_BYTES / 9
        assert picture.alpha is None or (picture.alpha.mode, picture.alpha.size) == ("L", picture.image.size)
        assert all(note and "\n" not in note for note in picture.notes)
        picture.image.tobytes()
        value_or_line(lambda: mask_from_file(path, picture))
    mask = value_or_line(lambda: read_mask(path))
    assert mask is None or mask.mode == "L"


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from((10**400, -(2**63), 2**63, 1e308)))
VALUES = st.recursive(
    st.one_of(st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=12,
)


def toml(value: Any) -> str:
    """A value as TOML writes it, tables in one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return toml_string(value)
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml_string(key)} = {toml(item)}" for key, item in value.items()) + "}"
    return str(value)


def tables(keys: tuple[str, ...]) -> st.SearchStrategy[str]:
    """TOML with these keys and others, of any values; now and then text that is none."""
    names = st.one_of(st.sampled_from(keys), TEXTS)
    lines = st.dictionaries(names, VALUES, max_size=6).map(
        lambda table: "\n".join(f"{toml_string(key)} = {toml(value)}" for key, value in table.items())
    )
    return st.one_of(lines, lines, st.text(st.characters(exclude_categories=["Cs"]), max_size=60))


@given(text=tables(("job", "defaults", "image")))
def test_toml_and_json_are_read_or_a_line(tmp_path, text):
    (tmp_path / "a.toml").write_text(text, encoding="utf-8", newline="")
    found = value_or_line(lambda: read_toml(tmp_path / "a.toml"))
    assert found is None or isinstance(found, dict)
    value_or_line(lambda: read_json(tmp_path / "a.toml"))


@given(content=st.binary(max_size=80))
def test_any_bytes_are_toml_and_json_or_a_line(tmp_path, content):
    (tmp_path / "a.toml").write_bytes(content)
    value_or_line(lambda: read_toml(tmp_path / "a.toml"))
    value_or_line(lambda: read_json(tmp_path / "a.toml"))


JOB_KEYS = ("image", "mask", "class_word", "name", "preset", "config_file", "seed", "run.seed", "stage1.steps",
            "sample.prompts", "mask.box", "mask.points", "save.formats", "stage2", "run", "output_dir",
            "network_alpha", "data.image")  # fmt: skip


def check_jobs(path: Path) -> None:
    found = value_or_line(lambda: read_jobs(path, path.parent / "out"))
    if found is not None:
        jobs, problems = found
        assert all(line and "\n" not in line and len(line) < LONGEST for line in problems)
        assert len({job.name.lower() for job in jobs}) == len(jobs)
        assert all(job.settings.data.image and all(map(str.strip, job.settings.data.image)) for job in jobs)


@given(jobs=st.lists(st.dictionaries(st.one_of(st.sampled_from(JOB_KEYS), TEXTS), VALUES, max_size=5), max_size=3),
       defaults=st.dictionaries(st.sampled_from(JOB_KEYS), VALUES, max_size=2))  # fmt: skip
def test_a_toml_list_is_jobs_or_lines(tmp_path, jobs, defaults):
    good = {"image": "a.png", "class_word": "face"}
    text = f"defaults = {toml(defaults)}\njob = {toml([good | job for job in jobs])}\n"
    (tmp_path / "j.toml").write_text(text, encoding="utf-8", newline="")
    check_jobs(tmp_path / "j.toml")


@given(text=tables(("job", "defaults")))
def test_any_toml_is_jobs_or_lines(tmp_path, text):
    (tmp_path / "j.toml").write_text(text, encoding="utf-8", newline="")
    check_jobs(tmp_path / "j.toml")


CELLS = st.one_of(TEXTS, NUMBERS.map(str), st.sampled_from(("TRUE", "3.0", "0,5", "a.png", "face", '"', "x" * 200_000)))


@given(header=st.lists(st.one_of(st.sampled_from(JOB_KEYS), TEXTS), max_size=5),
       rows=st.lists(st.lists(CELLS, max_size=6), max_size=4), separator=st.sampled_from(",;\t"),
       mark=st.sampled_from(("", "\ufeff", "sep=;\n")))  # fmt: skip
def test_a_table_is_jobs_or_lines(tmp_path, header, rows, separator, mark):
    text = mark + "\n".join(separator.join(row) for row in [["image", "class_word", *header], *rows])
    (tmp_path / "j.csv").write_text(text, encoding="utf-8", newline="")
    check_jobs(tmp_path / "j.csv")


@given(content=st.binary(max_size=120))
def test_any_bytes_are_a_table_or_lines(tmp_path, content):
    (tmp_path / "j.csv").write_bytes(content)
    check_jobs(tmp_path / "j.csv")


@given(
    table=st.dictionaries(st.one_of(st.sampled_from(("a", "a.png", "b")), TEXTS), VALUES, max_size=4), bom=st.booleans()
)
def test_class_words_are_words_or_a_line(tmp_path, table, bom):
    text = "\n".join(f"{toml_string(key)} = {toml(value)}" for key, value in table.items())
    (tmp_path / "words.toml").write_text("\ufeff" * bom + text, encoding="utf-8", newline="")
    words = value_or_line(lambda: class_words(tmp_path / "words.toml", "face", [Path("a.png"), Path("b.jpg")]))
    assert words is None or all(isinstance(word, str) and word for word in words.values())


@pytest.fixture(scope="module")
def mask_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("masks")
    mask = Image.new("L", (40, 30))
    mask.paste(255, (5, 5, 25, 25))
    save_masks(MaskSet("a.png", (40, 30), (NamedMask("cup", "cup", mask),)), folder)
    return folder


@given(change=st.dictionaries(st.sampled_from(("version", "picture", "size", "mask", "more")), VALUES, max_size=3),
       entry=st.dictionaries(st.sampled_from(("name", "class_word", "source")), VALUES, max_size=2))  # fmt: skip
def test_a_set_of_masks_is_a_set_or_a_line(mask_folder, change, entry):
    masks = [{"name": "cup", "class_word": "cup"} | entry]
    good = {"version": 1, "picture": "a.png", "size": [40, 30], "mask": masks}
    text = "\n".join(f"{key} = {toml(value)}" for key, value in (good | change).items())
    (mask_folder / "masks.toml").write_text(text, encoding="utf-8", newline="")
    found = value_or_line(lambda: load_masks(mask_folder))
    assert found is None or all(each.mask.size == (40, 30) for each in found.masks)
