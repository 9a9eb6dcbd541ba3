"""What the world is made of: every attribute, its values, and the words for them.

An INSTANCE (one particular face, cat, ...) is a dictionary of discrete features plus a few continuous
ones. A SCENE puts instances before a background, in a style and view, with EDITS (hat, glasses, ...).
"""

from __future__ import annotations

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (215, 38, 38),
    "orange": (240, 135, 25),
    "yellow": (245, 215, 50),
    "green": (45, 160, 60),
    "blue": (40, 85, 220),
    "purple": (130, 50, 175),
    "pink": (245, 125, 180),
    "black": (28, 28, 34),
    "white": (245, 245, 245),
    "brown": (120, 72, 35),
    "gray": (140, 140, 148),
}
SKINS: dict[str, tuple[int, int, int]] = {
    "pale": (250, 222, 200),
    "golden": (226, 172, 105),
    "brown": (160, 105, 62),
    "dark": (88, 55, 36),
    "green": (120, 190, 105),
    "blue": (120, 165, 225),
}
EYE_COLORS: dict[str, tuple[int, int, int]] = {
    "brown": (105, 55, 15),
    "green": (30, 170, 60),
    "blue": (35, 100, 245),
}

CLASSES = ("face", "cat", "dog", "cup", "car", "tree")
BACKGROUNDS = (
    "beach", "snow", "jungle", "city", "night sky", "pink fabric", "wooden floor", "water", "desert",
)  # fmt: skip
STYLES = ("photo", "pencil sketch", "pixel art")
VIEWS = ("front", "left", "right")

PAINT = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black", "white")
CLOTH = ("red", "yellow", "green", "blue", "purple", "black", "white")

INSTANCE: dict[str, dict[str, tuple[str, ...]]] = {
    "face": {
        "skin": tuple(SKINS),
        "head": ("round", "long", "square"),
        "eye_size": ("big", "small"),
        "eye_color": tuple(EYE_COLORS),
        "nose": ("small", "big"),
        "ears": ("small", "big"),
        "hair": ("bald", "short", "long", "curly", "spiky"),
        "marking": ("plain", "freckled", "bearded", "moustached"),
    },
    "cat": {
        "fur": ("orange", "black", "white", "gray", "brown"),
        "marking": ("plain", "striped", "spotted"),
        "ears": ("small", "big"),
        "eye_color": ("green", "yellow", "blue"),
    },
    "dog": {
        "fur": ("orange", "black", "white", "gray", "brown"),
        "marking": ("plain", "patched", "spotted"),
        "ears": ("short", "long"),
        "nose": ("small", "big"),
    },
    "cup": {
        "color": PAINT,
        "marking": ("plain", "striped", "dotted", "heart"),
        "shape": ("tall", "wide"),
    },
    "car": {
        "color": PAINT,
        "shape": ("sedan", "van", "pickup"),
        "marking": ("plain", "striped"),
    },
    "tree": {
        "color": ("green", "yellow", "orange", "red", "pink", "purple"),
        "shape": ("round", "pointed", "oval"),
    },
}
"""Discrete features that make an instance, per class."""

CONTINUOUS = ("hue", "light", "width", "height", "spacing", "size")
"""Continuous features of every instance, each uniform in [-1, 1]; they have no words."""

EDITS: dict[str, tuple[str, ...]] = {
    "hat": ("none", "cap", "top hat", "beanie"),
    "hat_color": CLOTH,
    "glasses": ("none", "glasses", "sunglasses"),
    "scarf": ("none", *CLOTH),
    "hair_color": ("black", "brown", "yellow", "red", "blue", "pink", "white"),
    "expression": ("neutral", "smiling", "sad", "surprised"),
    "fruits": ("none", "red", "yellow", "blue"),
    "steam": ("none", "steaming"),
}
EDITS_OF: dict[str, tuple[str, ...]] = {
    "face": ("hat", "hat_color", "glasses", "scarf", "hair_color", "expression"),
    "cat": ("hat", "hat_color", "glasses", "scarf"),
    "dog": ("hat", "hat_color", "glasses", "scarf"),
    "cup": ("hat", "hat_color", "steam"),
    "car": (),
    "tree": ("fruits",),
}
"""Edits that make sense for a class: they change from picture to picture of one instance."""

PARTS = ("subject", "hair", "hat", "glasses", "scarf", "second")
"""Exact masks drawn with every picture; `subject` holds everything of the first subject."""
