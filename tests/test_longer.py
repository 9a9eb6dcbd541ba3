"""More steps for a run that has ended: the numbers of a run that had so many from its start, or a line that says why
not."""

from __future__ import annotations

import shutil

import pytest
from batches import same_to_the_bit
from runs import QUIET, Said, small_settings, small_values

from singleinsert.artifact import Artifact
from singleinsert.config.load import toml_string
from singleinsert.errors import ConfigError
from singleinsert.insert import insert_concepts
from singleinsert.training.events import FINISH, loss_rows, read_events
from singleinsert.training.files import RunFiles
from singleinsert.training.run import train
from train_singleinsert import main

PROMPTS = {"sample__prompts": ["{concept}"]}


def ended(folder, model, **changes):
    """A run that is over and has left a checkpoint; its files."""
    settings = small_settings(folder, model, run__final_checkpoint=True, **changes)
    train(settings, watch=QUIET)
    return RunFiles(settings.output_dir, "pic")


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ({"stage2__steps": 2}, {"stage2__steps": 4}),
        ({"stage2__steps": 0, "stage1__steps": 2}, {"stage2__steps": 0, "stage1__steps": 4}),
        # what stage I keeps for stage II is then of more steps, too
        ({"stage1__steps": 2, "stage2__steps": 0}, {"stage1__steps": 4, "run__teacher_bank": False}),
    ],
)
def test_more_steps_come_to_the_same_numbers(tmp_path, tiny_sd, short, long):
    files = ended(tmp_path, tiny_sd, **short)
    whole = train(small_settings(tmp_path / "whole", tiny_sd, **long), watch=QUIET).artifact
    said = []
    on = small_settings(tmp_path, tiny_sd, run__resume_from_checkpoint="latest", **long)
    assert same_to_the_bit(train(on, watch=Said(said.append)).artifact, whole)
    assert not [line for line in said if line.startswith("note: a run of so many")]
    steps = long.get("stage1__steps", 3) + long.get("stage2__steps", 3)
    assert len(loss_rows(read_events(files.logs))) == steps


def test_a_first_stage_with_more_steps_keeps_predictions_for_all_of_them(tmp_path, tiny_sd):
    begun = small_settings(
        tmp_path, tiny_sd, stage1__steps=2, run__checkpointing_steps=1, run__checkpoints_total_limit=0
    )
    train(begun, watch=QUIET)
    shared = str(begun.output_dir / "checkpoints" / "pic" / "step_000001.safetensors")
    for steps in (3, 1):
        whole = train(small_settings(tmp_path / f"whole{steps}", tiny_sd, stage1__steps=steps), watch=QUIET).artifact
        on = small_settings(tmp_path / f"on{steps}", tiny_sd, stage1__steps=steps, run__resume_from_checkpoint=shared)
        assert same_to_the_bit(train(on, watch=QUIET).artifact, whole)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"stage2__lr_scheduler": "cosine"}, "stage2.lr_scheduler cosine spreads over all steps of the stage"),
    ],
)
def test_where_the_numbers_are_others_it_is_said(tmp_path, tiny_sd, changes, line):
    ended(tmp_path, tiny_sd, stage2__steps=2, **changes)
    said = []
    on = small_settings(tmp_path, tiny_sd, stage2__steps=4, run__resume_from_checkpoint="latest", **changes)
    assert train(on, watch=Said(said.append)).artifact.metadata["steps"] == {"stage1": 3, "stage2": 4}
    assert [text for text in said if text.endswith(line)]


def test_what_cannot_be_given_more_or_fewer_steps_says_so(tmp_path, tiny_sd):
    files = ended(tmp_path, tiny_sd)
    for changes, message in (
        ({"stage2__steps": 2}, "has made 3 steps of stage2: set stage2.steps to 3 or more"),
        ({"stage2__steps": 0}, "has made 3 steps of stage2: set stage2.steps to 3 or more"),
        ({"stage1__steps": 4}, "stage1.steps was 3 there and is 4 here"),
        ({"stage2__steps": 4, "stage2__learning_rate": 1e-3}, "stage2.learning_rate was 5e-05 there"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(small_settings(tmp_path, tiny_sd, run__resume_from_checkpoint="latest", **changes), watch=QUIET)
    assert files.artifact.is_file()


def test_a_run_that_was_ended_goes_on_to_its_end(tmp_path, tiny_sd):
    settings = small_settings(tmp_path, tiny_sd, run__final_checkpoint=True)
    logs = RunFiles(settings.output_dir, "pic").logs

    def end(stage, step):
        if (stage, step) == ("stage1", 2):
            (logs / FINISH).touch()

    early = train(settings, watch=Said(on_step=end)).artifact
    assert early.metadata["steps"] == {"stage1": 2}
    whole = train(small_settings(tmp_path / "whole", tiny_sd), watch=QUIET).artifact
    on = small_settings(tmp_path, tiny_sd, run__resume_from_checkpoint="latest")
    assert same_to_the_bit(train(on, watch=QUIET).artifact, whole)


def test_from_the_command_line_in_place_and_beside(tmp_path, tiny_sd):
    """The finished run's files are replaced, or stay, and the new one's sheet has what the old one drew."""
    values = small_values(tmp_path, tiny_sd, run__final_checkpoint=True, **PROMPTS)
    shown = (
        "true" if value is True else toml_string(value) if isinstance(value, str) else value
        for value in values.values()
    )
    words = [word for key, value in zip(values, shown, strict=True) for word in ("--set", f"{key}={value}")]
    assert main(words) == 0
    files, before = RunFiles(tmp_path / "out", "pic"), (tmp_path / "out" / "pic.safetensors").read_bytes()
    beside = ["--output_name", "longer", "--resume_from_checkpoint", str(files.checkpoints), "--set", "stage2.steps=4"]
    assert main([*words, *beside]) == 0
    assert (files.folder / "pic.safetensors").read_bytes() == before
    other = RunFiles(files.folder, "longer")
    for stage, step in (("before", 0), ("stage1", 3), ("stage2", 3)):
        assert other.sample(stage, step, 0).read_bytes() == files.sample(stage, step, 0).read_bytes()
    told = [(e["stage"], e["step"]) for e in read_events(other.logs) if e["event"] == "samples"]
    assert told == [("before", 0), ("stage1", 3), ("stage2", 3), ("stage2", 4)]
    assert main([*words, "--resume_from_checkpoint", "latest", "--set", "stage2.steps=4"]) == 0
    assert same_to_the_bit(Artifact.load(files.artifact), Artifact.load(other.artifact))


def test_other_samples_are_not_carried(tmp_path, tiny_sd):
    files = ended(tmp_path, tiny_sd, **PROMPTS)
    on = small_settings(
        tmp_path, tiny_sd, stage2__steps=4, sample__prompts=["{concept} in the snow"], run__output_name="other",
        run__resume_from_checkpoint=str(files.checkpoints),
    )  # fmt: skip
    shutil.rmtree(files.samples)
    insert_concepts(on, QUIET)
    assert sorted(path.name for path in files.samples.iterdir()) == [
        "other_before_000000_00.png", "other_stage2_000004_00.png",
    ]  # fmt: skip
