"""Where pictures go, under numbers that are free, and what their files say."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from singleinsert import __version__
from singleinsert.atomic import write_atomically
from singleinsert.drawing.grid import LARGEST_TILE, SMALLEST_TILE, make_grid
from singleinsert.drawing.heat import heat_strip
from singleinsert.drawing.sheet import mask_overlay
from singleinsert.drawing.typeface import typeface
from singleinsert.errors import InputError
from singleinsert.inference.pipeline import ConceptPipeline, Picture
from singleinsert.inference.pngtext import parameters_text, save_picture
from singleinsert.inference.prompts import for_webui, lora_tags, resolve
from singleinsert.inference.schedulers import scheduler_choice

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

    def save_grid(self, rows: Sequence[Sequence[Image.Image]], pictures: Sequence[Sequence[Picture]]) -> Path:
        """Write all pictures as one sheet; columns are captioned where every row has the same seeds."""
        seeds = [[picture.seed for picture in row] for row in pictures]
        columns = [f"seed {seed}" for seed in seeds[0]] if all(row == seeds[0] for row in seeds) else []
        grid = make_grid(rows, [row[0].prompt for row in pictures], columns)
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
