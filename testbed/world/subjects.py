"""Draws one subject of each class from its instance features and its edits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .draw import Canvas, Color, shade
from .features import COLORS, EYE_COLORS, PARTS, SKINS

Features = Mapping[str, Any]
BODY, HAIR, HAT, GLASSES, SCARF = 1, 2, 3, 4, 5
"""Labels on the canvas; the second subject adds `NEXT` to each, the third twice that."""
NEXT = 8
LABELS = {part: label for label, part in enumerate(PARTS, start=1)}


def tint(color: Color, f: Features) -> Color:
    """The instance's own shade of a named colour: its continuous `hue` and `light`."""
    h, v = 9 * f["hue"], 10 * f["light"]
    r, g, b = color
    return (_clip(r + h + v), _clip(g + v), _clip(b - h + v))


def _clip(v: float) -> int:
    return int(max(0, min(255, round(v))))


class Pen:
    """The canvas with part labels offset for the first, second or later subject."""

    def __init__(self, canvas: Canvas, offset: int) -> None:
        self.canvas, self.offset = canvas, offset

    def part(self, label: int) -> Canvas:
        self.canvas.part = label + self.offset
        return self.canvas


def draw_subject(canvas: Canvas, cls: str, f: Features, edits: Features, view: str, nth: int = 0) -> None:
    """Draw class `cls` with instance features `f` and `edits` into the canvas's current place, as subject `nth`."""
    _DRAW[cls](Pen(canvas, NEXT * nth), f, edits, {"front": 0, "left": -1, "right": 1}[view])


def _eyes(p: Pen, f: Features, y: float, gap: float, r: float, iris: Color, turn: float, slit: bool = False) -> None:
    c = p.part(BODY)
    for side in (-1, 1):
        x = 32 + side * gap + 5 * turn
        c.ellipse(x, y, r, r * 0.95, (250, 250, 250))
        c.ellipse(x + turn, y, r * 0.66, r * 0.66, iris)
        c.ellipse(x + turn, y, r * (0.16 if slit else 0.3), r * (0.55 if slit else 0.3), (15, 15, 15))


def _glasses(p: Pen, kind: str, y: float, gap: float, r: float, turn: float) -> None:
    if kind == "none":
        return
    c = p.part(GLASSES)
    dark = (18, 18, 24)
    for side in (-1, 1):
        x = 32 + side * gap + 5 * turn
        if kind == "sunglasses":
            c.rect(x - r - 1, y - r * 0.8, x + r + 1, y + r * 0.95, dark, r * 0.6)
            c.line([(x - r * 0.5, y - 1), (x, y - r * 0.5)], (120, 120, 140), 1)
        else:
            c.arc(x, y, r + 0.6, r + 0.6, 0, 360, (60, 20, 90), 1.5)
    c.line([(32 - gap + r + 5 * turn, y - 0.5), (32 + gap - r + 5 * turn, y - 0.5)], dark, 1.5)


def _hat(p: Pen, edits: Features, y: float, w: float, turn: float = 0) -> None:
    kind = edits["hat"]
    if kind == "none":
        return
    color = COLORS[edits["hat_color"]]
    dim = shade(color, 0.75) if edits["hat_color"] != "black" else (70, 70, 80)
    c = p.part(HAT)
    if kind == "cap":
        c.ellipse(32, y, w, 9, color)
        c.rect(32 - w, y - 1, 32 + w, y + 3, color, 1)
        side = -1 if turn < 0 else 1
        c.ellipse(32 + side * (w * 0.85), y + 2.5, w * 0.75, 2.6, dim)
    elif kind == "top hat":
        c.rect(32 - w * 0.72, y - 14, 32 + w * 0.72, y + 1, color, 1)
        c.rect(32 - w * 0.72, y - 4, 32 + w * 0.72, y - 1, dim)
        c.rect(32 - w - 4, y, 32 + w + 4, y + 3.4, color, 1.5)
    else:
        c.ellipse(32, y + 1, w + 1, 10.5, color)
        c.rect(32 - w - 1, y, 32 + w + 1, y + 4.5, dim, 1.5)
        c.ellipse(32, y - 10.5, 3.4, 3.4, dim)


def _scarf(p: Pen, edits: Features, y: float, w: float) -> None:
    if edits["scarf"] == "none":
        return
    color = COLORS[edits["scarf"]]
    dim = shade(color, 0.75) if edits["scarf"] != "black" else (70, 70, 80)
    c = p.part(SCARF)
    c.rect(32 + w * 0.25, y, 32 + w * 0.25 + 6.5, y + 13, dim, 1)
    c.rect(32 - w, y - 3.2, 32 + w, y + 3.6, color, 3)


def _mouth(p: Pen, kind: str, x: float, y: float, w: float, lips: Color) -> None:
    c = p.part(BODY)
    if kind == "smiling":
        c.arc(x, y - 2.5, w, 4.6, 10, 170, lips, 2)
        c.polygon([(x - w * 0.8, y), (x + w * 0.8, y), (x + w * 0.3, y + 2.2), (x - w * 0.3, y + 2.2)], (250, 250, 250))
    elif kind == "sad":
        c.arc(x, y + 4.5, w, 6.2, 195, 345, lips, 2.2)
    elif kind == "surprised":
        c.ellipse(x, y + 0.8, 3.6, 4.4, lips)
    else:
        c.line([(x - w * 0.8, y), (x + w * 0.8, y)], lips, 1.6)


def _face(p: Pen, f: Features, e: Features, turn: int) -> None:
    skin = tint(SKINS[f["skin"]], f)
    light = sum(skin) > 240  # on dark skin, what is drawn on it is lighter than it, or it would not show
    hair = COLORS[e["hair_color"]]
    rx = {"round": 18.5, "long": 13.5, "square": 17.5}[f["head"]] + 1.2 * f["width"]
    ry = {"round": 18, "long": 22, "square": 18.5}[f["head"]] + 1.0 * f["height"]
    top, cy = 35 - ry, 35.0
    t = float(turn)
    c = p.part(HAIR)
    style = f["hair"]
    if style == "long":
        c.rect(32 - rx - 4.5, top - 1, 32 + rx + 4.5, 58, hair, 12)
    elif style == "curly":
        for k in range(9):
            x = 32 + (k - 4) * rx * 0.29
            c.ellipse(x, top - 0.5 + abs(k - 4) ** 1.7 * 1.05, 6.4, 6.4, hair)
    elif style == "spiky":
        for k in range(6):
            x = 32 + (k - 2.5) * rx * 0.36
            c.polygon([(x - 5, top + 9), (x + (k - 2.5) * 1.6, top - 8.5), (x + 5, top + 9)], hair)
    c = p.part(BODY)
    c.rect(24, 50, 40, 66, shade(skin, 0.88), 3)
    c.ellipse(32, 68, 24, 12, shade(skin, 0.88) if e["scarf"] == "none" else (90, 95, 120))
    big = f["ears"] == "big"
    for side in (-1, 1):
        if side * t < 0 or t == 0:
            out, ex, ey = (1.8, 5.0, 7.0) if big else (0.2, 2.5, 3.5)
            c.ellipse(32 + side * (rx + out), cy + 1, ex, ey, shade(skin, 0.9))
    if f["head"] == "square":
        c.rect(32 - rx, top, 32 + rx, cy + ry, skin, 7)
    else:
        c.ellipse(32, cy, rx, ry, skin)
    c = p.part(HAIR)
    if style in ("short", "long"):
        c.rect(32 - rx + 0.4, top - 1.5, 32 + rx - 0.4, top + 7.5, hair, 6)
        c.polygon([(32 - rx, top + 5), (32 - rx + 4, top + 5), (32 - rx, top + 15)], hair)
        c.polygon([(32 + rx, top + 5), (32 + rx - 4, top + 5), (32 + rx, top + 15)], hair)
    gap = rx * 0.47 + 0.8 * f["spacing"]
    r = (5.0 if f["eye_size"] == "big" else 3.1) + 0.3 * f["size"]
    eyes = cy - 2
    if f["marking"] == "bearded":
        c.polygon([(32 - rx + 1, cy + 5), (32 + rx - 1, cy + 5), (32 + rx * 0.7, cy + ry * 0.86),
                   (32, cy + ry + 4), (32 - rx * 0.7, cy + ry * 0.86)], hair)  # fmt: skip
        p.part(BODY).ellipse(32, cy + 4.5, rx * 0.86, 6.5, skin)
    if f["marking"] == "freckled":
        c = p.part(BODY)
        for dx, dy in ((-9, 4), (-6.3, 6.4), (-10, 7.4), (9, 4), (6.3, 6.4), (10, 7.4)):
            c.ellipse(32 + dx * rx / 17 + 4 * t, cy + dy, 1.3, 1.3, shade(skin, 0.6 if light else 1.35))
    _eyes(p, f, eyes, gap, r, EYE_COLORS[f["eye_color"]], t)
    c = p.part(BODY)
    nx, nose = 32 + 6.5 * t, shade(skin, 0.7 if light else 1.25)
    if f["nose"] == "big":
        c.ellipse(nx, cy + 5, 4.4, 4.0, nose)
    else:
        c.ellipse(nx, cy + 4.6, 1.7, 1.5, nose)
    _mouth(p, e["expression"], 32 + 5 * t, cy + 11.8, 6.2, (110, 20, 30) if light else (225, 105, 115))
    if f["marking"] == "moustached":
        p.part(HAIR).rect(nx - 7.5, cy + 7.6, nx + 7.5, cy + 10.4, hair, 1.3)
    _glasses(p, e["glasses"], eyes, gap, max(r, 4.2), t)
    _scarf(p, e, 56, 15)
    _hat(p, e, top + 3.5, rx, t)


def _markings(p: Pen, f: Features, color: Color, x: float, y: float, s: float) -> None:
    c = p.part(BODY)
    mark = shade(color, 0.5) if sum(color) > 180 else (120, 120, 130)
    if f["marking"] == "striped":
        for k in (-1, 0, 1):
            c.line([(x + k * 5 * s, y - 6 * s), (x + k * 4 * s, y - 1 * s)], mark, 2.2 * s)
    elif f["marking"] == "spotted":
        for dx, dy in ((-8, -4), (7, -6), (0, -8), (9, 3), (-9, 5)):
            c.ellipse(x + dx * s, y + dy * s, 2.2 * s, 2.0 * s, mark)


def _pet_body(p: Pen, f: Features, fur: Color) -> None:
    c = p.part(BODY)
    w = 13 + f["width"]
    c.ellipse(32, 58, w, 15, shade(fur, 0.92))
    c.ellipse(32, 60, w * 0.5, 11, shade(fur, 1.35))
    for side in (-1, 1):
        c.ellipse(32 + side * w * 0.72, 63, 4.6, 4, fur)
    if f["marking"] in ("striped", "spotted"):
        mark = shade(fur, 0.5) if sum(fur) > 180 else (120, 120, 130)
        for side in (-1, 1):
            for y in (52, 57):
                c.ellipse(32 + side * w * 0.75, y, 2.6, 1.3 if f["marking"] == "striped" else 2.2, mark)


def _cat(p: Pen, f: Features, e: Features, turn: int) -> None:
    fur, t = tint(COLORS[f["fur"]], f), float(turn)
    c = p.part(BODY)
    tail = [(42, 60), (50 + 2 * f["size"], 56), (51, 46), (47, 42)]
    c.line(tail, shade(fur, 0.85), 4)
    _pet_body(p, f, fur)
    c = p.part(BODY)
    rx, ry, cy = 16 + f["width"], 13.5 + 0.8 * f["height"], 30
    h = 14 if f["ears"] == "big" else 8
    for side in (-1, 1):
        x = 32 + side * rx * 0.62
        c.polygon([(x - 6.5, cy - 6), (x + side * 3.5, cy - 8 - h), (x + 6.5, cy - 6)], fur)
        c.polygon([(x - 3.2, cy - 8), (x + side * 2.6, cy - 5 - h), (x + 3.2, cy - 8)], (240, 150, 165))
    c.ellipse(32, cy, rx, ry, fur)
    _markings(p, f, fur, 32, cy - 4, 1.0)
    gap, iris = 7 + 0.6 * f["spacing"], {**EYE_COLORS, "yellow": (245, 200, 20)}[f["eye_color"]]
    c = p.part(BODY)
    for side in (-1, 1):
        x = 32 + side * gap + 4 * t
        c.ellipse(x, cy, 4, 4.2, iris)
        c.ellipse(x, cy, 1, 3.2, (15, 15, 15))
    x = 32 + 5 * t
    c.ellipse(x, cy + 7, 4.8, 3.6, shade(fur, 1.45))
    c.polygon([(x - 2.4, cy + 4.2), (x + 2.4, cy + 4.2), (x, cy + 6.8)], (235, 110, 130))
    for side in (-1, 1):
        for dy in (-1, 1.5):
            c.line([(x + side * 5, cy + 6 + dy * 0.5), (x + side * 15, cy + 5 + dy * 2)], (235, 235, 235), 0.9)
    _glasses(p, e["glasses"], cy, gap, 4.6, t)
    _scarf(p, e, 45.5, 12)
    _hat(p, e, cy - ry + 2.5, rx * 0.8, t)


def _dog(p: Pen, f: Features, e: Features, turn: int) -> None:
    fur, t = tint(COLORS[f["fur"]], f), float(turn)
    _pet_body(p, f, fur)
    c = p.part(BODY)
    rx, ry, cy = 14.5 + f["width"], 15 + 0.8 * f["height"], 29
    c.ellipse(32, cy, rx, ry, fur)
    if f["marking"] == "patched":
        c.ellipse(32 - 6.5 + 4 * t, cy - 2.5, 6.8, 7.4, shade(fur, 0.45) if sum(fur) > 180 else (170, 150, 130))
    elif f["marking"] == "spotted":
        _markings(p, f, fur, 32, cy - 5, 1.0)
    n = 21 if f["ears"] == "long" else 10
    ear = shade(fur, 0.62) if sum(fur) > 180 else (75, 75, 85)
    for side in (-1, 1):
        x = 32 + side * (rx + 1.5)
        c.ellipse(x, cy - 9 + n / 2, 5, n / 2 + 2, ear)
    gap = 6.3 + 0.6 * f["spacing"]
    for side in (-1, 1):
        x = 32 + side * gap + 4 * t
        c.ellipse(x, cy - 2, 3.1, 3.3, (250, 250, 250))
        c.ellipse(x + t, cy - 2, 2.2, 2.4, (50, 25, 10))
    x = 32 + 5.5 * t
    c.ellipse(x, cy + 8, 8.4, 6.8, shade(fur, 1.5))
    big = f["nose"] == "big"
    c.ellipse(x, cy + 4.8, 5 if big else 2.5, 3.5 if big else 1.8, (20, 20, 22))
    c.ellipse(x, cy + 13, 2.9, 4, (235, 95, 115))
    _glasses(p, e["glasses"], cy - 2, gap, 4.4, t)
    _scarf(p, e, 46.5, 12)
    _hat(p, e, cy - ry + 2.5, rx * 0.85, t)


def _cup(p: Pen, f: Features, e: Features, turn: int) -> None:
    color = tint(COLORS[f["color"]], f)
    mark = (250, 240, 225) if f["color"] not in ("white", "yellow", "pink") else (200, 40, 60)
    w, h = (13, 20) if f["shape"] == "tall" else (19, 14.5)
    w, h = w + f["width"], h + f["height"]
    cy, side = 38, -1 if turn < 0 else 1
    c = p.part(BODY)
    if e["steam"] == "steaming":
        for x in (25, 32, 39):
            wave = [(x, 4), (x + 2.4, 8), (x - 1.6, 12), (x + 1.4, 17)]
            c.line([(wx, cy - h - up) for wx, up in wave], (250, 250, 250), 2.6)
    start = -90 if side > 0 else 90
    c.arc(32 + side * w, cy - 1, 7 + f["size"], h * 0.5, start, start + 180, shade(color, 0.8), 4)
    c.rect(32 - w, cy - h, 32 + w, cy + h, color, 4)
    c.ellipse(32, cy - h + 0.5, w, 4, shade(color, 0.6) if sum(color) > 180 else (95, 95, 100))
    c.ellipse(32, cy - h + 1, w - 2.5, 2.6, (95, 55, 25))
    if f["marking"] == "striped":
        for y in (cy - h * 0.28, cy + h * 0.42):
            c.rect(32 - w, y - 2, 32 + w, y + 2, mark)
    elif f["marking"] == "dotted":
        rows = ((-0.25, (-0.6, 0, 0.6)), (0.2, (-0.3, 0.3)), (0.65, (-0.6, 0, 0.6)))
        for dx, dy in ((dx, dy) for dy, row in rows for dx in row):
            c.ellipse(32 + dx * w, cy + dy * h, 2.1, 2.1, mark)
    elif f["marking"] == "heart":
        y = cy + 1
        c.ellipse(29, y, 3.9, 3.9, mark)
        c.ellipse(35, y, 3.9, 3.9, mark)
        c.polygon([(25.4, y + 1.6), (38.6, y + 1.6), (32, y + 9.5)], mark)
    _hat(p, e, cy - h + 1, w * 0.85, turn)


def _car(p: Pen, f: Features, e: Features, turn: int) -> None:
    color = tint(COLORS[f["color"]], f)
    mark = (250, 250, 250) if f["color"] != "white" else (215, 38, 38)
    glass, flip = (185, 225, 245), -1 if turn < 0 else 1
    x = lambda v: 32 + flip * (v - 32)  # noqa: E731
    c = p.part(BODY)

    def box(x0: float, y0: float, x1: float, y1: float, col: Color, r: float = 0) -> None:
        c.rect(min(x(x0), x(x1)), y0, max(x(x0), x(x1)), y1, col, r)

    top = {"sedan": 22, "van": 15, "pickup": 21}[f["shape"]] - f["height"]
    if f["shape"] == "sedan":
        c.polygon([(x(14), 36), (x(21), top), (x(42), top), (x(50), 36)], color)
        c.polygon([(x(18.5), 35), (x(23), top + 3), (x(30), top + 3), (x(30), 35)], glass)
        c.polygon([(x(33), 35), (x(33), top + 3), (x(40.5), top + 3), (x(46), 35)], glass)
    elif f["shape"] == "van":
        box(7, top, 52, 44, color, 4)
        for a in (11, 22, 33):
            box(a, top + 4, a + 8, top + 12, glass, 1)
        c.polygon([(x(44), top + 12), (x(44), top + 4), (x(49), top + 4), (x(52), top + 12)], glass)
    else:
        c.polygon([(x(30), 36), (x(31), top), (x(43), top), (x(50), 36)], color)
        c.polygon([(x(33), 34), (x(34), top + 3), (x(41.5), top + 3), (x(46), 34)], glass)
        box(5, 31, 8, 38, color)
    box(4, 34, 60 + f["width"], 47, color, 3.5)
    if f["marking"] == "striped":
        box(4.5, 38, 59.5, 41.4, mark)
    box(56, 36, 59.5, 39, (255, 240, 140), 1)
    r = 6.4 + 0.6 * f["size"]
    for wx in (16, 48):
        c.ellipse(x(wx), 47, r, r, (25, 25, 28))
        c.ellipse(x(wx), 47, r * 0.5, r * 0.5, (190, 190, 195))


def _tree(p: Pen, f: Features, e: Features, turn: int) -> None:
    color = tint(COLORS[f["color"]], f)
    c = p.part(BODY)
    w = 3.4 + 0.8 * f["width"]
    c.rect(32 - w, 34, 32 + w, 62, (105, 65, 32), 1)
    spots: tuple[tuple[float, float], ...]
    if f["shape"] == "round":
        c.ellipse(32, 25, 20 + f["size"], 19, color)
        c.ellipse(26, 19, 7, 5, shade(color, 1.3))
        spots = ((22, 27), (32, 31), (42, 26), (36, 16), (27, 14))
    elif f["shape"] == "oval":
        c.ellipse(32, 25, 11.5 + f["size"], 22, color)
        c.ellipse(29, 16, 4, 7, shade(color, 1.3))
        spots = ((27, 26), (36, 31), (37, 20), (29, 38), (32, 11))
    else:
        for y, half in ((16, 10), (29, 15), (42, 20)):
            c.polygon([(32, y - 15), (32 - half, y + 4), (32 + half, y + 4)], color)
            c.line([(32 - half, y + 4), (32 + half, y + 4)], shade(color, 0.7), 1.2)
        spots = ((24, 43), (40, 43), (32, 38), (27, 29), (38, 28))
    if e["fruits"] != "none":
        fruit = COLORS[e["fruits"]]
        for sx, sy in spots:
            c.ellipse(sx, sy, 3.2, 3.2, shade(fruit, 0.6))
            c.ellipse(sx, sy, 2.6, 2.6, fruit)


_DRAW = {"face": _face, "cat": _cat, "dog": _dog, "cup": _cup, "car": _car, "tree": _tree}
