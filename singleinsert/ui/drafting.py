"""Answers about drafts: photo, mask, description, choices, and the start of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from singleinsert.errors import ConfigError, InputError, SingleInsertError
from singleinsert.reading import parse_toml
from singleinsert.ui import masking, starting
from singleinsert.ui.bases import known_bases
from singleinsert.ui.drafts import Draft, Drafts, Subject
from singleinsert.ui.forms import describe_form
from singleinsert.ui.replies import Reply, Request, picture

if TYPE_CHECKING:
    from singleinsert.ui.api import Api

NOT_ON_THE_FORM = ("name", "preset", "data.image", "data.mask", "model.pretrained_model_name_or_path",
                   "data.class_word", "data.handles", "data.learn_background", "run.checkpointing_steps")  # fmt: skip


def name(api: Api, request: Request) -> Any:
    told = request.json()
    return starting.judge_name(api.place, str(told.get("name", "")).strip(), str(told.get("class_word", "")).strip())


def create(api: Api, request: Request) -> Any:
    """Of a photo's bytes; or, as JSON, of the bundled face, or of a run whose inputs are taken again."""
    if request.kind != "application/json":
        return {"id": api.drafts.from_upload(request.body).id}
    told = request.json()
    if "run" in told:
        return {"id": draft_of_run(api, str(told["run"])).id}
    return {"id": api.drafts.bundled(bool(told.get("scene"))).id}


def draft_of_run(api: Api, run_name: str, **changes: Any) -> Draft:
    """A draft with a run's photo, masks, words and settings, to be changed and started under another name."""
    from PIL import Image

    from singleinsert.config.load import all_fields, load_settings, to_values
    from singleinsert.data.captions import read_caption
    from singleinsert.masks.files import read_mask
    from singleinsert.ui.bases import key_of
    from singleinsert.ui.forms import is_locked, plain

    run = api.runs.get(run_name)
    source = api.runs.source_picture(run)
    if run.job is None or source is None:
        raise InputError(f"{run_name} was not started here: its photo is not at hand")
    settings, drafts = run.job.settings, api.drafts
    with Image.open(source) as file:
        photo = file.convert("RGB")
    words, handles = settings.data.class_word, settings.data.handles
    subjects = [Subject(word, handles[i] if i < len(handles) else "") for i, word in enumerate(words)]
    base = key_of(settings.model.pretrained_model_name_or_path, api.place.models)
    draft = drafts.create(photo, [], base=base, subjects=subjects, learn_background=settings.data.learn_background)
    for number, mask in enumerate(settings.data.mask):
        drafts.write_mask(draft, number, read_mask(_inside(source.parent, mask)), f"the run {run_name}")
    if text := read_caption(source):
        save_text(drafts, draft, text)
    without = to_values(load_settings(drafts.preset(draft), None, drafts.values(draft)))
    own = to_values(settings)
    draft.settings = {
        key: plain(own[key]) for key, _, _ in all_fields() if not is_locked(key) and own[key] != without[key]
    } | changes  # fmt: skip
    draft.name = starting.judge_name(api.place, run_name, words[0])["suggestion"]
    drafts.write(draft)
    return draft


def _inside(folder: Any, path: str) -> Any:
    return folder / path.rpartition("/")[2]


def show(api: Api, request: Request, draft_id: str) -> Any:
    draft = api.drafts.read(draft_id)
    return described(api.drafts, draft)


def described(drafts: Drafts, draft: Draft) -> dict[str, Any]:
    """A draft with what the screens say of it."""
    from PIL import Image

    with Image.open(drafts.photo_path(draft)) as file:
        width, height = file.size
    return {
        "id": draft.id, "name": draft.name, "width": width, "height": height, "notes": draft.notes,
        "subjects": [{"class_word": s.class_word, "name": s.name, **masking.describe(drafts, draft, n)}
                     for n, s in enumerate(draft.subjects)],
        "overlaps": masking.overlaps(drafts, draft), "learn_background": draft.learn_background,
        "base": draft.base, "quality": draft.quality, "qualities": drafts.qualities(draft),
         "memory": draft.memory, "settings": draft.settings,
        "is_scene": draft.is_scene, "caption": drafts.caption(draft), "bands": masking.bands(),
        "bases": [vars(base) for base in known_bases(drafts.place.models)],
        "judged": starting.judge_name(drafts.place, draft.name, draft.subjects[0].class_word),
    }  # fmt: skip


def change(api: Api, request: Request, draft_id: str) -> Any:
    draft = api.drafts.change(draft_id, request.json())
    return described(api.drafts, draft)


def delete(api: Api, request: Request, draft_id: str) -> Any:
    api.drafts.delete(draft_id)
    return {}


def photo(api: Api, request: Request, draft_id: str) -> Reply:
    return picture(api.drafts.photo_path(api.drafts.read(draft_id)).read_bytes())


def mask(api: Api, request: Request, draft_id: str, number: str) -> Reply:
    path = api.drafts.mask_path(api.drafts.read(draft_id), _number(number))
    if not path.exists():
        raise InputError("there is no mask yet")
    return picture(path.read_bytes())


def paint(api: Api, request: Request, draft_id: str, number: str) -> Any:
    return masking.paint(api.drafts, api.drafts.read(draft_id), _number(number), request.body)


def find(api: Api, request: Request, draft_id: str, number: str) -> Any:
    return masking.find(api.drafts, api.drafts.read(draft_id), _number(number), request.json())


def subjects(api: Api, request: Request, draft_id: str, action: str) -> Any:
    """One concept of the photo more, or one less."""
    with api.drafts.changing:
        draft = api.drafts.read(draft_id)
        if action == "add":
            given = [{"class_word": s.class_word, "name": s.name} for s in draft.subjects] + [{}]
            draft = api.drafts.change(draft_id, {"subjects": given})
        elif action == "remove":
            api.drafts.remove_subject(draft, _number(str(request.json().get("number", ""))))
        else:
            raise InputError("there is no such address")
    return described(api.drafts, draft)


def form(api: Api, request: Request, draft_id: str) -> Any:
    """All settings as they are without what the form has changed, the job and the command line."""
    from dataclasses import replace

    draft = api.drafts.read(draft_id)
    without = api.drafts.settings(replace(draft, settings={}))
    return {
        "fields": describe_form(without), "changed": draft.settings,
        "toml": starting.shown_toml(api.drafts, draft), "preset": api.drafts.preset(draft),
        "command": starting.command_line(api.drafts, draft, api.drafts.settings(draft)),
    }  # fmt: skip


def check(api: Api, request: Request, draft_id: str) -> Any:
    """A look at the run that it would be."""
    from singleinsert.training.forecast import forecast_run

    draft = api.drafts.read(draft_id)
    try:
        with masking.ONE_AT_A_TIME:
            look = forecast_run(api.drafts.settings(draft), check_place=False).as_json()
    except SingleInsertError as problem:
        return {"problems": [str(problem)], "notes": [], "masks": []}
    folder = str(api.drafts.folder(draft.id))
    look["problems"] = [line.replace(folder, "the draft") for line in look["problems"]]
    look["notes"] = [line.partition(": --")[0] for line in look["notes"]]  # flags are the command line's
    return look


def toml(api: Api, request: Request, draft_id: str) -> Any:
    """The job as text, edited: what differs in its settings becomes the form's."""
    from singleinsert.batch.jobs import flat_keys

    draft = api.drafts.read(draft_id)
    jobs = parse_toml(str(request.json().get("toml", "")), "the text").get("job", [])
    if not isinstance(jobs, list) or len(jobs) != 1 or not isinstance(jobs[0], dict):
        raise ConfigError("the text must hold one [[job]]")
    given = {key: value for key, value in flat_keys(jobs[0]).items() if key not in NOT_ON_THE_FORM}
    known = {key: value for key, value in api.drafts.values(draft).items() if key not in draft.settings}
    changed = {key: value for key, value in given.items() if known.get(key) != value}
    api.drafts.change(draft_id, {"settings": changed})
    return form(api, request, draft_id)


def check_caption(api: Api, request: Request, draft_id: str) -> Any:
    return _captions(api, draft_id).checked(str(request.json().get("text", "")))


def save_caption(api: Api, request: Request, draft_id: str) -> Any:
    """An empty text takes the description away."""
    from singleinsert.data.captions import caption_file

    text = str(request.json().get("text", "")).strip()
    if not text:
        caption_file(api.drafts.photo_path(api.drafts.read(draft_id))).unlink(missing_ok=True)
        return {"said": "no description: plain training"}
    _captions(api, draft_id).save(text)
    return {"said": "saved with the draft"}


def save_text(drafts: Drafts, draft: Draft, text: str) -> None:
    from singleinsert.atomic import write_text
    from singleinsert.data.captions import caption_file

    write_text(caption_file(drafts.photo_path(draft)), text + "\n")


def _captions(api: Api, draft_id: str) -> Any:
    from singleinsert.captions.form import room_of
    from singleinsert.captions.page import Session
    from singleinsert.data.pictures import load_picture

    draft = api.drafts.read(draft_id)
    if draft.is_scene:
        raise InputError("a description is for one concept; several are told apart by their masks")
    if not draft.subjects[0].class_word:
        raise InputError("say first what it is: face, cat, mug ...")
    room = room_of(api.drafts.settings(draft))
    return Session(load_picture(api.drafts.photo_path(draft)), draft.subjects[0].class_word, room)


def start(api: Api, request: Request, draft_id: str) -> Any:
    run_name = starting.start(api.drafts, api.drafts.read(draft_id))
    api.place.ensure_worker(asked=True)
    return {"name": run_name}


def _number(text: str) -> int:
    if not text.isdigit():
        raise InputError("there is no such concept in the photo")
    return int(text)
