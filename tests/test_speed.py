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


def test_one_command_runs_every_row_each_in_a_process_of_its_own(tiny_sd, tmp_path, monkeypatch, capfd):
    """A row that fails is said, and the next is run. The process is what costs time here: 10 seconds of imports."""
    image, mask = draw_subject(tmp_path)
    values = SMALL | {"stage1.steps": 1, "stage2.steps": 1, "data.image": image, "data.mask": mask}
    values |= {"model.pretrained_model_name_or_path": tiny_sd}
    rows = {"no such": (("--no_such_flag",), {}), "tiny": (("--authors_steps", "0"), {"TORCHINDUCTOR_CUDAGRAPHS": "1"})}
    monkeypatch.setattr(speed, "ROWS", rows)
    path = tmp_path / "rows.json"
    assert speed.run_script(speed.speed_parser(), speed.run, ["--rows", str(path), *command_line(values)]) == 0
    found = json.loads(path.read_text())
    assert found["no such"] == {"failed": 2} and found["tiny"]["training_seconds"] > 0
    assert capfd.readouterr().out.splitlines()[-2].startswith("| no such |  | failed")


def test_the_rows_are_of_flags_that_there_are_and_of_models_that_can_be_made():
    parser = speed.speed_parser()
    for flags, _ in speed.ROWS.values():
        settings = speed.load_settings(parser.parse_args(flags).preset, None, {"data.class_word": "face"})
        assert settings.stage1.steps == 50
    assert {"sd1", "sd2", "sdxl"} == set(speed.PADDED_AS)
    for family in speed.PADDED_AS:
        source = speed.ASSETS / family
        index = json.loads((source / "model_index.json").read_text())
        unet = speed.meta_part(source, index, "unet")
        assert sum(p.numel() for p in unet.parameters()) > 8e8 and next(unet.parameters()).is_meta


def test_a_share_of_the_floor_is_told_of_the_counted_run_alone(monkeypatch):
    import cost

    monkeypatch.setattr(cost, "run_flops", lambda settings, family: {})
    monkeypatch.setattr(cost, "run_tflop", lambda settings, flops: {"run": 3456.0})
    whole = speed.load_settings(None, None, {"data.class_word": "face"})
    assert speed.share_of_floor(whole, "sd1", seconds=44.0, flops_per_second=785.45e12) == pytest.approx(0.1, rel=1e-3)
    short = speed.load_settings(None, None, {"data.class_word": "face", "stage1.steps": 3})
    assert speed.share_of_floor(short, "sd1", seconds=4.0, flops_per_second=785e12) is None
