"""What a user sees of a mistake before anything heavy is imported, and what the bare package says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
NO_TORCH = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "transformers", "diffusers"):
            raise ImportError(name + " must not be imported yet")
sys.meta_path.insert(0, Refuse())
import runpy
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(tmp_path, script, *words):
    """The script in a process in which torch cannot be imported."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-c", NO_TORCH, str(ROOT / script), *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)


FACE = ("--class_word", "face")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--image", "nobody.png", *FACE), "--image nobody.png: there is no such file"),
        (("--image", "face.png", "--mask", "no.png", *FACE), "--mask no.png: there is no such file"),
        (("--image", "words.png", *FACE), "picture words.png is not a picture that can be read"),
        (("--image", "empty", *FACE), "folder empty holds no picture that can be read"),
        (("--image", "face.png", "--mask", "words.png", *FACE), "mask words.png is not a picture that can be read"),
        (("--image", "face.png", "--mask", "small.png", *FACE), "32x32"),
        (("--image", "face.png", "--resume_from_checkpoint", "no", *FACE), "no checkpoint no"),
        (("--image", "face.png", "--output_name", "my face", *FACE), "such as my_face"),
        (("--image", "face.png", "--output_dir", "face.png/x", *FACE), "output folder face.png/x cannot be made"),
        (("--image", "face.png", "--output_dir", "taken", *FACE), "taken holds another run called face"),
        (("--image", "face.png", "--set", "data.prompt=\udcff", *FACE), "is not in UTF-8"),
        (("--seed", "9" * 5000, "--image", "face.png"), "--seed"),
    ],
)  # fmt: skip
def test_training_says_it_at_once(words, message, tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "face.png")
    Image.new("L", (32, 32)).save(tmp_path / "small.png")
    (tmp_path / "words.png").write_text("a face")
    (tmp_path / "empty").mkdir()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/face.safetensors").write_bytes(b"")
    before = sorted(path.name for path in tmp_path.iterdir())
    done = run(tmp_path, "train_singleinsert.py", *words)
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1 and len(done.stderr) < 600
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--concept", "nobody"), "no concept 'nobody': neither a file, nor a folder"),
        (("--concept", "nobody:0.5"), "no concept 'nobody'"),
        (("--concept", "a.safetensors+b.safetensors"), "no file a.safetensors"),
        (("--concept", "me:1e30"), "a LoRA's weight is at most 100"),
        (("--concept", "me:strong"), "'strong', is no number"),
    ],
)
def test_drawing_says_it_at_once(words, message, tmp_path):
    done = run(tmp_path, "infer_singleinsert.py", *words, "--prompt", "*")
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def test_the_bare_package_says_what_commands_there_are(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-m", "singleinsert"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0
    for part in ("masks", "captions", "batch", "export", "evaluate", "config", "ui"):
        assert f"singleinsert {part} " in done.stdout
        assert (ROOT / "singleinsert" / part / "__main__.py").is_file()


def test_weights_of_webuis_are_noted():
    from singleinsert.inference.prompts import note_of_weights

    for prompt in ("(* face:1.2) in snow", "((*))", "[* : cat : 0.5]", "* BREAK snow"):
        assert "taken literally" in note_of_weights(["* face", prompt]), prompt
    assert note_of_weights(["* face (smiling), at 12:30", "* [x]"]) == ""
