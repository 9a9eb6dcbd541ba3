"""What people are asked: which pictures together, which questions, and in an order that only a seed's name decides.

A rating (Break-A-Scene, section 4.1) shows all methods' pictures of one prompt and seed, and asks of each 1 to 5. A
comparison (SID, appendix B) shows two, and asks which is better.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from singleinsert.data.prompts import fill
from singleinsert.errors import ConfigError, InputError
from singleinsert.evaluate.results import Results, mask_of_reference
from singleinsert.evaluate.scene_prompts import with_class_words

RATING, COMPARISON = "rate", "compare"
QUESTIONS: dict[str, dict[str, str]] = {
    RATING: {
        "prompt": "How well does the picture fit the text?",
        "identity": "Does it show the same {class_word} as the reference?",
    },
    COMPARISON: {
        "subject": "Which shows the {class_word} of the reference better?",
        "non-subject": "Which takes less from the reference besides the {class_word}?",
        "text": "Which fits the text better?",
        "overall": "All in all, which is better?",
    },
}
SCALE = ("1", "2", "3", "4", "5")
LEFT, RIGHT, CANNOT_SAY = "left", "right", "cannot say"


@dataclass(frozen=True)
class Item:
    """One screen.

    Attributes:
        concept, prompt, seed: which pictures, as :class:`~singleinsert.evaluate.results.Sample` has them.
        class_word: what is asked about: of a scene, what the prompt names of it.
        methods: whose, in the order in which they stand on the screen. pictures: their keys in the cache.
        text: the prompt as people read it, the class word in the concept's place.
        reference: the training picture. masks: of a scene, where the concepts that the prompt names are in it; nothing
            else of it is shown, as in Break-A-Scene's study (B.3).
    """

    concept: str
    class_word: str
    prompt: int
    seed: int
    text: str
    reference: str
    methods: tuple[str, ...]
    pictures: tuple[str, ...]
    masks: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The same whatever the order on the screen."""
        return f"{self.concept}/{self.prompt}/{self.seed}/{'|'.join(sorted(self.methods))}"


def make_items(results: Results, kind: str, *, methods: Sequence[str], seed: str, rater: str, count: int) -> list[Item]:
    """The screens of one person, in their order; the same for the same names.

    Args:
        kind: :data:`RATING` or :data:`COMPARISON`. methods: names; all without.
        seed: of every order, with the person's name. count: how many, spread evenly over the concepts; 0 for all.

    Raises:
        ConfigError: a method that the results do not have, or fewer than two. InputError: no pictures to show together.
    """
    chosen = chosen_methods(results, methods)
    sets = [tuple(chosen)] if kind == RATING else list(combinations(chosen, 2))
    drawn = {(s.concept, s.prompt, s.seed, s.method): s.picture for s in results.samples}
    concepts = {concept["name"]: concept for concept in results.concepts}
    by_concept: dict[str, list[Item]] = defaultdict(list)
    for place in sorted({key[:3] for key in drawn}):
        concept = concepts[place[0]]
        for group in sets:
            if all((*place, method) in drawn for method in group):
                shown = list(group)
                random.Random(f"{seed}/{rater}/{place}/{group}").shuffle(shown)
                prompt, handles = concept["prompts"][place[1]], concept.get("handles", {})
                text = with_class_words(fill(prompt["text"], "", concept["class_word"]), handles)
                named = prompt.get("handles", [])
                by_concept[place[0]].append(
                    Item(*_of(place, " and ".join(handles[name] for name in named) or concept["class_word"]), text,
                         concept["picture"], tuple(shown), tuple(drawn[(*place, method)] for method in shown),
                         tuple(mask_of_reference(concept["picture"], name) for name in named))
                )  # fmt: skip
    if not by_concept:
        raise InputError(f"no prompt and seed of the results has a picture by each of {', '.join(chosen)}")
    return _spread(by_concept, random.Random(f"{seed}/{rater}/order"), count)


def chosen_methods(results: Results, methods: Sequence[str]) -> list[str]:
    """The methods that are asked about, in the results' order. ConfigError where they cannot be."""
    known = [method["name"] for method in results.methods]
    if unknown := [name for name in methods if name not in known]:
        raise ConfigError(f"--methods {unknown[0]}: the results have {', '.join(known)}")
    chosen = [name for name in known if not methods or name in methods]
    if len(chosen) < 2:
        raise ConfigError("a study compares methods: at least two are needed")
    return chosen


def _of(place: tuple[str, int, int], class_word: str) -> tuple[str, str, int, int]:
    return place[0], class_word, place[1], place[2]


def _spread(by_concept: dict[str, list[Item]], order: random.Random, count: int) -> list[Item]:
    """One of each concept by turns, shuffled, so that the first ``count`` are spread evenly."""
    piles = [by_concept[name] for name in sorted(by_concept)]
    for pile in piles:
        order.shuffle(pile)
    rounds = [[pile[k] for pile in piles if k < len(pile)] for k in range(max(map(len, piles)))]
    for each in rounds:
        order.shuffle(each)
    items = [item for each in rounds for item in each]
    return items[:count] if count else items
