"""Where script, batch and page meet: settings in, trained concepts and the clients' files out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from singleinsert.config import Settings
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
    """Write the masks that a run of ``settings`` would train with, and pictures of them; returns the files."""
    from singleinsert.masks import write_mask
    from singleinsert.training.files import RunFiles
    from singleinsert.training.prepare import find_material

    files = RunFiles(settings.output_dir, settings.name)
    files.check_free(False, None)
    found = find_material(settings, say).found
    return [
        path
        for place, result in enumerate(found)
        for path in write_mask(result, files.folder, files.mask_name(place, len(found)))
    ]
