"""Where the models and tables lie that come with the package."""

from __future__ import annotations

from pathlib import Path

from singleinsert.terms import BUNDLED_MODELS

ASSETS = Path(__file__).resolve().parent.parent / "assets"
MINI_SD = ASSETS / "mini-sd"


def place_of_model(source: str) -> str | Path:
    """Where to load ``model.pretrained_model_name_or_path`` from: a bundled model's folder, or what was given."""
    return ASSETS / source if source in BUNDLED_MODELS else source
