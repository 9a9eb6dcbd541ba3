"""What a klein cannot, said in a line; its distilled sibling; its shift."""

import re

import pytest
import torch
from runs import small_values
from test_train_script import command_line

import train_singleinsert
from singleinsert.config import load_settings
from singleinsert.errors import ConfigError
from singleinsert.models.loading import load_base_model
from singleinsert.training.stages import stages_of


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "distilled"}, "distilled to a few steps.*train on its base model"),
        ({"stage2__trains": ["concept", "denoiser", "text"]}, "stage2.trains has text, of which a flux2-klein-4b"),
        ({"model__prediction_type": "epsilon"}, "flow's velocity"),
        ({"model__timestep_shift": 3.0}, "model.timestep_shift 3 with stage1.loss_space x0"),
    ],
    ids=["distilled", "text", "epsilon", "shift"],
)
def test_what_it_cannot_is_said_in_a_line_before_anything_is_written(
    changes, message, tiny_klein, tiny_distilled, tmp_path, capsys
):
    base = tiny_distilled if changes.pop("model", "") else tiny_klein
    values = small_values(tmp_path, base, **({"stage2__trains": ["denoiser"]} | changes))
    assert train_singleinsert.main(command_line(values)) != 0
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1, error
    assert re.search(message, error[0]), error
    assert not (tmp_path / "out" / "pic_artifact.safetensors").exists()


def test_a_larger_shift_goes_with_the_velocitys_loss_and_not_with_tables(tiny_klein, tiny_sd, tmp_path):
    space = {"stage1.loss_space": "v", "stage2.loss_space": "v", "model.timestep_shift": 3.0}
    assert len(stages_of(load_settings("klein", None, space))) == 2
    with pytest.raises(ConfigError, match="its own table"):
        load_base_model(tiny_sd).schedule.with_shift(2.0)
    schedule = load_base_model(tiny_klein).schedule
    s = schedule.with_shift(3.0).sigmas
    assert torch.allclose((1 - s) / s, 2 / 3 * (1 - schedule.sigmas) / schedule.sigmas, atol=2e-3)
