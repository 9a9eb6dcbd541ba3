"""Letters on sheets and grids."""

from __future__ import annotations

from collections.abc import Callable

from PIL import ImageFont

SYSTEMS = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "arial.ttf", "Arial Unicode.ttf",
    "NotoSansCJK-Regular.ttc", "msyh.ttc", "PingFang.ttc", "AppleSDGothicNeo.ttc",
)  # fmt: skip
"""Fonts that Linux, Windows and macOS come with; PIL knows where they are kept."""

NO_LETTER = "\uffff"

Typeface = Callable[[float], ImageFont.FreeTypeFont]


def typeface(*texts: str) -> Typeface:
    """Size in pixels -> font: PIL's own, which has ASCII alone, or the system's first one that has all of ``texts``.

    Where none has them, PIL's own shows boxes.
    """
    letters = {letter for text in texts for letter in text if not letter.isspace()}
    if not _has(_own(12), letters):
        for name in SYSTEMS:
            try:
                font = ImageFont.truetype(name, 12)
            except OSError:
                continue
            if _has(font, letters):
                return lambda size, font=font: font.font_variant(size=size)  # type: ignore[misc]
    return _own


def _own(size: float) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def _has(font: ImageFont.FreeTypeFont, letters: set[str]) -> bool:
    box = bytes(font.getmask(NO_LETTER))
    return all(bytes(font.getmask(letter)) != box for letter in letters)
