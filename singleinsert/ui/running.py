"""Answers about a run: what it does, what it is asked, what it has left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from singleinsert.config.load import to_values
from singleinsert.errors import InputError
from singleinsert.training.events import SAMPLE
from singleinsert.ui import drafting, getting
from singleinsert.ui.fixes import changed_settings
from singleinsert.ui.forms import plain
from singleinsert.ui.replies import Reply, Request, download, picture
from singleinsert.ui.starting import start
from singleinsert.work.queue import DONE

if TYPE_CHECKING:
    from singleinsert.ui.api import Api

SHOWN = (
    "begun",
    "step",
    "samples",
    "checkpoint",
    "out_of_memory",
    "done",
    "failed",
    "interrupted",
    "mask",
    "looked",
    "line",
)
MOST_EVENTS = 5000
"""Of one answer; the page asks for the rest."""
LONGER = 50
LOG_LINES = 200


def show(api: Api, request: Request, name: str) -> Any:
    """State and progress, and the events after number ``after``."""
    api.place.ensure_worker()
    run = api.runs.get(name)
    events = api.runs.events(run)
    after = int(request.query.get("after", "0")) if request.query.get("after", "0").isdigit() else 0
    if after > len(events):  # another try's file
        after = 0
    chosen = events[after : after + MOST_EVENTS]
    told = [_told(event) for event in chosen if event["event"] in SHOWN]
    return api.runs.summary(run) | {"after": after, "next": after + len(chosen), "events": told}


def _told(event: dict[str, Any]) -> dict[str, Any]:
    """An event as the page has it: file names, not paths."""
    files = {"files": [str(path).replace("\\", "/").rpartition("/")[2] for path in event.get("files", [])]}
    return {key: value for key, value in event.items() if key != "file"} | (files if "files" in event else {})


def delete(api: Api, request: Request, name: str) -> Any:
    api.runs.delete(api.runs.get(name))
    return {}


def ask(api: Api, request: Request, name: str, request_name: str) -> Any:
    run = api.runs.get(name)
    if request_name == SAMPLE and not run.job:
        raise InputError(f"{name} was not started here")
    api.runs.ask(run, request_name)
    return {}


def resume(api: Api, request: Request, name: str) -> Any:
    api.runs.resume(api.runs.get(name))
    return {}


def again(api: Api, request: Request, name: str) -> Any:
    """A new run from an old one's inputs: changed by a fix, longer, or as a draft for its user to change.

    JSON: {"fix": ...} of the fixes, {"longer": true}, {"draft": true}, or {"settings": {...}} as a check advises. A
    longer one goes on from where the old one stands, if that has kept its state; the old one stays as it is.
    """
    told, run, begins_from = request.json(), api.runs.get(name), None
    if run.job is None:
        raise InputError(f"{name} was not started here: its photo is not at hand")
    values = {key: plain(value) for key, value in to_values(run.job.settings).items()}
    if told.get("longer"):
        begins_from = api.runs.state_file(run)
        last = "stage2" if values["stage2.steps"] else "stage1"
        more = 0 if api.runs.ended_early(run) else LONGER
        changes = {f"{last}.steps": values[f"{last}.steps"] + more}
    elif isinstance(told.get("settings"), dict):
        from singleinsert.ui.forms import checked

        changes = checked(told["settings"])
    else:
        changes = changed_settings(str(told.get("fix", "")), values)
    draft = drafting.draft_of_run(api, name, **changes)
    if told.get("draft"):
        return {"draft": draft.id}
    started = start(api.drafts, draft, begins_from)
    api.place.ensure_worker(asked=True)
    return {"name": started}


def drop_state(api: Api, request: Request, name: str) -> Any:
    """Delete what a finished run has kept to go on from."""
    if (path := api.runs.state_file(api.runs.get(name))) is None:
        raise InputError(f"{name} has kept no state")
    path.unlink()
    return {}


def file(api: Api, request: Request, name: str, file: str) -> Reply:
    path = api.runs.file(api.runs.get(name), file)
    if path.suffix == ".png":
        return picture(path.read_bytes())
    return download(path.read_bytes(), path.name)


def source(api: Api, request: Request, name: str) -> Reply:
    path = api.runs.source_picture(api.runs.get(name))
    if path is None:
        raise InputError("there is no source picture at hand")
    return picture(path.read_bytes())


def log(api: Api, request: Request, name: str) -> Any:
    """What the run has said, and its worker: for a report."""
    run = api.runs.get(name)
    said = [str(event.get("text", "")) for event in api.runs.events(run) if event["event"] == "line"]
    if run.queued is not None and run.queued.attempt:
        path = api.place.hidden / "state" / f"{name}.{run.queued.attempt:03d}.log"
        if path.is_file():
            said += path.read_text(encoding="utf-8", errors="replace").splitlines()
    return {"lines": said[-LOG_LINES:]}


def settings(api: Api, request: Request, name: str) -> Any:
    """All settings of a run."""
    run = api.runs.get(name)
    if run.job is not None:
        return {key: plain(value) for key, value in to_values(run.job.settings).items()}
    from singleinsert.config.load import read_values

    return {key: plain(value) for key, value in read_values(run.files.config).items()}


def get(api: Api, request: Request, name: str) -> Any:
    """The cards of the clients."""
    run = api.runs.get(name)
    if api.runs.summary(run)["state"] != DONE:
        raise InputError(f"{name} is not done yet")
    return {"clients": getting.cards(api.place, run), "comfyui": api.place.comfyui}


def zip_file(api: Api, request: Request, name: str, client: str) -> Reply:
    return download(getting.make_zip(api.runs.get(name), client), f"{name}_{client}.zip", "application/zip")


def copy(api: Api, request: Request, name: str) -> Any:
    return {"files": getting.copy_into(api.place, api.runs.get(name), str(request.json().get("folder", "")))}


def comfyui(api: Api, request: Request, name: str) -> Any:
    return getting.comfyui_choices(api.place.comfyui, api.runs.get(name))


def test_in_comfyui(api: Api, request: Request, name: str) -> Reply:
    told, run = request.json(), api.runs.get(name)
    size = run.job.settings.data.resolution if run.job else 512
    seed = run.job.settings.sample.seed if run.job else 0
    steps = run.job.settings.sample.num_inference_steps if run.job else 50
    checkpoint = str(told.get("checkpoint", ""))
    return picture(getting.draw_in_comfyui(api.place.comfyui, run, checkpoint, size, seed, steps))
