"""What an evaluation found: one tidy row per picture, and every setting that it depends on. CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from singleinsert.atomic import write_text
from singleinsert.errors import InputError, first_line
from singleinsert.evaluate.columns import COLUMNS
from singleinsert.reading import read_json

NAME = "results.json"
FIRST = ("method", "concept", "class_word", "prompt", "seed")


def mask_of_reference(picture: str, handle: str) -> str:
    """Where the mask of a scene's concept lies, from the file of its training picture."""
    return f"{picture.removesuffix('.png')}_{handle}_mask.png"


@dataclass(frozen=True)
class Sample:
    """One picture. ``values``: by column; a column that could not be measured for it is left out.

    Attributes:
        prompt: number of the prompt among the concept's.
        picture: its key in the cache. targets: for each of the prompt's, whether the judge found it.
        matrix: of a scene, {concept that was found: {concept of the scene: similarity of the two}}.
    """

    method: str
    concept: str
    prompt: int
    seed: int
    picture: str
    values: dict[str, float] = field(default_factory=dict)
    targets: list[bool] = field(default_factory=list)
    matrix: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Results:
    """An evaluation.

    Attributes:
        facts: versions, protocol, base model, when and how long.
        methods: in the order of rows: name, label, group, note, paper, settings.
        claims, published: what papers say of the rows, and rows that cannot be run, see methods.py.
        concepts: name, class_word, picture (a file in the results' folder), prompts [{text, questions}]; of a scene
            also handles ({handle: class word}), and those that each prompt names.
        heats: [{concept, method, prompt, picture, maps: {word: file}}], files in the results' folder.
    """

    title: str
    facts: dict[str, Any]
    methods: list[dict[str, Any]]
    claims: list[dict[str, Any]]
    concepts: list[dict[str, Any]]
    samples: list[Sample]
    heats: list[dict[str, Any]] = field(default_factory=list)
    published: list[dict[str, Any]] = field(default_factory=list)

    @property
    def of_scenes(self) -> bool:
        """Several concepts a picture, rather than one."""
        return any(concept.get("handles") for concept in self.concepts)

    @property
    def columns(self) -> list[str]:
        """The columns that were measured, in their order."""
        found = {column for sample in self.samples for column in sample.values}
        return [column for column in COLUMNS if column in found]

    def save(self, folder: Path) -> None:
        """Write results.json and samples.csv."""
        write_text(folder / NAME, json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")
        write_text(folder / "samples.csv", self.csv())

    def csv(self) -> str:
        """A row per picture; a cell is empty where its column could not be measured."""
        prompts = {c["name"]: c for c in self.concepts}
        out = io.StringIO()
        table = csv.writer(out, lineterminator="\n")
        table.writerow([*FIRST, *self.columns, "targets", "picture"])
        for s in self.samples:
            concept = prompts[s.concept]
            values = [s.values.get(column, "") for column in self.columns]
            found = " ".join("1" if found else "0" for found in s.targets)
            text = concept["prompts"][s.prompt]["text"]
            table.writerow([s.method, s.concept, concept["class_word"], text, s.seed, *values, found, s.picture])
        return out.getvalue()

    @classmethod
    def load(cls, folder: Path) -> Results:
        """Read results.json. InputError where it is not there or is of something else."""
        path = folder / NAME
        try:
            table = read_json(path, InputError)
            results = cls(**table | {"samples": [Sample(**row) for row in table["samples"]]})
            _check(results)
            return results
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as problem:
            raise InputError(f"{path} holds no results of an evaluation: {first_line(problem)}") from problem


def _check(results: Results) -> None:
    """The structure that the table and the report rely on. KeyError, IndexError, TypeError, ValueError where it is not.

    A file that was cut by hand may name methods, concepts or prompts that are no longer in it.
    """
    if not (isinstance(results.title, str) and isinstance(results.facts["cache"], str) and results.samples):
        raise ValueError("no title, no cache or no samples")
    methods = {method["name"]: method for method in results.methods}
    concepts = {concept["name"]: concept["prompts"] for concept in results.concepts}
    lists = (results.claims, results.heats, results.published, *concepts.values())
    if not all(isinstance(part, list) for part in lists):
        raise TypeError("claims, heats, published and prompts must be lists")
    for sample in results.samples:
        _ = methods[sample.method], concepts[sample.concept][sample.prompt]["text"]
        if not all(isinstance(value, int | float) for value in sample.values.values()):
            raise TypeError(f"a value of {sample.method} for {sample.concept} is no number")


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
