"""What `python -m singleinsert.evaluate biases` asks of the drawn world: references, the protocol, the measures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from singleinsert.atomic import write_text
from singleinsert.errors import InputError
from singleinsert.evaluate.cache import Cache
from singleinsert.evaluate.results import NAME as RESULTS
from singleinsert.evaluate.results import Results

from ..judge import Judge
from .folder import MOST, write_folder
from .measures import Means, all_means
from .references import BIASES, SCENES, Set, references
from .tables import bias_of, text_table

__all__ = ["BIASES", "MOST", "PROTOCOL", "SCENES", "measured", "write_references"]

PROTOCOL = Path(__file__).resolve().parent / "protocol.toml"
NAME = "exact.json"
FACTS = ("weights", "seeds")
COLUMNS = ("row", "reference", *FACTS)
KEPT = Path(__file__).resolve().parent / "measured"
"""What was measured of the grid, a table for each part and set of instances."""


def write_references(folder: Path, kind: Set, numbers: range, biases: Sequence[str]) -> Path:
    """Write the references into a folder, in the order in which they are to be done; the path of their list."""
    return write_folder(folder, list(references(kind, numbers, biases)))


def measured(folder: Path) -> str:
    """Read all pictures of an evaluation's folder, write `exact.json` there; the table, or why there is none."""
    if not (folder / RESULTS).is_file():
        return f"{folder}: nothing is done yet"
    results = Results.load(folder)
    rows = all_means(results, Cache(folder / results.facts["cache"]), Judge.load())
    labels = {method["name"]: method["label"] for method in results.methods}
    order = [method["name"] for method in results.methods if method["name"] in rows]
    found = {"weights": results.facts["model_digest"], "seeds": results.facts["protocol"]["seeds"], "rows": rows}
    write_text(folder / NAME, json.dumps(found, indent=1) + "\n")
    return text_table(rows, order, labels)


def keep(found: Path, kept: Path) -> None:
    """Add what `measured` wrote to a table that is kept with the code: the grid takes days, and is done in parts.

    Raises:
        InputError: what the table has of these biases is of other weights or numbers of pictures.
    """
    new = json.loads(found.read_text())
    facts = {fact: str(new[fact]) for fact in FACTS}
    biases = {bias_of(name) for means in new["rows"].values() for name in means}
    lines = {(line["row"], line["reference"]): line for line in _read(kept)}
    for (_, name), line in lines.items():
        if bias_of(name) in biases and {fact: line[fact] for fact in FACTS} != facts:
            raise InputError(f"{kept}: {name} is of other weights or seeds; delete the table, or its lines")
    for row, found_of in new["rows"].items():
        for name, means in found_of.items():
            values = {measure: f"{value:.4f}" for measure, value in means.items()}
            lines[row, name] = {"row": row, "reference": name} | facts | values
    table = io.StringIO()
    measures = sorted({column for line in lines.values() for column in line} - {*COLUMNS})
    writer = csv.DictWriter(table, [*COLUMNS, *measures], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines[key] for key in sorted(lines))
    write_text(kept, table.getvalue())


def load(kept: Path) -> dict[str, dict[str, Means]]:
    """Row -> reference -> measures, as :func:`keep` wrote them."""
    rows: dict[str, dict[str, Means]] = {}
    for line in _read(kept):
        means = {column: float(value) for column, value in line.items() if column not in COLUMNS and value != ""}
        rows.setdefault(line["row"], {})[line["reference"]] = means
    return rows


def _read(kept: Path) -> list[dict[str, str]]:
    if not kept.is_file():
        return []
    with kept.open(newline="") as file:
        return list(csv.DictReader(file))
