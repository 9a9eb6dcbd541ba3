"""Heat maps over a picture, in one perceptual colour scale: equal steps of a value are equal steps of lightness."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from singleinsert.drawing.tiles import PAPER, SOFT, square_tile, wrap, write_lines
from singleinsert.drawing.typeface import Typeface

HEAT = (
    (68, 1, 84), (71, 45, 123), (59, 82, 139), (44, 114, 142), (33, 145, 140), (40, 174, 128), (94, 201, 98),
    (173, 220, 48), (253, 231, 37),
)  # fmt: skip
"""From low to high, evenly spaced: matplotlib's viridis (van der Walt and Smith 2015, CC0)."""
TITLE_HEIGHT, BAR_WIDTH, NUMBER_WIDTH, TILE_GAP = 30, 14, 60, 14


def heat_colors(values: ArrayLike) -> Image.Image:
    """The colours of values (h, w) in [0, 1]."""
    found = np.asarray(values, dtype=np.float64)
    stops = np.linspace(0, 1, len(HEAT))
    colors = np.stack([np.interp(found, stops, [color[c] for color in HEAT]) for c in range(3)], axis=-1)
    return Image.fromarray(colors.round().astype(np.uint8))


def heat_picture(
    picture: Image.Image, heat: ArrayLike, strength: float = 0.6, span: tuple[float, float] | None = None
) -> Image.Image:
    """``picture`` in grey under a map (h, w) of any size.

    Args:
        strength: share of the map's colours. span: the values of the lowest and the highest colour; None: the map's own
            lowest and highest value.
    """
    grid = np.asarray(heat, dtype=np.float32)
    low, high = span or (float(grid.min()), float(grid.max()))
    scaled = Image.fromarray((grid - low) / ((high - low) or 1.0)).resize(picture.size, Image.Resampling.BICUBIC)
    return Image.blend(picture.convert("L").convert("RGB"), heat_colors(np.asarray(scaled).clip(0, 1)), strength)


def heat_strip(
    picture: Image.Image, maps: Mapping[str, ArrayLike], tile: int, face: Typeface, own_title: str | None = None
) -> Image.Image:
    """A tile for each map under its title, and the bar of the one scale that they share.

    Args:
        maps: {title: (h, w) of shares in [0, 1]}; the scale begins at 0 and ends at the highest value of them all.
        own_title: of a first tile with the picture as it is; None leaves it out.
    """
    highest = max(float(np.max(np.asarray(heat))) for heat in maps.values())
    tiles = {title: heat_picture(picture, heat, span=(0.0, highest)) for title, heat in maps.items()}
    shown = list(tiles.items()) if own_title is None else [(own_title, picture), *tiles.items()]
    bar_left = len(shown) * (tile + TILE_GAP)
    strip = Image.new("RGB", (bar_left + BAR_WIDTH + NUMBER_WIDTH, TITLE_HEIGHT + tile), PAPER)
    pen = ImageDraw.Draw(strip)
    for place, (title, heated) in enumerate(shown):
        x = place * (tile + TILE_GAP)
        write_lines(pen, (x, 4), wrap(title, tile, face(15), 1), face(15), 19, SOFT)
        strip.paste(square_tile(heated, tile), (x, TITLE_HEIGHT))
    bar = heat_colors(np.linspace(1, 0, tile)[:, None].repeat(BAR_WIDTH, axis=1))
    strip.paste(bar, (bar_left, TITLE_HEIGHT))
    for share, y in ((highest, 0), (highest / 2, tile // 2 - 8), (0.0, tile - 18)):
        pen.text((bar_left + BAR_WIDTH + 6, TITLE_HEIGHT + y), f"{100 * share:.3g} %", fill=SOFT, font=face(13))
    return strip
