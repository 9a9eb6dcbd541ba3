"""How a setting is declared: a dataclass field with its meaning and its range."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def setting(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    free: bool = False,
    loaded: bool = False,
    several: bool = False,
    path: bool = False,
    off: Any = None,
) -> Any:
    """A documented field. Choices are declared as a Literal type.

    Args:
        minimum, maximum: inclusive.
        free: it changes no number of a run by more than a rounding error, so that a resumed run may differ in it.
        loaded: it is set on a model when that is loaded, so that for another value the model must be loaded again.
        several: a list whose one member needs no brackets, and whose text is never split: ``--image`` may be repeated.
        path: it names files or folders, or may name one: ``~`` stands for the home folder.
        off: the value at which it does nothing. A setting that is off is in no fingerprint, so that what was trained
            before there was such a setting is known again.
    """
    facts = {
        "help": help, "minimum": minimum, "maximum": maximum, "free": free, "loaded": loaded, "several": several,
        "path": path, "off": off,
    }  # fmt: skip
    return field(default=default, metadata=facts)
