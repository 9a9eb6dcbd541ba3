"""infer_singleinsert.py as a user meets it: one real process, then the same entry point in this one."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tinyconcepts import make_concept, with_embedding

from singleinsert.artifact import UNKNOWN, Artifact, BaseInfo
from singleinsert.export import export
from singleinsert.export.__main__ import main as export_main
from singleinsert.inference.setup import notes_of_bases, recorded_base
from singleinsert.models.bundled import MINI_SD

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from infer_singleinsert import main  # noqa: E402

# A1111's reader: the last line's fields are "key: value" or "key: JSON string", between commas
FIELD = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


def read_parameters(path):
    """(prompt, negative prompt, fields) of a picture, as A1111 takes its text apart."""
    with Image.open(path) as picture:
        *lines, last = picture.text["parameters"].split("\n")
    fields = {key: json.loads(value) if value.startswith('"') else value for key, value in FIELD.findall(last)}
    negative = next(
        (line.removeprefix("Negative prompt: ") for line in lines if line.startswith("Negative prompt: ")), ""
    )
    return lines[0], negative, fields


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


@pytest.fixture(scope="module")
def folder(tiny_sd, tmp_path_factory):
    """A folder as two training runs leave it: output/anna with the artifact, output/hat with exported files alone."""
    folder = tmp_path_factory.mktemp("work")
    anna, hat = make_concept(tiny_sd, "anna"), make_concept(tiny_sd, "hat", num_vectors=2, class_word="hat", alpha=1.0)
    anna.save(folder / "output" / "anna" / "anna_artifact.safetensors")
    export(anna, folder / "output" / "anna", precision="fp32")
    export(hat, folder / "output" / "hat", precision="fp32")
    wide = with_embedding(dataclasses.replace(anna, update=None), torch.zeros(1, 48))
    wide.save(folder / "wide_artifact.safetensors")
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def test_the_real_command_line(folder):
    prompts = folder / "prompts.txt"
    prompts.write_text(
        "# two\n{anna} with <hat> (red): a, b --n ugly, old --d 7\n* face --s 2 --l 3 --w 48 --h 32\n", encoding="utf-8"
    )
    command = [
        sys.executable, str(ROOT / "infer_singleinsert.py"), "--concept", "output/anna", "--concept", "hat:0.5",
        "--prompt_file", str(prompts), "--prompt", "a café", "--num_images", "2", "--num_inference_steps", "3",
        "--scheduler", "dpmpp_2m_karras", "--seed", "5", "--grid", "--output_dir", "out", "--batch_size", "3",
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    assert done.returncode == 0, done.stderr
    names = ["00001-5.png", "00002-6.png", "00003-7.png", "00004-8.png", "00005-5.png", "00006-6.png", "grid-00001.png"]
    assert done.stdout.split() == [f"out/{name}" for name in names]
    assert "note: the prompt 'a café' names no concept" in done.stderr
    prompt, negative, fields = read_parameters(folder / "out" / "00003-7.png")
    assert prompt == r"anna face with hat \(red\): a, b <lora:anna_lora:1> <lora:hat_lora:0.5>"
    assert negative == "ugly, old"
    assert {key: fields[key] for key in ("Steps", "Sampler", "Schedule type", "CFG scale", "Seed", "Size")} == {
        "Steps": "3", "Sampler": "DPM++ 2M", "Schedule type": "Karras", "CFG scale": "7.5", "Seed": "7", "Size":
        "32x32",
    }  # fmt: skip
    prompt, negative, fields = read_parameters(folder / "out" / "00006-6.png")
    assert (negative, fields["Steps"], fields["CFG scale"], fields["Size"]) == ("", "2", "3", "48x32")
    assert read_parameters(folder / "out" / "00001-5.png")[0].startswith("a café <lora")
    with Image.open(folder / "out" / "00003-7.png") as picture:
        own = json.loads(picture.text["singleinsert"])
    assert (own["prompt"], own["seed"], own["scheduler"]) == ("{anna} with <hat> (red): a, b", 7, "dpmpp_2m_karras")
    assert [(c["name"], c["weight"]) for c in own["concepts"]] == [("anna", 1.0), ("hat", 0.5)]
    grid = pixels(folder / "out" / "grid-00001.png")
    assert grid.shape[0] > 3 * 100 and grid.shape[1] >= 320


def test_the_same_pictures_again_beside_the_old_ones(here):
    arguments = [
        "--concept",
        "anna",
        "--prompt",
        "* face",
        "--num_images",
        "3",
        "--num_inference_steps",
        "2",
        "--output_dir",
        "again",
    ]
    assert main([*arguments, "--batch_size", "1"]) == 0
    before = {path.name: path.read_bytes() for path in Path("again").iterdir()}
    assert main([*arguments, "--batch_size", "2"]) == 0
    assert sorted(path.name for path in Path("again").iterdir()) == [f"0000{i + 1}-{i % 3}.png" for i in range(6)]
    assert all((Path("again") / name).read_bytes() == content for name, content in before.items())
    for i in range(3):
        assert np.abs(pixels(f"again/0000{i + 1}-{i}.png") - pixels(f"again/0000{i + 4}-{i}.png")).max() <= 1


def test_artifact_exported_pair_and_other_base_folder_draw_the_same(here, tiny_sd):
    arguments = ["--prompt", "{concept} in the snow", "--num_inference_steps", "2", "--output_dir", "same"]
    assert main(["--concept", "anna", *arguments]) == 0
    pair = "output/anna/anna.safetensors+output/anna/anna_lora.safetensors"
    assert main(["--concept", pair, "--pretrained_model_name_or_path", str(tiny_sd), *arguments]) == 0
    first, second = sorted(Path("same").iterdir())
    assert np.array_equal(pixels(first), pixels(second))


def test_the_webuis_text_names_the_files_that_are_there(here, tiny_sd):
    """A LoRA of another name; and a bundle, whose embedding A1111 knows by the name inside of it."""
    assert export_main(["anna", "--format", "bundle", "--output_dir", "bundled"]) == 0
    assert export_main(["anna", "--format", "bundle", "--output_dir", "bundled/anna_bundle.safetensors"]) == 2
    shutil.copy("output/anna/anna_lora.safetensors", "other.safetensors")
    names = {
        "output/anna/anna.safetensors+other.safetensors": "other",
        "bundled/anna_bundle.safetensors": "anna_bundle",
    }
    for place, lora in names.items():
        arguments = ["--concept", place, "--prompt", "{anna}", "--num_inference_steps", "1", "--output_dir", lora]
        assert main([*arguments, "--pretrained_model_name_or_path", str(tiny_sd)]) == 0
        assert read_parameters(next(Path(lora).iterdir()))[0] == f"anna face <lora:{lora}:1>"


def test_views(here):
    assert (
        main(["--concept", "anna", "--prompt_list", "views", "--num_inference_steps", "1", "--output_dir", "views"])
        == 0
    )
    prompts = [read_parameters(path)[0] for path in sorted(Path("views").iterdir())]
    assert [prompt.split(" anna")[0] for prompt in prompts] == [
        "left side view of", "frontal view of", "right side view of", "back view of",
    ]  # fmt: skip


SNOW = ["--prompt", "* face"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--concept", "anna"], "no prompt: give --prompt"),
        (["--concept", "nobody", *SNOW], "no concept 'nobody': neither a file"),
        (["--concept", "anna:strong", *SNOW], "'strong', is no number"),
        (["--concept", "anna:nan", *SNOW], "'nan', is no number"),
        (["--concept", "anna", "--guidance_scale", "inf", *SNOW], "a guidance scale of inf is no number"),
        (["--concept", "anna", "--prompt", "* face", "--prompt_file", "steps.txt"], "2000 sampling steps: between 1"),
        (["--concept", "anna", "--concept", "output/anna", *SNOW], "singleinsert.export --output_name"),
        (SNOW, "no --concept and no base model"),
        (["--concept", "output/hat", *SNOW], "does not say where its base model"),
        (["--concept", "anna", "--prompt", "{ann}"], "did you mean anna?"),
        (["--concept", "anna", "--prompt", "{anna"], "{ in the prompt '{anna' stands alone: a concept is written {a"),
        (["--concept", "anna", "--pretrained_model_name_or_path", "./nowhere", *SNOW], "no model folder ./nowhere"),
        (["--concept", "wide_artifact.safetensors", *SNOW], "vectors of width 48"),
        (["--concept", "anna", "--prompt_file", "none.txt"], "prompt file not found"),
        (["--concept", "anna", "--num_images", "0", *SNOW], "--num_images 0"),
        (["--concept", "anna", "--seed", "-1", *SNOW], "seed -1 is out of range"),
        (["--concept", "anna", "--width", "100", *SNOW], "100 pixels"),
        (["--concept", "anna", "--device", "cuda:7", *SNOW], "--device cuda:7 is not there"),
        (["--concept", "anna", "--device", "abacus", *SNOW], "--device abacus is not there"),
        (["--concept", "anna", "--output_dir", "prompts_as_file/x", *SNOW], "cannot be made"),
    ],
)
def test_bad_input_is_one_line(arguments, message, here, capsys):
    Path("prompts_as_file").write_text("a file")
    Path("steps.txt").write_text("* face --s 2000")
    assert main([*arguments, "--num_inference_steps", "1"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and message in lines[0]
    assert not Path("output/pictures").exists()  # nothing is begun before all is known to be right


def test_offloading_needs_a_gpu(here, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--concept", "anna", "--offload", "model", "--device", "cpu", *SNOW]) == 2
    assert "there is none" in capsys.readouterr().err


def test_exported_files_of_the_bundled_model_need_no_word_on_where_it_is():
    nowhere = BaseInfo("sd1", "mini-sd", "epsilon", "")
    assert recorded_base([Artifact.of_one_concept("anna", "*", "face", torch.zeros(1, 4), {}, nowhere)]) == MINI_SD


def test_concepts_of_two_models_are_said():
    mini, other, unknown = (BaseInfo("sd1", name, "epsilon", "") for name in ("mini-sd", "mini-scenes", UNKNOWN))
    anna, ben, cat = (
        Artifact.of_one_concept(name, "*", "face", torch.zeros(1, 4), {}, base)
        for name, base in (("anna", mini), ("ben", other), ("cat", unknown))
    )
    assert notes_of_bases([anna, cat]) == notes_of_bases([anna]) == notes_of_bases([]) == []
    assert notes_of_bases([anna, ben]) == [
        "ben was trained on mini-scenes, and what draws is mini-sd, the model of anna: "
        "--pretrained_model_name_or_path chooses"
    ]


def test_a_model_that_has_moved(here, capsys, tiny_sd):
    artifact = Artifact.load(Path("output/anna/anna_artifact.safetensors"))
    gone = dataclasses.replace(artifact, base=dataclasses.replace(artifact.base, source="/gone/model"))
    gone.save(Path("gone_artifact.safetensors"))
    assert main(["--concept", "gone_artifact.safetensors", *SNOW]) == 2
    assert "no longer at /gone/model: give one as --pretrained_model_name_or_path" in capsys.readouterr().err


def test_attention_maps_beside_the_pictures(here, tmp_path):
    common = ["--concept", "output/anna", "--prompt", "* face", "--num_inference_steps", "2"]
    assert main([*common, "--output_dir", str(tmp_path / "a")]) == 0
    assert main([*common, "--output_dir", str(tmp_path / "b"), "--attention_maps"]) == 0
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == ["00001-0-attention.png", "00001-0.png"]
    assert np.array_equal(pixels(tmp_path / "a" / "00001-0.png"), pixels(tmp_path / "b" / "00001-0.png"))
    strip = pixels(tmp_path / "b" / "00001-0-attention.png")
    assert strip.shape[1] > 3 * 160  # the picture, *, face
