"""Text files that people write: UTF-8 with or without a byte order mark, TOML and JSON, each with one-line errors."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from singleinsert.errors import ConfigError, SingleInsertError, first_line, shown

WHOLE_NUMBERS = range(-(2**63), 2**63)
"""What TOML promises to hold."""
LARGEST_FILE = 64 * 2**20
"""Bytes; a list of a million jobs has fewer."""

QUOTED_BACKSLASH = re.compile(r'"[^"\n]*\\[^"\n]*')
ESCAPED = "\b\t\n\f\r"
"""What C:\\temp and its like become in double quotes."""
WINDOWS_PATHS = "write Windows paths in single quotes: 'C:\\photos\\anna.jpg'"


def read_text(path: Path, error: type[SingleInsertError] = ConfigError) -> str:
    """What a text file holds, without its byte order mark.

    Raises:
        error: it is not there, cannot be opened, is not UTF-8, or has more than 64 MB.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise error(f"{path} has {path.stat().st_size / 2**20:.0f} MB: that is no file of settings or jobs")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as problem:
        raise error(f"file not found: {path}") from problem
    except UnicodeDecodeError as problem:
        raise error(f"{path} cannot be read, it is not in UTF-8: save it as UTF-8 (a table: as CSV UTF-8)") from problem
    except (OSError, ValueError) as problem:  # ValueError: a NUL in the path
        reason = problem.strerror if isinstance(problem, OSError) and problem.strerror else first_line(problem)
        name = shown(str(path)) if reason.endswith("null byte") else path
        raise error(f"{name} cannot be read: {reason}") from problem


def read_toml(path: Path, error: type[SingleInsertError] = ConfigError) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        error: as of :func:`read_text` and :func:`parse_toml`.
    """
    return parse_toml(read_text(path, error), str(path), error)


def parse_toml(text: str, where: str, error: type[SingleInsertError] = ConfigError) -> dict[str, Any]:
    """The tables of TOML text.

    Raises:
        error: it is not TOML, is nested too deeply, or holds a whole number beyond 64 bits.
    """
    try:
        tables = tomllib.loads(text)
        _check_numbers(tables, where, error)
    except RecursionError as problem:
        raise error(f"{where} cannot be read: its brackets are nested too deeply") from problem
    except tomllib.TOMLDecodeError as problem:
        raise error(f"{where} is not valid TOML: {problem}{_hint(text, problem)}") from problem
    except ValueError as problem:  # Python reads no whole number of more than 4,300 digits
        raise error(f"{where} cannot be read: it holds a number with too many digits") from problem
    return tables


def _check_numbers(value: Any, where: str, error: type[SingleInsertError]) -> None:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _check_numbers(item, where, error)
    elif isinstance(value, int) and value not in WHOLE_NUMBERS:
        raise error(f"{where} cannot be read: it holds a whole number of more than 64 bits")


def _hint(text: str, problem: tomllib.TOMLDecodeError) -> str:
    """What is meant where a path of Windows stands in double quotes, whose backslashes mean something else."""
    place = re.search(r"at line (\d+)", str(problem))
    lines = text.splitlines()
    line = lines[int(place[1]) - 1] if place and int(place[1]) <= len(lines) else ""
    return f"; {WINDOWS_PATHS}" if QUOTED_BACKSLASH.search(line) else ""


def read_json(path: Path, error: type[SingleInsertError] = ConfigError) -> Any:
    """What a JSON file holds.

    Raises:
        error: as of :func:`read_text`, or it is not JSON, or is nested too deeply.
    """
    text = read_text(path, error)
    try:
        return json.loads(text)
    except RecursionError as problem:
        raise error(f"{path} cannot be read: its brackets are nested too deeply") from problem
    except ValueError as problem:
        raise error(f"{path} is not valid JSON: {first_line(problem)}") from problem


def user_path(text: str | Path) -> Path:
    """A path as a user wrote it, ``~`` being the home folder.

    Raises:
        ConfigError: it holds what no path has, such as the tab of "C:\\temp" in double quotes.
    """
    return Path(expanded(str(text)))


def expanded(text: str) -> str:
    """The same for text. A name that begins with ``~`` and is no user's is left as it is."""
    if any(ord(letter) < 32 for letter in text):
        hint = f"; in TOML, {WINDOWS_PATHS}" if set(text) & set(ESCAPED) else ""
        raise ConfigError(f"the path {shown(text)} holds a control character{hint}")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ConfigError(f"the path {shown(text)} holds bytes that are not UTF-8: rename the file or folder")
    if not text.startswith("~"):
        return text
    try:
        return str(Path(text).expanduser())
    except RuntimeError:
        return text
