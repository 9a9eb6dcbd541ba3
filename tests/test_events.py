"""A run's events as lines of JSON, and the files by which it is asked to stop or to draw; through the command line."""

import json
import signal
from pathlib import Path

import pytest
from runs import small_settings

from singleinsert.training.events import EventLog
from singleinsert.training.run import train
from singleinsert.training.signals import Interrupted
from singleinsert.training.watch import SilentWatch, Watches


def events_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()]


def test_events_are_lines_that_can_be_read_as_they_come(tmp_path):
    log = EventLog(tmp_path / "logs" / "zork")
    log.begin({"stage1": 2})
    log.line("learning from 64x64 pixels, größer")
    log.step("stage1", 1, 2, {"loss": 0.5, "foreground": 0.5, "learning_rate": 1e-4})
    assert [event["event"] for event in events_of(log.folder)] == ["begun", "line", "step"]  # flushed, before its end
    log.pictures("stage1", 2, ["a *"], [tmp_path / "x.png"])
    log.checkpoint(tmp_path / "step_000002.safetensors")
    log.failed("out of memory")
    begun, line, step, samples, checkpoint, failed = events_of(log.folder)
    assert begun["stages"] == {"stage1": 2} and line["text"].endswith("größer")
    assert (step["stage"], step["step"], step["of"], step["loss"]) == ("stage1", 1, 2, 0.5) and step["seconds"] >= 0
    assert samples["files"] == [str(tmp_path / "x.png")] and checkpoint["file"].endswith(".safetensors")
    assert failed["reason"] == "out of memory"
    EventLog(log.folder).begin({"stage1": 2}, "step_000002.safetensors")
    assert len(events_of(log.folder)) == 7  # a run that goes on appends


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
