"""Reading the evaluation's TOML files strictly: lists with a title, by name or file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from singleinsert.config.load import nearest
from singleinsert.errors import ConfigError, shown
from singleinsert.reading import read_toml


def names_in(folder: Path) -> list[str]:
    """The lists that come with the package in ``folder``."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def read_list(
    source: str | Path, folder: Path, what: str, row: str, optional: tuple[str, ...], also: Sequence[str] = ()
) -> tuple[Path, dict[str, Any]]:
    """A list's file and its tables: ``title``, at least one ``[[row]]``, and maybe what is ``optional``.

    Args:
        source: a name in ``folder``, or a .toml file. what: a list of this kind is called so. also: other names that
            may have been meant.

    Raises:
        ConfigError: no such list, an unknown or a missing key; one line.
    """
    path, names = Path(source), names_in(folder)
    if str(source) in names:
        path = folder / f"{source}.toml"
    elif path.suffix != ".toml":
        raise ConfigError(f"unknown {what} {str(source)!r}{nearest(str(source), [*also, *names])}")
    table = read_toml(path)
    check_keys(table, ("title", row, *optional), ("title", row), str(path))
    if not isinstance(table[row], list) or not table[row]:
        raise ConfigError(f"{path}: write [[{row}]], at least one")
    return path, table


def check_keys(table: Any, known: tuple[str, ...], needed: tuple[str, ...], where: str) -> None:
    """Refuse a table with an unknown key, naming the nearest, or without one it needs."""
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where}: a table is wanted, not {shown(table)}")
    for key in table:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key}{nearest(key, known)}")
    for key in needed:
        if key not in table:
            raise ConfigError(f"{where}: {key} is missing")
