"""The miniature world's judge of edits, for `python -m singleinsert.evaluate ... --judge python:testbed.esr:judge`.

A target is met when the trained judge (`testbed.judge`) reads every one of its labels in the picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from PIL import Image

from singleinsert.errors import InputError
from singleinsert.metrics.targets import Target

from .judge import Judge
from .labels import HEADS, attributes_of, head_of
from .world.features import CLASSES

PRESENT = "present"
"""A label of its own: this class is in the picture, alone or beside another."""


@cache
def trained() -> Judge:
    return Judge.load()


class EsrJudge:
    """Reads labels such as {"hat": "top hat", "hat_color": "red"}, {"background": "snow"} or {"class": "cat"}.

    Attributes that only some classes have (a face's nose) are read as those of the class that the judge sees; where
    that class has none the target is not met. Edits are read whatever the class looks like.
    """

    name = "testbed judge"

    def __call__(self, pictures: Sequence[Image.Image], targets: Sequence[Sequence[Target]]) -> list[list[bool]]:
        """As singleinsert's EditJudge.

        Raises:
            InputError: a target without labels, or with one that the world does not have.
        """
        for target in {id(t): t for each in targets for t in each}.values():
            check(target)
        heads, present, _ = trained().outputs(list(pictures))
        by_name = dict(zip(HEADS, heads, strict=True))
        out = []
        for k, wanted in enumerate(targets):
            reading = {name: HEADS[name][int(values[k].argmax())] for name, values in by_name.items()}
            there = {cls for cls, p in zip(CLASSES, present[k], strict=True) if p > 0.5}
            out.append([all(holds(a, v, reading, there) for a, v in t.label.items()) for t in wanted])
        return out


def holds(attribute: str, value: str, reading: Mapping[str, str], there: set[str]) -> bool:
    """Whether the reading (head -> value) and the classes in the picture agree with one label."""
    if attribute == PRESENT:
        return value in there
    head = attribute if attribute in HEADS and attribute != "view" else head_of(reading["class"], attribute)
    return head is not None and reading[head] == value


def check(target: Target) -> None:
    """InputError, one line, for labels that nothing in this world can have."""
    if not target.label:
        raise InputError(f"target {target.question!r} has no label, which is what the testbed's judge reads")
    for attribute, value in target.label.items():
        known = values_of(attribute)
        if value not in known:
            what = f"one of {', '.join(sorted(known))}" if known else "no attribute of the drawn world"
            raise InputError(f"target {target.question!r}: {attribute} = {value!r}, but it is {what}")


@cache
def values_of(attribute: str) -> frozenset[str]:
    """Every value that the attribute has for some class; empty for an unknown one."""
    if attribute == PRESENT:
        return frozenset(CLASSES)
    heads: set[Any] = {attribute} & set(HEADS)
    heads |= {head_of(cls, attribute) for cls in CLASSES if attribute in attributes_of(cls)}
    return frozenset(value for head in heads if head for value in HEADS[head])


judge = EsrJudge()
