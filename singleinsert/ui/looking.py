"""Answers about the place as a whole: concepts, queue, settings, pictures that were asked for, two runs compared."""

from __future__ import annotations

import json
import re
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from singleinsert import __version__
from singleinsert.batch.drawing import PICTURES, REQUEST, STATUS, ask_for_pictures, read_wish
from singleinsert.claims import read_object
from singleinsert.config.load import to_values
from singleinsert.errors import InputError
from singleinsert.models.presence import hub_is_off
from singleinsert.ui.bases import known_bases
from singleinsert.ui.forms import plain
from singleinsert.ui.getting import kind_of_folder
from singleinsert.ui.place import SETTINGS_FILE
from singleinsert.ui.replies import Reply, Request, picture
from singleinsert.work.queue import DONE, FAILED, QUEUED, RUNNING, STOPPED

if TYPE_CHECKING:
    from singleinsert.ui.api import Api

REQUEST_ID = re.compile(r"[0-9a-z]{12}")
DRAWN_FILE = re.compile(r"\d\d(_map\d+)?\.png")


def state(api: Api, request: Request) -> Any:
    """The top bar: who works, how many wait."""
    api.place.ensure_worker()
    states = [found.state for found in api.place.states().values()]
    return {
        "version": __version__, "folder": str(api.place.folder), "offline": hub_is_off(), "paused": api.place.paused,
        "workers": len(api.place.workers()), "starting": api.place.starting(), "crashed": api.place.crashed,
        "counts": {kind: states.count(kind) for kind in (QUEUED, RUNNING, DONE, FAILED, STOPPED)},
    }  # fmt: skip


def concepts(api: Api, request: Request) -> Any:
    """Cards of runs, the running and the latest first; and drafts."""
    found = [api.runs.summary(run) for run in api.runs.all()]
    order = {RUNNING: 0, "loading": 0, QUEUED: 1}
    found.sort(key=lambda card: (order.get(card["state"], 2), card["place"], -(card["finished"] or time.time())))
    drafts = [
        {"id": d.id, "name": d.name, "class_word": ", ".join(s.class_word for s in d.subjects), "created": d.created}
        for d in api.drafts.all()
    ]  # fmt: skip
    return {"concepts": found, "drafts": drafts, "problems": api.place.jobs()[1]}


def settings(api: Api, request: Request) -> Any:
    """What the program was told, and where that is written; nothing of it is changed from the browser."""
    clients = [{"folder": str(path), "kind": kind_of_folder(path)} for path in api.place.clients]
    return {
        "file": str(api.place.folder / SETTINGS_FILE), "folder": str(api.place.folder), "comfyui": api.place.comfyui,
        "models": [str(path) for path in api.place.models], "clients": clients, "offline": hub_is_off(),
        "bases": [vars(base) for base in known_bases(api.place.models)], "device": device(), "version": __version__,
    }  # fmt: skip


def device() -> str:
    """What a run would train on, in words."""
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return f"{torch.cuda.get_device_name()}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
    return "Apple GPU" if torch.backends.mps.is_available() else "CPU: fine for the bundled miniatures, slow for SD"


def queue(api: Api, request: Request) -> Any:
    """The queue's jobs in their order, and who works on them."""
    states = api.place.states()
    jobs = [
        {"name": job.name, "state": states[job.name].state, "reason": api.runs.without_folder(states[job.name].reason),
         "attempt": states[job.name].attempt, "host": str(states[job.name].record.get("host", "")).split(" ")[0],
         "own_list": (api.place.queue_folder / f"{job.name}.toml").is_file()}
        for job in api.place.jobs()[0]
    ]  # fmt: skip
    workers = [{"host": str(w.get("host", "")).split(" ")[0], "pid": w.get("pid")} for w in api.place.workers()]
    command = f"singleinsert batch {api.place.folder} --watch"
    return {"jobs": jobs, "workers": workers, "paused": api.place.paused, "problems": api.place.jobs()[1],
            "crashed": api.place.crashed, "starting": api.place.starting(), "command": command}  # fmt: skip


def change_queue(api: Api, request: Request, action: str) -> Any:
    """pause, go; first (a job comes next); worker (start one after a crash)."""
    import os

    if action in ("pause", "go"):
        api.place.set_paused(action == "pause")
    elif action == "first":
        run = api.runs.get(str(request.json().get("name", "")))
        path = api.place.queue_folder / f"{run.name}.toml"
        if not path.is_file():
            raise InputError(f"{run.name} stands in a list with others: change their order there")
        others = [other.stat().st_mtime for other in api.place.queue_folder.glob("*.toml")]
        os.utime(path, (min(others) - 1, min(others) - 1))
    elif action != "worker":
        raise InputError("there is no such address")
    api.place.ensure_worker(asked=action in ("go", "worker"))
    return queue(api, request)


def ask_pictures(api: Api, request: Request) -> Any:
    """A request for pictures; an edit's words are no part of it."""
    told = request.json()
    told.pop("edit", None)
    wish = read_wish(told)
    for name in wish.concepts:
        api.runs.get(name)
    return _ask(api, wish)


def ask_edit(api: Api, request: Request) -> Any:
    """Parts of a draft's photo drawn anew: where its first mask is white."""
    told = request.json()
    draft = api.drafts.read(str(told.pop("draft", "")))
    mask = api.drafts.mask_path(draft, 0)
    if not mask.exists():
        raise InputError("paint first where the photo may change")
    strength = told.pop("strength", 0.75)
    if not isinstance(strength, int | float) or not 0 < strength <= 1:
        raise InputError("strength is above 0, up to 1")
    words = ["--edit", str(api.drafts.photo_path(draft)), "--edit_mask", str(mask), "--edit_strength", str(strength)]
    wish = read_wish(told | {"edit": words})
    for name in wish.concepts:
        api.runs.get(name)
    return _ask(api, wish)


def _ask(api: Api, wish: Any) -> Any:
    request_id = secrets.token_hex(6)
    ask_for_pictures(api.place.folder, request_id, wish)
    api.place.ensure_worker(asked=True)
    return {"id": request_id}


def pictures(api: Api, request: Request, request_id: str) -> Any:
    """How far a request is, and its pictures' names."""
    api.place.ensure_worker()
    place = _request_place(api, request_id)
    status = read_object(place / STATUS) or {"state": "queued", "done": 0, "of": 0, "reason": ""}
    files = sorted(path.name for path in place.glob("*.png") if re.fullmatch(r"\d\d\.png", path.name))
    wish = read_object(place / REQUEST)
    wish.pop("edit", None)
    maps = {}
    for path in place.glob("*_maps.json"):
        maps[path.name[:2]] = json.loads(path.read_text(encoding="utf-8"))
    busy = any(found.state == RUNNING for found in api.place.states().values())
    return status | {"files": files, "wish": wish, "maps": maps, "waits_for_training": busy}


def picture_file(api: Api, request: Request, request_id: str, file: str) -> Reply:
    path = _request_place(api, request_id) / file
    if not DRAWN_FILE.fullmatch(file) or not path.is_file():
        raise InputError("there is no such picture")
    return picture(path.read_bytes())


def _request_place(api: Api, request_id: str) -> Any:
    place = api.place.hidden / PICTURES / request_id
    if not REQUEST_ID.fullmatch(request_id) or not (place / REQUEST).is_file():
        raise InputError("there is no such request: it may have been deleted")
    return place


def compare(api: Api, request: Request) -> Any:
    """Two runs: the settings that differ, and what each has of curves and samples."""
    from singleinsert.ui import running

    names = [request.query.get(key, "") for key in ("a", "b")]
    told = [running.settings(api, request, name) for name in names]
    own = {"run.output_dir", "run.output_name", "run.resume_from_checkpoint", "run.final_checkpoint",
           "run.checkpointing_steps", "run.checkpoints_total_limit"}  # fmt: skip
    own |= {key for key in ("data.image", "data.mask") if _same_files(told[0].get(key), told[1].get(key))}
    differ = [key for key in to_values_keys() if key not in own and told[0].get(key) != told[1].get(key)]
    rows = [{"key": key, "a": _shown(key, told[0].get(key)), "b": _shown(key, told[1].get(key))} for key in differ]
    return {"settings": rows, "runs": [running.show(api, request, name) for name in names]}


def _shown(key: str, value: Any) -> Any:
    """A setting's value; of pictures their names, since each run has copies of its own in a folder of its own."""
    if key in ("data.image", "data.mask"):
        return [Path(path).name for path in value or ()]
    return plain(value)


def _same_files(a: Any, b: Any) -> bool:
    """Do two lists of paths hold the same pictures? Each run of the page has copies of its own."""
    try:
        return [Path(path).read_bytes() for path in a] == [Path(path).read_bytes() for path in b]
    except (OSError, TypeError):
        return False


def to_values_keys() -> list[str]:
    from singleinsert.config import Settings

    return list(to_values(Settings()))
