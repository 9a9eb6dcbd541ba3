"""Where the models and tables lie that come with the package."""

from __future__ import annotations

from pathlib import Path

ASSETS = Path(__file__).resolve().parent.parent / "assets"
MINI_SD = ASSETS / "mini-sd"
