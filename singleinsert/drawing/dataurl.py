"""A picture inside an address, for pages and services that fetch nothing."""

from __future__ import annotations

import base64
import io
from typing import Literal

from PIL import Image

Kind = Literal["PNG", "JPEG", "WEBP"]


def data_url(picture: Image.Image, kind: Kind = "PNG", *, largest_side: int = 0, **options: int | bool) -> str:
    """``data:image/png;base64,...`` of a picture in RGB.

    Args:
        largest_side: larger pictures are reduced to it, in proportion; 0: as it is.
        options: of Pillow's writer, such as ``quality``.
    """
    picture = picture.convert("RGB")
    if largest_side:
        picture.thumbnail((largest_side, largest_side))
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
