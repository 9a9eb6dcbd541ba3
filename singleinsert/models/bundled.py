"""Where the models and tables lie that come with the package."""

from __future__ import annotations

from pathlib import Path

from singleinsert.errors import ModelError
from singleinsert.terms import BUNDLED_MODELS

ASSETS = Path(__file__).resolve().parent.parent / "assets"
MINI_SD = ASSETS / "mini-sd"


def place_of_model(source: str) -> str | Path:
    """Where to load ``model.pretrained_model_name_or_path`` from: a bundled model's folder, or what was given.

    Raises:
        ModelError: a miniature that is trained in a checkout, and was not yet.
    """
    if source not in BUNDLED_MODELS:
        return source
    if not (ASSETS / source).is_dir():
        raise ModelError(f"{source} is not here yet: python -m testbed.{source[5:]}_train makes it, in a checkout")
    return ASSETS / source
