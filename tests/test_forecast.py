"""A look at what would be done, for people and as JSON; the one command; what to do next."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from batches import ENVIRONMENT, write_jobs
from hubs import served
from PIL import Image
from runs import draw_subject, small_values

import train_singleinsert
from singleinsert.__main__ import COMMANDS, main
from singleinsert.batch.__main__ import main as batch
from singleinsert.cli import print_next
from singleinsert.config import load_settings
from singleinsert.evaluate.__main__ import main as evaluate
from singleinsert.masks.verdict import BANDS, verdict, verdict_of
from singleinsert.models import presence
from singleinsert.models.bundled import place_of_model
from singleinsert.terms import preset_of_base
from singleinsert.training.events import EventLog
from singleinsert.training.forecast import expected_gpu_gb, expected_seconds, forecast_run, likeness_of


def test_check_prints_a_run_as_json(tmp_path, tiny_sd, capsys):
    image, mask = draw_subject(tmp_path)
    words = ["--image", str(image), "--class_word", "face", "--pretrained_model_name_or_path", str(tiny_sd),
             "--output_dir", str(tmp_path / "out"), "--resolution", "32"]  # fmt: skip
    assert train_singleinsert.main([*words, "--check", "--json"]) == 0
    look = json.loads(capsys.readouterr().out)
    assert look["problems"] == [] and look["name"] == "pic" and look["steps"] == {"stage1": 50, "stage2": 100}
    assert look["base_model"] == {"source": str(tiny_sd), "state": "here"}
    (seen,) = look["masks"]
    assert seen["share"] == pytest.approx(0.256, abs=1e-3) and seen["level"] == "good" and "pic_mask" in seen["source"]
    assert any("word" in note for note in look["notes"]) and not (tmp_path / "out").exists()

    Image.new("L", (80, 64), 0).save(mask)
    assert train_singleinsert.main([*words, "--check"]) == 2
    assert "is empty" in capsys.readouterr().err
    (tmp_path / "out" / "checkpoints" / "pic").mkdir(parents=True)
    (tmp_path / "out" / "checkpoints" / "pic" / "step_000001.safetensors").touch()
    settings = load_settings(None, None, {"data.image": str(image), "data.class_word": "face",
                                          "model.pretrained_model_name_or_path": "nowhere/at/all",
                                          "run.output_dir": str(tmp_path / "out")})  # fmt: skip
    problems = " ".join(forecast_run(settings).problems)  # all of them, not the first
    assert "another run called pic" in problems and "is empty" in problems and "no model folder" in problems


def test_times_and_memory_are_those_of_like_runs_or_none(tmp_path, tiny_sd):
    settings = load_settings(None, None, small_values(tmp_path, tiny_sd))
    assert expected_seconds(settings) is None and expected_gpu_gb(settings) is None
    log = EventLog(tmp_path / "other" / "logs" / "other")
    log.begin({"stage1": 1}, costs={"stage1": 4.0}, like=likeness_of(settings))
    log._write("step", stage="stage1", step=1, of=1, seconds=2.0, loss=1.0)
    # 3 steps of 4 samples, and 3 of 4 that cost 1.4 each, at half a second a sample
    assert expected_seconds(settings) == pytest.approx(0.5 * (3 * 4 + 3 * 4 * 1.4))
    sd = load_settings(None, None, {"data.image": "x.png"})
    assert expected_gpu_gb(sd) == (3.9, 15.3)
    low = {
        "run.micro_batch_size": 1,
        "run.use_8bit_adam": True,
        "run.gradient_checkpointing": True,
        "run.offload": True,
    }
    assert expected_gpu_gb(load_settings(None, None, low)) == (2.0, 2.0)
    for preset in ("sdxl", "klein", "zimage"):  # whose figures are others
        other = load_settings(preset, None, low | {"data.resolution": 512})
        assert expected_gpu_gb(other) is None and preset_of_base(other.model.pretrained_model_name_or_path) == preset
    assert preset_of_base("C:\\xl\\z_image_bf16.safetensors,qwen_3_4b.safetensors") == "zimage"


FETCH = """
import json, sys
from singleinsert.models.loading import load_base_model
from singleinsert.models.presence import is_to_fetch, megabytes_to_fetch
before = is_to_fetch("own/mini"), megabytes_to_fetch("own/mini")
load_base_model("own/mini")
print(json.dumps([*before, is_to_fetch("own/mini"), megabytes_to_fetch("own/nothing")]))
"""


def test_what_is_to_be_fetched_is_what_the_hubs_client_then_fetches(tmp_path):
    """A model beside everything that is not loaded: other formats and variants, a filter of pictures, a checkpoint."""
    model = tmp_path / "hub" / "own" / "mini"
    shutil.copytree(Path(place_of_model("mini-sd")), model, ignore=shutil.ignore_patterns("segmenter"))
    for name in ("unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors",
                 "safety_checker/model.safetensors", "mini.safetensors"):  # fmt: skip
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_bytes(bytes(3_000_000))
    index = json.loads((model / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (model / "model_index.json").write_text(json.dumps(index))
    with served(tmp_path / "hub") as hub:
        own = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0", "NO_PROXY": "*"}
        done = subprocess.run([sys.executable, "-c", FETCH], env={**ENVIRONMENT, **own}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    fetched = round(sum(size for name, size in hub.sent.items() if name.endswith((".safetensors", ".bin"))) / 1e6)
    assert json.loads(done.stdout) == [True, fetched, False, None] and fetched == 22


def test_shards_are_counted_and_only_what_the_family_loads(tmp_path, monkeypatch):
    model = tmp_path / "own" / "large"
    for name in ("transformer/diffusion_pytorch_model-00001-of-00002.safetensors", "vae/config.json",
                 "transformer/diffusion_pytorch_model-00002-of-00002.safetensors", "image_encoder/model.safetensors",
                 "text_encoder/model.safetensors", "text_encoder/model.fp16.safetensors"):  # fmt: skip
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_bytes(bytes(2_000_000))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with served(tmp_path) as hub:
        monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", hub.address)
        assert presence.megabytes_to_fetch("own/large") == 6 and presence.megabytes_to_fetch("own/large", "fp16") == 2


def test_a_share_has_one_verdict():
    levels = [verdict(share, 1000)[0] for share in (0.0005, 0.01, 0.03, 0.3, 0.7, 0.95, 0.995)]
    assert levels == ["bad", "look", "look", "good", "look", "look", "bad"]
    assert "400 pixels" in verdict(0.01, 400)[1] and [band.below for band in BANDS] == sorted(b.below for b in BANDS)
    level, text = verdict_of(Image.new("L", (100, 100), 0))
    assert level == "bad" and text.startswith("the mask is empty")


def test_plans_as_json(tmp_path, tiny_sd, capsys):
    jobs = write_jobs(tmp_path, tiny_sd, ["anna", "bert"], {"stage1.steps": 7})
    assert batch([str(jobs), "--dry_run", "--json", "--output_dir", str(tmp_path / "out")]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [(job["name"], job["state"], job["steps"]["stage1"]) for job in plan["jobs"]] == [
        ("anna", "queued", 7), ("bert", "queued", 3)]  # fmt: skip
    assert plan["problems"] == [] and "MB free" in plan["disk"]
    (tmp_path / "input" / "pic.png").write_bytes(b"no picture")
    assert batch([str(jobs), "--dry_run", "--json", "--output_dir", str(tmp_path / "out")]) == 2
    assert "pic.png" in json.loads(capsys.readouterr().out)["problems"][0]

    photos = tmp_path / "photos"
    draw_subject(photos / "face", "zoexy")
    words = ["run", "--methods", "table2", "--preset", "mini", "--concepts", str(photos),
             "--dry_run", "--json", "--output_dir", str(tmp_path / "evaluation")]  # fmt: skip
    assert evaluate(words) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [concept["name"] for concept in plan["concepts"]] == ["zoexy"] and plan["problems"] == []
    assert plan["trainings"] == len(plan["methods"]) and plan["pictures"] > plan["trainings"]
    assert not (tmp_path / "evaluation").exists()


def test_one_command_for_all(capsys):
    assert main([]) == 0 and all(f"singleinsert {name}" in capsys.readouterr().out for name in ["train"])
    assert main(["trian"]) == 2 and "did you mean train?" in capsys.readouterr().err
    for name in COMMANDS:
        if name != "config":
            with pytest.raises(SystemExit) as left:
                main([name, "--help"])
            assert left.value.code == 0 and capsys.readouterr().out


def test_next_commands_can_be_typed(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/singleinsert", "train"])
    print_next(("infer", "--prompt", "{concept} in snow"), ("export", "x", "--check"), leave_out="--check")
    assert (
        capsys.readouterr().err
        == "next: singleinsert infer --prompt '{concept} in snow'\nor:   singleinsert export x\n"
    )


def test_train_with_the_preset_alone_takes_the_bundled_face_from_any_folder(tmp_path):
    words = [sys.executable, "-m", "singleinsert", "train", "--preset", "mini", "--check"]
    done = subprocess.run(words, env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "name: mexyz" in done.stdout
    assert done.stderr.rstrip().endswith("next: python -m singleinsert train --preset mini")
    assert os.listdir(tmp_path) == []
