"""Reference scenes of the six biases: what is in the picture beside the subject, and prompts that do not ask for it.

A bias is an event that the judge reads (`hat` is a top hat, `background` is snow). It is in the one picture that is
learnt from; no plain probe names it, an override probe asks for another value, and a demand probe asks for it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Literal

from PIL import Image

from ..dataset import HELD_OUT_START
from ..instances import held_out_instance
from ..world.captions import BACKGROUND_WORDS, VIEW_WORDS, subject_phrase, visible_hair, with_article
from ..world.features import EDITS, EDITS_OF, INSTANCE
from ..world.scene import Instance, Scene, draw
from ..world.scenes import draw_scene

Kind = Literal["plain", "override", "demand", "edit"]
Set = Literal["choose", "report"]

BIASES = ("background", "nearby", "tied", "pose", "expression", "substance")
SCENES = "scenes"
"""The nearby object once more, in the larger scenes of mini-scenes: another base model, so a study of its own."""
FIRST_SEED: Mapping[Set, int] = {"choose": 4_100_000_000, "report": 4_200_000_000}
"""Instances by which defaults are chosen, and those on which they are reported."""
PLACES = ("pink fabric", "wooden floor", "night sky")
"""Where reference pictures are: places whose words have a specification, so that cases 2 and 3 differ."""
PROBED = ("snow", "beach", "desert", "city", "jungle", "water")
"""Where probes ask for."""
CONCEPT = "{concept}"
PLAIN = {name: values[0] for name, values in EDITS.items()}
"""Edits of a subject that wears nothing and looks neutral."""


@dataclass(frozen=True)
class Probe:
    """A prompt.

    Attributes:
        kind: plain, override, demand, or edit, which asks for a change of the subject itself (section 7.2).
        asks: attribute -> value of all that the judge can find in its picture; "present" is a class.
    """

    text: str
    kind: Kind
    asks: Mapping[str, str]


@dataclass(frozen=True)
class Reference:
    """One picture to learn from.

    Attributes:
        name: "tied-c3": bias, set and number. bias: one of `BIASES`.
        event: what is entangled where it comes back, attribute -> values of which one is enough; "present": a class.
        class_word: of the concept; "art" where it is the style.
        probes: in order.
    """

    name: str
    bias: str
    scene: Scene
    event: Mapping[str, tuple[str, ...]]
    class_word: str
    probes: tuple[Probe, ...] = field(default=())

    @property
    def is_style(self) -> bool:
        return self.bias == "substance"

    @property
    def is_scene(self) -> bool:
        return self.bias == SCENES

    def draw(self, scene: Scene) -> Image.Image:
        """A scene as pictures of this bias are drawn."""
        return draw_scene(scene, masks=False).image if self.is_scene else draw(scene, masks=False).image

    def mask(self) -> Image.Image:
        """Of the subject in the reference picture ("L")."""
        return draw_scene(self.scene).masks[0].whole if self.is_scene else draw(self.scene).masks["subject"]


def references(kind: Set, numbers: range, biases: Sequence[str] = BIASES) -> Iterator[Reference]:
    """References of these numbers of each bias, one of every bias in turn: what is done first is of all of them."""
    instances = {bias: islice(_instances(bias, kind), numbers.start, None) for bias in biases}
    for number in numbers:
        for bias in biases:
            yield _reference(bias, f"{bias}-{kind[0]}{number}", next(instances[bias]), number)


CLASSES: Mapping[str, tuple[str, ...]] = {
    "background": ("face", "cat", "dog", "cup", "car"),
    "nearby": ("face", "cat", "face", "dog", "car"),
    SCENES: ("face", "cat", "face", "dog", "car"),
    "tied": ("face", "face", "cat", "dog", "face"),
    "pose": ("face", "cat", "dog", "face", "cat"),
    "expression": ("face",),
    "substance": ("tree", "car", "cup"),
}
"""Classes of the subjects of a bias, in turn."""
BESIDE = {"face": ("cup", "cat", "car"), "cat": ("cup", "car", "tree"), "dog": ("cup", "tree", "car"), "car": ("tree",)}
"""What may stand beside a subject: never of its own class."""


def _instances(bias: str, kind: Set) -> Iterator[Instance]:
    """Unseen instances, each other's features and other biases' too."""
    seed, keys, number = FIRST_SEED[kind] + 1_000_000 * (*BIASES, SCENES).index(bias), set(), 0
    while True:
        cls = CLASSES[bias][number % len(CLASSES[bias])]
        instance = Instance.from_seed(seed, cls)
        # of trees and cups there are few: what of them may not come again is the whole combination of features
        if held_out_instance(instance) and instance.key not in keys:
            keys.add(instance.key)
            number += 1
            yield instance
        seed += 1


def _reference(bias: str, name: str, instance: Instance, number: int) -> Reference:
    rng = random.Random(f"bias-{name}")
    edits = PLAIN | {"hair_color": rng.choice([c for c in EDITS["hair_color"] if c != "blue"])}
    place = PLACES[number % len(PLACES)]
    scene = Scene((instance,), (edits,), place, seed=HELD_OUT_START * 4 + rng.randrange(10**6))
    if bias == "background":
        return _finished(name, bias, scene, {"background": (place,)})
    if bias in ("nearby", SCENES):
        return _nearby(name, bias, scene, rng, number)
    if bias == "tied":
        return _tied(name, scene, rng, number)
    if bias == "pose":
        view = ("left", "right")[number % 2]
        return _finished(name, bias, replace(scene, view=view), {"view": (view,)})
    if bias == "expression":
        look = ("surprised", "smiling", "sad")[number % 3]
        return _finished(name, bias, replace(scene, edits=(edits | {"expression": look},)), {"expression": (look,)})
    style = ("pixel art", "pencil sketch")[number % 2]
    event = {"present": (instance.cls,), "background": (place,)}
    return _finished(name, bias, replace(scene, style=style), event)


def _nearby(name: str, bias: str, scene: Scene, rng: random.Random, number: int) -> Reference:
    choices = BESIDE[scene.instances[0].cls]
    second = choices[number // len(CLASSES["nearby"]) % len(choices)]
    other = Instance.from_seed(rng.randrange(10**9), second)
    both = replace(scene, instances=(scene.instances[0], other), edits=(scene.edits[0], PLAIN))
    return _finished(name, bias, both, {"present": (second,)})


def _tied(name: str, scene: Scene, rng: random.Random, number: int) -> Reference:
    kind = ("hat", "glasses", "hat", "scarf", "hat")[number % 5]
    value = {
        "hat": rng.choice(EDITS["hat"][1:]), "glasses": EDITS["glasses"][1 + number % 2],
        "scarf": rng.choice(EDITS["scarf"][1:]),
    }[kind]  # fmt: skip
    edits = scene.edits[0] | {kind: value}
    if kind == "hat":
        edits["hat_color"] = rng.choice(EDITS["hat_color"])
    values = ("scarf",) if kind == "scarf" else EDITS[kind][1:]  # any hat is the hat come back
    return _finished(name, "tied", replace(scene, edits=(edits,)), {kind: values})


def _finished(name: str, bias: str, scene: Scene, event: Mapping[str, tuple[str, ...]]) -> Reference:
    word = "art" if bias == "substance" else scene.instances[0].cls
    found = Reference(name, bias, scene, event, word)
    return replace(found, probes=tuple(_probes(found)))


# prompts


def _probes(reference: Reference) -> Iterator[Probe]:
    """Eight plain probes, two that override and two that demand, and one that edits the subject where it can be."""
    if reference.is_style:
        yield from _style_probes(reference)
        return
    instance, own = reference.scene.instances[0], reference.scene.edits[0]
    for place in PROBED:
        yield _asked(instance, "plain", place)
    yield _asked(instance, "plain", "beach", style="pencil sketch")
    if "glasses" in EDITS_OF[instance.cls]:
        wear = {"scarf": "blue"} if own["glasses"] != "none" else {"glasses": "sunglasses"}
        yield _asked(instance, "plain", "snow", edits=wear)
    else:
        yield _asked(instance, "plain", "snow", style="pencil sketch")
    yield from _about_the_event(reference)
    if instance.cls == "face":
        if visible_hair(instance) and own["hat"] == "none":
            yield _asked(instance, "edit", "snow", edits={"hair_color": "blue"})
    else:
        yield _recoloured(instance)


def _about_the_event(reference: Reference) -> Iterator[Probe]:
    """Two probes that ask for another value in the event's place, and two that ask for the event."""
    scene, bias = reference.scene, reference.bias
    instance, own = scene.instances[0], scene.edits[0]
    for place in ("snow", "beach"):
        if bias == "background":
            other = PLACES[(PLACES.index(scene.background) + (1 if place == "snow" else 2)) % len(PLACES)]
            yield _asked(instance, "override", other)
        elif bias in ("nearby", SCENES):
            there = scene.instances[1].cls
            other = next(c for c in ("tree", "cup", "car") if c not in (there, instance.cls))
            yield _asked(instance, "override", place, beside=other)
        elif bias == "pose":
            yield _asked(instance, "override", place, view={"left": "right", "right": "left"}[scene.view])
        else:
            yield _asked(instance, "override", place, edits=_another(own))
    for place in ("snow", "beach"):
        if bias == "background":
            yield _asked(instance, "demand", scene.background, style="photo" if place == "snow" else "pencil sketch")
        elif bias in ("nearby", SCENES):
            yield _asked(instance, "demand", place, beside=scene.instances[1].cls)
        elif bias == "pose":
            yield _asked(instance, "demand", place, view=scene.view)
        else:
            yield _asked(instance, "demand", place, edits=_states(own))


def _states(edits: Mapping[str, str]) -> dict[str, str]:
    """What of a subject's edits is worn or is its expression."""
    found = {name: edits[name] for name in ("hat", "glasses", "scarf", "expression") if edits[name] != PLAIN[name]}
    return found | ({"hat_color": edits["hat_color"]} if "hat" in found else {})


def _another(edits: Mapping[str, str]) -> dict[str, str]:
    """Other values of the same."""
    states = _states(edits)
    return {name: next(v for v in reversed(EDITS[name]) if v != value) for name, value in states.items()}


def _asked(
    instance: Instance, kind: Kind, place: str, *, edits: Mapping[str, str] | None = None, style: str = "photo",
    view: str = "front", beside: str = "",
) -> Probe:  # fmt: skip
    """A prompt of the world's words for the concept, and the labels that the judge is to find."""
    given = dict(edits or {})
    text = subject_phrase(instance, PLAIN | given, (), [name for name in given if name != "hat_color"], noun=CONCEPT)
    text = text + (f" and a {beside}" if beside else "")
    text = f"{VIEW_WORDS[view]} {text}" if view != "front" else f"{STYLES[style]} {text}"
    asks = {"background": place} | ({"style": style} if style != "photo" else {})
    asks |= ({"view": view} if view != "front" else {}) | ({"present": beside} if beside else {})
    for name, value in given.items():
        asks |= {"scarf": "scarf", "scarf_color": value} if name == "scarf" else {name: value}
    return Probe(f"{text} {BACKGROUND_WORDS[place][0]}", kind, asks)


def _recoloured(instance: Instance) -> Probe:
    """Another fur, or another colour, in words."""
    name = "fur" if "fur" in instance.features else "color"
    values, own = INSTANCE[instance.cls][name], instance.features[name]
    value = next(v for v in ("white", "blue", "orange") if v in values and v != own)
    words = f"a {CONCEPT} with {value} fur" if name == "fur" else with_article(f"{value} {CONCEPT}")
    return Probe(f"a photo of {words} {BACKGROUND_WORDS['snow'][0]}", "edit", {name: value, "background": "snow"})


def _style_probes(reference: Reference) -> Iterator[Probe]:
    """Other things in other places in the learnt style; two probes ask for what the reference shows."""
    cls = reference.scene.instances[0].cls
    others = [c for c in ("cat", "face", "dog", "car", "tree", "cup") if c != cls]
    for number in range(8):
        shown, place = others[number % len(others)], PROBED[number % len(PROBED)]
        text = f"{CONCEPT} of a {shown} {BACKGROUND_WORDS[place][0]}"
        yield Probe(text, "plain", {"class": shown, "background": place})
    for place in ("snow", "beach"):
        yield Probe(
            f"{CONCEPT} of a {cls} {BACKGROUND_WORDS[place][0]}", "demand", {"present": cls, "background": place}
        )


STYLES = {"photo": "a photo of", "pencil sketch": "a pencil sketch of", "pixel art": "pixel art of"}
