"""What the report shows of scenes alone: tables by the number of concepts, whose looks concepts have, fewer samples."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from singleinsert.evaluate.bootstrap import Interval
from singleinsert.evaluate.columns import COLUMNS
from singleinsert.evaluate.results import Results
from singleinsert.evaluate.table import RELATIONS, full_label, mixing_matrix, on_the_front, sizes, summarise

BY_SIZE = ("prompt", "identity", "looks", "margin", "mixing", "count", "leak", "found", "ESR")


def prompts_shown(concept: Mapping[str, Any]) -> list[int]:
    """Numbers of the prompts whose samples are shown: all; of a scene, which has hundreds, one for each subset."""
    first: dict[tuple[str, ...], int] = {}
    for number, prompt in enumerate(concept["prompts"]):
        if "handles" not in prompt:
            return list(range(len(concept["prompts"])))
        # the next subset has the next format, so that what is shown is not all in the snow
        subset = tuple(prompt["handles"])
        formats = sum(1 for other in concept["prompts"] if tuple(other["handles"]) == subset)
        first.setdefault(subset, number + len(first) % formats)
    return list(first.values())


def scene_sections(results: Results) -> str:
    """Sections of the page; "" where the results are of single concepts."""
    if not results.of_scenes:
        return ""
    tables = "".join(
        f"<h3>{size} {'concept' if size == 1 else 'concepts'} asked for</h3>{_size_table(part)}"
        for size, part in sizes(results).items()
    )
    labels = {method["name"]: full_label(method) for method in results.methods}
    front = ", ".join(labels[name] for name in on_the_front(results, summarise(results)))
    return (
        f"<section><h2>By number of concepts</h2>{tables}</section>"
        "<section><h2>Whose looks</h2><p>How similar a concept's cut-out is to the cut-outs of the scene's concepts "
        f"in the training picture.</p>{_matrix_table(results)}</section>"
        + (f"<section><h2>Pareto front</h2><p>No other row is better in both: {escape(front)}.</p></section>" if front
           else "")
    )  # fmt: skip


def _size_table(results: Results) -> str:
    summary = summarise(results)
    columns = [c for c in BY_SIZE if c in results.columns]
    rows = [
        (full_label(m), [_number(summary[m["name"]].get(c)) for c in columns])
        for m in results.methods
        if summary[m["name"]]
    ]
    return _table([f"{c} {COLUMNS[c].arrow}" for c in columns], rows)


def _matrix_table(results: Results) -> str:
    matrix = mixing_matrix(results)
    rows = [(full_label(m), [_number(matrix[m["name"]].get(kind)) for kind in RELATIONS]) for m in results.methods]
    return _table(list(RELATIONS), rows)


def _number(cell: Interval | None) -> str:
    return "" if cell is None else f"{cell.mean:.3f} <small>{cell.ends}</small>"


def _table(head: list[str], rows: list[tuple[str, list[str]]]) -> str:
    top = "".join(f"<th>{name}</th>" for name in head)
    body = "".join(
        f"<tr><th>{escape(label)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for label, cells in rows
    )
    table = f'<table class="scores"><thead><tr><th></th>{top}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="wide">{table}</div>'
