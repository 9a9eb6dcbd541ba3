"""The answers of a study as tables, with what the papers print beside them where that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from singleinsert.errors import ConfigError, InputError
from singleinsert.evaluate.results import Results
from singleinsert.evaluate.study.answers import Answer, read_all
from singleinsert.evaluate.study.questions import COMPARISON, QUESTIONS, RATING
from singleinsert.evaluate.study.statistics import Comparison, Rating, compare_methods, rate_methods
from singleinsert.reading import read_toml

PUBLISHED = Path(__file__).resolve().parent / "published.toml"


def published_names() -> list[str]:
    """Whose numbers can stand beside ours."""
    return list(read_toml(PUBLISHED))


def study_report(results: Results, folder: Path, published: Sequence[str] = ()) -> str:
    """Markdown of everything that was answered.

    Args:
        folder: the study's. published: of :func:`published_names`.

    Raises:
        InputError: nobody has answered yet. ConfigError: a paper that is not known.
    """
    rated, compared = read_all(folder, RATING), read_all(folder, COMPARISON)
    if not rated and not compared:
        raise InputError(
            f"{folder} holds no answers yet: python -m singleinsert.evaluate study rate (or compare) first"
        )
    labels = {m["name"]: f"{m['group']} {m['label']}".strip() for m in results.methods}
    parts = [f"# People's answers: {results.title}"]
    parts += rating_part(rated, labels) if rated else []
    parts += comparison_part(compared, labels) if compared else []
    return "\n\n".join([*parts, *(published_table(name) for name in published)]) + "\n"


def rating_part(answers: Sequence[Answer], labels: dict[str, str]) -> list[str]:
    """Means, then the tests of every question."""
    found = [each for name in QUESTIONS[RATING] if (each := rate_methods(answers, list(labels), name)) is not None]
    methods = [name for name in labels if any(name in each.methods for each in found)]
    head = ["", *(each.question for each in found), "ratings"]
    rows = []
    for name in methods:
        cells = [each.methods.get(name) for each in found]
        shown = [f"{cell.mean:.2f} ± {cell.deviation:.2f}" if cell else "" for cell in cells]
        rows.append([labels[name], *shown, str(max(cell.count for cell in cells if cell))])
    return [
        f"## Ratings\n\n{_people(answers)} Mean and standard deviation of ratings from 1 to 5.",
        _table(head, rows),
        *(_tests(each, labels) for each in found),
    ]


def _tests(rating: Rating, labels: dict[str, str]) -> str:
    rows = [
        [f"{labels[d.a]} less {labels[d.b]}", f"{d.interval.mean:+.2f}",
         f"{d.interval.low:+.2f} to {d.interval.high:+.2f}", str(d.interval.count), _p(d.tukey)]
        for d in rating.differences
    ]  # fmt: skip
    head = ["difference", "mean", "95 % interval, paired, over concepts", "concepts", "Tukey's p"]
    return f"**{rating.question}**: Kruskal-Wallis p {_p(rating.kruskal)}\n\n{_table(head, rows)}"


def comparison_part(answers: Sequence[Answer], labels: dict[str, str]) -> list[str]:
    """A table for every two methods that were compared."""
    out = [f"## Comparisons\n\n{_people(answers)} Per cent of the answers; the sign test is over concepts."]
    for a, b in combinations(labels, 2):
        found = [each for name in QUESTIONS[COMPARISON] if (each := compare_methods(answers, a, b, name)) is not None]
        if found:
            head = ["", labels[a], "cannot say", labels[b], "answers", "concepts won", "sign test p"]
            out.append(_table(head, [_compared(each) for each in found]))
    return out


def _compared(each: Comparison) -> list[str]:
    total = each.wins_a + each.ties + each.wins_b
    shares = [f"{count / total:.1%}" for count in (each.wins_a, each.ties, each.wins_b)]
    return [each.question, *shares, str(total), f"{each.concepts_a} : {each.concepts_b}", _p(each.sign)]


def published_table(name: str) -> str:
    """A paper's own numbers. ConfigError where there are none of that name."""
    known = read_toml(PUBLISHED)
    if name not in known:
        raise ConfigError(f"--published {name}: there is {', '.join(known)}")
    paper = known[name]
    return f"## Published\n\n{paper['title']}\n\n{_table(['', *paper['columns']], paper['rows'])}"


def _people(answers: Sequence[Answer]) -> str:
    people, concepts = len({a.rater for a in answers}), len({a.concept for a in answers})
    return f"{len(answers)} answers by {people} {'person' if people == 1 else 'people'} about {concepts} concepts."


def _p(value: float) -> str:
    return "-" if value != value else "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
