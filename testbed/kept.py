"""What evaluations have measured, kept with the code: a table of many hours is made in parts, on any machine.

`python -m testbed.evaluation_docs FOLDER` adds a folder's rows to testbed/measured/FOLDER.json.xz, and writes the page
from all that is there. Numbers have four digits; pictures and attention maps are not kept.
"""

from __future__ import annotations

import json
import lzma
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from singleinsert.atomic import write_atomically
from singleinsert.errors import InputError
from singleinsert.evaluate.methods import load_methods
from singleinsert.evaluate.results import Results, Sample

FOLDER = Path(__file__).resolve().parent / "measured"
SAME = ("base_model", "model_digest", "protocol", "sampling", "methods", "preset")
"""Facts in which rows of one table agree."""


def keep(results: Results, file: Path) -> Results:
    """``results`` with the rows of ``file`` that it lacks; all of it is kept there.

    Raises:
        InputError: the file's rows are of other weights, prompts or settings of drawing.
    """
    found = _slim(results)
    if file.is_file():
        found = _joined(found, _load(file), file)
    text = json.dumps(asdict(found), ensure_ascii=False, separators=(",", ":")).encode()
    write_atomically(file, lambda target: target.write_bytes(lzma.compress(text, preset=9)))
    return found


def _load(file: Path) -> Results:
    table = json.loads(lzma.decompress(file.read_bytes()))
    return Results(**table | {"samples": [Sample(**row) for row in table["samples"]]})


def _slim(results: Results) -> Results:
    samples = [replace(s, picture="", values=_short(s.values), matrix=_short(s.matrix)) for s in results.samples]
    return replace(results, samples=samples, heats=[])


def _short(value: Any) -> Any:
    return {key: _short(each) for key, each in value.items()} if isinstance(value, dict) else round(float(value), 4)


def _joined(new: Results, old: Results, file: Path) -> Results:
    """Rows of both in the order of their set; of a row that both have, the one of more pictures, the new one first."""
    for fact in SAME:
        if new.facts[fact] != old.facts[fact]:
            raise InputError(
                f"{file} is of another {fact}: {old.facts[fact]}, not {new.facts[fact]}; delete or rename it"
            )
    concepts = {concept["name"]: concept for concept in old.concepts}
    for concept in new.concepts:
        if concepts.setdefault(concept["name"], concept)["prompts"] != concept["prompts"]:
            raise InputError(f"{file}: {concept['name']} had other prompts; rename it")
    known = load_methods(new.facts["methods"])
    methods, samples = [], []
    for name in [method.name for method in known.methods]:
        parts = [([s for s in part.samples if s.method == name], part) for part in (new, old)]
        rows, part = max(parts, key=lambda each: len(each[0]))
        if rows:
            methods += [method for method in part.methods if method["name"] == name]
            samples += rows
    claims = [dict(claim) for claim in known.only([method["name"] for method in methods]).claims]
    return replace(new, methods=methods, samples=samples, concepts=list(concepts.values()), claims=claims)
