"""Where pictures go, under numbers that are free, and what their files say."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from singleinsert import __version__
from singleinsert.artifact import Artifact
from singleinsert.atomic import write_atomically
from singleinsert.config.load import values_in
from singleinsert.data.pictures import load_picture
from singleinsert.drawing.grid import LARGEST_TILE, SMALLEST_TILE, make_grid
from singleinsert.drawing.heat import heat_strip
from singleinsert.drawing.masked import mask_overlay
from singleinsert.drawing.tiles import scaled
from singleinsert.drawing.typeface import typeface
from singleinsert.errors import InputError, SingleInsertError
from singleinsert.inference.pipeline import ConceptPipeline, Picture
from singleinsert.inference.pngtext import parameters_text, save_picture
from singleinsert.inference.prompts import for_people, for_webui, lora_tags, resolve
from singleinsert.inference.schedulers import scheduler_choice
from singleinsert.reading import parse_toml

PICTURE_NAME, GRID_NAME, EDIT_NAME = r"(\d+)-\d+\.png", r"grid-(\d+)\.png", r"edit-(\d+)\.png"


class PictureFolder:
    """Writes ``00001-SEED.png``, ``00002-SEED.png``, ..., ``grid-00001.png``; what is there stays there."""

    def __init__(self, folder: Path) -> None:
        """Make the folder. InputError where it cannot be."""
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"output folder {folder} cannot be made: {error.strerror}") from error

    def save(
        self,
        image: Image.Image,
        picture: Picture,
        pipeline: ConceptPipeline,
        scheduler: str,
        edit: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write one picture with its texts under the next free number; its path. ``edit``: what an edit hangs on."""
        path = self.folder / f"{self._next(PICTURE_NAME):05d}-{picture.seed}.png"
        own = details(picture, pipeline, scheduler) | ({"edit": dict(edit)} if edit else {})
        save_picture(image, path, webui_text(image, picture, pipeline, scheduler, edit), own)
        return path

    def save_attention(self, path: Path, image: Image.Image, maps: Mapping[str, Tensor]) -> Path:
        """Write the picture under each of its attention maps, beside ``path``, as ``00001-SEED-attention.png``."""
        tile = min(max(*image.size, SMALLEST_TILE), LARGEST_TILE)
        strip = heat_strip(image, maps, tile, typeface(*maps), own_title="share of the attention")
        target = path.with_name(f"{path.stem}-attention.png")
        write_atomically(target, lambda file: strip.save(file, "PNG"))
        return target

    def save_grid(
        self, rows: Sequence[Sequence[Image.Image]], pictures: Sequence[Sequence[Picture]], pipeline: ConceptPipeline
    ) -> Path:
        """Write all pictures as one sheet under their prompts as one types them, after what was learnt from."""
        sources = sources_of(pipeline.concepts)
        captions = [grid_caption(row, pipeline) for row in pictures]
        if sources:
            rows, captions = [list(sources.values()), *rows], [f"learnt from: {', '.join(sources)}", *captions]
        grid = make_grid(rows, captions)
        path = self.folder / f"grid-{self._next(GRID_NAME):05d}.png"
        write_atomically(path, lambda target: grid.save(target, "PNG"))
        return path

    def save_edit(self, before: Image.Image, mask: Image.Image, after: Mapping[str, Image.Image]) -> Path:
        """Write a sheet of before, mask, and each edited picture under its caption, as ``edit-00001.png``."""
        shown = [before, mask_overlay(before, mask), *after.values()]
        sheet = make_grid([shown], [""], ["before", "mask", *after])
        path = self.folder / f"edit-{self._next(EDIT_NAME):05d}.png"
        write_atomically(path, lambda target: sheet.save(target, "PNG"))
        return path

    def _next(self, pattern: str) -> int:
        found = (re.fullmatch(pattern, path.name) for path in self.folder.iterdir())
        return 1 + max((int(match[1]) for match in found if match), default=0)


def grid_caption(row: Sequence[Picture], pipeline: ConceptPipeline) -> str:
    """The prompt with the concepts' names in, the negative prompt, and the seeds."""
    names, first = pipeline.names, row[0]
    negative = [f"not: {for_people(first.negative_prompt, names)}"] if first.negative_prompt else []
    seeds = f"seed {first.seed}" if len(row) == 1 else f"seeds {first.seed} to {row[-1].seed}"
    return " \u00b7 ".join([for_people(first.prompt, names), *negative, seeds])


def sources_of(concepts: Sequence[Artifact]) -> dict[str, Image.Image]:
    """The photos that the concepts' records name, by concept, reduced; those that are no longer there are left out."""
    found: dict[str, Image.Image] = {}
    for concept in concepts:
        record = str(concept.metadata.get("settings", ""))
        try:
            paths = values_in(parse_toml(record, concept.name), concept.name).get("data.image", ())
            picture = load_picture(Path(paths[0])).image
        except (SingleInsertError, LookupError, TypeError):
            continue
        found[concept.name] = scaled(picture, min(max(picture.size), LARGEST_TILE))
    return found


def webui_text(
    image: Image.Image,
    picture: Picture,
    pipeline: ConceptPipeline,
    scheduler: str,
    edit: Mapping[str, Any] | None = None,
) -> str:
    """A1111's ``parameters``: pasted there, with the exported files in place, it asks for the same picture."""
    names, choice = pipeline.names, scheduler_choice(scheduler, pipeline.model.scheduler)
    fields = {
        "Steps": picture.steps,
        "Sampler": choice.sampler,
        "Schedule type": choice.schedule_type or None,
        "CFG scale": f"{picture.guidance_scale:g}",
        "Seed": picture.seed,
        "Size": f"{image.width}x{image.height}",
        "Model": pipeline.model.model_name,
        "Denoising strength": f"{edit['strength']:g}" if edit else None,
        "RNG": "CPU",
        "Version": f"singleinsert {__version__}",
    }
    prompt = " ".join([for_webui(resolve(picture.prompt, names), names), *lora_tags(names)])
    return parameters_text(prompt, for_webui(resolve(picture.negative_prompt, names), names), fields)


def details(picture: Picture, pipeline: ConceptPipeline, scheduler: str) -> dict[str, Any]:
    """Everything that the picture depends on, as it was asked for."""
    concepts = [
        {"name": name.name, "class_word": name.class_word, "weight": name.weight, "base": concept.base.name}
        for name, concept in zip(pipeline.names, pipeline.concepts, strict=True)
    ]
    model = {"base_model": pipeline.model.model_name, "scheduler": scheduler, "dtype": str(pipeline.model.dtype)}
    return {**vars(picture), **model, "concepts": concepts, "version": __version__}
