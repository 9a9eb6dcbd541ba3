"""Identity against text alignment: what every method trades for what."""

from __future__ import annotations

import math
from collections.abc import Sequence

from singleinsert.evaluate.bootstrap import Interval, pareto_front
from singleinsert.evaluate.report.figure import Figure, widest
from singleinsert.evaluate.results import Results
from singleinsert.evaluate.table import Summary, full_label, measured_trade_off

COLORS = (
    "#4269d0", "#ff725c", "#3ca951", "#a463f2", "#efb118", "#6cc5b0", "#ff8ab7", "#9c6b4e", "#97bbf5", "#9498a0",
)  # fmt: skip
LEFT, TOP, SIDE, LEGEND = 70, 24, 420, 270


def color_of(index: int) -> str:
    """Of a method, by its row."""
    return COLORS[index % len(COLORS)]


def scatter(results: Results, summary: Summary) -> Figure | None:
    """Dots with their intervals, and the Pareto front dashed; None where no trade-off was measured."""
    pair = measured_trade_off(results)
    if pair is None:
        return None
    x, y = pair
    rows = [(i, m) for i, m in enumerate(results.methods) if {x, y} <= set(summary[m["name"]])]
    if not rows:
        return None
    cells = [(summary[m["name"]][x], summary[m["name"]][y]) for _, m in rows]
    legend = max(LEGEND, 90 + widest(map(full_label, results.methods), 13))
    figure = Figure(LEFT + SIDE + 30 + legend, max(TOP + SIDE + 60, TOP + 26 * len(rows) + 40))
    across, up = (_Scale([cell[k] for cell in cells]) for k in (0, 1))

    def place(a: float, b: float) -> tuple[float, float]:
        return LEFT + across(a) * SIDE, TOP + (1 - up(b)) * SIDE

    _axes(figure, x, y, across, up)
    front = [(cells[k][0].mean, cells[k][1].mean) for k in pareto_front([(a.mean, b.mean) for a, b in cells])]
    if len(front) > 1:
        figure.line(*(place(*point) for point in front), color="#222222", width=1.5, dashed=True)
    numbered = len(rows) > len(COLORS)  # colours come again: a number says which dot is whose
    for k, (i, method) in enumerate(rows):
        a, b = cells[k]
        if a.ends:
            figure.line(place(a.low, b.mean), place(a.high, b.mean), color=color_of(i))
        if b.ends:
            figure.line(place(a.mean, b.low), place(a.mean, b.high), color=color_of(i))
        label = f"{k + 1}  {full_label(method)}" if numbered else full_label(method)
        if numbered:
            x_at, y_at = place(a.mean, b.mean)
            figure.text((x_at + 7, y_at - 8), str(k + 1), size=11)
        figure.dot(place(a.mean, b.mean), color_of(i), title=f"{label}: {x} {a.mean:.3f}, {y} {b.mean:.3f}")
        figure.dot((LEFT + SIDE + 40, TOP + 12 + 26 * k), color_of(i))
        figure.text((LEFT + SIDE + 54, TOP + 12 + 26 * k), label)
    if len(front) > 1:
        figure.line((LEFT + SIDE + 32, TOP + 12 + 26 * len(rows)), (LEFT + SIDE + 48, TOP + 12 + 26 * len(rows)),
                    color="#222222", width=1.5, dashed=True)  # fmt: skip
        figure.text((LEFT + SIDE + 54, TOP + 12 + 26 * len(rows)), "Pareto front")
    return figure


class _Scale:
    """Values to [0, 1], over all intervals with a margin."""

    def __init__(self, cells: Sequence[Interval]) -> None:
        low, high = min(cell.low for cell in cells), max(cell.high for cell in cells)
        margin = 0.08 * (high - low) or 0.01
        self.low, self.high = low - margin, high + margin

    def __call__(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round numbers, four to nine of them."""
        rough = (self.high - self.low) / 5
        unit = 10 ** math.floor(math.log10(rough))
        step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
        first = math.ceil(self.low / step)
        return [k * step for k in range(first, math.floor(self.high / step) + 1)]


def _axes(figure: Figure, x: str, y: str, across: _Scale, up: _Scale) -> None:
    corners = (LEFT, TOP), (LEFT, TOP + SIDE), (LEFT + SIDE, TOP + SIDE)
    for tick in across.ticks():
        at = LEFT + across(tick) * SIDE
        figure.line((at, TOP), (at, TOP + SIDE), color="#e6e6ea")
        figure.text((at, TOP + SIDE + 14), f"{tick:.3g}", size=12, color="#666666", anchor="middle")
    for tick in up.ticks():
        at = TOP + (1 - up(tick)) * SIDE
        figure.line((LEFT, at), (LEFT + SIDE, at), color="#e6e6ea")
        figure.text((LEFT - 8, at), f"{tick:.3g}", size=12, color="#666666", anchor="end")
    figure.line(*corners, color="#666666")
    figure.text((LEFT + SIDE / 2, TOP + SIDE + 38), f"{x}: obeys the prompt", anchor="middle")
    figure.text((LEFT, 10), f"{y}: keeps the subject")
