"""From settings to what trains: pictures with their subjects, masks and descriptions."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image, ImageChops

from singleinsert.captions.ask import Ask, asked_once
from singleinsert.captions.describe import describe, of_user
from singleinsert.captions.files import checked_caption
from singleinsert.captions.form import room_of
from singleinsert.captions.tied import whole_picture, without_tied
from singleinsert.captions.words import STYLES
from singleinsert.config import Settings
from singleinsert.data.captions import caption_file, read_caption
from singleinsert.data.collage import make_collection, make_mixes, mirrored
from singleinsert.data.folders import list_folder, mask_of, of_one_name, picture_paths, same_name, set_beside
from singleinsert.data.pictures import (
    Picture,
    crop_to_square,
    cut_mask,
    load_picture,
)
from singleinsert.data.subject import (
    BACKGROUND,
    Frame,
    Handle,
    Subject,
    TrainingPicture,
    plain_name,
)
from singleinsert.errors import InputError
from singleinsert.masks import MaskResult, check_mask, find_mask, mask_file, share_of
from singleinsert.masks.candidates import GIVE_A_MASK
from singleinsert.masks.cleanup import union
from singleinsert.masks.collection import INDEX, disjoint, find_each, load_masks, refuse_pointing
from singleinsert.masks.find import wants_search
from singleinsert.training.handles import find_handles
from singleinsert.training.prompting import Shown, one_subject_in_each


@dataclass(frozen=True)
class Material:
    """What a run learns from, before any model is loaded.

    Attributes:
        handles: the run's concepts, in order. given: the pictures that were given, at least one.
        pictures: those that it learns from. Of several concepts, also or only what was made out of the given ones.
        shown: with several concepts, how often and how each picture is drawn.
        found: the mask of every subject of every picture, as it was found; not for the background.
    """

    handles: tuple[Handle, ...]
    given: tuple[TrainingPicture, ...]
    pictures: tuple[TrainingPicture, ...]
    found: tuple[MaskResult, ...]
    shown: tuple[Shown, ...] = ()

    @property
    def class_words(self) -> dict[str, str]:
        return {handle.name: handle.class_word for handle in self.handles}


def find_material(settings: Settings, say: Callable[[str], None]) -> Material:
    """The pictures with their subjects' masks, given or found, cut to the squares that train; says what was taken.

    Raises:
        InputError, ConfigError: one line.
    """
    data = settings.data
    paths = picture_paths(data.image)
    _refuse_shared_files(paths)
    for line in left_out_lines(data.image):
        say(line)
    handles = find_handles(settings)
    subjects = [handle for handle in handles if handle.name != BACKGROUND]
    for name, handle in zip(settings.data.handles, subjects, strict=False):
        if len(subjects) > 1 and name != handle.name:
            say(f"note: the concept {name!r} is called {{{handle.name}}} in prompts")
    found: list[MaskResult] = []
    given: list[TrainingPicture] = []
    with asked_once(settings.caption.describe.strip()) as load:
        for number in range(len(paths)):
            picture, masks = prepare_picture(paths, number, subjects, settings, say, load)
            given.append(picture)
            found += masks
    pictures, shown = given, list[Shown]()
    if not one_subject_in_each(given):
        pictures, shown = expand_scene(settings, given)
        if len(handles) > FEW:
            steps = " + ".join(str(stage.steps) for stage in settings.stages.values())
            advice = f": for as many looks at each as {FEW} have, raise stageN.steps"
            say(f"{len(handles)} concepts share {steps} steps{advice * (settings.scene.steps_for < len(handles))}")
    return Material(handles, tuple(given), tuple(pictures), tuple(found), tuple(shown))


def prepare_picture(
    paths: Sequence[Path], number: int, handles: Sequence[Handle], settings: Settings, say: Callable[[str], None],
    load: Callable[[], Ask] | None = None,
) -> tuple[TrainingPicture, list[MaskResult]]:  # fmt: skip
    """The ``number``-th picture's square with its subjects, and their masks; of the whole picture nothing is kept.

    ``load`` gives the model of ``caption.describe``, which is the same for all pictures.
    """
    count = len(handles)
    picture = load_picture(paths[number], SEVERAL_MASKS[0] + SEVERAL_MASKS[1] * count if count > 1 else 0)
    masks = find_masks_of(picture, handles, settings, number, len(paths))
    for result in masks.values():
        for line in result.lines():
            say(line)
    text = ""
    if settings.data.can_be_described:
        text = describe_picture(picture, handles[0].class_word, settings, number, len(paths), say, load)
        masks = {name: without_tied(result, text, settings, say) for name, result in masks.items()}
    elif read_caption(picture.path):
        say(f"note: the description of {picture.path.name} is not used: only a single concept can have one")
    square = cut_out(picture, {n: result.mask for n, result in masks.items()}, handles, settings)
    say(_learning_from(square, paths[number] if len(paths) > 1 else None))
    return replace(square, description=text), [result.without_pixels() for result in masks.values()]


SEVERAL_MASKS = (9, 2)
"""Bytes for each pixel of a picture of several concepts: it and a mask that is being read; each mask as it was found
and cut apart from the others."""


def _refuse_shared_files(paths: Sequence[Path]) -> None:
    """InputError where two pictures would share a mask or a caption that is there."""
    for first, other in of_one_name(paths):
        shared = caption_file(other) if caption_file(other).is_file() else mask_of(other)
        if shared is not None:
            raise InputError(f"{first} and {other.name} would share {shared.name}: rename one of them")


def left_out_lines(given: Sequence[str]) -> list[str]:
    """What the folders of ``data.image`` hold that is not learnt from, and why."""
    return [line for text in given if Path(text).is_dir() for line in list_folder(Path(text)).lines()]


def mask_files(settings: Settings, pictures: Sequence[Path]) -> list[tuple[str, Path]]:
    """The mask files that a run reads: "mask/PLACE" those that were named, in their order; "beside/PLACE" those that
    lie beside the pictures; "set/PLACE" the files of a folder of named masks.

    Raises:
        InputError: several masks for one picture, or a folder without a picture's.
    """
    given, mask = settings.data.mask, settings.mask
    beside = [folder for picture in pictures if (folder := _set_beside(settings, picture))]
    if sets := _sets_of_masks(given) or beside:
        return [
            (f"set/{place}", path) for place, folder in enumerate(sets)
            for path in sorted(folder.iterdir()) if path.is_file()
        ]  # fmt: skip
    if len(settings.data.class_word) > 1:
        return [(f"mask/{place}", Path(text)) for place, text in enumerate(given)]
    search = wants_search(mask.box, mask.points, mask.mask_index, mask.merge)
    found = []
    for place, picture in enumerate(pictures):
        file = _mask_named(given, place, len(pictures))
        if (path := mask_file(picture, file, search)) is not None:
            found.append((f"{'mask' if file else 'beside'}/{place}", path))
    return found


def _mask_named(given: Sequence[str], number: int, pictures: int) -> str | None:
    """What ``data.mask`` names for the ``number``-th of several pictures: a file, or a folder of them."""
    if len(given) not in (0, 1, pictures):
        raise InputError(
            f"{len(given)} mask{'s' * (len(given) != 1)} for {pictures} pictures: give one for each, or a folder"
        )
    return None if not given else given[number] if len(given) == pictures else given[0]


MASK_FOR_EACH = "give a mask for each class word, in their order, with --mask FILE (in a list of jobs: data.mask)"
FEW = 4
"""More than these see little of each other in the paper's number of steps (its section 5)."""


def find_masks_of(
    picture: Picture, handles: Sequence[Handle], settings: Settings, number: int, pictures: int
) -> dict[str, MaskResult]:
    """handle -> mask, of every concept.

    Args:
        number: the picture's place among ``pictures``, by which ``data.mask`` may name a file, or of several concepts a
            folder of named masks, for each.

    Raises:
        InputError: no mask can be found or read. ConfigError: a setting points at one of several concepts.
    """
    given, options = settings.data.mask, vars(settings.mask)
    if handles[0].class_word in STYLES:
        return {handles[0].name: whole_picture(picture)}
    words = [handle.class_word for handle in handles]
    refuse_pointing(words, options)
    if beside := _set_beside(settings, picture.path):
        return _masks_of_set(picture, handles, beside, among=1)
    if sets := _sets_of_masks(given):
        if len(sets) != pictures:
            many = f"{len(sets)} folder{'s' * (len(sets) != 1)} of masks for {pictures} pictures"
            raise InputError(f"{many}: give one for each, in their order")
        return _masks_of_set(picture, handles, sets[number], among=pictures)
    if len(handles) == 1:
        file = _mask_named(given, number, pictures)
        return {handles[0].name: find_mask(picture, handles[0].class_word, file=file, **options)}
    if given and pictures > 1:
        raise InputError(
            f"{len(given)} mask{'s' * (len(given) != 1)} for {len(handles)} class words in {pictures} pictures: give a "
            "folder of masks for each picture, as `python -m singleinsert.masks find` writes, or none"
        )
    if given and len(given) != len(handles):
        count = f"{len(given)} mask{'s' * (len(given) != 1)}"
        raise InputError(f"{count} for {len(handles)} class words: give one for each, in their order")
    try:
        found = find_each(picture, words, files=given, **options)
    except InputError as problem:  # it speaks of a single concept's flags
        raise InputError(str(problem).replace(GIVE_A_MASK, MASK_FOR_EACH)) from problem
    return {handle.name: result for handle, result in zip(handles, found, strict=True)}


def _sets_of_masks(given: Sequence[str]) -> list[Path]:
    """The folders of ``data.mask``, where each holds the named masks of a picture; [] where they are something else."""
    sets = [Path(text) for text in given if (Path(text) / INDEX).is_file()]
    if sets and len(sets) != len(given):
        raise InputError(f"data.mask names {sets[0]}, which is a folder of named masks, and others that are none")
    return sets


def _set_beside(settings: Settings, picture: Path) -> Path | None:
    """The folder of named masks beside a picture, which several concepts take where no mask is named."""
    folder = set_beside(picture)
    wanted = len(settings.data.class_word) > 1 and not settings.data.mask
    return folder if wanted and (folder / INDEX).is_file() else None


def _masks_of_set(picture: Picture, handles: Sequence[Handle], folder: Path, among: int) -> dict[str, MaskResult]:
    """From a folder that ``python -m singleinsert.masks`` has written, by the concepts' names."""
    masks = load_masks(folder)
    if masks.size != picture.image.size:
        (mw, mh), (w, h) = masks.size, picture.image.size
        raise InputError(f"the masks in {folder} are {mw}x{mh} but {picture.path} is {w}x{h}")
    if among > 1 and same_name(Path(masks.picture).stem) != same_name(picture.path.stem):
        raise InputError(
            f"{folder} holds the masks of {masks.picture}, not of {picture.path.name}: give the folders in their order"
        )
    try:
        named = {handle.name: masks[plain_name(handle.name)] for handle in handles}
    except InputError as problem:
        raise InputError(
            f"{folder}: {problem}: add it, name other masks with --mask, or move the folder away"
        ) from None
    return {
        handle: MaskResult(
            each.mask, picture, (), (), f"{folder}", share_of(each.mask), file=folder / f"{each.name}.png"
        )
        for handle, each in named.items()
    }  # fmt: skip


def cut_out(
    picture: Picture, masks: dict[str, Image.Image], handles: Sequence[Handle], settings: Settings
) -> TrainingPicture:
    """The square of a picture that trains, its subjects' masks cut with it."""
    data = settings.data
    if len(masks) > 1 and data.overlap == "disjoint":
        masks = disjoint(masks)
    whole = union(list(masks.values()))
    square = crop_to_square(picture, whole, data.crop, data.crop_padding)
    cut = {name: cut_mask(mask, square.box) for name, mask in masks.items()}
    if data.learn_background:
        cut[BACKGROUND] = ImageChops.invert(union(list(cut.values())))
    words = {handle.name: handle.class_word for handle in handles} | {BACKGROUND: BACKGROUND}
    of = "the mask" if len(cut) == 1 else "the mask of {}"
    shares = {
        name: 1.0 if words[name] in STYLES else check_mask(m, f"{of.format(name)}, cropped to the training square,")
        for name, m in cut.items()
    }
    subjects = tuple(Subject(name, words[name], mask, shares[name]) for name, mask in cut.items())
    return TrainingPicture(
        square.image, Frame.whole((data.resolution, data.resolution)), subjects, source=str(picture.path),
        square=square.box,
    )  # fmt: skip


def describe_picture(
    picture: Picture, class_word: str, settings: Settings, number: int, pictures: int, say: Callable[[str], None],
    load: Callable[[], Ask] | None = None,
) -> str:  # fmt: skip
    """What the picture shows besides its one subject, "{concept}" in the subject's place; "" where nobody says it.

    The settings' own text goes before a file beside the picture, and that before a model or words.

    Raises:
        InputError: a description without a place for the subject, or a model that gives none that can be used.
    """
    given, caption = settings.data.description, settings.caption
    if len(given) not in (0, pictures):
        raise InputError(f"{len(given)} descriptions for {pictures} pictures: give one for each (data.description)")
    if caption.mode == "off":
        return ""
    room = room_of(settings)
    if given:
        if caption.describe.strip():
            say(f"note: {caption.describe.strip()} is not asked: data.description says it")
        found = of_user(
            checked_caption(given[number], class_word, "data.description"), class_word, "data.description", room
        )
    else:
        described = describe(picture, class_word, caption, room=room, load=load, say=say)
        if described is None:
            return ""
        found = described
    for line in found.lines():
        say(line)
    return found.within_mask() if caption.mode == "O4" else found.text


def _learning_from(picture: TrainingPicture, path: Path | None) -> str:
    of = "it" if path is None else str(path)
    pixels = f"{picture.image.width}x{picture.image.height} pixels"
    if len(picture.subjects) == 1:
        return f"learning from {pixels} of {of}, {picture.subjects[0].share:.1%} of them subject"
    shares = ", ".join(f"{subject.handle} {subject.share:.1%}" for subject in picture.subjects)
    return f"learning from {pixels} of {of}: {shares}"


def expand_scene(settings: Settings, pictures: Sequence[TrainingPicture]) -> tuple[list[TrainingPicture], list[Shown]]:
    """The pictures of a scene with those that are made out of them, each with how often and how it is drawn."""
    scene, seed = settings.scene, settings.run.seed
    if scene.collection:
        made = [
            part for i, picture in enumerate(pictures)
            for part in make_collection(picture, scene.collection, random.Random(f"{seed}/collection/{i}"))
        ]  # fmt: skip
        seen = {handle for picture in made for handle in picture.handles}
        if unseen := [handle for picture in pictures for handle in picture.handles if handle not in seen]:
            raise InputError(
                f"scene.collection {scene.collection}: none of its pictures shows {unseen[0]}: raise it (64 is what "
                "the comparison with the paper's baselines has)"
            )
        return made, [Shown(picture.handles, whole=True) for picture in made]
    originals = [each for picture in pictures for each in ((picture, mirrored(picture)) if scene.flip else (picture,))]
    mixes = [
        part for i, picture in enumerate(pictures)
        for part in make_mixes(picture, scene.mixes, random.Random(f"{seed}/mixes/{i}"))
    ]  # fmt: skip
    share = scene.mix_share if mixes else 0.0
    shown = [Shown(picture.handles, (1 - share) / len(originals)) for picture in originals]
    return originals + mixes, shown + [Shown(picture.handles, share / len(mixes), whole=True) for picture in mixes]
