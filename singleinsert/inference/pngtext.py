"""What a picture's file says of how it was made: A1111's ``parameters`` text, and our own JSON beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from singleinsert.atomic import write_atomically

PARAMETERS, OWN = "parameters", "singleinsert"


def parameters_text(prompt: str, negative_prompt: str, fields: Mapping[str, Any]) -> str:
    """A1111's text: prompt, negative prompt, and ``Steps: 20, Sampler: ...`` in the last line.

    A value with a comma, a colon or a line break is quoted as JSON, as A1111 does it. None leaves a field out.
    """
    last = ", ".join(f"{key}: {_quoted(value)}" for key, value in fields.items() if value is not None)
    negative = f"\nNegative prompt: {negative_prompt}" if negative_prompt else ""
    return f"{prompt}{negative}\n{last}".strip()


def save_picture(picture: Image.Image, path: Path, parameters: str, details: Mapping[str, Any]) -> None:
    """Write a PNG with both texts, whole or not at all."""
    info = PngImagePlugin.PngInfo()
    info.add_text(PARAMETERS, parameters)
    info.add_text(OWN, json.dumps(details, ensure_ascii=False))
    write_atomically(path, lambda target: picture.save(target, "PNG", pnginfo=info))


def _quoted(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if set(text) & set(",\n:") else text
