"""Before a batch begins: what would be done, and everything that can be seen to be wrong with it."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from singleinsert.atomic import nearest_parent
from singleinsert.batch.jobs import HIDDEN, Job, Problem
from singleinsert.batch.store import RECORD_END
from singleinsert.batch.worker import digest_of, input_paths, plain_values, read_inputs
from singleinsert.data.folders import some
from singleinsert.errors import InputError, SingleInsertError
from singleinsert.work.queue import DONE, FAILED, State

LORA_MB_PER_RANK = 1.6
"""Of all attention layers of SD 2.1's UNet and text encoder in float32; SD 1.5 has half of it. Exports add the half."""
CONCEPT_MB = 1100
"""A checkpoint while a ViT-B/32 trains: its weights and AdamW's two moments in float32."""


def conflicts(jobs: Sequence[Job], records: Mapping[str, dict[str, Any] | None], folder: Path) -> list[str]:
    """Jobs whose place is taken: by the same name with other settings or another picture, or by other files.

    Args:
        records: what is finished, by name.
    """
    found = []
    for job in jobs:
        record = records.get(job.name)
        if record is None and (folder / job.name).exists():
            found.append(f"{job.where}: {folder / job.name} is there and is no finished job: give it another name")
        if record is None:
            continue
        ours, theirs = plain_values(job.settings), record["settings"]
        advice = f"set another name, or delete {folder / job.name} to train it again"
        if changed := [key for key in ours if key in theirs and ours[key] != theirs[key]]:
            key = changed[0]
            found.append(f"{job.where}: {job.name} was made with {key} {theirs[key]!r}, not {ours[key]!r}: {advice}")
        elif record["digest"] != digest_of(read_inputs(job.settings)):
            found.append(f"{job.where}: {job.name} was made from another picture, description or mask: {advice}")
    return found


def check_inputs(job: Job) -> list[Problem]:
    """What is wrong with a job's stages, picture, description, mask file or model folder, as far as can be seen without
    a model."""
    from singleinsert.captions.files import read_description
    from singleinsert.data.captions import CAPTION_SUFFIXES
    from singleinsert.data.pictures import load_picture
    from singleinsert.masks.files import check_mask, read_mask
    from singleinsert.models.presence import check_source
    from singleinsert.training.files import find_checkpoint
    from singleinsert.training.stages import stages_of

    data, source = job.settings.data, job.settings.model.pretrained_model_name_or_path
    found: list[Problem] = []

    def pictures() -> None:
        sizes: dict[str, tuple[int, int]] = {}
        for key, path in input_paths(job.settings):
            kind, place = key.split("/")
            if kind == "image" and path.suffix.lower() not in CAPTION_SUFFIXES:
                sizes[place] = load_picture(path).image.size
                described = data.can_be_described and job.settings.caption.mode != "off" and not data.description
                if described:
                    read_description(path, data.class_word[0])
            elif kind in ("mask", "beside"):
                check_mask(read_mask(path, sizes[place if len(data.class_word) == 1 else "0"]), f"mask {path}")

    def model() -> None:
        check_source(source, job.settings.model.variant or None)

    def beginning() -> None:
        if begins_from := job.settings.run.resume_from_checkpoint:
            find_checkpoint(begins_from, Path())

    for check in (pictures, model, beginning, lambda: stages_of(job.settings)):
        try:
            check()
        except SingleInsertError as problem:
            found.append((job.where, str(problem)))
    return found


def model_notes(jobs: Sequence[Job]) -> list[str]:
    """What a user should know of the base models that the jobs load: several, or one that is still to be fetched."""
    from singleinsert.models.presence import is_to_fetch

    found = []
    models = Counter(job.settings.model.pretrained_model_name_or_path for job in jobs)
    if len(models) > 1:
        names = ", ".join(f"{name} ({count} of the jobs)" for name, count in models.items())
        found.append(f"note: {len(models)} base models will be loaded, one after the other: {names}")
    for name in models:
        if is_to_fetch(name):
            found.append(f"note: {name} is not on this machine: it will be fetched from the hub, some gigabytes")
    return found


def mask_notes(jobs: Sequence[Job]) -> list[str]:
    """Which masks nobody has looked for yet."""
    names = [job.name for job in jobs if mask_words(job) == TO_BE_FOUND]
    if not names:
        return []
    return [
        f"note: {some(names)}: no mask file, and none was looked for yet: the picture's alpha channel, or what "
        "mask.backend finds when the job begins"
    ]


TO_BE_FOUND = "mask to be found"


def mask_words(job: Job) -> str:
    """Where a job's mask comes from, in words."""
    try:
        files = [path for key, path in input_paths(job.settings) if not key.startswith("image/")]
    except InputError:
        return "mask in doubt"
    return f"mask {', '.join(map(str, files))}" if files else TO_BE_FOUND


def megabytes(jobs: Sequence[Job], workers: int) -> float:
    """Disk that the jobs need, estimated from above: LoRAs, pictures, and a checkpoint for each worker."""
    total = 0.0
    for job in jobs:
        settings = job.settings
        stages = (settings.stage1.steps > 0) + (settings.stage2.steps > 0)
        pictures = len(settings.sample.prompts) * settings.sample.images_per_prompt * stages + 4
        total += settings.adapter.network_dim * LORA_MB_PER_RANK * 1.5 + pictures * settings.data.resolution**2 * 3e-6
    encoder = any(job.settings.concept.type != "vector" for job in jobs)
    dim = max((job.settings.adapter.network_dim for job in jobs), default=0)
    return total + workers * (3 * dim * LORA_MB_PER_RANK + CONCEPT_MB * encoder)


def of_other_lists(jobs: Sequence[Job], folder: Path) -> list[str]:
    """Finished concepts in ``folder`` that no job of this list asks for."""
    names = {job.name for job in jobs}
    there = folder.iterdir() if (folder / HIDDEN).is_dir() else ()
    return sorted(p.name for p in there if p.name not in names and (p / f"{p.name}{RECORD_END}").is_file())


def check_disk(jobs: Sequence[Job], workers: int, folder: Path) -> tuple[str, bool]:
    """(a line, is there enough?)"""
    there = nearest_parent(folder)
    need, free = megabytes(jobs, workers), shutil.disk_usage(there).free / 1e6
    return f"disk: up to {need:,.0f} MB needed in {folder}, {free:,.0f} MB free", free > need


def plan_rows(jobs: Sequence[Job], states: Mapping[str, State]) -> list[dict[str, Any]]:
    """What will happen to each job, as plain data."""
    return [
        {
            "name": job.name, "state": states[job.name].state, "class_word": list(job.settings.data.class_word),
            "preset": job.preset, "base_model": job.settings.model.pretrained_model_name_or_path,
            "steps": {name: stage.steps for name, stage in job.settings.stages.items()},
            "resolution": job.settings.data.resolution, "image": list(job.settings.data.image),
            "mask": mask_words(job), "where": job.where,
        }
        for job in jobs
    ]  # fmt: skip


def plan_lines(jobs: Sequence[Job], states: Mapping[str, State]) -> list[str]:
    """A line per job: what will happen to it."""
    if not jobs:
        return []
    width = max(len(job.name) for job in jobs)
    lines = []
    for job in jobs:
        settings, data, state = job.settings, job.settings.data, states[job.name]
        what = {DONE: "done, left alone", FAILED: "again, it failed"}.get(state.state, state.state)
        steps = f"{settings.stage1.steps}+{settings.stage2.steps} steps at {data.resolution}"
        model = Path(settings.model.pretrained_model_name_or_path).name
        shown = ", ".join(data.image)
        parts = [", ".join(data.class_word), f"preset {job.preset or 'none'}", model, steps, shown, mask_words(job)]
        lines.append(f"  {job.name:{width}}  {what:16}  {', '.join(parts)}")
    return lines
