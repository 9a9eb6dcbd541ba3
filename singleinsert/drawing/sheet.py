"""The sheet of a run: the source, what the mask covers, and what each stage draws for a few prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from singleinsert.data.pictures import solid
from singleinsert.drawing.typeface import typeface

TILE, GAP, MARGIN = 224, 14, 36
PAPER, INK, SOFT, EDGE = "#ffffff", "#1d1d1f", "#74747a", (255, 72, 66)


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
) -> Image.Image:
    """Compose the sheet: source and mask on the left, prompts as columns and stages as rows beside them."""
    face = typeface(title, subtitle, *prompts, *(row.caption for row in rows))
    columns, caption_height = max(1, len(prompts)), 46
    row_height = 30 + TILE + GAP
    left = MARGIN + TILE + 2 * GAP + 22
    width = left + columns * (TILE + GAP) - GAP + MARGIN
    top = MARGIN + 76
    height = top + caption_height + max(2, len(rows)) * row_height - GAP + MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN), title, fill=INK, font=face(30))
    pen.text((MARGIN, MARGIN + 40), subtitle, fill=SOFT, font=face(15))
    subject = (("source", source), (mask_caption, mask_overlay(source, mask)))
    for i, (caption, shown) in enumerate(subject):
        y = top + caption_height + i * row_height
        pen.text((MARGIN, y + 4), caption, fill=SOFT, font=face(15))
        sheet.paste(_tile(shown), (MARGIN, y + 30))
    pen.line([(left - GAP - 12, top), (left - GAP - 12, height - MARGIN)], fill="#e3e3e8", width=1)
    for column, prompt in enumerate(prompts):
        x = left + column * (TILE + GAP)
        for line, text in enumerate(wrap(prompt, TILE, face(15), 2)):
            pen.text((x, top + 4 + 19 * line), text, fill=INK, font=face(15))
    for i, row in enumerate(rows):
        y = top + caption_height + i * row_height
        pen.text((left, y + 4), row.caption, fill=SOFT, font=face(15))
        for column, picture in enumerate(row.pictures):
            if picture is not None:
                sheet.paste(_tile(picture), (left + column * (TILE + GAP), y + 30))
    return sheet


def mask_overlay(source: Image.Image, mask: Image.Image) -> Image.Image:
    """``source`` with what the mask leaves out greyed and paled, and the mask's edge drawn."""
    mask = mask.convert("L").resize(source.size)
    pale = Image.blend(source.convert("L").convert("RGB"), Image.new("RGB", source.size, "white"), 0.6)
    shown = Image.composite(source.convert("RGB"), pale, mask)
    hard = solid(mask)
    # a box blur's time does not grow with its radius: where it is above 0, something white is near
    near = hard.filter(ImageFilter.BoxBlur(max(1, max(source.size) // 160))).point(lambda value: 255 if value else 0)
    edge = ImageChops.difference(near, hard)
    return Image.composite(Image.new("RGB", source.size, EDGE), shown, edge)


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


def _tile(picture: Image.Image) -> Image.Image:
    """``picture`` on a square tile, whole, its sides kept in proportion."""
    scale = TILE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    tile = Image.new("RGB", (TILE, TILE), PAPER)
    resized = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    tile.paste(resized, ((TILE - size[0]) // 2, (TILE - size[1]) // 2))
    return tile
