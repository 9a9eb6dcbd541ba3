"""Names of 255 bytes: every file of a run fits, or one line says before anything is loaded that it would not."""

import subprocess
import sys
from pathlib import Path

import pytest
from runs import draw_subject, small_values
from test_early import ROOT, run
from test_train_script import command_line

import train_singleinsert
from singleinsert.atomic import LONGEST_SHOWN
from singleinsert.names import LONGEST, LONGEST_FILE_NAME
from singleinsert.training.files import RunFiles

LETTER = "\u5bb6"  # three bytes
NAME = LETTER * (LONGEST // 3) + "ab"
FACE = ("--class_word", "face")


@pytest.fixture(autouse=True)
def file_names_of_255_bytes(tmp_path):
    try:
        (tmp_path / ("a" * LONGEST_FILE_NAME)).touch()
        (tmp_path / ("a" * LONGEST_FILE_NAME)).unlink()
    except OSError:
        pytest.skip("this file system takes shorter names")


def test_every_file_of_a_run_with_the_longest_name_is_written(tiny_sd, tmp_path):
    """Two photos, all formats, checkpoints, samples: what the file system refuses would end the run."""
    assert len(NAME.encode()) == LONGEST
    values = small_values(
        tmp_path, tiny_sd, run__output_name=NAME, stage1__steps=2, stage2__steps=2, run__checkpointing_steps=2,
        sample__prompts=["{concept}"], sample__steps_interval=1, save__formats=["webui", "diffusers", "bundle"],
    )  # fmt: skip
    draw_subject(tmp_path / "input", "second")
    del values["data.mask"]
    values["data.image"] = str(tmp_path / "input")
    assert train_singleinsert.main(command_line(values)) == 0
    out = tmp_path / "out"
    written = {path.name.replace(NAME, "NAME") for path in out.rglob("*")}
    ends = {
        "", "_artifact.safetensors", "_config.toml", "_sheet.png", ".safetensors", "_lora.safetensors", ".preview.png",
        ".json", "_bundle.safetensors", "_diffusers", "_01_mask.png", "_02_mask_overlay.png", "_stage1_000001_00.png",
        "_stage2_000002_00.png",
    }  # fmt: skip
    assert {f"NAME{end}" for end in ends} <= written
    assert {"step_000004.safetensors", "losses.csv", "events.jsonl"} <= written
    assert not [name for name in written if name.startswith(".")]


def test_names_that_longer_runs_come_to_fit():
    """Steps of seven digits; a temporary file is ``.`` + at most LONGEST_SHOWN bytes + ``.XXXXXXXX.part.safetensors``;
    a claim ``.NAME.claim-001``, and later ones a digit more."""
    files = RunFiles(Path("out"), NAME)
    for path in (files.sample("stage2", 1_000_000, 10), files.artifact, Path(f".{NAME}.claim-1000000")):
        assert len(path.name.encode()) <= LONGEST_FILE_NAME
    assert 1 + LONGEST_SHOWN + len(".12345678.part.safetensors") <= LONGEST_FILE_NAME


def test_a_photo_whose_name_is_as_long_as_names_can_be(tmp_path):
    """83 letters and ``.png``: the run is called by its first letters, and its mask is in the output folder."""
    photo, _ = draw_subject(tmp_path, "a")
    long = photo.rename(tmp_path / f"{LETTER * 83}.png")
    assert len(long.name.encode()) == 253
    done = run(tmp_path, "train_singleinsert.py", "--image", long.name, *FACE, "--output_dir", "out")
    assert "torch must not be imported yet" in done.stderr  # all that can be said without it has been said
    command = [sys.executable, str(ROOT / "train_singleinsert.py"), "--image", long.name, *FACE, "--mask_only"]
    done = subprocess.run([*command, "--box", "20,10,60,50"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "longer name than files can have: rename the picture" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("--output_name", LETTER * 85),  # 255 bytes
        ("--output_name", LETTER * 67),  # 201, one more than is taken
    ],
)
def test_longer_ones_are_refused_before_anything_is_loaded(words, tmp_path):
    draw_subject(tmp_path, "a")
    before = sorted(path.name for path in tmp_path.iterdir())
    done = run(tmp_path, "train_singleinsert.py", "--image", "a.png", *FACE, *words)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "bytes" in done.stderr and sorted(path.name for path in tmp_path.iterdir()) == before


def test_concepts_of_one_picture_have_the_runs_name_and_their_own(tiny_sd, tmp_path, capsys):
    """NAME + handle is a file's name and a trigger: 200 bytes in all, said before a mask is looked for."""
    values = small_values(tmp_path, tiny_sd, run__output_name=NAME, data__handles=["one", "two"])
    words = [*command_line({**values, "data.class_word": ["face", "hat"]}), "--set", "mask.detector=nowhere"]
    assert train_singleinsert.main(words) == 2
    assert "203 bytes" in capsys.readouterr().err and not (tmp_path / "out").exists()
