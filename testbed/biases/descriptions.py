"""Descriptions made from the scene graph: the four cases of SID's Table 1, and poorer ones, as models write them.

    python -m testbed.biases.descriptions      the descriptions of the first reference of each bias

What is to be said of a scene is a list of facts. A case chooses how much of each is said; a degraded description
forgets facts (recall), says wrong ones (precision) and tells of the subject's own looks (leak).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..world.captions import BACKGROUND_WORDS, VIEW_WORDS, instance_words, join_words, with_article
from ..world.features import BACKGROUNDS, CLASSES, EDITS, VIEWS
from ..world.scene import Scene
from .references import CONCEPT, PLAIN, STYLES, Reference, references

Slot = Literal["view", "state", "worn", "beside", "content", "place"]


@dataclass(frozen=True)
class Fact:
    """Something in the picture that is not the subject.

    Attributes:
        slot: where a sentence has it. full: its words with their specification; bare: its class alone, "" where it has
            no name without one (an expression). wrong: what a careless model might say in its place.
    """

    slot: Slot
    full: str
    bare: str
    wrong: tuple[str, ...]


@dataclass(frozen=True)
class Quality:
    """How well a description is made: recall, precision and leak, each a probability; `bare`: without adjectives."""

    recall: float = 1.0
    precision: float = 1.0
    leak: float = 0.0
    bare: bool = False


DOSES = (25, 50, 75)
QUALITIES: Mapping[str, Quality] = {
    "gpt4": Quality(),
    "llava": Quality(recall=0.5, precision=0.9, leak=0.6),
    "blip2": Quality(recall=0.3, leak=0.2, bare=True),
    "silent": Quality(recall=0.0),
    "wrong": Quality(precision=0.0),
    **{f"recall-{share}": Quality(recall=share / 100) for share in DOSES},
    **{f"precision-{share}": Quality(precision=share / 100) for share in DOSES},
    **{f"leak-{share}": Quality(leak=share / 100) for share in DOSES},
}
"""Presets in the place of GPT-4, LLaVA and BLIP-2, two ends, and the doses of the curves."""
CASES = ("case1", "case2", "case3", "case4")


def facts_of(scene: Scene, is_style: bool = False) -> list[Fact]:
    """All that is to be seen beside the subject, in the world's words. Of a style: everything but the style."""
    found: list[Fact] = []
    edits = scene.edits[0]
    if scene.view != "front":
        full, wrong = VIEW_WORDS[scene.view], [VIEW_WORDS[v] for v in VIEWS if v not in ("front", scene.view)]
        found.append(Fact("view", full, "side view of", tuple(wrong)))
    if edits["expression"] != "neutral":
        others = [v for v in EDITS["expression"] if v not in ("neutral", edits["expression"])]
        found.append(Fact("state", edits["expression"], "", tuple(others)))
    if edits["hat"] != "none":
        hats = [f"a {c} {h}" for c in EDITS["hat_color"] for h in EDITS["hat"][1:]]
        worn = f"a {edits['hat_color']} {edits['hat']}"
        found.append(Fact("worn", worn, "a hat", tuple(h for h in hats if h != worn and edits["hat"] not in h)))
    if edits["glasses"] != "none":
        found.append(Fact("worn", edits["glasses"], "glasses", ("a red cap", "a blue scarf")))
    if edits["scarf"] != "none":
        others = [f"a {c} scarf" for c in EDITS["scarf"][1:] if c != edits["scarf"]]
        found.append(Fact("worn", f"a {edits['scarf']} scarf", "a scarf", tuple(others)))
    if is_style:
        found.append(_content(scene))
    elif len(scene.instances) > 1:
        found.append(_beside(scene))
    words = BACKGROUND_WORDS[scene.background][0]
    places = [BACKGROUND_WORDS[b][0] for b in BACKGROUNDS if b != scene.background]
    bare = {"pink fabric": "on fabric", "wooden floor": "on a floor", "night sky": "in the sky"}
    return [*found, Fact("place", words, bare.get(scene.background, words), tuple(places))]


def _beside(scene: Scene) -> Fact:
    other = scene.instances[1]
    before, after = instance_words(other, [name for name in ("color", "fur", "skin") if name in other.features])
    wrong = tuple(f"a {cls}" for cls in CLASSES if cls not in (other.cls, scene.instances[0].cls))
    return Fact("beside", _noun(other.cls, before, after[:1]), f"a {other.cls}", wrong)


def _content(scene: Scene) -> Fact:
    shown = scene.instances[0]
    named = [name for name, value in shown.features.items() if isinstance(value, str) and value != "plain"]
    wrong = tuple(f"a {cls}" for cls in CLASSES if cls != shown.cls)
    return Fact("content", _noun(shown.cls, *instance_words(shown, named)), f"a {shown.cls}", wrong)


def _noun(cls: str, before: Sequence[str], after: Sequence[str]) -> str:
    """ "an orange oval tree", "a cat with white fur"."""
    return with_article(" ".join([*before, cls])) + (f" with {join_words([*after])}" if after else "")


def described(reference: Reference, variant: str) -> str:
    """A description of one of `CASES` or `QUALITIES`, with "{concept}" in it; the same for the same names."""
    scene, rng = reference.scene, random.Random(f"described-{reference.name}-{variant}")
    facts, looks = facts_of(scene, reference.is_style), _looks(reference)
    if variant in CASES:
        bare = variant == "case2"
        said = [] if variant == "case1" else [f.bare if bare else f.full for f in facts]
        slots = [] if variant == "case1" else [f.slot for f in facts]
        return _sentence(reference, list(zip(slots, said, strict=True)), looks if variant == "case4" else [])
    quality = QUALITIES[variant]
    kept: list[tuple[Slot, str]] = []
    for fact in facts:
        remembered, right = rng.random() < quality.recall, rng.random() < quality.precision
        wrong = rng.choice(fact.wrong)
        if remembered:
            kept.append((fact.slot, (fact.bare if quality.bare else fact.full) if right else wrong))
    leaked = [look for look in looks if rng.random() < quality.leak]
    return _sentence(reference, kept, leaked)


def _looks(reference: Reference) -> list[str]:
    """Names of the subject's own features; of a style its name."""
    scene = reference.scene
    if reference.is_style:
        return [scene.style]
    names = [name for name, value in scene.instances[0].features.items() if isinstance(value, str)]
    return names + (["hair_color"] if reference.class_word == "face" else [])


def _sentence(reference: Reference, said: Sequence[tuple[Slot, str]], looks: Sequence[str]) -> str:
    by_slot: dict[Slot, list[str]] = {}
    for slot, words in said:
        if words:
            by_slot.setdefault(slot, []).append(words)
    place = by_slot.get("place", [])
    if reference.is_style:
        leaked = "a pixel art " if "pixel art" in looks else "a pencil sketch " if looks else ""
        of = [f"of {words}" for words in by_slot.get("content", [])]
        return " ".join([f"{leaked}{CONCEPT}".strip(), *of, *place])
    before, after = _words_of_looks(reference.scene, looks)
    words = with_article(" ".join([*by_slot.get("state", []), *before, CONCEPT]))
    words += f" with {join_words(after)}" if after else ""
    words += f" wearing {join_words(by_slot['worn'])}" if "worn" in by_slot else ""
    words += "".join(f" and {other}" for other in by_slot.get("beside", []))
    start = by_slot.get("view", [STYLES["photo"]])[0]
    return " ".join([start, words, *place])


def _words_of_looks(scene: Scene, looks: Sequence[str]) -> tuple[list[str], list[str]]:
    """Adjectives and phrases of the subject's own features; hair has its colour where both are said."""
    subject = scene.instances[0]
    before, after = instance_words(subject, [name for name in looks if name in subject.features])
    if "hair_color" in looks and subject.features.get("hair") != "bald":
        colour = scene.edits[0]["hair_color"]
        hair = next((k for k, words in enumerate(after) if words.endswith(" hair")), None)
        if hair is None:
            after.append(f"{colour} hair")
        else:
            after[hair] = f"{after[hair].removesuffix(' hair')} {colour} hair"

    return before, after


def main() -> None:
    for reference in references("choose", range(1)):
        assert reference.scene.edits[0].keys() == PLAIN.keys()
        for variant in (*CASES, *QUALITIES):
            print(f"{reference.name:16s} {variant:13s} {described(reference, variant)}")


if __name__ == "__main__":
    main()
