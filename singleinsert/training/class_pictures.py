"""The pictures of the class for the prior term: the user's own, or drawn once by the base model and kept.

What is drawn lies in ``output/class-pictures/KEY/``, where KEY is made of everything that the pictures depend on, so
that every run of the same class on the same model finds them; a run that is stopped while drawing goes on there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from singleinsert.adapters.base import NO_ADAPTERS
from singleinsert.atomic import write_text
from singleinsert.config import Settings
from singleinsert.data.folders import list_folder
from singleinsert.data.pictures import crop_to_square, image_to_tensor, load_picture
from singleinsert.data.prompts import fill
from singleinsert.data.subject import Frame
from singleinsert.errors import InputError
from singleinsert.models.condition import Condition
from singleinsert.models.family import Family
from singleinsert.models.fingerprint import model_digest
from singleinsert.models.latents import LatentDistribution
from singleinsert.training.checkpoint import digest
from singleinsert.training.prior import Prior
from singleinsert.training.samples import decode_pictures, draw_latents, save_png
from singleinsert.training.texts import PromptBook

FOLDER = Path("output") / "class-pictures"
CHUNK = 4
"""Pictures drawn at a time. A chunk is always drawn whole: in another company a picture differs by a rounding."""


def make_prior(
    settings: Settings, model: Family, book: PromptBook, accelerator: Any, say: Callable[[str], None]
) -> Prior | None:
    """The encoded class pictures; None where no stage has a prior term.

    Raises:
        InputError: a folder without a picture that can be read.
    """
    if not any(stage.prior_weight for stage in settings.stages.values()):
        return None
    section, size = settings.prior, settings.data.resolution
    prompt = fill(section.prompt, "", settings.data.class_word[0])
    if section.folder:
        paths = [*list_folder(Path(section.folder)).pictures[: section.pictures]]
        if not paths:
            raise InputError(f"folder {section.folder} holds no picture that can be read (prior.folder)")
    else:
        paths = _drawn(settings, prompt, model, book, accelerator, say)
    squares = [crop_to_square(load_picture(path), None, "center").image for path in paths]
    pixels = [image_to_tensor(square, size) for square in squares]
    model.autoencoder.to(model.text_device)
    encoded = [model.encode_picture(each) for each in pixels]
    model.autoencoder.to("cpu")
    latents = LatentDistribution(torch.cat([e.mean for e in encoded]), torch.cat([e.std for e in encoded])).to(
        torch.device("cpu")
    )
    say(f"prior: {len(paths)} pictures of {prompt!r} from {paths[0].parent}")
    return Prior(latents, prompt, settings.run.seed, accelerator.device, digest(*pixels))


def folder_of(settings: Settings, prompt: str, model: Family) -> Path:
    """Where the drawn pictures lie: a name for the eye, and a key of all that they depend on."""
    section, size = settings.prior, settings.data.resolution
    facts = [
        prompt, section.num_inference_steps, section.guidance_scale, size, str(model.dtype), model_digest(model)
    ]  # fmt: skip
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
    word = "".join(letter if letter.isalnum() else "-" for letter in settings.data.class_word[0])
    return FOLDER / f"{word}-{key}"


def _drawn(
    settings: Settings, prompt: str, model: Family, book: PromptBook, accelerator: Any, say: Callable[[str], None]
) -> list[Path]:
    """Paths of the pictures, whose names are their seeds; the main process draws those that are not there yet."""
    section, folder = settings.prior, folder_of(settings, prompt, model)
    paths = [folder / f"{n:05d}.png" for n in range(-(-section.pictures // CHUNK) * CHUNK)]
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    missing = [chunk for chunk in chunks if not all(path.is_file() for path in chunk)]
    if missing and accelerator.is_main_process:
        say(f"drawing {CHUNK * len(missing)} pictures of {prompt!r} into {folder}, once")
        write_text(folder / "prompt.txt", f"{prompt}\n")
        frame = Frame.whole((settings.data.resolution,) * 2)
        condition, empty = (
            book.frozen(text, frame, NO_ADAPTERS).to(model.device, model.dtype) for text in (prompt, "")
        )
        for chunk in missing:
            _draw(settings, model, condition, empty, chunk)
    accelerator.wait_for_everyone()
    return paths[: section.pictures]


@torch.no_grad()
def _draw(settings: Settings, model: Family, condition: Condition, empty: Condition, paths: list[Path]) -> None:
    section, size = settings.prior, settings.data.resolution
    latents = draw_latents(
        model, [condition] * len(paths), empty, [int(path.stem) for path in paths], steps=section.num_inference_steps,
        guidance_scale=section.guidance_scale, size=size,
    )  # fmt: skip
    for picture, path in zip(decode_pictures(model, [latents], settings.run.moves_denoiser), paths, strict=True):
        if not path.is_file():
            save_png(picture, path)
