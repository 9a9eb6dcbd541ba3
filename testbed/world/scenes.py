"""Scenes of one to four subjects on a canvas of 96 x 96 px: who is there, where, and the exact mask of each.

The subjects, backgrounds and styles are those of `scene.py`, drawn by the same code; a scene is a :class:`Scene` too.
Only the canvas is larger, and subjects stand anywhere on it, each at its own size and in random order.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from .draw import Canvas, background, stylize
from .features import BACKGROUNDS, EDITS, EDITS_OF, STYLES, VIEWS
from .scene import Instance, Scene, draw_edits
from .subjects import BODY, LABELS, NEXT, SCARF, draw_subject

SCENE_SIZE = 96
COUNTS = {1: 0.12, 2: 0.36, 3: 0.28, 4: 0.24}
CLASS_ODDS = {"face": 0.27, "cat": 0.19, "dog": 0.19, "cup": 0.14, "car": 0.11, "tree": 0.10}
TWINS = 0.08
"""How often two subjects of a scene of two or more are of one class."""
OVERLAPS = 0.2
"""How often subjects may cover each other in part: the later one is on top."""
ZOOMS = {1: (0.82, 1.05), 2: (0.68, 0.92), 3: (0.60, 0.78), 4: (0.56, 0.70)}
"""Size of a subject, by how many there are, where mini-sd draws a lone one at 0.82 to 0.96."""
BOXES: dict[str, tuple[float, float, float, float]] = {
    "face": (8, 0, 56, 78), "cat": (12, 4, 52, 72), "dog": (11, 3, 52, 72), "cup": (5, 3, 59, 59),
    "car": (2, 13, 63, 55), "tree": (11, 3, 53, 63),
}  # fmt: skip
"""Left, top, right and bottom of what a class paints in its own frame of 64 x 64, hats included."""
PARTS = ("hair", "hat", "glasses", "scarf")
ACCESSORIES = ("hat", "glasses", "scarf", "fruits", "steam")
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Place:
    """Where a subject's frame of 64 x 64 lies: its centre in pixels of the picture, and its zoom."""

    x: float
    y: float
    zoom: float

    def box(self, cls: str) -> Box:
        """What a subject of class `cls` covers here, in pixels: left, top, right, bottom."""
        left, top, right, bottom = ((v - 32) * self.zoom for v in BOXES[cls])
        return self.x + left, self.y + top, self.x + right, self.y + bottom


@dataclass(frozen=True)
class SubjectMasks:
    """Soft masks (L, 0..255) of what shows of one subject: all of it, and its hair, hat, glasses and scarf."""

    whole: Image.Image
    parts: dict[str, Image.Image]


@dataclass(frozen=True)
class DrawnScene:
    """A picture and, in the order of the scene's instances, their places and masks."""

    image: Image.Image
    places: tuple[Place, ...]
    masks: tuple[SubjectMasks, ...]


def scene_from_seed(seed: int, count: int | None = None) -> Scene:
    """A random scene of `count` subjects, or of a random number of them."""
    rng = random.Random(f"scenes-{seed}")
    drawn = rng.choices(list(COUNTS), list(COUNTS.values()))[0]
    classes = _classes(count or drawn, rng)
    instances = tuple(Instance.from_seed(rng.randrange(10**9), c) for c in classes)
    return _around(instances, rng, seed)


def scene_with(instances: Sequence[Instance], seed: int) -> Scene:
    """A random scene of the given subjects."""
    return _around(tuple(instances), random.Random(f"scenes-with-{seed}"), seed)


def _around(instances: tuple[Instance, ...], rng: random.Random, seed: int) -> Scene:
    """Edits, background, style and view for given subjects."""
    edits = tuple(_edits(i.cls, len(instances), rng) for i in instances)
    style = rng.choices(STYLES, (0.92, 0.05, 0.03))[0]
    side = 0.1 if len(instances) == 1 else 0.04
    view = rng.choices(VIEWS, (1 - 2 * side, side, side))[0]
    return Scene(instances, edits, rng.choice(BACKGROUNDS), style, view, seed)


def _classes(count: int, rng: random.Random) -> list[str]:
    """`count` classes, different ones but now and then for two that are the same."""
    odds = dict(CLASS_ODDS)
    out: list[str] = []
    while len(out) < count:
        cls = rng.choices(list(odds), list(odds.values()))[0]
        del odds[cls]
        out.append(cls)
    if count > 1 and rng.random() < TWINS:
        out[-1] = out[0]
    rng.shuffle(out)
    return out


def _edits(cls: str, count: int, rng: random.Random) -> dict[str, str]:
    """Random edits; where there are three subjects or more, half as many things are worn, for captions to have room."""
    edits = draw_edits(cls, rng)
    for name in ACCESSORIES:
        if name in EDITS_OF[cls] and count > 2 and rng.random() < 0.5:
            edits[name] = EDITS[name][0]
    return edits


def layout(classes: Sequence[str], seed: int) -> tuple[Place, ...]:
    """A place for each class: at random, then pushed apart until no boxes meet (in a fifth of the scenes: until they
    meet a little at most). Where there is no room, everything shrinks a little and is tried again."""
    rng = random.Random(f"places-{seed}")
    shrink = 0.72 if rng.random() < OVERLAPS else 1.0
    low, high = ZOOMS[len(classes)]
    zooms = [rng.uniform(low, high) for _ in classes]
    while True:
        for _ in range(4):
            places = [Place(rng.uniform(20, 76), rng.uniform(20, 76), z) for z in zooms]
            if _settle(places, classes, shrink):
                return tuple(places)
        zooms = [z * 0.97 for z in zooms]


def _settle(places: list[Place], classes: Sequence[str], shrink: float, rounds: int = 60) -> bool:
    """Push places apart and into the picture, in place; whether no boxes (made smaller by `shrink`) meet any more."""
    for _ in range(rounds):
        still = True
        for a in range(len(places)):
            for b in range(a):
                dx, dy = _overlap(places[a].box(classes[a]), places[b].box(classes[b]), shrink)
                if dx == 0 or dy == 0:
                    continue
                still = False
                dx, dy = (dx / 2, 0.0) if abs(dx) < abs(dy) else (0.0, dy / 2)
                places[a] = Place(places[a].x + dx, places[a].y + dy, places[a].zoom)
                places[b] = Place(places[b].x - dx, places[b].y - dy, places[b].zoom)
        places[:] = [_inside(p, c) for p, c in zip(places, classes, strict=True)]
        if still:
            return True
    return False


def _overlap(a: Box, b: Box, shrink: float) -> tuple[float, float]:
    """How far box `a` must go, across or down, to be clear of box `b`; 0 in a direction in which they do not meet."""
    out = []
    for k in (0, 1):
        distance = (a[k] + a[k + 2] - b[k] - b[k + 2]) / 2
        least = shrink * (a[k + 2] - a[k] + b[k + 2] - b[k]) / 2
        out.append(0.0 if abs(distance) >= least - 0.1 else (least - abs(distance)) * (1 if distance >= 0 else -1))
    return out[0], out[1]


def _inside(place: Place, cls: str) -> Place:
    left, top, right, bottom = place.box(cls)
    dx = max(0.0, 1 - left) - max(0.0, right - SCENE_SIZE + 1)
    dy = max(0.0, 1 - top) - max(0.0, bottom - SCENE_SIZE + 1)
    return Place(place.x + dx, place.y + dy, place.zoom)


def draw_scene(scene: Scene, masks: bool = True, places: Sequence[Place] | None = None) -> DrawnScene:
    """Draw a scene at 96 x 96 with anti-aliasing; `places` other than its own; `masks=False` skips the masks."""
    classes = [i.cls for i in scene.instances]
    where = tuple(places) if places is not None else layout(classes, scene.seed)
    canvas = Canvas(SCENE_SIZE)
    background(canvas, scene.background, random.Random(f"layout-{scene.seed}"))
    for k, (i, place) in enumerate(zip(scene.instances, where, strict=True)):
        canvas.place((place.x, place.y), place.zoom)
        draw_subject(canvas, i.cls, i.features, scene.edits[k], scene.view, nth=k)
    image = stylize(canvas.finish(), scene.style)
    return DrawnScene(image, where, tuple(_masks(canvas, k) for k in range(len(where))) if masks else ())


def _masks(canvas: Canvas, nth: int) -> SubjectMasks:
    whole = canvas.mask([label + NEXT * nth for label in range(BODY, SCARF + 1)])
    return SubjectMasks(whole, {part: canvas.mask([LABELS[part] + NEXT * nth]) for part in PARTS})


def alone(scene: Scene, nth: int) -> Scene:
    """The scene with its subject `nth` only."""
    return Scene((scene.instances[nth],), (scene.edits[nth],), scene.background, scene.style, scene.view, scene.seed)
