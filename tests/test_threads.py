"""One thread for a miniature, torch's own choice for every other model, and what the user says before both."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from singleinsert.models.threads import OF_THE_USER, SMALL, choose_threads

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def nobody_has_said(monkeypatch):
    for name in OF_THE_USER:
        monkeypatch.delenv(name, raising=False)


def model_of(folder: Path, size: int) -> str:
    (folder / "unet").mkdir(parents=True)
    with open(folder / "unet" / "model.safetensors", "wb") as file:
        file.truncate(size)
    return str(folder)


@pytest.mark.parametrize("source", ["mini-sd", "mini-scenes"])
def test_miniatures_take_one(source):
    choose_threads(source)
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_other_models_take_what_torch_chooses(tmp_path):
    for source in ("somebody/model", model_of(tmp_path / "large", int(SMALL)), str(tmp_path / "model.safetensors")):
        choose_threads(source)
        assert "OMP_NUM_THREADS" not in os.environ
    choose_threads(model_of(tmp_path / "small", int(SMALL) - 1))
    assert os.environ["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize("name", OF_THE_USER)
def test_the_users_number_stays(name, monkeypatch):
    monkeypatch.setenv(name, "3")
    choose_threads("mini-sd")
    assert os.environ[name] == "3" and os.environ.get("OMP_NUM_THREADS") in (None, "3")


def test_it_is_chosen_before_torch_is_there():
    done = subprocess.run(
        [sys.executable, "-c", "import sys, singleinsert.models.threads; print('torch' in sys.modules)"],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.strip() == "False", done.stderr
