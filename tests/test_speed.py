"""The benchmark of speed runs on a CPU, with the tiny model; its figures mean something on a GPU."""

import json
import sys
from pathlib import Path

import pytest
from runs import SMALL, draw_subject
from test_train_script import command_line

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import speed


def test_parts_of_a_run_are_timed_beside_the_authors_formulation(tiny_sd, tmp_path):
    image, mask = draw_subject(tmp_path)
    values = SMALL | {"stage1.steps": 2, "stage2.steps": 2, "sample.prompts": ["{concept}"]}
    values |= {"data.image": image, "data.mask": mask, "model.pretrained_model_name_or_path": tiny_sd}
    path = tmp_path / "speed.json"
    flags = [*command_line(values), "--authors_steps", "1", "--json", str(path)]
    assert speed.run_script(speed.speed_parser(), speed.run, flags) == 0
    found = json.loads(path.read_text())
    parts = ["picture and mask", "load", "encode once", "first step", "stage1", "stage2", "pictures", "export"]
    assert list(found["ours"]) == parts and list(found["authors"]) == ["load and encode", "stage1", "stage2"]
    seconds = {name: part["seconds"] for name, part in found["ours"].items()}
    assert all(value > 0 for value in seconds.values())
    assert found["training_seconds"] == pytest.approx(seconds["stage1"] + seconds["stage2"])
    authors = sum(found["authors"][name]["seconds"] for name in ("stage1", "stage2"))
    assert found["times_faster"] == pytest.approx(authors / found["training_seconds"])
    assert "CPU" in found["device"]
