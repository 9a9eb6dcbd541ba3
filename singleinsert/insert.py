"""Where script, batch and page meet: settings in, trained concepts and the clients' files out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from singleinsert.config import Settings
from singleinsert.errors import InputError
from singleinsert.imports import importing
from singleinsert.training.watch import Watch

if TYPE_CHECKING:
    from singleinsert.models.family import Family
    from singleinsert.training.run import Trained


@dataclass(frozen=True)
class Inserted:
    """A finished run.

    Attributes:
        trained: the concepts, with a preview. files: what was written for the clients; empty on a process that writes
            nothing.
    """

    trained: Trained
    files: tuple[Path, ...]


def insert_concepts(
    settings: Settings,
    watch: Watch | None = None,
    *,
    folder: Path | None = None,
    load: Callable[[Settings, Any], Family] | None = None,
    started: float | None = None,
    overwrite: bool | None = None,
) -> Inserted:
    """Train as ``settings`` say, and write the files for the clients.

    Args:
        watch: is told of everything, and may ask for a stop. folder, load, started: of
            :func:`~singleinsert.training.run.train`. overwrite: replace clients' files that are there; by default a
            run that goes on replaces those that it has written before.

    Raises:
        SingleInsertError: one line; Interrupted where the run was asked to stop.
    """
    with importing():
        from singleinsert.export import export
        from singleinsert.training.run import train

    trained = train(settings, folder=folder, load=load, started=started, watch=watch)
    if not trained.is_main_process:
        return Inserted(trained, ())
    save = settings.save
    files = export(
        trained.artifact,
        folder or settings.output_dir,
        formats=save.formats,
        precision=save.save_precision,
        preview=trained.preview,
        trigger_word=save.trigger_word,
        overwrite=bool(settings.run.resume_from_checkpoint) if overwrite is None else overwrite,
    )
    return Inserted(trained, tuple(files))


def write_masks(settings: Settings, say: Callable[[str], None]) -> list[Path]:
    """Write the masks that a run of ``settings`` would train with where it looks for them, and pictures of them.

    One concept's lie beside its pictures. Those of several concepts of a picture are a folder NAME_masks beside it, a
    set of named masks. Those that lie there already are taken, and stay as they are.

    Returns:
        what was written.

    Raises:
        InputError: as of a run; or other masks than those that are named lie there.
    """
    from singleinsert.atomic import write_atomically
    from singleinsert.data.folders import picture_paths, set_beside
    from singleinsert.masks import write_beside
    from singleinsert.masks.collection import INDEX, MaskSet, NamedMask, save_masks
    from singleinsert.masks.find import refuse_second
    from singleinsert.training.prepare import find_material

    several = len(settings.data.class_word) > 1
    named_folders = [Path(text).resolve() for text in settings.data.mask]
    for path in picture_paths(settings.data.image):
        refuse_second(path)
        folder = set_beside(path)
        if several and named_folders and (folder / INDEX).is_file() and folder.resolve() not in named_folders:
            raise InputError(f"{folder} holds masks of {path.name} already: move it away, or leave --mask out")
    material = find_material(settings, say)
    if not several:
        return [path for result in material.found for path in write_beside(result)]
    named = [handle for handle in material.handles if handle.class_word in settings.data.class_word]
    written: list[Path] = []
    for start in range(0, len(material.found), len(named)):
        results = material.found[start : start + len(named)]
        picture = results[0].picture
        masks = tuple(NamedMask(h.name, h.class_word, r.mask, r.source) for h, r in zip(named, results, strict=True))
        found, folder = MaskSet(picture.path.name, masks[0].mask.size, masks), set_beside(picture.path)
        if not (folder / INDEX).is_file():  # else they are what was taken, perhaps edited
            save_masks(found, folder)
        write_atomically(folder / "overlay.png", found.sheet(picture).save)
        written += [folder, folder / "overlay.png"]
    return written
