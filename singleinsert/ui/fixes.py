"""What mends a run that failed: from its one line to the buttons beside it."""

from __future__ import annotations

from typing import Any

from singleinsert.cli import low_vram
from singleinsert.work.queue import FAILED, STOPPED

SLOWER = 1 / 3

MEMORY = {"id": "memory", "label": "Train again with the settings for 4 GB", "does": "memory"}
RATES = {"id": "rates", "label": "Train again with a third of the learning rates", "does": "rates"}
MASK = {"id": "mask", "label": "Correct the mask", "does": "draft", "screen": "mask"}
BASE = {"id": "base", "label": "Choose another base model", "does": "draft", "screen": "train"}
PHOTO = {"id": "photo", "label": "Take another photo", "does": "new"}
NAME = {"id": "name", "label": "Give it another name", "does": "draft", "screen": "photo"}
GO_ON = {"id": "again", "label": "Go on", "does": "again"}
AGAIN = GO_ON | {"label": "Try again"}
CHANGE = {"id": "change", "label": "Change its settings", "does": "draft", "screen": "train"}

SIGNS: tuple[tuple[tuple[str, ...], dict[str, str]], ...] = (
    (("the loss is nan", "the loss is inf", "diverged"), RATES),
    (("mask", "was found", "outlined", "speck"), MASK),
    (("no model folder", "the hub", "is not in its cache", "cannot be loaded as", "model_index", "checkpoint"), BASE),
    (("no picture", "cannot be read as a picture", "pixels"), PHOTO),
    (("give it another name", "give another --output_name", "is there and is no finished job"), NAME),
)
"""Parts of an error's line, and what it takes."""


def fixes_for(state: str, reason: str, out_of_memory: bool) -> list[dict[str, str]]:
    """Buttons of a run that failed or was stopped, the most likely first; of any other none."""
    if state == STOPPED:
        return [GO_ON, CHANGE]
    if state != FAILED:
        return []
    said = reason.lower()
    found = [MEMORY] if out_of_memory or "out of memory" in said else []
    found += [fix for signs, fix in SIGNS if any(sign in said for sign in signs)][:1]
    return [*found, AGAIN, CHANGE]


def changed_settings(fix: str, values: dict[str, Any]) -> dict[str, Any]:
    """``{"section.key": value}`` of what a fix changes in a run's settings, which ``values`` are."""
    if fix == "memory":
        return low_vram()
    if fix == "rates":
        return {f"{stage}.learning_rate": values[f"{stage}.learning_rate"] * SLOWER for stage in ("stage1", "stage2")}
    return {}
