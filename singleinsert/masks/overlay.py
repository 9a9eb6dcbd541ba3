"""Pictures of what was found: the mask over the picture, boxes with scores, the covered share; contact sheets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw

from singleinsert.drawing.masked import Square, mask_overlay
from singleinsert.drawing.typeface import typeface
from singleinsert.masks.candidates import Candidate

LEAST_SIDE = 384
"""Smaller pictures are enlarged, or nothing could be written on them."""

MOST_SIDE = 2048
"""Larger ones are reduced, or looking at a photo of 100 million pixels would take gigabytes."""

TAKEN, OTHER = (60, 255, 60), (255, 220, 60)


def overlay(
    image: Image.Image,
    mask: Image.Image,
    candidates: Sequence[Candidate] = (),
    chosen: Sequence[int] = (),
    caption: str = "",
    square: Square | None = None,
) -> Image.Image:
    """The picture with all but the subject paled, the mask's edge drawn, and every candidate's box and score.

    Args:
        image: RGB, as it is or reduced. mask: mode "L", the picture's size.
        candidates: their boxes are drawn with index and score; those of `chosen` in green.
        caption: a line below the picture. square: the training square, in pixels of the mask.

    Returns:
        RGB, the picture's size (enlarged to 384 pixels at least, reduced to 2048 at most) and, with a caption, a bar
        below it.
    """
    size = shown_size(mask.size)
    scale = max(size) / max(mask.size)
    filter = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
    line = max(1, max(size) // 400)
    out = mask_overlay(image.resize(size, filter), mask, square)
    draw, font = ImageDraw.Draw(out), typeface(*(c.label for c in candidates))(max(12, max(size) // 45))
    for index, candidate in enumerate(candidates):
        colour = TAKEN if index in chosen else OTHER
        box = [v * scale for v in candidate.box]
        draw.rectangle((box[0], box[1], max(box[0], box[2] - 1), max(box[1], box[3] - 1)), outline=colour, width=line)
        _label(draw, (box[0], box[1]), f"{index}: {candidate.score_text}", colour, font, size)
    return captioned(out, caption) if caption else out


def shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """At which a picture of that (width, height) is drawn: a multiple of it, or MOST_SIDE at the longer side."""
    longest = max(size)
    scale = MOST_SIDE / longest if longest > MOST_SIDE else -(-LEAST_SIDE // longest)
    return (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))


def _label(
    draw: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    colour: tuple[int, int, int],
    font: Any,
    size: tuple[int, int],
) -> None:
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 6, bottom - top + 6
    x = min(max(at[0], 0), max(0, size[0] - width))
    y = at[1] - height if at[1] >= height else at[1]
    draw.rectangle((x, y, x + width, y + height), fill=(0, 0, 0))
    draw.text((x + 3 - left, y + 3 - top), text, fill=colour, font=font)


def captioned(image: Image.Image, text: str) -> Image.Image:
    """The picture with a line of text below it; the line shrinks until it fits."""
    draw = ImageDraw.Draw(image)
    size = max(12, max(image.size) // 40)
    face = typeface(text)
    while size > 8 and draw.textlength(text, font=face(size)) > image.width - 8:
        size -= 1
    font = face(size)
    out = Image.new("RGB", (image.width, image.height + size + 10), (0, 0, 0))
    out.paste(image, (0, 0))
    ImageDraw.Draw(out).text((4, image.height + 4), text, fill=(255, 255, 255), font=font)
    return out


def contact_sheet(images: Sequence[Image.Image], columns: int = 5, side: int = 256) -> Image.Image:
    """Pictures in rows, each shrunk to fit a square of `side` pixels; at least one picture."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (side + 6) + 6, rows * (side + 6) + 6), "white")
    for number, image in enumerate(images):
        small = image.copy()
        small.thumbnail((side, side))
        x, y = 6 + number % columns * (side + 6), 6 + number // columns * (side + 6)
        sheet.paste(small, (x + (side - small.width) // 2, y + (side - small.height) // 2))
    return sheet
