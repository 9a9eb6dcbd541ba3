"""A run's events as lines of JSON, and the files by which it is asked to stop or to draw; through the command line."""

import json
import signal
from pathlib import Path

import pytest
from runs import small_settings

from singleinsert.training.events import EventLog
from singleinsert.training.progress import TimeLeft
from singleinsert.training.run import train
from singleinsert.training.signals import Interrupted
from singleinsert.training.watch import SilentWatch, Watches


def events_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()]


def test_events_are_lines_that_can_be_read_as_they_come(tmp_path):
    log = EventLog(tmp_path / "logs" / "zork")
    log.loading("mini-sd")
    assert not log.folder.exists()  # a run that is refused leaves no trace
    log.begin({"stage1": 2})
    log.line("learning from 64x64 pixels, größer")
    log.step("stage1", 1, 2, {"loss": 0.5, "foreground": 0.5, "learning_rate": 1e-4})
    assert [event["event"] for event in events_of(log.folder)] == [
        "loading",
        "begun",
        "line",
        "step",
    ]  # flushed, before its end
    log.pictures("stage1", 2, ["a *"], [tmp_path / "x.png"])
    log.checkpoint(tmp_path / "step_000002.safetensors")
    log.failed("out of memory")
    _, begun, line, step, samples, checkpoint, failed = events_of(log.folder)
    assert begun["stages"] == {"stage1": 2} and line["text"].endswith("größer")
    assert (step["stage"], step["step"], step["of"], step["loss"]) == ("stage1", 1, 2, 0.5) and step["seconds"] >= 0
    assert samples["files"] == [str(tmp_path / "x.png")] and checkpoint["file"].endswith(".safetensors")
    assert failed["reason"] == "out of memory"
    EventLog(log.folder).begin({"stage1": 2}, "step_000002.safetensors")
    assert len(events_of(log.folder)) == 8  # a run that goes on appends


def test_requests_are_obeyed_once_and_old_ones_are_forgotten(tmp_path):
    log = EventLog(tmp_path)
    (tmp_path / "stop").touch()
    log.begin({})
    both = Watches(SilentWatch(), log)
    assert both.asked_to_stop() == 0 and not both.asked_for_samples()
    (tmp_path / "stop").touch()
    (tmp_path / "sample").touch()
    assert both.asked_to_stop() == signal.SIGTERM and both.asked_for_samples()
    assert both.asked_to_stop() == 0 and not both.asked_for_samples()


def test_a_stop_file_ends_a_run_with_its_state_saved(tmp_path, tiny_sd):
    """The run is asked from outside, while it trains; it goes on from there."""
    settings = small_settings(tmp_path, tiny_sd, stage1__steps=3, stage2__steps=2, sample__prompts=["a * face"])
    logs = settings.output_dir / "logs" / settings.name

    class Outside(SilentWatch):
        def step(self, stage, step, steps, losses):
            if (stage, step) == ("stage1", 1):
                (logs / "sample").touch()
            if (stage, step) == ("stage1", 2):
                (logs / "stop").touch()

    with pytest.raises(Interrupted) as stopped:
        train(settings, watch=Outside())
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    kinds = [(event["event"], event.get("step")) for event in events_of(logs)]
    assert ("samples", 1) in kinds and kinds[-2][0] == "checkpoint" and kinds[-1][0] == "interrupted"
    again = small_settings(
        tmp_path,
        tiny_sd,
        stage1__steps=3,
        stage2__steps=2,
        sample__prompts=["a * face"],
        run__resume_from_checkpoint="latest",
    )
    train(again, watch=SilentWatch())
    last = events_of(logs)[-1]
    assert last["event"] == "done" and Path(last["artifact"]).is_file()
    steps = [(event["stage"], event["step"]) for event in events_of(logs) if event["event"] == "step"]
    assert steps == [("stage1", 1), ("stage1", 2), ("stage1", 3), ("stage2", 1), ("stage2", 2)]


def test_losses_csv_is_made_from_the_events_of_a_run_that_went_back(tmp_path):
    """Steps 3 and 4 were made, the run was killed, and went on from step 2: what it made anew counts."""
    log = EventLog(tmp_path)
    log.begin({"stage1": 4, "stage2": 1})
    for step, loss in enumerate([4.0, 3.0, 2.0, 1.0], start=1):
        log.step("stage1", step, 4, {"learning_rate": 0.1, "loss": loss, "foreground": loss})
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"time": 1, "event": "st')  # killed in the middle of a line
    again = EventLog(tmp_path)
    again.begin({"stage1": 4, "stage2": 1}, "step_000002.safetensors")
    again.step("stage1", 3, 4, {"learning_rate": 0.1, "loss": 2.5, "foreground": 2.5})
    again.step("stage2", 1, 1, {"learning_rate": 0.2, "loss": 7.0, "foreground": 3.0, "semantic": 4.0})
    again.failed("no more", out_of_memory=True)
    assert (tmp_path / "losses.csv").read_text().split() == [
        "stage,step,learning_rate,loss,foreground,semantic",
        "stage1,1,0.1,4.0,4.0,", "stage1,2,0.1,3.0,3.0,", "stage1,3,0.1,2.5,2.5,", "stage2,1,0.2,7.0,3.0,4.0",
    ]  # fmt: skip
    assert events_of(tmp_path)[-1]["out_of_memory"] is True


def test_a_checkpoint_from_elsewhere_brings_its_losses(tmp_path):
    log = EventLog(tmp_path)
    log.begin({"stage1": 3}, "elsewhere.safetensors", before=[{"stage": "stage1", "step": 1, "loss": 5.0}])
    log.step("stage1", 2, 3, {"loss": 4.0})
    log.interrupted("stopped")
    assert (tmp_path / "losses.csv").read_text().split() == ["stage,step,loss", "stage1,1,5.0", "stage1,2,4.0"]


def test_a_finish_file_ends_a_run_with_what_it_has_learnt(tmp_path, tiny_sd):
    settings = small_settings(tmp_path, tiny_sd, stage1__steps=2, stage2__steps=50, sample__prompts=["a * face"])
    logs = settings.output_dir / "logs" / settings.name

    class Outside(SilentWatch):
        def step(self, stage, step, steps, losses):
            if (stage, step) == ("stage2", 2):
                (logs / "finish").touch()

    trained = train(settings, watch=Outside())
    assert trained.artifact.metadata["steps"] == {"stage1": 2, "stage2": 2} and trained.artifact.lora
    found = {(e["stage"], e["step"]): e for e in events_of(logs) if e["event"] == "samples"}
    assert set(found) == {("before", 0), ("stage1", 2), ("stage2", 2)}
    assert found["before", 0]["prompts"] == ["a face"] and found["stage2", 2]["seeds"] == [0]
    assert events_of(logs)[-1]["finished_early"] is True
    kinds = [event["event"] for event in events_of(logs)]
    assert kinds.index("loading") < kinds.index("mask") < kinds.index("begun") < kinds.index("step")


def test_one_time_left_for_all_stages():
    """Steps of stage 2 cost half: after 2 s for one of stage 1's two steps, 2 s and four times 1 s are left."""
    left = TimeLeft({"stage1": 2, "stage2": 4}, {"stage1": 2.0, "stage2": 1.0})
    assert left.seconds("stage1", 0) is None
    left.add("stage1", 2.0)
    assert left.seconds("stage1", 1) == 6.0 and left.seconds("stage2", 3) == 1.0
