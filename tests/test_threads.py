"""One thread for a miniature, torch's own choice for every other model, and what the user says before both."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from singleinsert.models import threads
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


@pytest.fixture
def before_torch(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)


@pytest.fixture
def torchs_own(monkeypatch):
    """torch has chosen 3 threads."""
    import torch

    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "_threads_of_torch", lambda: 3)
    yield torch
    torch.set_num_threads(before)


@pytest.mark.parametrize("source", ["mini-sd", "mini-scenes"])
def test_miniatures_take_one(source, before_torch):
    choose_threads(source)
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_other_models_take_what_torch_chooses(tmp_path, before_torch):
    for source in ("somebody/model", model_of(tmp_path / "large", int(SMALL)), str(tmp_path / "model.safetensors")):
        choose_threads(source)
        assert "OMP_NUM_THREADS" not in os.environ
    choose_threads(model_of(tmp_path / "small", int(SMALL) - 1))
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_a_process_of_several_models_takes_what_suits_the_one_that_it_loads(tmp_path, torchs_own):
    large, file = model_of(tmp_path / "large", int(SMALL)), tmp_path / "small.safetensors"
    file.write_bytes(b"a small model")
    for source, expected in (("mini-sd", 1), (large, 3), (file, 1), ("somebody/model", 3)):
        choose_threads(source)
        assert torchs_own.get_num_threads() == expected, source
    assert "OMP_NUM_THREADS" not in os.environ


def test_every_base_model_that_is_loaded_chooses(tiny_sd, torchs_own):
    from singleinsert.models.loading import load_base_model

    torchs_own.set_num_threads(3)
    load_base_model(tiny_sd)
    assert torchs_own.get_num_threads() == 1


@pytest.mark.parametrize("name", OF_THE_USER)
def test_the_users_number_stays(name, monkeypatch, torchs_own):
    torchs_own.set_num_threads(3)
    monkeypatch.setenv(name, "3")
    choose_threads("mini-sd")
    assert torchs_own.get_num_threads() == 3
    monkeypatch.delitem(sys.modules, "torch")
    choose_threads("mini-sd")
    assert os.environ[name] == "3" and os.environ.get("OMP_NUM_THREADS") in (None, "3")


def test_it_is_chosen_before_torch_is_there():
    done = subprocess.run(
        [sys.executable, "-c", "import sys, singleinsert.models.threads; print('torch' in sys.modules)"],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.strip() == "False", done.stderr
