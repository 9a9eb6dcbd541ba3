"""Keeps what `python -m singleinsert.evaluate biases` has measured in testbed/biases/measured, and writes all
that is kept there into docs/research/biases.md, curves too.

python -m testbed.biases                                   every part of output/evaluation/biases that is there
python -m testbed.biases --folder FOLDER                   of another --output_dir
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from singleinsert.evaluate.biases import PARTS, SETS
from singleinsert.evaluate.methods import load_methods

from ..docs import IMAGES, RESEARCH, fill_block, save_picture
from .curves import curves
from .references import BIASES
from .study import KEPT, NAME, keep, load
from .tables import (
    Rows,
    biases_in,
    choose_mode,
    claims_table,
    correlations,
    markdown,
    pareto_lines,
)

DOCS = RESEARCH / "biases.md"
TITLES = {"choose": "The instances that choose", "report": "The instances that report"}
FOR_CLAIMS = tuple(bias for bias in BIASES if bias != "substance")
"""The paper leaves styles out of its numbers."""


def block(part: str) -> str:
    """Everything of one part, of each set of instances that was done; "" where none was."""
    methods = load_methods(PARTS[part]).methods
    order, labels = [method.name for method in methods], {method.name: method.label for method in methods}
    pieces: list[str] = []
    for kind in SETS:
        if (file := KEPT / f"{part}-{kind}.csv").is_file():
            rows = load(file)
            found = [name for name in order if name in rows]
            pieces += [f"**{TITLES[kind]}**", *_pieces(part, rows, found, labels)]
    return "\n\n".join(pieces)


def _pieces(part: str, rows: Rows, order: list[str], labels: dict[str, str]) -> Iterator[str]:
    trained = [name for name in order if rows.get(name)]
    for bias in biases_in(rows):
        yield f"*{bias}*"
        yield markdown(rows, order, labels, bias)
    if part == "modes":
        choice = choose_mode(rows)
        yield "  \n".join([*choice.lines, f"Taken: {choice.mode or 'nothing yet'}."])
    if part == "methods":
        yield "  \n".join(pareto_lines(rows, trained, FOR_CLAIMS))
    if part in ("cases", "qualities", "methods"):
        yield claims_table(rows, part, FOR_CLAIMS)
    if part == "doses":
        drawn = curves(rows)
        if drawn is not None:
            save_picture(drawn.png(2), IMAGES / "biases-doses.png")
            yield "![Doses of recall, precision and leak](../images/biases-doses.png)"
    yield "Rank correlations, over rows and (second) over references within a row:"
    yield correlations(rows, trained)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m testbed.biases", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument(
        "--folder", type=Path, default=Path("output/evaluation/biases"), help="the study's --output_dir"
    )
    folder = parser.parse_args().folder
    for part, methods in PARTS.items():
        for kind in SETS:
            if (found := folder / f"{part}-{kind}" / NAME).is_file():
                keep(found, KEPT / f"{part}-{kind}.csv")
        if text := block(part):
            fill_block(DOCS, methods, text)
            print(f"{DOCS}: {methods}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
