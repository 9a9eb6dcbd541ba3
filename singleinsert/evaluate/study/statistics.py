"""What answers say. Kruskal-Wallis and Tukey's test are Break-A-Scene's (its appendix B.3); both take ratings of one
screen for independent ones, so a paired bootstrap over concepts stands beside them. Of comparisons, wins and ties, and
a sign test over the concepts: answers to one concept are not independent, concepts are.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from singleinsert.errors import MissingPackageError
from singleinsert.evaluate.bootstrap import Interval, paired
from singleinsert.evaluate.study.answers import Answer
from singleinsert.evaluate.study.questions import CANNOT_SAY, LEFT


@dataclass(frozen=True)
class Rated:
    """Ratings of one method: mean, standard deviation over all of them, and how many."""

    mean: float
    deviation: float
    count: int


@dataclass(frozen=True)
class Difference:
    """Of two methods' ratings.

    Attributes:
        tukey: p of Tukey's honestly significant difference. interval: of ``a - b``, over concepts, paired by screen.
    """

    a: str
    b: str
    tukey: float
    interval: Interval


@dataclass(frozen=True)
class Rating:
    """Everything about one question. ``kruskal``: p that all methods' ratings are drawn from one distribution."""

    question: str
    methods: Mapping[str, Rated]
    kruskal: float
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Comparison:
    """Everything about one question of two methods.

    Attributes:
        wins_a, wins_b, ties: answers. concepts_a, concepts_b: concepts in which it has more answers than the other.
        sign: p of the two-sided sign test over those concepts; 1 where there are none.
    """

    question: str
    a: str
    b: str
    wins_a: int
    ties: int
    wins_b: int
    concepts_a: int
    concepts_b: int
    sign: float


def rate_methods(answers: Sequence[Answer], methods: Sequence[str], question: str) -> Rating | None:
    """The statistics of one rated question; None where fewer than two methods have answers.

    Args:
        methods: in the order of rows.
    """
    stats = _scipy()
    scores = {m: [int(a.answer) for a in answers if (a.method, a.question) == (m, question)] for m in methods}
    scores = {method: values for method, values in scores.items() if values}
    if len(scores) < 2:
        return None
    rated = {
        m: Rated(statistics.mean(v), statistics.stdev(v) if len(v) > 1 else 0.0, len(v)) for m, v in scores.items()
    }
    one_value = len({value for values in scores.values() for value in values}) == 1
    kruskal = 1.0 if one_value else float(stats.kruskal(*scores.values()).pvalue)
    enough = all(len(values) > 1 for values in scores.values()) and any(each.deviation for each in rated.values())
    tukey = stats.tukey_hsd(*scores.values()).pvalue if enough else None
    names = list(scores)
    differences = tuple(
        Difference(a, b, float("nan") if tukey is None else float(tukey[names.index(a), names.index(b)]), interval)
        for a, b in combinations(names, 2)
        if (interval := _paired(answers, a, b, question)) is not None
    )
    return Rating(question, rated, kruskal, differences)


def _paired(answers: Sequence[Answer], a: str, b: str, question: str) -> Interval | None:
    """Mean difference of what one person said of both on one screen, with its interval over concepts."""
    scores: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    concepts: dict[tuple[str, str], str] = {}
    for answer in answers:
        if answer.question == question and answer.method in (a, b):
            screen = (answer.rater, answer.item)
            scores[screen][answer.method], concepts[screen] = int(answer.answer), answer.concept
    both = {screen: each for screen, each in scores.items() if len(each) == 2}
    by_concept: dict[str, list[dict[str, int]]] = defaultdict(list)
    for screen, each in both.items():
        by_concept[concepts[screen]].append(each)
    if not by_concept:
        return None
    first, second = (
        [statistics.mean(each[m] for each in by_concept[name]) for name in sorted(by_concept)] for m in (a, b)
    )
    return paired(first, second)


def compare_methods(answers: Sequence[Answer], a: str, b: str, question: str) -> Comparison | None:
    """The statistics of one question about two methods; None where nobody has answered it."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for answer in answers:
        shown = answer.methods.split("|")
        if answer.question == question and set(shown) == {a, b}:
            better = "" if answer.answer == CANNOT_SAY else shown[0 if answer.answer == LEFT else 1]
            counts[answer.concept][1 if not better else 0 if better == a else 2] += 1
    if not counts:
        return None
    wins_a, ties, wins_b = (sum(each[k] for each in counts.values()) for k in range(3))
    ahead_a, ahead_b = (sum(each[k] > each[2 - k] for each in counts.values()) for k in (0, 2))
    sign = float(_scipy().binomtest(ahead_a, ahead_a + ahead_b).pvalue) if ahead_a + ahead_b else 1.0
    return Comparison(question, a, b, wins_a, ties, wins_b, ahead_a, ahead_b, sign)


def _scipy() -> Any:
    """scipy.stats, which has no types."""
    try:
        from scipy import stats
    except ImportError as problem:
        raise MissingPackageError("the statistics of a study need scipy: pip install scipy") from problem
    return stats
