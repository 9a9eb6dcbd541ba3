"""How a mask is shown, everywhere: what it leaves out greyed and paled, its edge drawn, the training square around."""

from __future__ import annotations

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from singleinsert.data.pictures import solid

Square = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels."""
EDGE = (255, 72, 66)
PALE = 0.6
"""How far towards white what the mask leaves out is drawn."""
SQUARE = (40, 110, 255)


def mask_overlay(source: Image.Image, mask: Image.Image, square: Square | None = None) -> Image.Image:
    """``source`` with what the mask leaves out greyed and paled, and the mask's edge drawn.

    Args:
        mask: of any size. square: the training square in the mask's pixels; it may reach beyond the picture.
    """
    scale = source.width / mask.width
    mask = mask.convert("L").resize(source.size)
    pale = Image.blend(source.convert("L").convert("RGB"), Image.new("RGB", source.size, "white"), PALE)
    shown = Image.composite(source.convert("RGB"), pale, mask)
    hard, line = solid(mask), max(1, max(source.size) // 160)
    # a box blur's time does not grow with its radius: where it is above 0, something white is near
    near = hard.filter(ImageFilter.BoxBlur(line)).point(lambda value: 255 if value else 0)
    shown.paste(EDGE, mask=ImageChops.difference(near, hard))
    if square is not None:
        left, top, right, bottom = (round(edge * scale) for edge in square)
        inside = (max(left, 0), max(top, 0), min(right, source.width) - 1, min(bottom, source.height) - 1)
        ImageDraw.Draw(shown).rectangle(inside, outline=SQUARE, width=max(1, line // 2))
    return shown
