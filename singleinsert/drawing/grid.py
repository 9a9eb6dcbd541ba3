"""Contact sheets with captions: prompts as rows, seeds as columns."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from singleinsert.drawing.tiles import PAPER, SOFT, scaled, wrap, write_lines
from singleinsert.drawing.typeface import typeface

GAP, MARGIN, LINE, NARROWEST = 8, 16, 20, 320
FONT_SIZE, CAPTION_LINES = 15, 3
SMALLEST_TILE, LARGEST_TILE = 160, 512  # pixels of a tile's longer side


def make_grid(
    pictures: Sequence[Sequence[Image.Image]], row_captions: Sequence[str], column_captions: Sequence[str] = ()
) -> Image.Image:
    """One picture of rows of pictures; each row's caption stands over it, the columns' over the first row.

    Args:
        pictures: rows, which may differ in length and in the pictures' sizes.
        row_captions: one for each row, wrapped to the row's width and cut after three lines.
        column_captions: at most as many as the longest row has pictures; empty for none.
    """
    font = typeface(*row_captions, *column_captions)(FONT_SIZE)
    tiles = [[_tile(picture) for picture in row] for row in pictures]
    tile_width = max(tile.width for row in tiles for tile in row)
    tile_height = max(tile.height for row in tiles for tile in row)
    columns = max(len(row) for row in tiles)
    width = max(columns * (tile_width + GAP) - GAP, NARROWEST)
    captions = [wrap(caption, width, font, CAPTION_LINES) for caption in row_captions]
    top = MARGIN + (LINE if column_captions else 0)
    height = top + sum(LINE * len(lines) + tile_height + 2 * GAP for lines in captions) - GAP + MARGIN
    grid = Image.new("RGB", (width + 2 * MARGIN, height), PAPER)
    pen = ImageDraw.Draw(grid)
    for column, caption in enumerate(column_captions[:columns]):
        (line,) = wrap(caption, tile_width, font, 1)
        pen.text((MARGIN + column * (tile_width + GAP), MARGIN), line, fill=SOFT, font=font)
    y = top
    for row, lines in zip(tiles, captions, strict=True):
        write_lines(pen, (MARGIN, y), lines, font, LINE)
        y += LINE * len(lines)
        for column, tile in enumerate(row):
            grid.paste(tile, (MARGIN + column * (tile_width + GAP), y))
        y += tile_height + 2 * GAP
    return grid


def _tile(picture: Image.Image) -> Image.Image:
    """``picture`` at a size that can be looked at: small ones enlarged, large ones reduced, in proportion."""
    return scaled(picture, min(max(*picture.size, SMALLEST_TILE), LARGEST_TILE))
