"""The training script as users call it. Each process takes seconds to start, so there are few of them."""

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from runs import QUIET, draw_subject, small_values

import train_singleinsert
from singleinsert.artifact import Artifact
from singleinsert.config import load_settings
from singleinsert.training.run import train

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = str(ROOT / "train_singleinsert.py")
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

# loss terms of the run below on the tiny model, whose weights are a formula; change them only on purpose
GOLDEN = [
    ("stage1", 1, 14.775875, 0.591860, 0.0),
    ("stage1", 2, 16.571739, 0.347292, 0.0),
    ("stage1", 3, 0.477233, 0.006680, 0.0),
    ("stage2", 1, 2.127115, 0.024450, 0.0),
    ("stage2", 2, 2.699059, 0.049307, 0.002385),
    ("stage2", 3, 6.133774, 0.102472, 0.009977),
]


def command_line(values: dict) -> list[str]:
    """The settings as ``--set`` flags."""
    words = []
    for key, value in values.items():
        text = str(value).replace("'", '"') if isinstance(value, (list, bool)) else value
        words += ["--set", f"{key}={str(text).lower() if isinstance(value, bool) else text}"]
    return words


def curve(out: Path) -> list[tuple]:
    with open(out / "logs/pic/losses.csv") as file:
        terms = ("foreground", "background", "semantic")
        return [
            (row["stage"], int(row["step"]), *(float(row[term] or 0) for term in terms)) for row in csv.DictReader(file)
        ]


def test_the_golden_loss_curve_through_accelerate_launch(tiny_sd, tmp_path):
    values = small_values(
        tmp_path,
        tiny_sd,
        sample__prompts=["{concept}"],
        stage1__learning_rate=3e-3,
        stage2__learning_rate=3e-3,
        run__teacher_bank=False,
    )
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "1",
        "--num_machines",
        "1",
    ]
    done = subprocess.run(
        [*launch, "--mixed_precision", "no", "--dynamo_backend", "no", SCRIPT, *command_line(values)],
        env=ENVIRONMENT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    measured = curve(out)
    assert [row[:2] for row in measured] == [row[:2] for row in GOLDEN]
    for row, golden in zip(measured, GOLDEN, strict=True):
        # the number of threads changes the fifth digit
        assert row[2:] == pytest.approx(golden[2:], rel=1e-3, abs=1e-6)
    for end in ("", "_lora", "_artifact"):
        assert (out / f"pic{end}.safetensors").is_file()
    for end in (".json", ".preview.png", "_sheet.png", "_mask.png", "_config.toml"):
        assert (out / f"pic{end}").is_file()
    assert "covers 25.6% of the picture" in done.stdout and "first step done" in done.stdout
    lines = [line for line in done.stderr.splitlines() if line.startswith("stage2:")]
    assert len(lines) == 3 and "\r" not in done.stderr  # a line for each tenth that is reached, and no bar
    assert re.fullmatch(r"stage2: 100% 3/3 foreground=6\.1338, background=0\.1025, semantic=0\.0100", lines[-1])


def two_processes(values: dict) -> list[subprocess.Popen]:
    """The script as two gloo processes, each with half of every batch."""
    port = str(20000 + os.getpid() % 20000)
    return [
        subprocess.Popen(
            [sys.executable, SCRIPT, *command_line(values)],
            env={**ENVIRONMENT, "ACCELERATE_USE_CPU": "true", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
                 "WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip


def assert_near(artifact, reference) -> None:
    assert torch.allclose(artifact.embedding, reference.embedding, atol=2e-5)
    for component, layers in reference.lora.items():
        for path, lora in layers.items():
            assert torch.allclose(artifact.lora[component][path].up, lora.up, atol=2e-5), path


def test_two_processes_are_one_with_the_same_batch_in_both_stages(tiny_sd, tmp_path):
    """Losses too, since AdamW would hide a gradient of the wrong scale; clipping, which sees it, is at work."""
    values = small_values(tmp_path, tiny_sd, stage1__batch_size=3, stage2__max_grad_norm=0.01)
    reference = train(load_settings(None, None, values), watch=QUIET).artifact
    values["run.output_dir"] = str(tmp_path / "two")
    both = two_processes(values)
    ends = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    assert_near(Artifact.load(tmp_path / "two/pic_artifact.safetensors"), reference)
    for row, golden in zip(curve(tmp_path / "two"), curve(tmp_path / "out"), strict=True):
        assert row[:2] == golden[:2] and row[2:] == pytest.approx(golden[2:], rel=1e-4, abs=1e-6)


def test_two_processes_both_leave_on_sigterm_and_one_goes_on(tiny_sd, tmp_path):
    values = small_values(tmp_path, tiny_sd, stage1__batch_size=3)
    reference = train(load_settings(None, None, values), watch=QUIET).artifact
    values["run.output_dir"] = str(tmp_path / "two")
    both = two_processes(values)
    for line in both[0].stdout:
        if line.startswith("first step done"):
            both[1].send_signal(signal.SIGTERM)
            break
    ends = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [143, 143], ends
    assert "--resume_from_checkpoint latest" in ends[0][1] and "Traceback" not in ends[0][1] + ends[1][1]

    values["run.resume_from_checkpoint"] = "latest"
    assert_near(train(load_settings(None, None, values), watch=QUIET).artifact, reference)


def call(capsys, values: dict, *words: str) -> tuple[int, str]:
    """(exit code, stderr) of the script's main, in this process."""
    code = train_singleinsert.main([*command_line(values), *words])
    return code, capsys.readouterr().err


def test_bad_input_is_one_line_and_writes_nothing(tiny_sd, tmp_path, capsys):
    good = small_values(tmp_path, tiny_sd)
    image, mask = draw_subject(tmp_path / "bad")
    black, white, text = (tmp_path / "bad" / name for name in ("black.png", "white.png", "text.png"))
    Image.new("L", (80, 64), 0).save(black)
    Image.new("L", (80, 64), 255).save(white)
    small, file = tmp_path / "bad" / "small.png", tmp_path / "file"
    Image.open(mask).resize((40, 32)).save(small)
    text.write_text("no picture")
    file.write_text("")
    for message, changes in (
        ("none.png: there is no such file", {"data.image": "none.png"}),
        ("is not a picture", {"data.image": str(text)}),
        ("--image is missing", {"data.image": ""}),
        ("--class_word is missing", {"data.class_word": ""}),
        ("none.png: there is no such file or folder", {"data.mask": "none.png"}),
        ("is empty", {"data.mask": str(black)}),
        ("leaves no background", {"data.mask": str(white)}),
        ("is 40x32 but the picture is 80x64", {"data.mask": str(small)}),
        ("no model folder", {"model.pretrained_model_name_or_path": "./none"}),
        ("is unknown to the model's tokenizer", {"data.class_word": "\u00fc"}),
        ("cannot be", {"run.output_dir": str(file / "out")}),
        ("did you mean stage1.steps?", {"stage1.step": 3}),
        ("use_8bit_adam must be", {"run.use_8bit_adam": "perhaps"}),
    ):
        code, error = call(capsys, good | changes)
        assert code == 2, message
        lines = error.strip().splitlines()
        assert lines[-1].startswith("error: ") and message in lines[-1], lines
        assert len(lines) == 1, lines
        assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir()), message
    assert image.is_file()


def test_a_broken_model_folder_is_one_line(tiny_sd, tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(tiny_sd, folder)
    (folder / "unet/config.json").unlink()
    code, error = call(capsys, small_values(tmp_path, folder))
    assert code == 2 and error.strip() == f"error: model folder {folder} is incomplete: unet/config.json missing"


def test_mask_only_writes_the_mask_and_stops(tiny_sd, tmp_path, capsys):
    code, error = call(capsys, small_values(tmp_path, tiny_sd), "--mask_only")
    assert code == 0 and error.startswith("next: ")
    names = sorted(path.name for path in (tmp_path / "input").iterdir())
    assert names == ["pic.png", "pic_mask.png", "pic_mask_overlay.png"] and not (tmp_path / "out").exists()


def test_help_imports_nothing_heavy():
    look = "print([name for name in ('torch', 'PIL', 'numpy') if name in sys.modules])"
    code = f"import sys, train_singleinsert as script; script.training_parser(); {look}"
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
