"""A drawing of lines, dots and words that becomes SVG in a page and PNG in a file, from one description."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

from PIL import Image, ImageDraw

from singleinsert.drawing.typeface import typeface

Point = tuple[float, float]
ANCHORS = {"start": "lm", "middle": "mm", "end": "rm"}


@dataclass(frozen=True)
class Line:
    points: Sequence[Point]
    color: str
    width: float
    dashed: bool


@dataclass(frozen=True)
class Dot:
    at: Point
    radius: float
    color: str
    title: str


@dataclass(frozen=True)
class Text:
    at: Point
    text: str
    size: float
    color: str
    anchor: str


@dataclass
class Figure:
    """Width and height in pixels; y points down."""

    width: int
    height: int
    parts: list[Line | Dot | Text] = field(default_factory=list)

    def line(self, *points: Point, color: str = "#888888", width: float = 1, dashed: bool = False) -> None:
        self.parts.append(Line(points, color, width, dashed))

    def dot(self, at: Point, color: str, radius: float = 6, title: str = "") -> None:
        self.parts.append(Dot(at, radius, color, title))

    def text(self, at: Point, text: str, size: float = 13, color: str = "#333333", anchor: str = "start") -> None:
        """``anchor``: start, middle or end; the text's middle height is at y."""
        self.parts.append(Text(at, text, size, color, anchor))

    def svg(self) -> str:
        """For a page; dots show their title under the pointer."""
        drawn = "\n".join(_svg(part) for part in self.parts)
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" width="{self.width}" height="{self.height}" '
            f'role="img" font-family="system-ui, sans-serif">\n{drawn}\n</svg>'
        )

    def png(self, scale: int = 1) -> Image.Image:
        """The same on white, ``scale`` times as large."""
        image = Image.new("RGB", (self.width * scale, self.height * scale), "white")
        pen = ImageDraw.Draw(image)
        for part in self.parts:
            _draw(pen, part, scale)
        return image


def widest(texts: Iterable[str], size: float) -> int:
    """Pixels that the longest of some texts takes."""
    texts = list(texts)
    font = typeface(*texts)(size)
    return round(max((font.getlength(text) for text in texts), default=0))


def _svg(part: Line | Dot | Text) -> str:
    if isinstance(part, Line):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in part.points)
        dash = ' stroke-dasharray="5 4"' if part.dashed else ""
        return f'<polyline points="{points}" fill="none" stroke="{part.color}" stroke-width="{part.width}"{dash}/>'
    x, y = part.at
    if isinstance(part, Dot):
        title = f"<title>{escape(part.title)}</title>" if part.title else ""
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{part.radius}" fill="{part.color}">{title}</circle>'
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{part.size}" fill="{part.color}" text-anchor="{part.anchor}" '
        f'dominant-baseline="central">{escape(part.text)}</text>'
    )


def _draw(pen: ImageDraw.ImageDraw, part: Line | Dot | Text, scale: int) -> None:
    if isinstance(part, Line):
        points = [(x * scale, y * scale) for x, y in part.points]
        for a, b in pairwise(points):
            for start, end in _dashes(a, b, 5 * scale) if part.dashed else [(a, b)]:
                pen.line([start, end], fill=part.color, width=max(1, round(part.width * scale)))
        return
    x, y = part.at[0] * scale, part.at[1] * scale
    if isinstance(part, Dot):
        r = part.radius * scale
        pen.ellipse([x - r, y - r, x + r, y + r], fill=part.color)
        return
    font = typeface(part.text)(part.size * scale)
    pen.text((x, y), part.text, fill=part.color, font=font, anchor=ANCHORS[part.anchor])


def _dashes(a: Point, b: Point, length: float) -> list[tuple[Point, Point]]:
    """Every second piece of ``length`` on the way from a to b."""
    distance = ((b[0] - a[0]) ** 2 + (b[1] - a[1]) ** 2) ** 0.5
    count = max(1, int(distance / length))

    def at(k: float) -> Point:
        return (a[0] + (b[0] - a[0]) * k / count, a[1] + (b[1] - a[1]) * k / count)

    return [(at(k), at(min(k + 1, count))) for k in range(0, count, 2)]
