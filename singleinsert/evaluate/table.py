"""From single pictures to a table: means over concepts, their intervals, and how they compare with the paper's."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from singleinsert.evaluate.bootstrap import Interval, bootstrap, paired
from singleinsert.evaluate.columns import COLUMNS
from singleinsert.evaluate.results import Results, mean

Means = dict[str, dict[str, dict[str, float]]]
"""method -> column -> concept -> mean over that concept's pictures"""
Summary = dict[str, dict[str, Interval]]


def concept_means(results: Results) -> Means:
    """The mean of every column for every method and concept, over the pictures for which it could be measured."""
    values: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for sample in results.samples:
        for column, value in sample.values.items():
            values[sample.method, column, sample.concept].append(value)
    means: Means = {method["name"]: {column: {} for column in results.columns} for method in results.methods}
    for (method, column, concept), found in values.items():
        means[method][column][concept] = mean(found)
    return means


def summarise(results: Results, seed: int = 0) -> Summary:
    """Means over concepts with bootstrap intervals; a cell is missing where nothing was measured."""
    return {
        method: {c: bootstrap(list(found.values()), seed=seed) for c, found in columns.items() if found}
        for method, columns in concept_means(results).items()
    }


def difference(means: Means, column: str, of: str, against: str) -> Interval | None:
    """``of`` minus ``against`` over the concepts that both have; None where there is none."""
    a, b = means[of].get(column, {}), means[against].get(column, {})
    shared = [concept for concept in a if concept in b]
    return paired([a[c] for c in shared], [b[c] for c in shared]) if shared else None


def check_claims(results: Results) -> list[dict[str, Any]]:
    """Each of the paper's claims with what was found: "holds", "not beyond chance", "does not hold", "not measured".

    A claim holds where the mean paired difference has the claimed sign and its interval leaves 0 out.
    """
    means, checked = concept_means(results), []
    for claim in results.claims:
        found = difference(means, claim["column"], claim["of"], claim["against"])
        verdict = "not measured"
        if found is not None:
            sign = 1 if claim["direction"] == "up" else -1
            beyond = found.low > 0 or found.high < 0
            verdict = "holds" if found.mean * sign > 0 else "does not hold"
            verdict = (
                verdict if beyond else f"not beyond chance ({'as' if verdict == 'holds' else 'against the'} claimed)"
            )
        checked.append({**claim, "found": found, "verdict": verdict})
    return checked


def agreement(results: Results, column: str) -> tuple[int, int, list[tuple[str, str]]] | None:
    """How the order of the rows compares with the paper's, pair by pair.

    Returns:
        (pairs in the paper's order, pairs with different published values, the pairs that are in the other order
        beyond chance, the better of the paper's first); None where the paper has no such column.
    """
    methods = [m for m in results.methods if column in m["paper"]]
    means, right, total, wrong = concept_means(results), 0, 0, []
    for a, b in combinations(methods, 2):
        published = (a["paper"][column] - b["paper"][column]) * COLUMNS[column].better
        found = difference(means, column, a["name"], b["name"])
        if not published or found is None:
            continue
        total += 1
        first, second, sign = (a, b, 1) if published > 0 else (b, a, -1)
        sign *= COLUMNS[column].better
        right += found.mean * sign > 0
        if max(found.low * sign, found.high * sign) < 0:
            wrong.append((full_label(first), full_label(second)))
    return (right, total, wrong) if total else None


def full_label(method: Mapping[str, Any]) -> str:
    return f"{method['group']}: {method['label']}" if method["group"] else method["label"]


def best(summary: Summary, column: str) -> str | None:
    """The method with the best mean of a column."""
    rows = {method: cells[column].mean for method, cells in summary.items() if column in cells}
    return max(rows, key=lambda method: rows[method] * COLUMNS[column].better) if rows else None


def markdown(results: Results, summary: Summary, columns: Sequence[str] | None = None) -> str:
    """The table: mean and interval, the best of a column in bold; the paper's value below, where there is one."""
    columns = [c for c in columns or results.columns if c in results.columns]
    lines = ["| | " + " | ".join(f"{c} {COLUMNS[c].arrow}" for c in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    winners = {column: best(summary, column) for column in columns}
    for method in results.methods:
        cells = []
        for column in columns:
            cell = summary[method["name"]].get(column)
            text = "" if cell is None else f"{cell.mean:.3f}"
            text = f"**{text}**" if text and winners[column] == method["name"] else text
            cells.append(text + ("" if cell is None else f"<br><sub>{cell.low:.3f} to {cell.high:.3f}</sub>"))
        lines.append(f"| {full_label(method)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def paper_markdown(results: Results, columns: Sequence[str]) -> str:
    """The published values of the same rows; "" where there are none."""
    columns = [c for c in columns if any(c in method["paper"] for method in results.methods)]
    if not columns:
        return ""
    lines = ["| | " + " | ".join(f"{c} {COLUMNS[c].arrow}" for c in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for method in results.methods:
        cells = [f"{method['paper'][c]:.3f}" if c in method["paper"] else "" for c in columns]
        lines.append(f"| {full_label(method)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summary_csv(results: Results, summary: Summary) -> str:
    """A row per method and column: mean, both ends of the interval, number of concepts, published value."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["method", "label", "column", "mean", "low", "high", "concepts", "paper"])
    for method in results.methods:
        for column, cell in summary[method["name"]].items():
            row = [cell.mean, cell.low, cell.high, cell.count, method["paper"].get(column, "")]
            table.writerow([method["name"], full_label(method), column, *row])
    return out.getvalue()
