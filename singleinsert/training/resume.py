"""Going on from a checkpoint: of the same run, of one that was to have other steps, or of another's first stage."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from singleinsert.atomic import write_atomically
from singleinsert.config import Settings
from singleinsert.config.load import read_values
from singleinsert.errors import ConfigError
from singleinsert.terms import BEFORE
from singleinsert.training.checkpoint import (
    check_place,
    check_same_run,
    check_state,
    find_checkpoint,
    is_grown,
    load_checkpoint,
    not_reached,
)
from singleinsert.training.events import read_events
from singleinsert.training.files import RunFiles
from singleinsert.training.loop import Run
from singleinsert.training.results import flatten
from singleinsert.training.stages import Stage, wants_bank
from singleinsert.training.watch import Watch

LENGTHLESS = ("constant", "constant_with_warmup")
"""Schedules of the learning rate that do not ask how many steps there will be."""


def checkpoint_to_resume(settings: Settings, files: RunFiles, watch: Watch) -> Path | None:
    """Where the run goes on from, having seen that its place is free. None: from the beginning."""
    resume = settings.run.resume_from_checkpoint
    checkpoint = find_checkpoint(resume, files.checkpoints) if resume else None
    if resume and checkpoint is None:
        watch.line(f"no checkpoint in {files.checkpoints} yet: beginning anew")
    files.check_free(bool(resume), checkpoint)
    return checkpoint


def read_state(checkpoint: Path, run: Run) -> dict[str, Any]:
    """A checkpoint's state. ConfigError where it is of another run."""
    state = load_checkpoint(checkpoint)
    check_state(checkpoint, state)
    check_same_run(checkpoint, run.identity, state["identity"], not_reached(state))
    if wants_bank(run.settings, run.stages) and state["bank"] is None:
        raise ConfigError(
            f"checkpoint {checkpoint} has no predictions of the frozen model for {run.stages[-1].name}, its run had no "
            "use for them: set run.teacher_bank to false, or begin anew"
        )
    steps = {stage.name: stage.steps for stage in run.stages}
    check_place(checkpoint, state, steps)
    run.watch.line(f"going on from {checkpoint}")
    if is_grown(state, steps):
        for difference in change_length(state, run.stages[state["stage"]]):
            run.watch.line(f"note: a run of so many steps from its start would come to other numbers: {difference}")
    return state


def change_length(state: dict[str, Any], stage: Stage) -> list[str]:
    """Let a checkpoint's state be of ``stage``, which had another number of steps when it was written.

    Returns:
        in what the run then differs from one that had this number from its start; nothing where it does not.
    """
    if stage.settings.lr_scheduler in LENGTHLESS:
        return []
    return [f"{stage.name}.lr_scheduler {stage.settings.lr_scheduler} spreads over all steps of the stage"]


def carry_samples(run: Run, checkpoint: Path, stage: str, step: int) -> None:
    """Copy what the run that left ``checkpoint`` had drawn until then, where it is another run with our [sample], and
    tell of it: the sheet, and who watches, see the whole way.

    Args:
        checkpoint: OUT/checkpoints/NAME/step_<n>.safetensors; it stands at ``step`` of ``stage``.
    """
    folder = checkpoint.resolve().parent
    if folder == run.files.checkpoints.resolve() or len(folder.parents) < 2:
        return
    theirs, order = RunFiles(folder.parents[1], folder.name), [BEFORE, *(each.name for each in run.stages)]
    for event in read_events(theirs.logs) if _same_samples(theirs, run.settings) else ():
        if event["event"] != "samples" or (name := str(event.get("stage"))) not in order:
            continue
        at, count = int(event.get("step", 0)), len(event.get("files", ()))
        if (order.index(name), at) > (order.index(stage), step):
            continue
        ours = [run.files.sample(name, at, index) for index in range(count)]
        for index, path in enumerate(ours):
            source = theirs.sample(name, at, index)
            if source.is_file():
                write_atomically(path, lambda target, source=source: shutil.copyfile(source, target))  # type: ignore[misc]
        if all(path.is_file() for path in ours):
            run.watch.pictures(name, at, event.get("prompts", []), ours, event.get("seeds", []))


def _same_samples(files: RunFiles, settings: Settings) -> bool:
    """Had the run of these files our [sample], as far as it says what a picture shows?"""
    try:
        theirs, ours = read_values(files.config), flatten(settings)
    except ConfigError:
        return False
    keys = [key for key in ours if key.startswith("sample.") and key != "sample.steps_interval"]
    return all(_plain(theirs.get(key)) == ours[key] for key in keys)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
