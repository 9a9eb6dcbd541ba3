"""What grids, sheets and reports are made of: pictures brought to a size, and captions brought to a width."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

PAPER, INK, SOFT = "#ffffff", "#1d1d1f", "#74747a"


def scaled(picture: Image.Image, longer_side: int) -> Image.Image:
    """``picture`` in RGB, its longer side of so many pixels, in proportion."""
    scale = longer_side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def square_tile(picture: Image.Image, side: int) -> Image.Image:
    """``picture`` on a square tile of paper, whole, its sides kept in proportion."""
    small = scaled(picture, side)
    tile = Image.new("RGB", (side, side), PAPER)
    tile.paste(small, ((side - small.width) // 2, (side - small.height) // 2))
    return tile


def wrap(text: str, width: int, font: ImageFont.FreeTypeFont, lines: int) -> list[str]:
    """``text`` in at most ``lines`` lines of ``width`` pixels, an ellipsis where it does not fit."""
    out: list[str] = [""]
    for word in text.split():
        longer = f"{out[-1]} {word}".strip()
        if font.getlength(longer) <= width or not out[-1]:
            out[-1] = longer
        else:
            out.append(word)
    if len(out) > lines:
        out = [*out[: lines - 1], out[lines - 1] + " \u2026"]
    for i, line in enumerate(out):
        while font.getlength(line) > width and len(line) > 2:
            line = line.rstrip(" \u2026")[:-1] + "\u2026"
        out[i] = line
    return out


def write_lines(
    pen: ImageDraw.ImageDraw,
    at: tuple[float, float],
    lines: Sequence[str],
    font: ImageFont.FreeTypeFont,
    height: float,
    ink: str = INK,
) -> None:
    """Lines of text below each other from ``at``, ``height`` pixels from one to the next."""
    for number, line in enumerate(lines):
        pen.text((at[0], at[1] + number * height), line, fill=ink, font=font)
