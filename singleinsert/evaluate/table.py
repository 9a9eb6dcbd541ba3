"""From single pictures to a table: means over concepts, their intervals, and how they compare with the paper's."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from singleinsert.evaluate.bootstrap import Interval, bootstrap, paired, pareto_front
from singleinsert.evaluate.columns import COLUMNS, RATED, TRADE_OFFS
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


def sizes(results: Results) -> dict[int, Results]:
    """Of scenes, the results by how many concepts a prompt names."""
    numbers = {c["name"]: [len(prompt["handles"]) for prompt in c["prompts"]] for c in results.concepts}
    found = sorted({numbers[sample.concept][sample.prompt] for sample in results.samples})
    return {
        size: replace(results, samples=[s for s in results.samples if numbers[s.concept][s.prompt] == size])
        for size in found
    }


RELATIONS = ("itself", "another of its class", "one of another class")


def mixing_matrix(results: Results) -> dict[str, dict[str, Interval]]:
    """Method -> how similar a concept that was found is to itself, to the others of its class in the scene, and to the
    others of other classes: the scenes' matrices, which differ in size, by what their entries are. Over scenes."""
    classes = {concept["name"]: concept["handles"] for concept in results.concepts}
    values: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for sample in results.samples:
        words = classes[sample.concept]
        for handle, row in sample.matrix.items():
            for other, value in row.items():
                place = 0 if other == handle else 1 if words[other] == words[handle] else 2
                values[sample.method, RELATIONS[place], sample.concept].append(value)
    found: dict[str, dict[str, list[float]]] = {m["name"]: defaultdict(list) for m in results.methods}
    for (method, kind, _), each in values.items():
        found[method][kind].append(mean(each))
    return {m: {kind: bootstrap(each) for kind, each in kinds.items()} for m, kinds in found.items()}


def difference(means: Means, column: str, of: str, against: str) -> Interval | None:
    """``of`` minus ``against`` over the concepts that both have; None where there is none."""
    a, b = means[of].get(column, {}), means[against].get(column, {})
    shared = [concept for concept in a if concept in b]
    return paired([a[c] for c in shared], [b[c] for c in shared]) if shared else None


def check_claims(results: Results) -> list[dict[str, Any]]:
    """Each of the paper's claims with what was found: "holds", "does not hold", "not beyond chance", "too few to say"
    or "not measured".

    A claim holds where the mean paired difference has the claimed sign and its interval leaves 0 out.
    """
    means, checked = concept_means(results), []
    for claim in results.claims:
        found = difference(means, claim["column"], claim["of"], claim["against"])
        verdict = "not measured"
        if found is not None:
            sign = 1 if claim["direction"] == "up" else -1
            verdict = "holds" if found.mean * sign > 0 else "does not hold"
            if not found.side:
                why = "not beyond chance" if found.is_told else "too few to say"
                verdict = f"{why} ({'as' if verdict == 'holds' else 'against the'} claimed)"
        checked.append({**claim, "found": found, "verdict": verdict})
    return checked


def agreement(results: Results, column: str) -> tuple[int, int, list[tuple[str, str]]] | None:
    """How the order of the rows compares with the paper's, pair by pair; by people's ratings where it has those alone.

    Returns:
        (pairs in the paper's order, pairs with different published values, the pairs that are in the other order
        beyond chance, the better of the paper's first); None where the paper has no such column.
    """
    told = RATED.get(column, column)
    methods = [m for m in results.methods if told in m["paper"]]
    means, right, total, wrong = concept_means(results), 0, 0, []
    for a, b in combinations(methods, 2):
        published = (a["paper"][told] - b["paper"][told]) * COLUMNS[told].better
        found = difference(means, column, a["name"], b["name"])
        if not published or found is None:
            continue
        total += 1
        first, second, sign = (a, b, 1) if published > 0 else (b, a, -1)
        sign *= COLUMNS[column].better
        right += found.mean * sign > 0
        if found.side * sign < 0:
            wrong.append((full_label(first), full_label(second)))
    return (right, total, wrong) if total else None


def full_label(method: Mapping[str, Any]) -> str:
    return f"{method['group']}: {method['label']}" if method["group"] else method["label"]


def best(summary: Summary, column: str) -> str | None:
    """The method with the best mean of a column; None where there is nothing to be better than."""
    rows = {method: cells[column].mean for method, cells in summary.items() if column in cells}
    return max(rows, key=lambda method: rows[method] * COLUMNS[column].better) if len(rows) > 1 else None


def is_like_the_papers(results: Results) -> bool:
    """Do base model and backbones stand where the paper's do, so that its values can stand beside ours?"""
    from singleinsert.config import load_settings
    from singleinsert.evaluate.protocol import PAPER, load_protocol

    papers, ours = load_protocol(PAPER), results.facts.get("protocol", {})
    model = load_settings(PAPER).model.pretrained_model_name_or_path
    same = all(ours.get(name) == getattr(papers, name) for name in ("clip", "dino", "lpips"))
    return same and results.facts.get("base_model") == model


def measured_trade_off(results: Results) -> tuple[str, str] | None:
    """Which columns are drawn against each other: obeying, keeping. None where no pair was measured."""
    return next((pair for pair in TRADE_OFFS if {*pair} <= {*results.columns}), None)


def on_the_front(results: Results, summary: Summary) -> list[str]:
    """The methods that no other is better than in both columns of the trade-off; those that obey least first."""
    pair = measured_trade_off(results)
    rows = [m["name"] for m in results.methods if pair and {*pair} <= {*summary[m["name"]]}]
    points = [(summary[row][pair[0]].mean, summary[row][pair[1]].mean) for row in rows if pair]
    return [rows[i] for i in pareto_front(points)]


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
            cells.append(text + (f"<br><sub>{cell.ends}</sub>" if cell is not None and cell.ends else ""))
        lines.append(f"| {full_label(method)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def paper_markdown(results: Results, columns: Sequence[str]) -> str:
    """The published values of the same rows; "" where there are none."""
    rows = [(full_label(method), method["paper"]) for method in results.methods]
    rows += [(row["label"], row["paper"]) for row in results.published]
    columns = [c for c in columns if any(c in paper for _, paper in rows)]
    if not columns:
        return ""
    lines = ["| | " + " | ".join(f"{c} {COLUMNS[c].arrow}" for c in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for label, paper in rows:
        lines.append(f"| {label} | " + " | ".join(f"{paper[c]:.3f}" if c in paper else "" for c in columns) + " |")
    reasons = [f"Not run: {row['label']}. {row['why']}" for row in results.published]
    return "\n".join([*lines, *(line for reason in reasons for line in ("", reason))])


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
