"""`python -m singleinsert.captions` as a user types it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from chatservers import ChatServer, ollama, refuse, say
from PIL import Image
from tinyvlms import write_llava, write_qwen_vl, write_smolvlm

from singleinsert.captions.__main__ import main
from singleinsert.captions.arguments import build_parser
from singleinsert.captions.form import _tokenizer

ROOT = Path(__file__).parents[1]
FACE = ROOT / "examples" / "face.png"
OF_FACE = ("--class_word", "face")


@pytest.fixture
def photo(tmp_path) -> Path:
    return Path(shutil.copy(FACE, tmp_path / "me.png"))


def run(*argv: object) -> int:
    return main([str(word) for word in argv])


@pytest.mark.parametrize("write", [write_smolvlm, write_llava, write_qwen_vl])
def test_a_local_model_from_picture_to_file(write, photo, tmp_path, capsys):
    model = write(tmp_path / "model", critic="A")
    assert run("write", "--image", photo, "--class_word", "face", "--describe", f"vlm:{model}") == 0
    assert photo.with_suffix(".txt").read_text() == "a photo of a {concept} wearing a red hat on a beach\n"
    out = capsys.readouterr().out
    # critic A: what the words call subject too is gone, the rest is shown
    assert "drop  young" in out and "look  wearing a red hat" in out and "of 75 tokens" in out and "next: " in out


def test_an_endpoint_from_picture_to_file(photo, capsys):
    with ChatServer(ollama) as server:
        spec = f"openai:{server.url}#gemma3"
        assert run("write", "--image", photo, "--class_word", "face", "--describe", spec) == 0
        assert photo.with_suffix(".txt").read_text() == "a photo of a {concept} wearing a red hat on a beach\n"
        out = capsys.readouterr().out
        assert "is sent to" not in out and f"asking {spec} about me.png" in out  # this machine
        assert run("check", "--image", photo, "--class_word", "face", "--describe", spec) == 0


def test_a_bad_answer_writes_nothing(photo, capsys):
    for reply in (say("I'm sorry, I can't help with that."), say("hat " * 400), say("a photo of a face."),
                  refuse(500, "you may need to provide the mmproj"), say(None, refusal="no")):  # fmt: skip
        with ChatServer(lambda _, reply=reply: reply) as server:
            assert run("write", "--image", photo, "--class_word", "face", "--describe", f"openai:{server.url}#m") == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and list(photo.parent.iterdir()) == [photo]


def test_a_folder_that_cannot_be_written_is_found_before_anybody_is_asked(photo, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with ChatServer(lambda _: pytest.fail("asked")) as server:
        assert run("write", "--image", photo, "--class_word", "face", "--describe", f"openai:{server.url}#m") == 2
    assert "captions: nothing can be written in" in capsys.readouterr().err


def test_words_by_hand(photo, capsys):
    assert run("write", "--image", photo, "--class_word", "face", "--scene_words", "red hat, beach") == 0
    assert photo.with_suffix(".txt").read_text() == "a photo of a {concept}, red hat, beach\n"
    assert f"captions edit --image {photo} --class_word face`" in capsys.readouterr().out
    assert run("write", "--image", photo, "--class_word", "face", "--scene_words", "snow") == 2
    assert "already there: --overwrite" in capsys.readouterr().err
    assert run("write", "--image", photo, "--class_word", "face", "--scene_words", "snow", "--overwrite") == 0
    assert "snow" in photo.with_suffix(".txt").read_text()
    assert run("write", "--image", photo, "--preset", "face", "--scene_words", "x", "--metadata") == 2
    assert "me.txt goes before metadata.jsonl" in capsys.readouterr().err


def test_a_folder_goes_on_where_it_was(tmp_path, capsys):
    for name in ("a.png", "b.png", "c.png"):
        shutil.copy(FACE, tmp_path / name)
    (tmp_path / "a.txt").write_text("my own * face in snow")
    answers = {"n": 0}

    def reply(body):
        answers["n"] += 1
        return say("I'm sorry, I can't.") if answers["n"] <= 2 else ollama(body)

    with ChatServer(reply) as server:
        command = ("write", "--images", tmp_path, "--class_word", "face", "--describe", f"openai:{server.url}#m")
        assert run(*command) == 1
        out, error = capsys.readouterr()
        assert "a.png: kept" in out and "b.png: FAILED" in out and "c.png: caption from" in out and "1 failed" in error
        assert run(*command) == 0
    assert (tmp_path / "a.txt").read_text() == "my own * face in snow" and (tmp_path / "b.txt").exists()
    with pytest.raises(SystemExit):
        run("write", "--image", "x", "--images", "y")


def test_a_folder_into_metadata(tmp_path, capsys):
    for name in ("a.png", "b.png"):
        shutil.copy(FACE, tmp_path / name)
    assert run("write", "--images", tmp_path, "--class_word", "face", "--scene_words", "snow", "--metadata") == 0
    assert len((tmp_path / "metadata.jsonl").read_text().splitlines()) == 2 and not (tmp_path / "a.txt").exists()
    assert run("write", "--images", tmp_path, "--class_word", "face", "--scene_words", "sand") == 0
    assert "a.png: kept" in capsys.readouterr().out and not (tmp_path / "a.txt").exists()
    sheet = tmp_path / "sheet" / "all.png"
    assert run("show", "--images", tmp_path, "--sheet", sheet) == 0
    assert "b.png: a photo of a {concept}, snow" in capsys.readouterr().out
    assert Image.open(sheet).height > Image.open(FACE).height


def test_show_goes_on_past_an_unreadable_caption(photo, capsys):
    shutil.copy(photo, photo.with_name("z.png"))
    photo.with_suffix(".txt").write_bytes(b"\xff\xfe\x00")
    photo.with_name("z.txt").write_text("a * face in snow")
    sheet = photo.with_name("sheet") / "all.png"
    assert run("show", "--images", photo.parent, "--sheet", sheet) == 1 and sheet.exists()
    out = capsys.readouterr().out
    assert f"me.png: FAILED, caption file {photo.with_suffix('.txt')} cannot be read" in out
    assert "z.png: a {concept} face in snow" in out
    assert run("show", "--image", photo) == 2 and "cannot be read" in capsys.readouterr().err


def test_lines_that_are_not_read_are_said(photo, capsys):
    for lines, said in (("", None), ("\nx\n", "1 more line of it is not read"), ("\nx\n\ny", "2 more lines of it are")):
        photo.with_suffix(".txt").write_text("a * face in snow" + lines)
        for command in (("check", *OF_FACE), ("show",)):
            assert run(command[0], "--image", photo, *command[1:]) == 0
            out = capsys.readouterr().out
            assert f"note: the first line of me.txt is the description, {said}" in out if said else "note" not in out


def test_of_a_caption_that_is_too_long_what_is_not_read_is_said_once(photo, capsys, monkeypatch):
    from transformers import tokenization_utils_base

    monkeypatch.setattr(tokenization_utils_base.logger, "warning", pytest.fail)
    _tokenizer.cache_clear()  # it warns once
    photo.with_suffix(".txt").write_text("a * face " + ", ".join(f"wearing a red hat{n}" for n in range(60)))
    assert run("check", "--image", photo, "--preset", "mini") == 0
    out = capsys.readouterr().out
    kept = out.count("  keep  ")
    assert 5 < kept < 12 and len(set(re.findall(r"(\d+) (?:of 46 )?tokens", out))) == 1
    assert (
        f"the concept's 2 vectors, of which the text encoder reads 46: the end is cut off, and {60 - kept} of 60" in out
    )


def test_check_shows_and_changes_nothing(photo, capsys):
    text = "a photo of an old * face wearing a green cap in the snow"
    photo.with_suffix(".txt").write_text(text)
    assert run("check", "--image", photo, "--class_word", "face", "--rho", "--pretrained_model_name_or_path", "mini-sd",
               "--places", "--backend", "mini") == 0  # fmt: skip
    out = capsys.readouterr().out
    assert "of 46 tokens" in out  # what mini-sd's text encoder reads
    assert "look  old" in out and out.count("rho ") == 3 and f"edit --image {photo} --class_word face`" in out
    assert photo.with_suffix(".txt").read_text() == text


def test_check_without_a_caption_is_one_line(photo, capsys):
    assert run("check", "--image", photo, "--class_word", "face") == 2
    assert "has no caption" in capsys.readouterr().err
    shutil.copy(photo, photo.with_name("b.png"))
    photo.with_suffix(".txt").write_text("a face in snow")
    assert run("check", "--images", photo.parent, "--class_word", "face") == 1
    out = capsys.readouterr().out
    assert "b.png: FAILED" in out and "keep  in snow" in out
    photo.with_suffix(".txt").write_text("I'm sorry, but I can't describe the face in this picture.")
    assert run("check", "--image", photo, "--class_word", "face") == 2
    out, error = capsys.readouterr()
    assert "is a refusal and no caption" in error and "keep" not in out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["write", "--image", "no.png", *OF_FACE, "--scene_words", "x"], "picture not found"),
        (["write", "--image", FACE, "--scene_words", "x"], "--class_word is missing"),
        (["write", "--image", FACE, *OF_FACE], "who writes the caption"),
        (["write", "--image", FACE, *OF_FACE, "--scene_words", " , "], "--scene_words is empty"),
        (["write", "--image", FACE, *OF_FACE, "--scene_words", "x", "--describe", "vlm:x"], "one of the two"),
        (["write", "--image", FACE, *OF_FACE, "--describe", "gpt"], "names no vision-language model"),
        (["write", "--images", "nowhere", *OF_FACE, "--scene_words", "x"], "folder of pictures not found"),
        (["check", "--image", FACE, *OF_FACE, "--device", "cuda:9", "--describe", "vlm:x"], "--device cuda:9"),
        (["edit", "--image", FACE, *OF_FACE, "--port", "99999"], "--port 99999"),
        (["show", "--image", FACE, "--sheet", "/proc/x.png"], "cannot write"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(argv, said, capsys):
    assert run(*argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and said in error


@pytest.mark.parametrize("command", ["write", "check", "edit", "show"])
def test_flags_are_not_abbreviated(command, capsys):
    with pytest.raises(SystemExit):
        build_parser("").parse_args([command, "--imag", "x"])
    assert capsys.readouterr().err.count("\n") == 1


def test_help_is_quick_and_loads_nothing_heavy():
    heavy = "torch numpy PIL diffusers transformers".split()
    code = (
        "import runpy, sys\nsys.argv = ['captions', 'write', '--help']\n"
        "try:\n    runpy.run_module('singleinsert.captions', run_name='__main__')\nexcept SystemExit as leaving:\n"
        f"    assert not leaving.code\nprint('loaded:', [m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "loaded: []" in done.stdout and "--scene_words" in done.stdout
    clock = time.process_time()
    build_parser("").format_help()
    assert time.process_time() - clock < 0.2
