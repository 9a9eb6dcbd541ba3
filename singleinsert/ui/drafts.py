"""A draft: a photo, masks and choices on their way to a run. Each is a folder, so that nothing is lost with a page."""

from __future__ import annotations

import io
import json
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from singleinsert.atomic import write_atomically, write_text
from singleinsert.cli import low_vram
from singleinsert.config import Settings, load_settings
from singleinsert.config.load import examples_folder
from singleinsert.data.captions import read_caption
from singleinsert.errors import InputError
from singleinsert.terms import BUNDLED_MODELS, preset_of_base
from singleinsert.ui.bases import DEFAULT, source_of
from singleinsert.ui.forms import checked
from singleinsert.ui.place import DRAFTS, Place

ID = re.compile(r"[0-9a-z]{12}")
PHOTO, FACTS = "photo.png", "draft.json"
LARGEST_SIDE = 4096
"""Of a photo that is kept; a larger one is reduced. No training square is larger."""
MOST_SUBJECTS = 8

KINDS = ("face", "hair", "clothes", "pet")
"""Class words with a preset of their own."""
QUALITY = {
    "quick": {"stage1": 0.6, "stage2": 0.6},
    "paper": {"stage1": 1.0, "stage2": 1.0},
    "long": {"stage1": 1.5, "stage2": 2.0},
}
"""Steps of the stages, in those of the preset."""
MEMORY: dict[str, dict[str, Any]] = {"auto": {}, "6 GB": {"run.micro_batch_size": 1}, "4 GB": low_vram()}
CHECKPOINTS = 25
"""Steps between two checkpoints of a run from the page: what a killed worker may cost."""


@dataclass
class Subject:
    """What a draft's photo shows: a concept to be. ``name`` counts where there are several."""

    class_word: str = ""
    name: str = ""
    source: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass
class Draft:
    """What is known of a run to be.

    Attributes:
        settings: what the form of all settings has changed, by "section.key".
        notes: what was done to the photo.
    """

    id: str
    created: float = 0.0
    name: str = ""
    subjects: list[Subject] = field(default_factory=lambda: [Subject()])
    base: str = DEFAULT
    quality: str = "paper"
    memory: str = "auto"
    learn_background: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def is_scene(self) -> bool:
        return len(self.subjects) > 1 or self.learn_background


class Drafts:
    """The drafts of a place."""

    def __init__(self, place: Place) -> None:
        self.place, self.root = place, place.folder / DRAFTS
        self.changing = threading.RLock()
        """Held from the reading of a draft to its writing: screens send several changes at once."""

    def folder(self, draft_id: str) -> Path:
        """InputError where there is no such draft; an id is no path."""
        if not ID.fullmatch(draft_id) or not (self.root / draft_id / FACTS).is_file():
            raise InputError("there is no such draft: it was started or deleted")
        return self.root / draft_id

    def all(self) -> list[Draft]:
        """The latest first."""
        ids = [path.parent.name for path in self.root.glob(f"*/{FACTS}") if ID.fullmatch(path.parent.name)]
        return sorted((self.read(draft_id) for draft_id in ids), key=lambda draft: -draft.created)

    def read(self, draft_id: str) -> Draft:
        try:
            told = json.loads((self.folder(draft_id) / FACTS).read_text(encoding="utf-8"))
            subjects = [Subject(**subject) for subject in told.pop("subjects")]
            return Draft(**told, subjects=subjects)
        except (ValueError, TypeError, KeyError, AttributeError) as problem:
            raise InputError(f"{self.root / draft_id / FACTS} is damaged: delete the draft") from problem

    def write(self, draft: Draft) -> None:
        write_text(self.root / draft.id / FACTS, json.dumps(asdict(draft), indent=1) + "\n")

    def delete(self, draft_id: str) -> None:
        shutil.rmtree(self.folder(draft_id))

    def create(self, photo: Image.Image, notes: list[str], **known: Any) -> Draft:
        draft = Draft(secrets.token_hex(6), time.time(), notes=notes, **known)
        path = self.root / draft.id / PHOTO
        write_atomically(path, lambda target: photo.save(target, "PNG"))
        self.write(draft)
        return draft

    def from_upload(self, content: bytes) -> Draft:
        """A draft of a photo that was dropped: decoded, turned upright, encoded anew, so that nothing but its pixels
        is kept. InputError where it is no picture, or too large a one."""
        photo, alpha, notes = decode(content)
        draft = self.create(photo, notes, base=self.first_base())
        if alpha is not None:
            self.write_mask(draft, 0, alpha, "the picture's alpha channel")
        return draft

    def bundled(self, scene: bool) -> Draft:
        """The face, or the car and the face in one picture, that come with the package."""
        if scene:
            subjects = [Subject("car"), Subject("face")]
            return self.create(open_example("scene.png"), [], base="mini-scenes", name="duoxy", subjects=subjects)
        return self.create(open_example("portrait.png"), [], base="mini-sd", name="mexyz", subjects=[Subject("face")])

    def first_base(self) -> str:
        """What the last draft was for; otherwise the default."""
        return next((draft.base for draft in self.all()), DEFAULT)

    # masks

    def mask_path(self, draft: Draft, number: int) -> Path:
        if not 0 <= number < len(draft.subjects):
            raise InputError("there is no such subject: load the page again")
        return self.root / draft.id / f"mask_{number:02d}.png"

    def photo_path(self, draft: Draft) -> Path:
        return self.root / draft.id / PHOTO

    def write_mask(
        self, draft: Draft, number: int, mask: Image.Image, source: str, notes: list[str] | None = None
    ) -> None:
        """The mask of a subject, of the photo's size, and where it came from."""
        path = self.mask_path(draft, number)
        write_atomically(path, lambda target: mask.convert("L").save(target, "PNG"))
        with self.changing:
            now = self.read(draft.id)  # to find a mask takes a while
            now.subjects[number] = replace(now.subjects[number], source=source, notes=notes or [])
            self.write(now)
        draft.subjects[number] = now.subjects[number]

    def remove_subject(self, draft: Draft, number: int) -> None:
        """Drop a subject and its mask; the later ones move up. InputError where it is the only one."""
        if len(draft.subjects) < 2:
            raise InputError("a concept is needed")
        self.mask_path(draft, number).unlink(missing_ok=True)
        for later in range(number + 1, len(draft.subjects)):
            path = self.mask_path(draft, later)
            if path.exists():
                path.rename(self.mask_path(draft, later - 1))
        del draft.subjects[number]
        self.write(draft)

    # choices

    def change(self, draft_id: str, given: Mapping[str, Any]) -> Draft:
        """The draft with what a screen has sent; it is written only if all of it can be.

        Raises:
            InputError, ConfigError: one line.
        """
        with self.changing:
            return self._change(self.read(draft_id), given)

    def _change(self, draft: Draft, given: Mapping[str, Any]) -> Draft:
        for key, value in given.items():
            if key in ("name", "base") and isinstance(value, str):
                setattr(draft, key, value.strip())
            elif key in ("quality", "memory") and value in (QUALITY if key == "quality" else MEMORY):
                setattr(draft, key, value)
            elif key == "learn_background" and isinstance(value, bool):
                draft.learn_background = value
            elif key == "settings" and isinstance(value, dict):
                draft.settings = checked(value)
            elif key == "subjects" and isinstance(value, list):
                draft.subjects = _subjects(draft.subjects, value)
            else:
                raise InputError(f"{key} cannot be changed so: load the page again")
        if "base" in given:
            source_of(draft.base, self.place.models)
        self.write(draft)
        return draft

    def preset(self, draft: Draft) -> str:
        """By the class word and the base model."""
        source = source_of(draft.base, self.place.models)
        if draft.is_scene:
            return "scene"
        if source == "mini-sd":
            return "mini"
        word = draft.subjects[0].class_word
        own = word if word in KINDS else "object"
        model = "" if source in BUNDLED_MODELS else preset_of_base(source)
        return f"{own}+{model}" if model else own

    def values(self, draft: Draft) -> dict[str, Any]:
        """What a run of the draft sets beside its preset, pictures and masks."""
        values: dict[str, Any] = {
            "model.pretrained_model_name_or_path": source_of(draft.base, self.place.models),
            "data.class_word": [subject.class_word for subject in draft.subjects],
            "run.checkpointing_steps": CHECKPOINTS,
            "run.final_checkpoint": True,
        }
        if draft.is_scene:
            values["data.handles"] = [subject.name or subject.class_word for subject in draft.subjects]
        if draft.learn_background:
            values["data.learn_background"] = True
        chosen = self.steps(draft, draft.quality) if draft.quality != "paper" else {}
        return values | chosen | MEMORY[draft.memory] | draft.settings

    def steps(self, draft: Draft, quality: str) -> dict[str, int]:
        """Steps of the preset's stages for a choice of quality, by "section.key"."""
        number = {"data.class_word": ["subject"] * len(draft.subjects), "data.learn_background": draft.learn_background}
        stages = load_settings(self.preset(draft), None, number).stages
        return {f"{name}.steps": round(stage.steps * QUALITY[quality][name]) for name, stage in stages.items()}

    def qualities(self, draft: Draft) -> list[tuple[str, str]]:
        """What there is to choose from, and in words."""
        titles = {"quick": "Quick", "paper": "As the preset" if draft.is_scene else "As in the paper", "long": "Long"}
        return [
            (quality, f"{title}: {' + '.join(map(str, self.steps(draft, quality).values()))} steps")
            for quality, title in titles.items()
        ]

    def settings(self, draft: Draft) -> Settings:
        """The settings of a run on the draft's own files. ConfigError, one line."""
        masks = [str(self.mask_path(draft, n)) for n in range(len(draft.subjects)) if self.mask_path(draft, n).exists()]
        whole = {"data.image": [str(self.photo_path(draft))], "data.mask": masks, "run.output_name": draft.name}
        place = {"run.output_dir": str(self.place.folder / (draft.name or "unnamed"))}
        return load_settings(self.preset(draft), None, self.values(draft) | whole | place)

    def caption(self, draft: Draft) -> str:
        return read_caption(self.photo_path(draft)) or ""


def _subjects(before: list[Subject], given: list[Any]) -> list[Subject]:
    """Words and names as they were sent; where masks came from stays."""
    if not 1 <= len(given) <= MOST_SUBJECTS:
        raise InputError(f"1 to {MOST_SUBJECTS} concepts can be learnt from a photo")
    found = []
    for number, told in enumerate(given):
        word, name = (
            str(told.get(key, "")).strip() if isinstance(told, dict) else "" for key in ("class_word", "name")
        )
        old = before[number] if number < len(before) else Subject()
        found.append(replace(old, class_word=word, name=name))
    return found


def decode(content: bytes) -> tuple[Image.Image, Image.Image | None, list[str]]:
    """(RGB photo, a mask from its alpha channel, what was done to it)."""
    from singleinsert.data.opening import open_picture
    from singleinsert.data.pictures import Picture, split_alpha
    from singleinsert.masks.files import has_alpha_mask

    with tempfile.TemporaryDirectory(prefix="singleinsert-") as folder:
        path = Path(folder) / "photo"
        path.write_bytes(content)
        try:
            opened = open_picture(path)
        except InputError as problem:
            raise InputError(str(problem).replace(str(path), "the photo")) from problem
    notes = _notes_of_exif(content)
    photo, alpha, note = split_alpha(opened)
    notes += [note.replace(str(path), "the photo")] if note else []
    if max(photo.size) > LARGEST_SIDE:
        before = f"{photo.width}x{photo.height}"
        photo.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
        alpha = alpha.resize(photo.size, Image.Resampling.BOX) if alpha is not None else None
        notes.append(f"reduced from {before} to {photo.width}x{photo.height} pixels")
    picture = Picture(photo, alpha, Path("photo"))
    return photo, alpha if has_alpha_mask(picture) else None, notes


def _notes_of_exif(content: bytes) -> list[str]:
    """What of the camera's notes is not kept, and what was obeyed."""
    try:
        with Image.open(io.BytesIO(content)) as file:
            exif = file.getexif()
    except Exception:  # Pillow's readers raise two dozen kinds; the picture itself was read, or refused, elsewhere
        return []
    notes = []
    if exif.get(0x0112, 1) != 1:
        notes.append("turned upright, as the camera noted")
    if 0x8825 in exif:
        notes.append("the place where it was taken was in the file: it is not kept")
    elif len(exif):
        notes.append("the camera's notes are not kept")
    return notes


def open_example(name: str) -> Image.Image:
    with Image.open(examples_folder() / name) as file:
        return file.convert("RGB")
