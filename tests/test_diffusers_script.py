"""The LoRA script in diffusers' style, run whole on a tiny Stable Diffusion."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors import safe_open

from singleinsert.models.bundled import MINI_SD

sys.path.insert(0, str(Path(__file__).parents[1] / "integrations" / "diffusers"))

import train_singleinsert_lora as script

ROUNDING = 1e-9  # the tuned model is called on a larger batch than the frozen one


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """accelerate keeps one state for a process, and refuses another precision."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def command(tmp_path, tiny_sd):
    """The command line on a 40x32 picture, whose left half is the subject."""
    columns = np.arange(40) < 20
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 40, 3), np.uint8)).save(tmp_path / "photo.png")
    Image.fromarray(np.tile(columns, (32, 1)).astype(np.uint8) * 255).save(tmp_path / "mask.png")
    options = {
        "pretrained_model_name_or_path": tiny_sd, "instance_image": tmp_path / "photo.png",
        "mask_image": tmp_path / "mask.png", "instance_prompt": "* face", "class_prompt": "face",
        "output_dir": tmp_path / "out", "resolution": 32, "train_batch_size": 2, "max_train_steps": 3,
    }  # fmt: skip
    return [text for name, value in options.items() for text in (f"--{name}", str(value))]


def test_it_trains_and_what_it_writes_loads_and_draws(command, tmp_path):
    flags = ["--train_text_encoder", "--lora_alpha", "3", "--validation_prompt", "* face on the beach"]
    history = script.main(script.parse_args([*command, *flags]))
    assert [list(terms) for terms in history] == [["foreground", "background", "semantic"]] * 3
    # before the first step the tuned model is the frozen one; after it the class prompt's prediction has moved
    assert history[0]["semantic"] < ROUNDING and history[0]["background"] > 0
    assert ROUNDING < history[1]["semantic"] < history[1]["foreground"]
    with safe_open(tmp_path / "out" / "lora.safetensors", "pt") as file:
        tensors, header = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    ups = {key: tensor for key, tensor in tensors.items() if "lora_up" in key}
    assert {key.split("_")[1] for key in ups} == {"unet", "te"} and all(up.abs().sum() > 0 for up in ups.values())
    assert header["ss_network_alpha"] == "3.0" and header["modelspec.trigger_phrase"] == "* face"
    assert Image.open(tmp_path / "out" / "validation.png").size == (32, 32)


def test_it_runs_on_the_bundled_model(command, tmp_path):
    """Stored in float16, as models from the hub often are."""
    base = ["--pretrained_model_name_or_path", str(MINI_SD), "--resolution", "64", "--train_text_encoder"]
    history = script.main(script.parse_args([*command, *base, "--max_train_steps", "2"]))
    assert history[0]["semantic"] < ROUNDING < history[1]["semantic"]
    assert (tmp_path / "out" / "lora.safetensors").is_file()


def test_same_prompts_leave_no_background_error_at_the_start(command):
    args = script.parse_args(
        [*command, "--class_prompt", "* face", "--max_train_steps", "1", "--loss_space", "epsilon"]
    )
    (terms,) = script.main(args)
    assert max(terms["background"], terms["semantic"]) < ROUNDING < terms["foreground"]


def test_low_precision_with_checkpointing_and_accumulation(command, tmp_path):
    flags = ["--mixed_precision", "bf16", "--gradient_checkpointing", "--gradient_accumulation_steps", "2"]
    history = script.main(script.parse_args([*command, *flags, "--semantic_weight", "0", "--max_train_steps", "2"]))
    assert len(history) == 4 and all(list(terms) == ["foreground", "background"] for terms in history)
    assert all(torch.isfinite(torch.tensor(list(terms.values()))).all() for terms in history)
    assert (tmp_path / "out" / "lora.safetensors").is_file()
