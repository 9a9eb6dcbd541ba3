"""From a draft to a job in the queue: its inputs get a folder of their own, and a list of one job is written."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from singleinsert.atomic import write_atomically, write_text
from singleinsert.batch.jobs import BEGINS_FROM
from singleinsert.config import Settings
from singleinsert.config.load import check_name
from singleinsert.data.captions import caption_file, read_caption
from singleinsert.errors import ConfigError, InputError
from singleinsert.models.trigger import common_word_note
from singleinsert.names import problem_with_trigger, safe_trigger
from singleinsert.ui.drafts import Draft, Drafts
from singleinsert.ui.forms import toml_value
from singleinsert.ui.place import INPUTS, RESERVED, Place


def judge_name(place: Place, name: str, class_word: str) -> dict[str, Any]:
    """What a name is worth, as it is typed: a problem, a note, a name that is free, the prompt one will type."""
    problem = "give it a name: a word of its own, which prompts will call it by" if not name else ""
    problem = problem or problem_with_trigger(name) or problem_with_place(place, name)
    suggestion = ""
    note = "" if problem else (common_word_note(name) or "").partition(":")[0]
    if problem or note:
        stem = safe_trigger(name) or safe_trigger(class_word) or "mine"
        free = (f"{stem}{end}" for end in ("xy", "xyz", *(f"xy{number}" for number in range(2, 1000))))
        suggestion = next(word for word in free if not problem_with_place(place, word))
    return {"problem": problem, "note": note, "suggestion": suggestion, "prompt": f"{name} {class_word} in the snow"}


def problem_with_place(place: Place, name: str) -> str:
    """Why a name is taken; "" where it is free."""
    taken = {path.name.lower() for folder in (place.folder, place.folder / INPUTS) for path in _inside(folder)}
    taken |= {job.name.lower() for job in place.jobs()[0]} | set(RESERVED)
    return f"there is one called {name} already" if name.lower() in taken else ""


def _inside(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


def start(drafts: Drafts, draft: Draft, begins_from: Path | None = None) -> str:
    """Put the draft into the queue, and delete it; returns the run's name.

    Args:
        begins_from: another run's checkpoint.

    Raises:
        InputError, ConfigError: what is missing, or cannot be, in one line; the draft is as it was.
    """
    place = drafts.place
    for number, subject in enumerate(draft.subjects, start=1):
        if not subject.class_word:
            raise ConfigError(
                f"say what subject {number} is" if draft.is_scene else "say what it is: face, cat, mug ..."
            )
    if problem := judge_name(place, draft.name, draft.subjects[0].class_word)["problem"]:
        raise ConfigError(f"the name {draft.name!r} cannot be: {problem}")
    settings = drafts.settings(draft)
    check_name(settings)
    if draft.is_scene and not all(drafts.mask_path(draft, n).exists() for n in range(len(draft.subjects))):
        raise InputError("every concept of the photo needs a mask: paint the one that is missing")
    inputs = place.folder / INPUTS / draft.name
    try:
        job = write_inputs(drafts, draft, inputs)
        if begins_from is not None:
            job[BEGINS_FROM] = Path(os.path.relpath(begins_from, place.queue_folder)).as_posix()
        write_text(place.queue_folder / f"{draft.name}.toml", job_text(job))
    except (InputError, OSError):
        shutil.rmtree(inputs, ignore_errors=True)
        raise
    shutil.rmtree(drafts.folder(draft.id), ignore_errors=True)
    return draft.name


def write_inputs(drafts: Drafts, draft: Draft, folder: Path) -> dict[str, Any]:
    """Copies of photo, masks and description, and the job that learns from them; its paths as seen from the queue."""
    photo = folder / f"{draft.name}.png"
    write_atomically(photo, lambda target: shutil.copyfile(drafts.photo_path(draft), target))
    seen = f"../{INPUTS}/{draft.name}"
    masks = []
    for number in range(len(draft.subjects)):
        source = drafts.mask_path(draft, number)
        name = f"{draft.name}_{number:02d}.png" if draft.is_scene else f"{draft.name}_mask.png"
        if source.exists():
            write_atomically(folder / name, lambda target, source=source: shutil.copyfile(source, target))  # type: ignore[misc]
            masks.append(f"{seen}/{name}")
    if text := read_caption(drafts.photo_path(draft)):
        write_text(caption_file(photo), text + "\n")
    own = {"name": draft.name, "preset": drafts.preset(draft), "data.image": f"{seen}/{photo.name}"}
    return own | ({"data.mask": masks} if masks else {}) | drafts.values(draft)


def job_text(job: Mapping[str, Any]) -> str:
    """A list of one job."""
    return "[[job]]\n" + "".join(f"{key} = {toml_value(value)}\n" for key, value in job.items())


def shown_toml(drafts: Drafts, draft: Draft) -> str:
    """The draft as the job that it would become."""
    masks = [n for n in range(len(draft.subjects)) if drafts.mask_path(draft, n).exists()]
    job: dict[str, Any] = {"name": draft.name, "preset": drafts.preset(draft), "data.image": "photo.png"}
    job |= {"data.mask": [f"mask_{n:02d}.png" for n in masks]} if masks else {}
    return job_text(job | drafts.values(draft))


def command_line(drafts: Drafts, draft: Draft, settings: Settings) -> str:
    """The same run, typed."""
    words = ["singleinsert", "train", "--preset", drafts.preset(draft), "--image", settings.data.image[0]]
    words += [word for mask in settings.data.mask for word in ("--mask", mask)]
    words += ["--output_name", draft.name or "NAME"]
    for key, value in drafts.values(draft).items():
        words += ["--set", f"{key}={toml_value(value)}"]
    return shlex.join(words)
