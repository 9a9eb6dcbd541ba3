"""Small training runs on the tiny model, for the tests of the trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from singleinsert.config import Settings, load_settings
from singleinsert.training.watch import SilentWatch

SMALL: dict[str, Any] = {
    "data.class_word": "face",
    "data.resolution": 32,
    "concept.image_size": 32,
    "concept.patch_size": 8,
    "concept.hidden_size": 32,
    "concept.num_hidden_layers": 2,
    "concept.num_attention_heads": 4,
    "stage1.steps": 3,
    "stage1.batch_size": 4,
    "stage2.steps": 3,
    "stage2.batch_size": 4,
    "sample.num_inference_steps": 2,
    "sample.prompts": [],
}


class Said(SilentWatch):
    """A watch that hands on the lines a run has for its user, and its steps."""

    def __init__(self, say: Callable[[str], object] = str, on_step: Callable[[str, int], object] | None = None) -> None:
        self._say, self._on_step = say, on_step

    def line(self, text: str) -> None:
        self._say(text)

    def step(self, stage: str, step: int, steps: int, losses: Mapping[str, float]) -> None:
        if self._on_step:
            self._on_step(stage, step)


QUIET = SilentWatch()


def draw_subject(folder: Path, name: str = "pic") -> tuple[Path, Path]:
    """A picture 80x64 by formula, and the mask of the ellipse in it."""
    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:64, :80]
    pixels = np.stack([x * 3, y * 4, (x * y) % 256], axis=-1).astype(np.uint8)
    picture, mask = Image.fromarray(pixels), Image.new("L", (80, 64), 0)
    for image, colour in ((picture, (230, 180, 140)), (mask, 255)):
        ImageDraw.Draw(image).ellipse([20, 10, 60, 50], fill=colour)
    paths = folder / f"{name}.png", folder / f"{name}_mask.png"
    picture.save(paths[0])
    mask.save(paths[1])
    return paths


def small_values(folder: Path, model: Path, **changes: Any) -> dict[str, Any]:
    """ "section.key" -> value of a run of seconds; ``changes`` have ``__`` for the dot."""
    image, mask = draw_subject(folder / "input")
    given = {
        "model.pretrained_model_name_or_path": str(model),
        "data.image": str(image),
        "data.mask": str(mask),
        "run.output_dir": str(folder / "out"),
    }
    return SMALL | given | {key.replace("__", "."): value for key, value in changes.items()}


def small_settings(folder: Path, model: Path, **changes: Any) -> Settings:
    return load_settings(None, None, small_values(folder, model, **changes))


def values_that_show(folder: Path, base: Path, **more: Any) -> dict[str, Any]:
    """As :func:`small_values`, of a run called zork: two steps a stage at rates that show, two vectors, a LoRA."""
    return small_values(
        folder, base, stage1__steps=2, stage2__steps=2, stage1__learning_rate=3e-2, stage2__learning_rate=3e-2,
        concept__num_vectors=2, adapter__network_dim=2, sample__prompts=["{concept}"], save__save_precision="fp32",
        run__output_name="zork", **more,
    )  # fmt: skip
