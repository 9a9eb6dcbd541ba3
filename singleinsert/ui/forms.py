"""The settings as a form, made from their declarations; what comes back from it is checked as a file's would be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from singleinsert.config import Settings
from singleinsert.config.load import all_fields, checked_value, declaration, to_values, toml_string
from singleinsert.errors import ConfigError

LOCKED = frozenset({
    "model.revision", "model.variant", "caption.describe", "caption.instruction", "run.report_to", "run.output_name",
    "data.class_word", "data.handles", "data.description", "mask.backend", "mask.box", "mask.points", "mask.mask_index",
})  # fmt: skip
"""Settings that have their place on other screens, reach out of this machine, or are the page's to decide."""


def is_locked(key: str) -> bool:
    """Whether the form leaves a setting out: LOCKED, and whatever names a file or folder."""
    field, _ = declaration(key)
    return key in LOCKED or bool(field.metadata["path"])


def describe_form(settings: Settings) -> list[dict[str, Any]]:
    """Every setting that the form offers, with the value it has without the form."""
    values = to_values(settings)
    found = []
    for key, field, hint in all_fields():
        if is_locked(key):
            continue
        item = get_args(hint)[0] if get_origin(hint) is tuple else hint
        choices = list(get_args(item)) if get_origin(item) is Literal else []
        kind = "list" if get_origin(hint) is tuple else "choice" if choices else item.__name__
        found.append({
            "key": key, "kind": kind, "choices": choices, "help": field.metadata["help"], "value": plain(values[key]),
            "minimum": field.metadata["minimum"], "maximum": field.metadata["maximum"],
        })  # fmt: skip
    return found


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the form sends, in the settings' types. ConfigError, one line, for a value that cannot be."""
    found = {}
    for key, value in given.items():
        if is_locked(key):
            raise ConfigError(f"{key} cannot be set on the page: write it into the list of jobs")
        _, hint = declaration(key)
        if hint is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        found[key] = plain(checked_value(key, value))
    return found


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def toml_value(value: Any) -> str:
    """A setting's value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    return toml_string(value) if isinstance(value, str) else repr(value)
