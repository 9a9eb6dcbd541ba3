"""The reference page of the settings, made from their declarations."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from singleinsert.config.fields import Settings
from singleinsert.config.load import TYPE_NAMES, to_values, toml_string

INTRODUCTION = """\
# Settings

Made from the declarations in `singleinsert/config/fields.py`: `python -m singleinsert.config > docs/configuration.md`.

A run's settings come from `--preset NAME` (a file of `presets/`), then `--config_file FILE`, then flags. For each key
the later one counts. Both files are TOML and hold only what differs from the defaults, which are the paper's settings
on SD 1.5. Common settings have flags (`python train_singleinsert.py --help`); all others are set by
`--set section.key=value`, for example `--set stage2.loss_space=v` or `--set save.formats=webui,diffusers`.

An unknown key, a wrong type or a value out of range stops the run with one line, before anything is loaded. Each run
writes all of its settings to `NAME_config.toml`, which `--config_file` takes. Paths are relative to the folder that the
command is run in.
"""


def reference() -> str:
    """The page, Markdown."""
    parts = [INTRODUCTION]
    for section, kind in get_type_hints(Settings).items():
        if section == "stage2":
            continue  # the same keys as stage1, shown beside them
        title = "[stage1] and [stage2]" if section == "stage1" else f"[{section}]"
        parts.append(f"\n## {title}\n\n{kind.__doc__}\n\n{_table(section, kind)}")
    return "".join(parts)


def _table(section: str, kind: Any) -> str:
    hints, defaults = get_type_hints(kind), to_values(Settings())
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for f in fields(kind):
        default = _code(defaults[f"{section}.{f.name}"])
        if section == "stage1" and defaults[f"stage2.{f.name}"] != defaults[f"stage1.{f.name}"]:
            default += f", stage2: {_code(defaults[f'stage2.{f.name}'])}"
        cells = (f"`{f.name}`", _type(hints[f.name], f.metadata), default, f.metadata["help"])
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def _code(value: Any) -> str:
    if isinstance(value, tuple):
        return "`[" + ", ".join(toml_string(item) for item in value) + "]`"
    return f"`{toml_string(value)}`" if isinstance(value, str) else f"`{str(value).lower()}`"


def _type(hint: Any, metadata: Any) -> str:
    if get_origin(hint) is tuple:
        item = get_args(hint)[0]
        return "list of texts" if item is str else f"list of {_type(item, metadata)}"
    if get_origin(hint) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(hint))
    low, high = metadata["minimum"], metadata["maximum"]
    name = TYPE_NAMES[hint].removeprefix("a ").removesuffix(" in quotes")
    if low is None:
        return name
    return f"{name}, {low:.10g} or more" if high is None else f"{name}, {low:.10g} to {high:.10g}"
