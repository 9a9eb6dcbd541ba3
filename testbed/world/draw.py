"""Drawing: a canvas with anti-aliasing and part masks, backgrounds and subjects.

Coordinates are those of the 64 x 64 picture; the canvas is drawn `SCALE` times larger and averaged.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

SIZE = 64
SCALE = 4
Color = tuple[int, int, int]
Point = tuple[float, float]


def shade(color: Color, factor: float) -> Color:
    """Darker (< 1) or lighter (> 1) version of a colour."""
    if factor <= 1:
        return tuple(round(c * factor) for c in color)  # type: ignore[return-value]
    return tuple(round(255 - (255 - c) * (2 - factor)) for c in color)  # type: ignore[return-value]


class Canvas:
    """Picture and, in step with it, one label per pixel for the part that is on top.

    `size`: width and height of the picture; what is drawn keeps to a frame of 64 x 64 that `place` moves and zooms.
    """

    def __init__(self, size: int = SIZE) -> None:
        self.size = size
        self.image = Image.new("RGB", (size * SCALE, size * SCALE))
        self.labels = Image.new("L", self.image.size, 0)
        self._draw = ImageDraw.Draw(self.image)
        self._label = ImageDraw.Draw(self.labels)
        self.part = 0  # 0: background
        self.center: Point = (size / 2, size / 2)
        self.zoom = 1.0

    def place(self, center: Point, zoom: float) -> None:
        """Following coordinates are relative to the point (32, 32), zoomed, and moved to `center`."""
        self.center, self.zoom = center, zoom

    def _xy(self, points: Sequence[Point]) -> list[Point]:
        cx, cy = self.center
        z, h = self.zoom * SCALE, SIZE / 2
        return [((x - h) * z + cx * SCALE, (y - h) * z + cy * SCALE) for x, y in points]

    def ellipse(self, x: float, y: float, rx: float, ry: float, color: Color) -> None:
        box = self._xy([(x - rx, y - ry), (x + rx, y + ry)])
        self._draw.ellipse(box, fill=color)
        self._label.ellipse(box, fill=self.part)

    def polygon(self, points: Sequence[Point], color: Color) -> None:
        xy = self._xy(points)
        self._draw.polygon(xy, fill=color)
        self._label.polygon(xy, fill=self.part)

    def rect(self, x0: float, y0: float, x1: float, y1: float, color: Color, radius: float = 0) -> None:
        box = self._xy([(x0, y0), (x1, y1)])
        r = radius * self.zoom * SCALE
        self._draw.rounded_rectangle(box, radius=r, fill=color)
        self._label.rounded_rectangle(box, radius=r, fill=self.part)

    def line(self, points: Sequence[Point], color: Color, width: float) -> None:
        xy = self._xy(points)
        w = max(1, round(width * self.zoom * SCALE))
        self._draw.line(xy, fill=color, width=w, joint="curve")
        self._label.line(xy, fill=self.part, width=w, joint="curve")

    def arc(self, x: float, y: float, rx: float, ry: float, a0: float, a1: float, color: Color, width: float) -> None:
        """Arc from angle a0 to a1 (degrees, clockwise from 3 o'clock)."""
        steps = 14
        angles = [math.radians(a0 + (a1 - a0) * i / steps) for i in range(steps + 1)]
        self.line([(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles], color, width)

    def finish(self) -> Image.Image:
        return self.image.reduce(SCALE)

    def mask(self, labels: Sequence[int]) -> Image.Image:
        """Soft mask (area coverage, 0..255) of all pixels whose label is among `labels`."""
        table = [255 if i in labels else 0 for i in range(256)]
        return self.labels.point(table).reduce(SCALE)


# ------------------------------------------------------------------------------------------ backgrounds
FULL = (0.0, 0.0, float(SIZE), float(SIZE))


def background(c: Canvas, name: str, rng: random.Random) -> None:
    """Fill the canvas with the named background; horizon, objects and tints vary with `rng`."""
    c.place((c.size / 2, c.size / 2), c.size / SIZE)
    c.part = 0
    _PAINT[name](c, rng, rng.uniform(30, 38))


def _jitter(rng: random.Random, color: Color, amount: int = 10) -> Color:
    r, g, b = (max(0, min(255, v + rng.randint(-amount, amount))) for v in color)
    return r, g, b


def _beach(c: Canvas, rng: random.Random, y: float) -> None:
    c.rect(*FULL, _jitter(rng, (130, 205, 245)))
    c.rect(0, y, SIZE, y + 9, _jitter(rng, (35, 110, 205)))
    c.rect(0, y + 8, SIZE, SIZE, _jitter(rng, (245, 220, 150)))
    c.ellipse(rng.choice((8, 56)), 9, 5, 5, (255, 240, 110))


def _snow(c: Canvas, rng: random.Random, y: float) -> None:
    c.rect(*FULL, _jitter(rng, (190, 210, 235)))
    c.ellipse(rng.uniform(5, 25), y + 22, 40, 20, _jitter(rng, (246, 249, 255), 4))
    c.ellipse(rng.uniform(40, 60), y + 24, 40, 20, _jitter(rng, (235, 241, 250), 4))
    for _ in range(14):
        c.ellipse(rng.uniform(0, 64), rng.uniform(0, 34), 1.2, 1.2, (255, 255, 255))
    for x in (rng.uniform(2, 9), rng.uniform(54, 62)):
        c.polygon([(x, y - 14), (x - 6, y + 4), (x + 6, y + 4)], _jitter(rng, (35, 90, 75)))


def _jungle(c: Canvas, rng: random.Random, y: float) -> None:
    c.rect(*FULL, _jitter(rng, (18, 70, 32)))
    for x in (4, 15, 50, 60):
        c.rect(x - 2, 0, x + 2, SIZE, _jitter(rng, (62, 48, 22)))
    for _ in range(26):
        px, py, r = rng.uniform(0, 64), rng.uniform(0, 64), rng.uniform(2.5, 5)
        c.ellipse(px, py, r, r * 0.55, _jitter(rng, (50, 150, 50), 25))


def _city(c: Canvas, rng: random.Random, y: float) -> None:
    c.rect(*FULL, _jitter(rng, (200, 195, 220)))
    left = -2.0
    while left < 64:
        w, top = rng.uniform(9, 14), rng.uniform(4, 22)
        c.rect(left, top, left + w, 56, _jitter(rng, (95, 90, 115), 14))
        for wy in range(int(top) + 3, 48, 6):
            for wx in (left + 2, left + w - 5):
                c.rect(wx, wy, wx + 2.6, wy + 3, (250, 225, 120))
        left += w + 1
    c.rect(0, 54, SIZE, SIZE, _jitter(rng, (70, 70, 75)))
    for x in range(0, 64, 14):
        c.rect(x, 58.5, x + 7, 60, (235, 235, 235))


def _night_sky(c: Canvas, rng: random.Random, y: float) -> None:
    c.rect(*FULL, _jitter(rng, (14, 14, 52), 6))
    for _ in range(22):
        r = rng.uniform(0.5, 1.1)
        c.ellipse(rng.uniform(0, 64), rng.uniform(0, 64), r, r, (250, 245, 210))
    x = rng.choice((10, 54))
    c.ellipse(x, 10, 6, 6, (245, 240, 200))
    c.ellipse(x + 3, 8.5, 5, 5, (14, 14, 52))


def _pink_fabric(c: Canvas, rng: random.Random, y: float) -> None:
    c.rect(*FULL, _jitter(rng, (244, 120, 178), 8))
    phase = rng.uniform(0, 18)
    for x in range(-20, 90, 18):
        points = [(x + phase + 5 * math.sin(v / 9), float(v)) for v in range(-2, 68, 3)]
        c.line(points, (252, 165, 205), 5)
        c.line([(px + 5, v) for px, v in points], (226, 85, 150), 2)


def _wooden_floor(c: Canvas, rng: random.Random, y: float) -> None:
    c.rect(*FULL, _jitter(rng, (165, 105, 55)))
    offset = rng.uniform(0, 10)
    for k in range(-1, 7):
        v = k * 10 + offset
        c.line([(0, v), (64, v)], (105, 62, 28), 1.2)
        x = rng.uniform(5, 59)
        c.line([(x, v), (x, v + 10)], (105, 62, 28), 1.2)
        c.line([(x - 20, v + 5), (x - 8, v + 4.5)], (140, 85, 40), 1)


def _water(c: Canvas, rng: random.Random, y: float) -> None:
    c.rect(*FULL, _jitter(rng, (25, 110, 200), 8))
    for v in range(3, 64, 8):
        offset = rng.uniform(0, 12)
        points = [(float(x), v + 1.8 * math.sin((x + offset) / 2.8)) for x in range(-2, 68, 2)]
        c.line(points, (125, 200, 245), 1.5)


def _desert(c: Canvas, rng: random.Random, y: float) -> None:
    c.rect(*FULL, _jitter(rng, (250, 190, 120)))
    c.ellipse(rng.uniform(5, 25), y + 24, 42, 22, _jitter(rng, (222, 140, 60)))
    c.ellipse(rng.uniform(40, 60), y + 27, 42, 20, _jitter(rng, (205, 120, 48)))
    x = rng.choice((6, 58))
    c.rect(x - 2, y - 12, x + 2, y + 8, (50, 125, 60), 2)
    c.rect(x - 6, y - 6, x + 6, y - 3, (50, 125, 60), 1.5)
    c.ellipse(64 - x, 9, 5, 5, (255, 235, 130))


_PAINT = {
    "beach": _beach,
    "snow": _snow,
    "jungle": _jungle,
    "city": _city,
    "night sky": _night_sky,
    "pink fabric": _pink_fabric,
    "wooden floor": _wooden_floor,
    "water": _water,
    "desert": _desert,
}


# ----------------------------------------------------------------------------------------------- styles
def stylize(image: Image.Image, style: str) -> Image.Image:
    """`photo` as drawn, `pencil sketch` (grey dodge), `pixel art` (blocks of 4 pixels, 6 levels)."""
    if style == "pixel art":
        small = np.round(np.asarray(image.reduce(4), dtype=np.float32) / 51) * 51
        return Image.fromarray(small.astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST)
    if style == "pencil sketch":
        gray = image.convert("L")
        inverted = ImageChops.invert(gray)
        blur = np.asarray(inverted.filter(ImageFilter.GaussianBlur(2.0)), dtype=np.float32)
        g = np.asarray(gray, dtype=np.float32)
        dodge = np.minimum(255, g * 256 / (256 - blur))
        out = 255 - (255 - dodge) * 1.6 - (255 - g) * 0.06
        return Image.fromarray(np.clip(out, 0, 255).astype(np.uint8)).convert("RGB")
    return image
