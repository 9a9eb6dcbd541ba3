"""Text files of settings, jobs and results: one reader, and one line for whatever is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from singleinsert.errors import ConfigError, InputError, first_line, one_line, shown
from singleinsert.evaluate.results import Results
from singleinsert.reading import expanded, parse_toml, read_json, read_text, read_toml, user_path

DEEP, LONG = "[" * 2000, "9" * 5000


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"x = {DEEP}", "nested too deeply"),
        (f"x = {LONG}", "too many digits"),
        (f"x = [{{ y = {'9' * 300} }}]", "more than 64 bits"),
        ("x = 0x" + "f" * 5000, "more than 64 bits"),
        ("x = [", "is not valid TOML"),
        ('image = "C:\\Users\\anna.jpg"', "write Windows paths in single quotes: 'C:"),
        ('a = 1\nimage = "D:\\my photos\\a.jpg"', "write Windows paths in single quotes"),
    ],
)
def test_toml_that_cannot_be_read_is_one_line(tmp_path, text, says):
    path = tmp_path / "jobs.toml"
    path.write_text(text)
    with pytest.raises(InputError) as problem:
        read_toml(path, InputError)
    line = str(problem.value)
    assert says in line and str(path) in line and "\n" not in line and len(line) < 400 + len(str(path))


def test_toml_as_it_is_meant(tmp_path):
    path = tmp_path / "a.toml"
    path.write_bytes(b"\xef\xbb\xbfpath = 'C:\\photos\\anna.jpg'\r\nlargest = 9223372036854775807\r\n")
    assert read_toml(path) == {"path": "C:\\photos\\anna.jpg", "largest": 2**63 - 1}
    assert parse_toml("x = -9223372036854775808", "here") == {"x": -(2**63)}


def test_files_that_are_no_texts(tmp_path):
    (tmp_path / "latin.csv").write_bytes(b"caf\xe9")
    for path, says in (
        (tmp_path / "nowhere.toml", "file not found"), (tmp_path, "cannot be read"), (Path("a\0b"), "cannot be read"),
        (tmp_path / "latin.csv", "not in UTF-8"), (tmp_path / ("a" * 300), "cannot be read"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=says) as problem:
            read_text(path)
        assert "\0" not in str(problem.value)


@pytest.mark.parametrize("text", ["[" * 100_000, "{", f"[{LONG}]", "nope"])
def test_json_that_cannot_be_read_is_one_line(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError) as problem:
        read_json(tmp_path / "a.json", InputError)
    assert len(str(problem.value)) < 300 + len(str(tmp_path)) and "\n" not in str(problem.value)


SAMPLE = {"method": "a", "concept": "c", "prompt": 0, "seed": 0, "picture": "k", "values": {}}
WHOLE = {
    "title": "t", "facts": {"cache": "x"}, "methods": [{"name": "a"}], "claims": [],
    "concepts": [{"name": "c", "prompts": [{"text": "p"}]}], "samples": [SAMPLE],
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"samples": []}, {"title": 1}, {"facts": []}, {"facts": {}}, {"methods": 1}, {"methods": []}, {"claims": 1},
        {"concepts": 1}, {"heats": 1}, {"samples": [SAMPLE | {"prompt": 7}]}, {"samples": [SAMPLE | {"method": "b"}]},
        {"samples": [SAMPLE | {"values": {"DINO": "x"}}]}, {"more": 1},
    ],
)  # fmt: skip
def test_results_that_are_none_are_one_line(tmp_path, change):
    (tmp_path / "results.json").write_text(json.dumps(WHOLE))
    assert Results.load(tmp_path).title == "t"
    (tmp_path / "results.json").write_text(json.dumps(WHOLE | change))
    with pytest.raises(InputError, match="holds no results of an evaluation") as problem:
        Results.load(tmp_path)
    assert "\n" not in str(problem.value)


def test_paths_of_a_user(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/photos") == tmp_path / "photos" and expanded("~") == str(tmp_path)
    assert expanded("a~b") == "a~b" and expanded("~nobody-of-this-name/x") == "~nobody-of-this-name/x"
    with pytest.raises(ConfigError, match="write Windows paths in single quotes"):
        expanded("C:\temp\new")
    for text in ("a\0b", "\udcff.png"):
        with pytest.raises(ConfigError) as problem:
            expanded(text)
        str(problem.value).encode()  # can be printed


def test_the_first_line_of_an_error():
    assert first_line(MemoryError()) == "MemoryError" and first_line(ValueError("\n \n")) == "ValueError"
    assert first_line(ValueError("\n  one\ntwo")) == "one"
    assert len(first_line(ValueError("a" * 100_000))) <= 1000


def test_long_values_are_cut():
    assert one_line("a\nb") == "a b" and shown([1]) == "[1]"
    assert len(shown("x" * 100_000)) <= 80 and shown("x" * 100_000).startswith("'xxx")
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    assert shown(10**5000) == "a int that is too large to be shown" and "list" in shown(nested)
