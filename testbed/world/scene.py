"""Instances, scenes and their pictures; everything is a function of a seed."""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from typing import Any

from PIL import Image

from .draw import Canvas, background, stylize
from .features import BACKGROUNDS, CLASSES, CONTINUOUS, EDITS, EDITS_OF, INSTANCE, STYLES, VIEWS
from .subjects import LABELS, NEXT, draw_subject

CLASS_WEIGHTS = {"face": 0.40, "cat": 0.16, "dog": 0.16, "cup": 0.11, "car": 0.10, "tree": 0.07}


@dataclass(frozen=True)
class Instance:
    """One particular subject: its class and the features that never change."""

    cls: str
    features: dict[str, Any]

    @staticmethod
    def from_seed(seed: int, cls: str | None = None) -> Instance:
        rng = random.Random(f"instance-{seed}")
        drawn = rng.choices(CLASSES, [CLASS_WEIGHTS[c] for c in CLASSES])[0]
        cls = cls or drawn
        f: dict[str, Any] = {k: rng.choice(v) for k, v in INSTANCE[cls].items()}
        f |= {k: rng.uniform(-1, 1) for k in CONTINUOUS}
        return Instance(cls, f)

    @property
    def key(self) -> tuple[str, ...]:
        """Its class and discrete features: what captions can say of it."""
        return (self.cls, *(str(self.features[k]) for k in INSTANCE[self.cls]))


@dataclass(frozen=True)
class Scene:
    """One picture: subjects, their edits, background, style and view."""

    instances: tuple[Instance, ...]
    edits: tuple[dict[str, str], ...]
    background: str
    style: str = "photo"
    view: str = "front"
    seed: int = 0

    @staticmethod
    def from_seed(seed: int, instance: Instance | None = None) -> Scene:
        """A random scene; with `instance`, a random scene of that one subject."""
        rng = random.Random(f"scene-{seed}")
        first = instance or Instance.from_seed(rng.randrange(10**9))
        instances = [first]
        if instance is None and rng.random() < 0.08:
            other = rng.choice([c for c in CLASSES if c != first.cls])
            instances.append(Instance.from_seed(rng.randrange(10**9), other))
        style = rng.choices(STYLES, (0.84, 0.08, 0.08))[0]
        view = rng.choices(VIEWS, (0.8, 0.1, 0.1))[0]
        edits = tuple(draw_edits(i.cls, rng) for i in instances)
        return Scene(tuple(instances), edits, rng.choice(BACKGROUNDS), style, view, seed)


def held_out(scene: Scene) -> bool:
    """Whether training must not see this scene: a tenth of the instances' discrete keys, and a tenth of the
    whole combinations of class, edits, background, style and view, chosen by a fixed hash."""
    if any(_tenth(repr(i.key)) for i in scene.instances):
        return True
    first = scene.instances[0].cls
    edits = [scene.edits[0][name] for name in EDITS_OF[first]]
    return _tenth(repr((first, edits, scene.background, scene.style, scene.view)))


def _tenth(text: str) -> bool:
    return zlib.crc32(text.encode()) % 10 == 0


def draw_edits(cls: str, rng: random.Random) -> dict[str, str]:
    """Random edits for a class; accessories are absent about two times in three."""
    edits = {k: v[0] for k, v in EDITS.items()}
    for name in EDITS_OF[cls]:
        values = EDITS[name]
        if values[0] == "none":
            edits[name] = rng.choice(values[1:]) if rng.random() < 0.34 else "none"
        else:
            edits[name] = rng.choice(values)
    return edits


@dataclass(frozen=True)
class Drawn:
    """A drawn scene: the picture and soft masks (L, 0..255) per part."""

    image: Image.Image
    masks: dict[str, Image.Image]


def draw(scene: Scene, masks: bool = True) -> Drawn:
    """Draw a scene at 64 x 64 with anti-aliasing; `masks=False` skips the part masks."""
    rng = random.Random(f"layout-{scene.seed}")
    canvas = Canvas()
    background(canvas, scene.background, rng)
    two = len(scene.instances) > 1
    for k, i in enumerate(scene.instances):
        if two:
            at, zoom = (17 + 30 * k + rng.uniform(-1.5, 1.5), 40 + rng.uniform(-2, 2)), rng.uniform(0.48, 0.54)
        else:
            at, zoom = (32 + rng.uniform(-3.5, 3.5), 33 + rng.uniform(-1, 2)), rng.uniform(0.82, 0.96)
        canvas.place(at, zoom)
        draw_subject(canvas, i.cls, i.features, scene.edits[k], scene.view, nth=k)
    image = stylize(canvas.finish(), scene.style)
    if not masks:
        return Drawn(image, {})
    first = list(range(1, 6))
    out = {"subject": canvas.mask(first)}
    out |= {part: canvas.mask([LABELS[part]]) for part in ("hair", "hat", "glasses", "scarf")}
    if two:
        out["second"] = canvas.mask([v + NEXT for v in first])
    return Drawn(image, out)


def contact_sheet(images: list[Image.Image], columns: int, gap: int = 2, scale: int = 1) -> Image.Image:
    """Pictures in rows on white."""
    w = images[0].width * scale
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (w + gap) + gap, rows * (w + gap) + gap), "white")
    for k, im in enumerate(images):
        big = im.resize((w, w), Image.Resampling.NEAREST) if scale > 1 else im
        sheet.paste(big, (gap + (k % columns) * (w + gap), gap + (k // columns) * (w + gap)))
    return sheet
