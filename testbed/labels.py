"""What can be read from a picture of the drawn world: the judge's heads, and which labels show.

A label that does not show in a picture (eye colour behind sunglasses, any colour in a pencil sketch) is no
fair question to a judge nor to a generator; it is left out of training and of scoring alike.
Two subjects in one picture: only which classes are present, the background and the style are asked.
"""

from __future__ import annotations

from .world.captions import visible_hair
from .world.features import BACKGROUNDS, CLASSES, EDITS, EDITS_OF, INSTANCE, STYLES, VIEWS
from .world.scene import Scene

COLOR_ATTRIBUTES = frozenset(
    ("skin", "fur", "color", "eye_color", "hair_color", "hat_color", "scarf_color", "fruits_color")
)  # fmt: skip
TOO_FINE: dict[str, tuple[str, ...]] = {
    "pixel art": (
        "face.nose", "face.marking", "face.eye_size", "face.eye_color", "face.ears", "face.hair", "expression",
        "cat.ears", "cat.marking",
    ),
    "pencil sketch": ("face.hair", "face.marking"),
}  # fmt: skip
"""Heads that a style does not show reliably: pixel art's blocks are 4 pixels wide, and in a sketch light hair,
light beards and faint freckles leave no line at all."""
ACCESSORIES = ("scarf", "fruits")
"""Edits whose value is 'none' or a colour: asked as two questions, whether it is there and its colour."""
TURNING, FACING = ("face", "cat", "dog"), ("cup", "car")
"""Classes whose front, left and right views differ; classes that are drawn facing right or left only."""


def _heads() -> dict[str, tuple[str, ...]]:
    heads: dict[str, tuple[str, ...]] = {
        "class": CLASSES,
        "background": BACKGROUNDS,
        "style": STYLES,
        "view": VIEWS,
        "facing": ("right", "left"),
    }
    for name, values in EDITS.items():
        if name in ACCESSORIES:
            heads[name], heads[f"{name}_color"] = ("none", name), values[1:]
        else:
            heads[name] = values
    for cls, features in INSTANCE.items():
        heads |= {f"{cls}.{name}": values for name, values in features.items()}
    return heads


HEADS: dict[str, tuple[str, ...]] = _heads()
"""Head -> its values. An instance's features have a head per class (`face.nose` is not `dog.nose`)."""


def head_of(cls: str, attribute: str) -> str | None:
    """The head that answers for `attribute` of a subject of class `cls`; None where it has no such thing."""
    if attribute == "view":
        return "view" if cls in TURNING else "facing" if cls in FACING else None
    if attribute in INSTANCE[cls]:
        return f"{cls}.{attribute}"
    edits = EDITS_OF[cls]
    shared = ("class", "background", "style", *edits, *(f"{a}_color" for a in ACCESSORIES if a in edits))
    return attribute if attribute in shared else None


def attributes_of(cls: str) -> list[str]:
    """Every attribute that can be asked of a picture of one subject of class `cls`."""
    names = ["class", "background", "style", "view", *INSTANCE[cls]]
    for name in EDITS_OF[cls]:
        names += [name, f"{name}_color"] if name in ACCESSORIES else [name]
    return [n for n in names if head_of(cls, n)]


def visible(scene: Scene) -> dict[str, str]:
    """Attribute -> value of everything that shows in the picture of `scene`."""
    out = {"background": scene.background, "style": scene.style}
    if len(scene.instances) > 1:
        return out
    i, edits = scene.instances[0], scene.edits[0]
    out |= {"class": i.cls} | {name: str(i.features[name]) for name in INSTANCE[i.cls]}
    if i.cls in TURNING:
        out["view"] = scene.view
    elif i.cls in FACING:
        out["view"] = "left" if scene.view == "left" else "right"
    for name in EDITS_OF[i.cls]:
        if name in ACCESSORIES:
            out[name] = "none" if edits[name] == "none" else name
            out |= {} if edits[name] == "none" else {f"{name}_color": edits[name]}
        else:
            out[name] = edits[name]
    for name in _hidden(scene):
        out.pop(name, None)
    return out


def _hidden(scene: Scene) -> set[str]:
    """Attributes of a one-subject scene that something covers, or that the style does not show."""
    i, edits = scene.instances[0], scene.edits[0]
    hidden: set[str] = set()
    if edits["hat"] == "none":
        hidden.add("hat_color")
    else:
        hidden.add("hair")  # what a hat leaves of short hair is two pixels wide
    if edits["glasses"] == "sunglasses":
        hidden |= {"eye_color", "eye_size"}
    covered = edits["hat"] != "none" and i.features.get("hair") == "short"
    bearded = i.features["marking"] in ("bearded", "moustached") if i.cls == "face" else False
    if not visible_hair(i) or (covered and not bearded):
        hidden.add("hair_color")
    if scene.style == "pencil sketch":
        hidden |= COLOR_ATTRIBUTES
    hidden |= {a for a in attributes_of(i.cls) if head_of(i.cls, a) in TOO_FINE.get(scene.style, ())}
    return hidden


def labels(scene: Scene) -> dict[str, int]:
    """Head -> index of the value that shows in the picture of `scene`."""
    cls = scene.instances[0].cls
    out = {}
    for name, value in visible(scene).items():
        head = head_of(cls, name)
        if head is not None:
            out[head] = HEADS[head].index(value)
    return out
