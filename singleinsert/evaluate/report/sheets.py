"""The report's pictures as PNG: the table, samples by method and prompt, attention by method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from singleinsert.data.opening import open_picture
from singleinsert.drawing.tiles import INK, PAPER, SOFT, wrap, write_lines
from singleinsert.drawing.typeface import typeface
from singleinsert.evaluate.columns import COLUMNS
from singleinsert.evaluate.report.figure import Figure, widest
from singleinsert.evaluate.report.page import Load
from singleinsert.evaluate.report.scenes import prompts_shown
from singleinsert.evaluate.results import Results
from singleinsert.evaluate.table import Summary, best, full_label

TILE, GAP, MARGIN, LABEL, CAPTION = 160, 8, 20, 190, 56
SPREAD = 24
"""Between two groups of columns."""


def table_sheet(results: Results, summary: Summary) -> Image.Image:
    """The table with means, intervals below them, and the best of each column dark."""
    left, wide, high = max(280, MARGIN + widest(map(full_label, results.methods), 15)), 112, 46
    figure = Figure(left + wide * len(results.columns) + MARGIN, 60 + high * len(results.methods))
    winners = {column: best(summary, column) for column in results.columns}
    for k, column in enumerate(results.columns):
        middle = left + wide * (k + 0.5)
        figure.text((middle - 6, 26), column, size=15, color=INK, anchor="middle")
        _arrow(figure, middle + ImageFont.load_default(15).getlength(column) / 2 + 4, 26, COLUMNS[column].better)
    for i, method in enumerate(results.methods):
        y = 60 + high * i
        figure.line((MARGIN, y - 12), (figure.width - MARGIN, y - 12), color="#e0e0e4")
        figure.text((MARGIN, y + 10), full_label(method), size=15, color=INK)
        for k, column in enumerate(results.columns):
            cell = summary[method["name"]].get(column)
            if cell is not None:
                middle, color = left + wide * (k + 0.5), "#0b5fd0" if winners[column] == method["name"] else INK
                figure.text((middle, y + 3), f"{cell.mean:.3f}", size=16, color=color, anchor="middle")
                if cell.ends:
                    figure.text((middle, y + 21), cell.ends, size=11, color=SOFT, anchor="middle")
    return figure.png(2)


def _arrow(figure: Figure, x: float, y: float, better: int) -> None:
    """Up where more is better; PIL's own font has no arrows."""
    tip = y - 6 * better
    figure.line((x, y + 6 * better), (x, tip), color=INK, width=1.5)
    figure.line((x - 4, tip + 4 * better), (x, tip), (x + 4, tip + 4 * better), color=INK, width=1.5)


def sample_sheet(results: Results, concept: Mapping[str, Any], folder: Path, load: Load) -> Image.Image:
    """The first picture of every prompt (columns) by every method (rows)."""
    first: dict[tuple[str, int], str] = {}
    for sample in results.samples:
        if sample.concept == concept["name"]:
            first.setdefault((sample.method, sample.prompt), sample.picture)
    numbers = prompts_shown(concept)
    rows = [
        (full_label(m), [load(first[m["name"], n]) if (m["name"], n) in first else None for n in numbers])
        for m in results.methods
    ]
    captions = [concept["prompts"][number]["text"] for number in numbers]
    return matrix(rows, captions, _open(folder / concept["picture"]), concept["name"])


def heat_sheet(results: Results, concept: Mapping[str, Any], folder: Path) -> Image.Image | None:
    """Picture, attention of the concept and of its class word, for the first prompts; None where none was read."""
    found = [heat for heat in results.heats if heat["concept"] == concept["name"]]
    if not found:
        return None
    numbers = sorted({heat["prompt"] for heat in found})
    words = list(dict.fromkeys(word for heat in found for word in heat["maps"]))
    rows = []
    for method in results.methods:
        by_prompt = {heat["prompt"]: heat for heat in found if heat["method"] == method["name"]}
        files = [
            file
            for n in numbers
            for heat in [by_prompt.get(n)]
            for file in (
                [heat["picture"], *(heat["maps"].get(w) for w in words)] if heat else [None] * (1 + len(words))
            )
        ]
        rows.append((full_label(method), [_open(folder / file) if file else None for file in files]))
    captions = [text for n in numbers for text in (concept["prompts"][n]["text"], *words)]
    return matrix(rows, captions, _open(folder / concept["picture"]), concept["name"], every=1 + len(words))


def matrix(
    rows: Sequence[tuple[str, Sequence[Image.Image | None]]], captions: Sequence[str], source: Image.Image, title: str,
    every: int = 0,
) -> Image.Image:  # fmt: skip
    """Rows of pictures with a label on the left, captions on top and the source in the corner.

    Args:
        every: so many columns belong together; 0: all.
    """
    columns = len(captions)
    every = every or columns
    lefts = [MARGIN + LABEL + k * (TILE + GAP) + k // every * SPREAD for k in range(columns)]
    top = MARGIN + max(CAPTION, TILE) + GAP
    sheet = Image.new("RGB", (lefts[-1] + TILE + MARGIN, top + len(rows) * (TILE + GAP) + MARGIN - GAP), PAPER)
    pen, font = ImageDraw.Draw(sheet), typeface(title, *captions, *(label for label, _ in rows))(14)
    sheet.paste(_tile(source), (MARGIN, MARGIN))
    pen.text((MARGIN + TILE + GAP, MARGIN), title, fill=SOFT, font=font)
    for left, caption in zip(lefts, captions, strict=True):
        lines = wrap(caption, TILE, font, 5)
        write_lines(pen, (left, top - GAP - 18 * len(lines)), lines, font, 18)
    for i, (label, pictures) in enumerate(rows):
        y = top + i * (TILE + GAP)
        write_lines(pen, (MARGIN, y + 4), wrap(label, LABEL - 2 * GAP, font, 4), font, 18)
        for left, picture in zip(lefts, pictures, strict=True):
            if picture is not None:
                sheet.paste(_tile(picture), (left, y))
    return sheet


def _tile(picture: Image.Image) -> Image.Image:
    return picture.convert("RGB").resize((TILE, TILE), Image.Resampling.LANCZOS)


def _open(path: Path) -> Image.Image:
    return open_picture(path).convert("RGB")
