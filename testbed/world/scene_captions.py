"""Captions of scenes of one to four subjects: a phrase for each, with what is said of it inside its own phrase.

The phrases are those of `captions.py`, joined by "and" and commas in random order. The prompt has room for 46 words
and commas; what does not fit is left unsaid. Two subjects of one class are now and then said as one ("two cats").
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from .captions import BACKGROUND_WORDS, STYLE_WORDS, VIEW_WORDS, Said, subject_phrase, visible_hair
from .features import EDITS_OF
from .scene import Instance, Scene

ROOM = 46
"""Tokens of a prompt, less its start and end. Each word and each comma is one token."""
PLURALS = {"faces": 3, "cats": 3, "dogs": 3, "cups": 4, "cars": 3, "trees": 3}
"""Tokens of the words that the tokenizer does not know whole."""
EDIT_ODDS = {1: 0.9, 2: 0.85, 3: 0.8, 4: 0.75}
"""How often each edit is named, by how many subjects there are."""
FEATURES = {2: (0, 3), 3: (0, 2), 4: (0, 2)}
"""How many features of a subject a caption that describes names, by how many subjects there are."""
TOGETHER = 0.3
"""How often two of a class are said as one phrase."""


@dataclass(frozen=True)
class SceneCaption:
    """A caption, what it names of each subject of the scene (the scene's own attributes are subject 0's), and for each
    phrase in the text's order the first token and the one after the last, counted without the prompt's start, and the
    subjects that it is of."""

    text: str
    said: Said
    spans: tuple[tuple[int, int], ...] = ()
    subjects: tuple[tuple[int, ...], ...] = ()


@dataclass
class _Words:
    """What is going to be said of one subject."""

    features: list[str]
    edits: list[str]

    def drop(self, rng: random.Random) -> None:
        names = self.features if self.features and (not self.edits or rng.random() < 0.5) else self.edits
        names.remove(rng.choice(names))


def tokens(text: str) -> int:
    """How many tokens of the prompt a text takes."""
    return sum(PLURALS.get(word, 1) for word in re.findall(r"\w+|,", text))


def scene_caption(scene: Scene, seed: int, dense: bool = False) -> SceneCaption:
    """One of many captions of a scene; a `dense` one always names features, as many as have room."""
    rng = random.Random(f"scene-caption-{scene.seed}-{seed}")
    if rng.random() < 0.1:
        return SceneCaption("", {})
    describe = dense or rng.random() < 0.55
    words = [_choose(i, len(scene.instances), describe, dense, rng) for i in scene.instances]
    together = _twins(scene) if rng.random() < TOGETHER else ()
    for k in together:
        words[k] = _Words([], [])
    order = [k for k in range(len(words)) if k not in together[1:]]
    rng.shuffle(order)
    before, after, said = _frame(scene, rng)
    comma = len(order) > 1 and rng.random() < 0.5
    while True:
        phrases = [_phrase(scene, k, words[k], bool(together) and k == together[0]) for k in order]
        body, spans = _joined(phrases, comma, tokens(before))
        text = f"{before} {body}{after}".strip()
        if tokens(text) <= ROOM:
            break
        max(words, key=lambda w: len(w.features) + len(w.edits)).drop(rng)
    for k, w in enumerate(words):
        said |= _named(scene, k, w)
    return SceneCaption(text, said, spans, tuple(together if k in together else (k,) for k in order))


def full_scene_caption(scene: Scene, features: Sequence[Sequence[str]]) -> SceneCaption:
    """The caption that names the background, style and view, and of each subject the given features and its edits, as
    far as there is room."""
    words = [_Words(list(f), list(EDITS_OF[i.cls])) for i, f in zip(scene.instances, features, strict=True)]
    rng = random.Random(f"full-{scene.seed}")
    style = {"photo": "a photo of", "pencil sketch": "a pencil sketch of", "pixel art": "pixel art of"}[scene.style]
    before = style if scene.view == "front" else f"{style} {VIEW_WORDS[scene.view]}"
    said: Said = {(0, "background"): scene.background, (0, "style"): scene.style}
    if scene.view != "front":
        said[0, "view"] = scene.view
    while True:
        phrases = [_phrase(scene, k, w) for k, w in enumerate(words)]
        body, spans = _joined(phrases, False, tokens(before))
        text = f"{before} {body} {BACKGROUND_WORDS[scene.background][0]}"
        if tokens(text) <= ROOM:
            break
        max(words, key=lambda w: len(w.features) + len(w.edits)).drop(rng)
    for k, w in enumerate(words):
        said |= _named(scene, k, w)
    return SceneCaption(text, said, spans, tuple((k,) for k in range(len(words))))


def _choose(i: Instance, count: int, describe: bool, dense: bool, rng: random.Random) -> _Words:
    features: list[str] = []
    if describe:
        names = [n for n in i.features if isinstance(i.features[n], str)]
        low, high = FEATURES.get(count, (1, len(names)))
        features = rng.sample(names, min(len(names), rng.randint(low + dense, high)))
    return _Words(features, [n for n in EDITS_OF[i.cls] if rng.random() < EDIT_ODDS[count]])


def _twins(scene: Scene) -> tuple[int, ...]:
    """The two subjects of one class, where there are two."""
    classes = [i.cls for i in scene.instances]
    return next(((classes.index(c), k) for k, c in enumerate(classes) if c in classes[:k]), ())


def _phrase(scene: Scene, k: int, words: _Words, two: bool = False) -> str:
    i = scene.instances[k]
    return f"two {i.cls}s" if two else subject_phrase(i, scene.edits[k], words.features, words.edits)


def _joined(phrases: Sequence[str], comma: bool, start: int) -> tuple[str, tuple[tuple[int, int], ...]]:
    """The phrases with "and" or commas between them, and their spans, of which the first begins at token `start`."""
    text, spans = "", []
    for k, phrase in enumerate(phrases):
        if k:
            text += ", " if comma and k < len(phrases) - 1 else " and "
        first = start + tokens(text)
        text += phrase
        spans.append((first, first + tokens(phrase)))
    return text, tuple(spans)


def _frame(scene: Scene, rng: random.Random) -> tuple[str, str, Said]:
    """What stands before and after the subjects, and what it says."""
    before, after, said = "", "", Said()
    if scene.view != "front" and rng.random() < 0.9:
        said[0, "view"] = scene.view
        before = VIEW_WORDS[scene.view]
    if rng.random() < 0.9 or scene.style != "photo":
        before = f"{rng.choice(STYLE_WORDS[scene.style])} {before}".strip()
        if scene.style != "photo":
            said[0, "style"] = scene.style
    if rng.random() < 0.92:
        said[0, "background"] = scene.background
        after = rng.choice((" ", " ", ", ")) + rng.choice(BACKGROUND_WORDS[scene.background])
    return before, after, said


def _named(scene: Scene, k: int, words: _Words) -> Said:
    """What `words` say of subject `k`."""
    i, edits = scene.instances[k], scene.edits[k]
    said: Said = {(k, "class"): i.cls}
    said |= {(k, n): i.features[n] for n in words.features}
    said |= {(k, n): edits[n] for n in words.edits if edits[n] not in ("none", "neutral")}
    said.pop((k, "hat_color"), None)
    if (k, "hat") in said:
        said[k, "hat_color"] = edits["hat_color"]
    if not visible_hair(i):
        said.pop((k, "hair_color"), None)
    return said
