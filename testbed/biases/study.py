"""What `python -m singleinsert.evaluate biases` asks of the drawn world: references, the protocol, the measures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from singleinsert.atomic import write_text
from singleinsert.evaluate.cache import Cache
from singleinsert.evaluate.results import NAME as RESULTS
from singleinsert.evaluate.results import Results

from ..judge import Judge
from .folder import MOST, write_folder
from .measures import Means, all_means
from .references import BIASES, SCENES, Set, references
from .tables import text_table

__all__ = ["BIASES", "MOST", "PROTOCOL", "SCENES", "measured", "write_references"]

PROTOCOL = Path(__file__).resolve().parent / "protocol.toml"
NAME = "exact.json"


def write_references(folder: Path, kind: Set, count: int, biases: Sequence[str]) -> Path:
    """Write the references into a folder, in the order in which they are to be done; the path of their list."""
    return write_folder(folder, list(references(kind, count, biases)))


def measured(folder: Path) -> str:
    """Read all pictures of an evaluation's folder, write `exact.json` there; the table, or why there is none."""
    if not (folder / RESULTS).is_file():
        return f"{folder}: nothing is done yet"
    results = Results.load(folder)
    rows = all_means(results, Cache(folder / results.facts["cache"]), Judge.load())
    labels = {method["name"]: method["label"] for method in results.methods}
    order = [method["name"] for method in results.methods if method["name"] in rows]
    write_text(folder / NAME, json.dumps({"labels": labels, "order": order, "rows": rows}, indent=1) + "\n")
    return text_table(rows, order, labels)


def load(folder: Path) -> tuple[dict[str, dict[str, Means]], list[str], dict[str, str]]:
    """(rows, order, labels) as `measured` wrote them; KeyError, OSError where they are not there."""
    found = json.loads((folder / NAME).read_text())
    return found["rows"], found["order"], found["labels"]
