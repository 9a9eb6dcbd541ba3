"""Dose and response: what comes back, and what is kept, against how much a description forgets, errs and gives away."""

from __future__ import annotations

from collections.abc import Mapping

from singleinsert.evaluate.report.figure import Figure

from .references import BIASES
from .tables import Rows, cell, shared

DOSES: Mapping[str, Mapping[int, str]] = {
    "recall": {0: "silent", 25: "recall-25", 50: "recall-50", 75: "recall-75", 100: "gpt4"},
    "precision": {0: "wrong", 25: "precision-25", 50: "precision-50", 75: "precision-75", 100: "gpt4"},
    "leak": {0: "gpt4", 25: "leak-25", 50: "leak-50", 75: "leak-75", 100: "case4"},
}
"""Per cent -> row, for each way in which a description can be worse."""
LINES = {"U": ("#ff725c", "undesired"), "K": ("#4269d0", "kept"), "O": ("#3ca951", "obeyed")}
SIDE, LEFT, TOP, GAP = 220, 50, 40, 60


def curves(rows: Rows) -> Figure | None:
    """One plot for each way, all references of all biases together; None where no row of it was done."""
    figure = Figure(LEFT + len(DOSES) * (SIDE + GAP), TOP + SIDE + 70)
    done = False
    for place, (way, doses) in enumerate(DOSES.items()):
        left = LEFT + place * (SIDE + GAP)
        there = {dose: name for dose, name in doses.items() if rows.get(name)}
        concepts = shared(rows, list(there.values()), BIASES) if there else []
        _axes(figure, left, way, len(concepts))
        for measure, (color, _) in LINES.items():
            points = []
            for dose, name in there.items():
                found = cell(rows, name, concepts, measure)
                if found is None:
                    continue
                x, y = left + dose / 100 * SIDE, TOP + (1 - found.mean) * SIDE
                figure.line((x, TOP + (1 - found.low) * SIDE), (x, TOP + (1 - found.high) * SIDE), color=color)
                figure.dot((x, y), color, 4, f"{way} {dose} %: {measure} {found.mean:.2f}")
                points.append((x, y))
            if len(points) > 1:
                figure.line(*points, color=color, width=2)
                done = True
    for number, (color, says) in enumerate(LINES.values()):
        figure.dot((LEFT + 110 * number, TOP + SIDE + 52), color, 5)
        figure.text((LEFT + 10 + 110 * number, TOP + SIDE + 52), says)
    return figure if done else None


def _axes(figure: Figure, left: float, way: str, count: int) -> None:
    for tick in (0, 50, 100):
        x, y = left + tick / 100 * SIDE, TOP + (1 - tick / 100) * SIDE
        figure.line((left, y), (left + SIDE, y), color="#e6e6ea")
        figure.text((x, TOP + SIDE + 14), f"{tick} %", size=12, color="#666666", anchor="middle")
        figure.text((left - 8, y), f"{tick / 100:g}", size=12, color="#666666", anchor="end")
    figure.line((left, TOP), (left, TOP + SIDE), (left + SIDE, TOP + SIDE), color="#666666")
    figure.text((left, TOP - 16), f"{way}, {count} references")
