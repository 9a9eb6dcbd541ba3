"""The sheet of a run: the source, what the mask covers, and what each stage draws for a few prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from singleinsert.drawing.heat import heat_strip
from singleinsert.drawing.masked import mask_overlay
from singleinsert.drawing.tiles import INK, PAPER, SOFT, square_tile, wrap, write_lines
from singleinsert.drawing.typeface import typeface

TILE, GAP, MARGIN, CAPTION_LINES = 224, 14, 36, 4
HEAT_CAPTION = "where each concept's embedding acts on the source: its share of the cross-attention"
LARGEST_SOURCE = 2048
"""Side of the source that is drawn on, in pixels."""


@dataclass(frozen=True)
class SheetRow:
    """One stage: its caption, and one picture per prompt (None leaves the place empty)."""

    caption: str
    pictures: Sequence[Image.Image | None]


def make_sheet(
    title: str,
    subtitle: str,
    source: Image.Image,
    mask: Image.Image,
    mask_caption: str,
    prompts: Sequence[str],
    rows: Sequence[SheetRow],
    heats: Mapping[str, ArrayLike] | None = None,
    foot: str = "",
) -> Image.Image:
    """Compose the sheet: source and mask on the left, prompts as columns and stages as rows beside them.

    Args:
        subtitle: what a user wants to know, under the title. foot: how it was made, small, at the end.
        heats: {title: (h, w) of shares in [0, 1]}; where each concept acts on the source, as a last row.
    """
    source, mask = _at_most(source, LARGEST_SOURCE), _at_most(mask, LARGEST_SOURCE)
    heats = heats or {}
    face = typeface(title, subtitle, foot, *prompts, *(row.caption for row in rows), *heats)
    strip = heat_strip(source, heats, TILE, face) if heats else None
    captions = [wrap(prompt, TILE, face(15), CAPTION_LINES) for prompt in prompts]
    columns, caption_height = max(1, len(prompts)), 8 + 19 * max(2, *map(len, captions), 0)
    row_height = 30 + TILE + GAP
    left = MARGIN + TILE + 2 * GAP + 22
    width = left + max(columns * (TILE + GAP) - GAP, strip.width if strip else 0) + MARGIN
    top = MARGIN + 76
    heat_top = top + caption_height + max(2, len(rows)) * row_height
    end = heat_top + (30 + strip.height + GAP if strip else 0) - GAP
    height = end + (30 if foot else 0) + MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN), title, fill=INK, font=face(30))
    pen.text((MARGIN, MARGIN + 40), subtitle, fill=SOFT, font=face(15))
    subject = (("source", source), (mask_caption, mask_overlay(source, mask)))
    for i, (caption, shown) in enumerate(subject):
        y = top + caption_height + i * row_height
        pen.text((MARGIN, y + 4), caption, fill=SOFT, font=face(15))
        sheet.paste(square_tile(shown, TILE), (MARGIN, y + 30))
    pen.line([(left - GAP - 12, top), (left - GAP - 12, end)], fill="#e3e3e8", width=1)
    for column, lines in enumerate(captions):
        write_lines(pen, (left + column * (TILE + GAP), top + 4), lines, face(15), 19)
    for i, row in enumerate(rows):
        y = top + caption_height + i * row_height
        pen.text((left, y + 4), row.caption, fill=SOFT, font=face(15))
        for column, picture in enumerate(row.pictures):
            if picture is not None:
                sheet.paste(square_tile(picture, TILE), (left + column * (TILE + GAP), y + 30))
    if strip:
        pen.text((left, heat_top + 4), HEAT_CAPTION, fill=SOFT, font=face(15))
        sheet.paste(strip, (left, heat_top + 30))
    if foot:
        pen.text((MARGIN, end + 16), foot, fill=SOFT, font=face(12))
    return sheet


def _at_most(image: Image.Image, side: int) -> Image.Image:
    """Reduced where it is larger: a tile shows no more, and drawing on 100 million pixels would take gigabytes."""
    if max(image.size) <= side:
        return image
    scale = side / max(image.size)
    return image.resize([max(1, round(length * scale)) for length in image.size], Image.Resampling.BOX)
