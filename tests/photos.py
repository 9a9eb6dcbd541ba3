"""The photographs that scikit-image carries, as files; and the astronaut's face as drawn by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image, ImageDraw

HAND_DRAWN = Path(__file__).parent / "data" / "astronaut_face.json"


def write_photo(name: str, folder: Path, suffix: str = ".png") -> Path:
    """`name` is astronaut (a face), chelsea (a cat) or coffee (a cup)."""
    path = folder / f"{name}{suffix}"
    Image.fromarray(getattr(skimage.data, name)()).save(path)
    return path


def astronaut_face() -> np.ndarray:
    """Boolean (512, 512)."""
    drawn = json.loads(HAND_DRAWN.read_text(encoding="utf-8"))
    width, height = drawn["size"]
    large = Image.new("L", (4 * width, 4 * height))
    ImageDraw.Draw(large).polygon([(4 * x, 4 * y) for x, y in drawn["polygon"]], fill=255)
    return np.asarray(large.resize((width, height), Image.Resampling.BOX)) >= 128


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


def solid(mask: Image.Image) -> np.ndarray:
    return np.asarray(mask) >= 128
