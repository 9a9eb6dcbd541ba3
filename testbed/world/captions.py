"""Captions: what words say of a scene. Wording varies, parts are dropped, one in ten is empty.

About half of the captions name a random subset of the instance's own features; edits, background,
style and view are named most of the time. `full_caption` names all that an evaluation asks for.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from .scene import Instance, Scene

BACKGROUND_WORDS: dict[str, tuple[str, ...]] = {
    "beach": ("on the beach", "at the beach", "in front of the beach"),
    "snow": ("in the snow", "in the snow"),
    "jungle": ("in the jungle", "in a jungle"),
    "city": ("in the city", "in a city", "on a city street"),
    "night sky": ("in the night sky", "under the night sky", "at night"),
    "pink fabric": ("on pink fabric", "on top of pink fabric"),
    "wooden floor": ("on a wooden floor", "on the wooden floor"),
    "water": ("in the water", "in water"),
    "desert": ("in the desert", "in a desert"),
}
STYLE_WORDS = {
    "photo": ("", "", "", "a photo of", "a photo of", "a picture of", "an image of"),
    "pencil sketch": ("a pencil sketch of", "a pencil drawing of"),
    "pixel art": ("pixel art of", "a pixel art picture of"),
}
VIEW_WORDS = {"left": "left side view of", "right": "right side view of"}
SKIN_FEATURES = {"face": "skin", "cat": "fur", "dog": "fur"}


def with_article(noun: str) -> str:
    """ "an oval tree", "a cat"."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def instance_words(i: Instance, wanted: Sequence[str]) -> tuple[list[str], list[str]]:
    """Words for the `wanted` features: adjectives before the class word, and `with ...` phrases after."""
    before: list[str] = []
    after: list[str] = []
    for name in wanted:
        v = i.features[name]
        match (i.cls, name):
            case (_, "skin" | "fur"):
                after.append(f"{v} {name}")
            case ("face", "head"):
                after.append(f"{v} head")
            case (_, "eye_size"):
                after.append(f"{v} eyes")
            case (_, "eye_color"):
                after.append(f"{v} eyes")
            case (_, "nose" | "ears"):
                after.append(f"{v} {name}")
            case (_, "hair"):
                before.append("bald") if v == "bald" else after.append(f"{v} hair")
            case (_, "color" | "shape"):
                before.append(v)
            case (_, "marking"):
                before.append(f"{v}") if v != "heart" else after.append("a heart")
            case _:
                raise ValueError(f"no words for {i.cls}.{name}")
    return before, after


def edit_words(i: Instance, edits: Mapping[str, str], wanted: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Words for the `wanted` edits: adjectives, `with ...` phrases and `wearing ...` phrases."""
    before: list[str] = []
    having: list[str] = []
    wearing: list[str] = []
    for name in wanted:
        v = edits[name]
        if name == "hat" and v != "none":
            wearing.append(f"a {edits['hat_color']} {v}")
        elif name == "glasses" and v != "none":
            wearing.append(v)
        elif name == "scarf" and v != "none":
            wearing.append(f"a {v} scarf")
        elif name == "hair_color" and visible_hair(i):
            having.append(f"{v} hair")
        elif name == "expression" and v != "neutral":
            before.append(v)
        elif name == "fruits" and v != "none":
            having.append(f"{v} fruits")
        elif name == "steam" and v != "none":
            before.append(v)
    return before, having, wearing


def visible_hair(i: Instance) -> bool:
    """Whether hair colour shows at all: on the head, or as a beard or moustache."""
    f: Mapping[str, Any] = i.features
    return i.cls == "face" and (f["hair"] != "bald" or f["marking"] in ("bearded", "moustached"))


def join_words(parts: list[str]) -> str:
    """ "a, b and c"."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def subject_phrase(i: Instance, edits: Mapping[str, str], features: Sequence[str], edited: Sequence[str],
                   noun: str | None = None) -> str:  # fmt: skip
    """Noun phrase of one subject; `noun` replaces the class word (for example `* face`)."""
    before, after = instance_words(i, features)
    ebefore, having, wearing = edit_words(i, edits, edited)
    colors = [w for w in having if w.endswith(" hair")]
    styles = [w for w in after if w.endswith(" hair")]
    if colors and styles:  # "long hair" and "red hair" are said as "long red hair"
        after.remove(styles[0])
        having[having.index(colors[0])] = f"{styles[0].split()[0]} {colors[0]}"
    words = with_article(" ".join([*ebefore, *before, noun or i.cls]))
    if after or having:
        words += " with " + join_words(after + having)
    if wearing:
        words += " wearing " + join_words(wearing)
    return words


Said = dict[tuple[int, str], str]
"""What a caption says: (subject number, attribute) -> value; the scene's own attributes are subject 0's."""


def caption(scene: Scene, seed: int) -> str:
    """One of many captions of a scene, chosen by `seed`."""
    return caption_and_said(scene, seed)[0]


def caption_and_said(scene: Scene, seed: int, dense: bool = False) -> tuple[str, Said]:
    """A caption and the attributes that it names; a `dense` one always names half or more of the features."""
    rng = random.Random(f"caption-{scene.seed}-{seed}")
    if rng.random() < 0.1:
        return "", {}
    said: Said = {}
    describe = dense or rng.random() < 0.55  # about half of all captions: one in ten is empty
    phrases = []
    for k, (i, edits) in enumerate(zip(scene.instances, scene.edits, strict=True)):
        features: list[str] = []
        if describe:
            names = [n for n in i.features if isinstance(i.features[n], str)]
            features = rng.sample(names, rng.randint(*_how_many(len(names), scene, dense)))
        keep = 0.9 if len(scene.instances) == 1 else 0.6
        edited = [n for n in edits if rng.random() < keep]
        phrases.append(subject_phrase(i, edits, features, edited))
        said[k, "class"] = i.cls
        said |= {(k, n): i.features[n] for n in features}
        said |= {(k, n): edits[n] for n in edited if edits[n] not in ("none", "neutral")}
        if (k, "hat") in said:
            said[k, "hat_color"] = edits["hat_color"]
        else:
            said.pop((k, "hat_color"), None)
        if not visible_hair(i):
            said.pop((k, "hair_color"), None)
    text = " and ".join(phrases)
    if scene.view != "front" and rng.random() < 0.9:
        said[0, "view"] = scene.view
        text = f"{VIEW_WORDS[scene.view]} {text}"
    if rng.random() < 0.9 or scene.style != "photo":
        text = f"{rng.choice(STYLE_WORDS[scene.style])} {text}".strip()
        if scene.style != "photo":
            said[0, "style"] = scene.style
    if rng.random() < 0.92:
        where = rng.choice(BACKGROUND_WORDS[scene.background])
        said[0, "background"] = scene.background
        text = f"{text} {where}" if rng.random() < 0.7 else f"{text}, {where}"
    return text, said


def _how_many(names: int, scene: Scene, dense: bool) -> tuple[int, int]:
    if len(scene.instances) > 1:
        return 1, 1
    return (names + 1) // 2 if dense else 1, names


def full_caption(scene: Scene, features: Sequence[str] = ()) -> str:
    """The caption that names every edit, the background, style and view, and the given features."""
    phrases = [subject_phrase(i, e, features, list(e)) for i, e in zip(scene.instances, scene.edits, strict=True)]
    text = " and ".join(phrases)
    if scene.view != "front":
        text = f"{VIEW_WORDS[scene.view]} {text}"
    style = {"photo": "a photo of", "pencil sketch": "a pencil sketch of", "pixel art": "pixel art of"}[scene.style]
    return f"{style} {text} {BACKGROUND_WORDS[scene.background][0]}"
