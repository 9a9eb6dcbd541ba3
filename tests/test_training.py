"""The trainer as a whole, in this process: what a run leaves behind, resuming, stopping, refusing."""

import csv
import importlib.machinery
import os
import shutil
import signal
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.utils import LoggerType
from batches import tensors
from PIL import Image
from runs import QUIET, Said, small_settings
from tinymodels import CONCEPT_WIDTH

from singleinsert.artifact import Artifact
from singleinsert.config import load_settings, to_toml
from singleinsert.drawing.masked import EDGE, SQUARE, mask_overlay
from singleinsert.drawing.sheet import TILE
from singleinsert.drawing.tiles import square_tile
from singleinsert.errors import ConfigError, InputError, MissingPackageError, ModelError
from singleinsert.training.checkpoint import checkpoints, load_checkpoint
from singleinsert.training.loop import Loop
from singleinsert.training.prepare import find_material
from singleinsert.training.results import as_typed
from singleinsert.training.run import train
from singleinsert.training.signals import Interrupted


def table(settings):
    with open(settings.output_dir / "logs" / settings.name / "losses.csv") as file:
        return [{k: v if k == "stage" else float(v or "nan") for k, v in row.items()} for row in csv.DictReader(file)]


def assert_same(a, b, exact=True):
    a, b = tensors(a), tensors(b)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]) if exact else torch.allclose(a[name], b[name], atol=2e-5), name


@pytest.fixture(scope="module")
def whole(tiny_sd, tmp_path_factory):
    """An uninterrupted run that kept every checkpoint."""
    folder = tmp_path_factory.mktemp("whole")
    settings = small_settings(
        folder, tiny_sd, run__checkpointing_steps=1, run__checkpoints_total_limit=0, run__report_to="tensorboard",
        sample__prompts=["{concept}", "{concept} in the snow"], sample__steps_interval=2,
    )  # fmt: skip
    lines = []
    return SimpleNamespace(
        folder=folder, settings=settings, result=train(settings, watch=Said(lines.append)), lines=lines
    )


def test_what_a_run_leaves_behind(whole):
    out, artifact = whole.settings.output_dir, whole.result.artifact
    assert_same(Artifact.load(out / "pic_artifact.safetensors"), artifact)
    assert load_settings(None, out / "pic_config.toml", {}) == whole.settings
    assert artifact.embedding.shape == (1, CONCEPT_WIDTH) and artifact.base.family == "sd1"
    assert set(artifact.lora) == {"unet", "text_encoder"}
    assert artifact.metadata["steps"] == {"stage1": 3, "stage2": 3}
    name, mask, square, loading, first, *_ = whole.lines
    assert name.startswith("note: 'pic' is a word") and "covers 25.6% of the picture" in mask
    assert square.endswith("32.1% of them subject") and "first step done" in first
    assert loading.startswith("loading ")
    samples = sorted(path.name for path in (out / "samples").iterdir())
    steps = [("stage1", 2), ("stage1", 3), ("stage2", 2), ("stage2", 3)]
    steps.insert(0, ("before", 0))  # what the frozen model draws
    assert samples == [f"pic_{stage}_{step:06d}_{i:02d}.png" for stage, step in steps for i in range(2)]
    assert Image.open(out / "samples" / samples[0]).size == (32, 32) == whole.result.preview.size
    assert Image.open(out / "pic_mask.png").mode == "L"
    rows = table(whole.settings)
    assert [row["stage"] for row in rows] == ["stage1"] * 3 + ["stage2"] * 3
    assert all(row["loss"] == pytest.approx(row["foreground"] + row["background"]) for row in rows[:3])
    assert list((out / "logs" / "pic").rglob("events.out.tfevents*"))
    assert not [path for path in out.rglob(".*") if path.is_file()]


def test_the_sheet_shows_each_stages_last_samples_in_their_places(whole):
    """Stages as rows, prompts as columns, each tile pixel for pixel; the source and its mask on the left."""
    out = whole.settings.output_dir
    pixels = np.asarray(Image.open(out / "pic_sheet.png"))

    def place(tile):
        tile = np.asarray(tile)
        found = np.argwhere((pixels[: -TILE + 1, : -TILE + 1] == tile[0, 0]).all(-1))
        return next((y, x) for y, x in found if np.array_equal(pixels[y : y + TILE, x : x + TILE], tile))

    shown = [("before", 0), ("stage1", 3), ("stage2", 3)]
    files = [out / f"samples/pic_{stage}_{step:06d}_{i:02d}.png" for stage, step in shown for i in (0, 1)]
    (y0, x0), (y1, x1), *rest = (place(square_tile(Image.open(file), TILE)) for file in files)
    (y2, x2), (y3, x3), (y4, x4), (y5, x5) = rest
    assert y0 == y1 < y2 == y3 < y4 == y5 and x0 == x2 == x4 < x1 == x3 == x5
    picture = find_material(whole.settings, str).pictures[0]
    top, left = place(square_tile(picture.image, TILE))
    assert top == y0 and left < x0
    assert place(square_tile(mask_overlay(picture.image, picture.subjects[0].mask), TILE)) == (y2, left)


def test_prompts_on_the_sheet_are_those_of_the_exported_files(whole):
    artifact = whole.result.artifact
    assert as_typed("a photo of * face, 5*3", artifact) == "a photo of pic face, 5*3"


def test_the_training_square_is_drawn_on_the_overlay():
    source, mask = Image.new("RGB", (90, 60), (90, 90, 90)), Image.new("L", (180, 120), 0)
    shown = np.asarray(mask_overlay(source, mask, (40, 0, 160, 120)))  # of the mask's pixels, twice the picture's
    assert (shown[10:50, [20, 79]] == SQUARE).all() and (shown[[0, 59], 30:70] == SQUARE).all()
    assert not (shown[10:50, 30:70] == SQUARE).all(-1).any()


def test_the_overlay_pales_what_the_mask_leaves_out():
    source, mask = Image.new("RGB", (90, 90), (200, 40, 40)), Image.new("L", (90, 90), 0)
    mask.paste(255, (0, 0, 45, 90))
    shown = np.asarray(mask_overlay(source, mask)).astype(int)
    assert (shown[:, :40] == (200, 40, 40)).all()
    # grey 0.299 200 + 0.587 40 + 0.114 40 = 88, and 60 percent of the way to white: 88 + 0.6 (255 - 88) = 188
    assert (abs(shown[:, 50:] - 188) <= 1).all()
    assert (shown[:, 45:46] == EDGE).all()


def test_trackers_go_on_with_the_steps_where_the_run_was_left(whole, tmp_path, tiny_sd):
    kept = str(whole.settings.output_dir / "checkpoints/pic/step_000004.safetensors")
    settings = small_settings(tmp_path, tiny_sd, run__resume_from_checkpoint=kept, run__report_to="tensorboard")
    train(settings, watch=QUIET)
    assert scalars(settings, "stage2/loss") == scalars(whole.settings, "stage2/loss")[1:]
    assert [step for step, _ in scalars(whole.settings, "stage1/loss")] == [1, 2, 3]
    assert [step for step, _ in scalars(settings, "stage2/loss")] == [5, 6]


def scalars(settings, tag):
    """(step, value) pairs that tensorboard was told."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = (settings.output_dir / "logs" / settings.name).rglob("events.out.tfevents*")
    log = EventAccumulator(str(events.parent)).Reload()
    return [(event.step, event.value) for event in log.Scalars(tag)]


def test_a_checkpoint_from_elsewhere_does_not_replace_a_finished_run(whole, tmp_path, tiny_sd):
    held = {path: path.read_bytes() for path in whole.settings.output_dir.rglob("*") if path.is_file()}
    kept = tmp_path / "step_000002.safetensors"
    shutil.copy(whole.settings.output_dir / "checkpoints/pic/step_000002.safetensors", kept)
    changes = {"run__resume_from_checkpoint": str(kept), "run__output_dir": str(whole.settings.output_dir)}
    with pytest.raises(InputError, match="holds another run called pic"):
        train(small_settings(tmp_path, tiny_sd, **changes), watch=QUIET)
    assert held == {path: path.read_bytes() for path in held}


@pytest.mark.parametrize("left", ["_sheet.png", "_lora.json", "_bundle.safetensors", "_diffusers"])
def test_whatever_a_run_left_is_found_before_anything_is_trained(tmp_path, tiny_sd, left):
    settings = small_settings(tmp_path, tiny_sd)
    settings.output_dir.mkdir()
    (settings.output_dir / f"pic{left}").touch()
    with pytest.raises(InputError, match="holds another run called pic"):
        train(settings, watch=QUIET)
    if left == "_sheet.png":  # stopped before the clients' files were written
        (settings.output_dir / "pic_artifact.safetensors").touch()
        for again in ("", "latest"):
            stopped = small_settings(tmp_path, tiny_sd, run__resume_from_checkpoint=again)
            with pytest.raises(InputError, match=r"python -m singleinsert.export .*pic_artifact.safetensors$"):
                train(stopped, watch=QUIET)
    with pytest.raises(ConfigError, match="cannot name a concept"):
        train(small_settings(tmp_path, tiny_sd, run__output_name="p*c"), watch=QUIET)


def test_a_config_written_by_hand_is_not_replaced(tmp_path, tiny_sd):
    """One that a run has written, and that left nothing else, is."""
    settings = small_settings(tmp_path, tiny_sd, stage1__steps=1, stage2__steps=0)
    settings.output_dir.mkdir()
    mine = settings.output_dir / "pic_config.toml"
    for text in ("[stage1]\nsteps = 1  # as told\n", "not toml"):
        mine.write_text(text)
        with pytest.raises(InputError, match="pic_config.toml was not written by a run"):
            train(settings, watch=QUIET)
        assert mine.read_text() == text
    mine.write_text(to_toml(small_settings(tmp_path, tiny_sd)))
    train(settings, watch=QUIET)
    assert load_settings(None, mine, {}) == settings


def test_the_config_of_a_resumed_run_can_be_fed_back(whole, tmp_path, tiny_sd):
    kept = str(whole.settings.output_dir / "checkpoints/pic/step_000004.safetensors")
    settings = small_settings(tmp_path, tiny_sd, run__resume_from_checkpoint=kept)
    train(settings, watch=QUIET)
    changes = {"run.output_dir": str(tmp_path / "anew"), "run.seed": 3}
    again = load_settings(None, settings.output_dir / "pic_config.toml", changes)
    assert not again.run.resume_from_checkpoint
    train(again, watch=QUIET)


def test_a_residual_that_starts_far_from_the_class_word_is_told(tmp_path, tiny_sd):
    changes = {"concept__residual": True, "stage1__steps": 1, "stage2__steps": 0}
    for std, told in ((1.0, 1), (0.001, 0)):
        lines = list[str]()
        settings = small_settings(tmp_path / str(std), tiny_sd, concept__init_std=std, **changes)
        train(settings, watch=Said(lines.append))
        assert sum("starts far from 'face'" in line for line in lines) == told


def test_wandb_is_told_which_run_goes_on(tmp_path, tiny_sd, monkeypatch):
    """The tracker is accelerate's, what it is given is ours: one id for a run and what goes on with it."""
    told = []

    class Run:
        def __init__(self, *args, **options):
            told.append(options)

        def __getattr__(self, name):
            return lambda *args, **options: None

    module = SimpleNamespace(
        init=Run, Image=lambda *a, **k: None, run=None, config=SimpleNamespace(update=lambda *a, **k: 0)
    )
    monkeypatch.setitem(sys.modules, "wandb", module)
    module.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    monkeypatch.setattr("accelerate.tracking._available_trackers", [LoggerType.WANDB])
    changes = {"run__report_to": "wandb", "run__checkpointing_steps": 1, "stage1__steps": 2, "stage2__steps": 0}
    for folder, more in (("a", {}), ("a", {"run__resume_from_checkpoint": "latest"}), ("b", {})):
        train(small_settings(tmp_path / folder, tiny_sd, **changes, **more), watch=QUIET)
    first, second, third = (options["id"] for options in told)
    assert first == second != third and first.startswith("pic-") and told[1]["resume"] == "allow"


def test_both_stages_changed_what_they_train(whole):
    early, late = (
        load_checkpoint(path)["parameters"] for path in checkpoints(whole.settings.output_dir / "checkpoints/pic")[::5]
    )
    assert all(name.startswith("concept.") for name in early)
    for name, value in late.items():
        if name.startswith("concept."):
            assert not torch.equal(value, early[name]), name
        elif name.endswith(".up"):
            assert value.abs().max() > 0, name


@pytest.mark.parametrize("step", [2, 3, 4])
def test_resuming_gives_the_same_numbers_across_the_stage_switch(whole, tmp_path, tiny_sd, step):
    """Step 3 is the last of stage one; nothing random, and no optimiser moment, may differ afterwards."""
    kept = tmp_path / "kept"
    kept.mkdir()
    shutil.copy(whole.settings.output_dir / f"checkpoints/pic/step_{step:06d}.safetensors", kept)
    settings = small_settings(tmp_path, tiny_sd, run__resume_from_checkpoint=str(kept))
    lines = []
    assert_same(train(settings, watch=Said(lines.append)).artifact, whole.result.artifact)
    assert str(table(settings)) == str(table(whole.settings))  # to the last digit
    assert any(line.startswith("going on from") for line in lines)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_leaves_and_the_run_can_go_on(whole, tmp_path, tiny_sd, signum, capsys):
    settings = small_settings(tmp_path, tiny_sd)
    before = signal.getsignal(signum)
    with pytest.raises(
        Interrupted,
        match="after stage1 step 1, .*; go on: python train_singleinsert.py .*--resume_from_checkpoint latest",
    ) as stop:
        train(settings, watch=Said(lambda line: os.kill(os.getpid(), signum) if "first step" in line else None))
    assert stop.value.exit_code == 128 + signum
    assert capsys.readouterr().err.count("finishing the step to save it; once more leaves at once") == 1
    assert signal.getsignal(signum) == before
    assert not (settings.output_dir / "pic_artifact.safetensors").exists()
    with pytest.raises(InputError, match="holds another run called pic"):
        train(settings, watch=QUIET)
    resumed = small_settings(tmp_path, tiny_sd, run__resume_from_checkpoint="latest")
    assert_same(train(resumed, watch=QUIET).artifact, whole.result.artifact)


def test_a_watch_that_asks_for_it_stops_the_run_which_can_go_on(whole, tmp_path, tiny_sd):
    class Stopping(Said):
        told = 0

        def asked_to_stop(self):
            return self.told

    watch = Stopping(on_step=lambda stage, step: setattr(watch, "told", 2 if (stage, step) == ("stage2", 1) else 0))
    with pytest.raises(Interrupted, match="after stage2 step 1") as stop:
        train(small_settings(tmp_path, tiny_sd), watch=watch)
    assert stop.value.exit_code == 130
    resumed = small_settings(tmp_path, tiny_sd, run__resume_from_checkpoint="latest")
    assert_same(train(resumed, watch=QUIET).artifact, whole.result.artifact)


def test_latest_without_a_checkpoint_begins(whole, tmp_path, tiny_sd):
    settings, lines = small_settings(tmp_path, tiny_sd, run__resume_from_checkpoint="latest"), list[str]()
    assert_same(train(settings, watch=Said(lines.append)).artifact, whole.result.artifact)
    assert any(line.startswith("no checkpoint in") and line.endswith("beginning anew") for line in lines)
    assert not any("no checkpoint" in line for line in whole.lines)


@pytest.mark.parametrize(
    "changes",
    [
        {"run__micro_batch_size": 1},
        {"run__micro_batch_size": 3},
        {"run__gradient_checkpointing": True},
        {"run__gradient_accumulation_steps": 2, "stage1__batch_size": 2, "stage2__batch_size": 2},
    ],
    ids=["micro 1", "micro 3", "checkpointing", "accumulation"],
)
def test_what_saves_memory_changes_no_number(whole, tmp_path, tiny_sd, changes):
    """Up to the order of summation; Adam turns a rounding error in a gradient near 0 into a part of its step."""
    assert_same(
        train(small_settings(tmp_path, tiny_sd, **changes), watch=QUIET).artifact, whole.result.artifact, exact=False
    )


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_casts_the_frozen_weights_and_follows_float32(whole, tmp_path, tiny_sd, precision, monkeypatch):
    seen = {}
    original = Loop._optimiser_step

    def watch(loop, stage):
        model = loop.run.model
        seen["frozen"] = {
            p.dtype for m in (model.unet, model.text_encoder) for p in m.parameters() if not p.requires_grad
        }
        seen["trained"] = {p.dtype for p in loop.trainables(stage).values()}
        original(loop, stage)

    monkeypatch.setattr(Loop, "_optimiser_step", watch)
    settings = small_settings(tmp_path, tiny_sd, run__mixed_precision=precision)
    artifact = train(settings, watch=QUIET).artifact
    assert seen == {"frozen": {torch.bfloat16 if precision == "bf16" else torch.float16}, "trained": {torch.float32}}
    ours, reference = ([row["loss"] for row in table(s)] for s in (settings, whole.settings))
    assert ours == pytest.approx(reference, rel=0.05)
    # Adam's steps have the size of the learning rate: the vectors end within a few of them
    assert torch.allclose(artifact.embedding, whole.result.artifact.embedding, atol=0.05)


def test_a_scaled_loss_that_overflows_skips_the_step_and_halves_the_scale(tmp_path, tiny_sd, monkeypatch):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=1000)
    monkeypatch.setattr("torch.amp.GradScaler", lambda device: scaler)
    settings = small_settings(tmp_path, tiny_sd, run__mixed_precision="fp16", stage1__steps=2, stage2__steps=0)
    train(settings, watch=QUIET)
    assert scaler.get_scale() == 2.0**38


def test_refusals_leave_everything_as_it_was(whole, tmp_path, tiny_sd, monkeypatch):
    held = {path: path.read_bytes() for path in whole.settings.output_dir.rglob("*") if path.is_file()}
    other = small_settings(tmp_path, tiny_sd)
    latest = str(whole.settings.output_dir / "checkpoints/pic")
    image = tmp_path / "input" / "pic.png"
    (tmp_path / "finished").mkdir()
    (tmp_path / "finished" / "other.safetensors").touch()
    monkeypatch.setitem(sys.modules, "wandb", None)
    for error, message, changes in (
        (InputError, "holds another run called pic", {"run__output_dir": str(whole.settings.output_dir)}),
        (InputError, "holds the finished run other, without",
         {"run__output_dir": str(tmp_path / "finished"), "run__output_name": "other",
          "run__resume_from_checkpoint": "latest"}),
        (MissingPackageError, "pip install wandb", {"run__report_to": "wandb"}),
        (InputError, "no checkpoint nowhere", {"run__resume_from_checkpoint": "nowhere"}),
        (InputError, "no checkpoint in folder", {"run__resume_from_checkpoint": str(tmp_path)}),
        (ModelError, "is not a readable safetensors file", {"run__resume_from_checkpoint": str(image)}),
        (ConfigError, "stage2.learning_rate was 5e-05 there and is 0.1 here",
         {"run__resume_from_checkpoint": latest, "stage2__learning_rate": 0.1}),
        (ConfigError, "is of another picture or mask", {"run__resume_from_checkpoint": latest, "data__crop": "pad"}),
        (ConfigError, "stage1.semantic_weight has no effect", {"stage1__semantic_weight": 1.0}),
        (ConfigError, "stage2.stratified_timesteps has no effect while", {"stage2__stratified_timesteps": True}),
        (ConfigError, "'to_z' names no layer of the unet", {"adapter__denoiser_targets": ["to_z"]}),
        (InputError, "class word 'ü' is unknown", {"data__class_word": "ü"}),
        (InputError, "placeholder 'cat' is a word", {"data__placeholder_token": "cat"}),
        (InputError, "prompt too long", {"sample__prompts": ["a " * 40 + "*"]}),
    ):  # fmt: skip
        settings = small_settings(tmp_path, tiny_sd, **changes)
        if "picture or mask" in message:
            settings = small_settings(tmp_path, tiny_sd, run__resume_from_checkpoint=latest)
            Image.open(image).rotate(180).save(image)
        with pytest.raises(error, match=message) as raised:
            train(settings, watch=QUIET)
        assert "\n" not in str(raised.value)
        assert not [path for path in other.output_dir.rglob("*") if path.is_file()], message
    assert held == {path: path.read_bytes() for path in held}


def test_a_name_that_is_a_word_is_told_before_anything_is_done(tmp_path, tiny_sd):
    """Even before the picture is looked for, which is not there."""
    for name, told in (("cat", 1), ("zorkxy", 0)):
        settings, lines = small_settings(tmp_path, tiny_sd, run__output_name=name, data__image="none.png"), list[str]()
        with pytest.raises(InputError, match="picture not found"):
            train(settings, watch=Said(lines.append))
        assert len(lines) == told and all(f"note: '{name}' is a word of CLIP's vocabulary" in line for line in lines)


def test_other_models_concepts_and_stages(make_tiny_sd, tmp_path):
    """SD 2.x with v prediction; three free vectors on the class word's own; one stage, plain loss, UNet alone."""
    settings = small_settings(
        tmp_path, make_tiny_sd("v_prediction", "sd2"), data__class_word="baseball cap", data__placeholder_token="(*)",
        concept__type="vector", concept__residual=True, concept__num_vectors=3, concept__init_std=0.0,
        stage1__steps=0, stage2__objective="full_image", stage2__trains=["denoiser"],
        sample__prompts=["{concept} in the snow"], sample__images_per_prompt=2,
    )  # fmt: skip
    artifact = train(settings, watch=QUIET).artifact
    assert (artifact.base.family, artifact.base.prediction_type) == ("sd2", "v_prediction")
    assert set(artifact.lora) == {"unet"} and artifact.metadata["steps"] == {"stage2": 3}
    # the concept did not train: its vectors are the tokens of "baseball cap", and the first of them again
    assert artifact.embedding.shape == (3, CONCEPT_WIDTH)
    assert torch.equal(artifact.embedding[0], artifact.embedding[2])
    assert set(table(settings)[0]) == {"stage", "step", "learning_rate", "loss", "full_image"}
    assert len(list((settings.output_dir / "samples").iterdir())) == 4  # two before, two after
