"""A list of jobs as spreadsheets write it: CSV with commas, semicolons or tabs, and their spelling of values."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

from singleinsert.config.load import declaration, parse_value
from singleinsert.errors import ConfigError, InputError, first_line, shown
from singleinsert.reading import read_text

SEPARATORS = ",;\t"
WHOLE = re.compile(r"([+-]?\d+)[.,]0{0,2}")
"""Not 1.000, which may be a thousand."""
INDEX_COLUMN = re.compile(r"(unnamed: ?\d+|)", re.IGNORECASE)
"""Names of the column of row numbers that data frames write."""


def read_table(source: Path) -> Iterator[tuple[int, dict[str, str], bool]]:
    """(number of the line, its cells by the first line's names, is the decimal mark a comma?) of every row.

    An empty cell is not said, nor is a row of such.

    Raises:
        InputError: it cannot be read, is not in UTF-8, or is no CSV. ConfigError: the first line names a column twice
            or not at all, or a row has more cells than it.
    """
    text = read_text(source, InputError)
    lines = text.splitlines(keepends=True)
    start = next((i for i, line in enumerate(lines) if line.strip() and not line.lower().startswith("sep=")), 0)
    separator = max(SEPARATORS, key=lines[start].count) if lines else ","
    table = csv.reader(lines[start:], delimiter=separator, skipinitialspace=True)
    try:
        names = [name.strip() for name in next(table, [])]
        _check_names(names, source)
        for row in table:
            number = start + table.line_num
            if any(cell.strip() for cell in row[len(names) :]):
                raise ConfigError(f"{source} line {number} has more cells than the first line has names")
            cells = {name: cell.strip() for name, cell in zip(names, row, strict=False) if cell.strip()}
            _drop_index(cells, f"{source} line {number}")
            if cells:
                yield number, cells, separator != ","
    except csv.Error as problem:  # a cell of more than 131,072 letters, a line break in the middle of one
        place = f"{source} line {start + table.line_num}"
        raise InputError(f"{place} cannot be read as CSV: {first_line(problem)}") from problem


def _check_names(names: list[str], source: Path) -> None:
    given = [name for name in names if name]
    if double := next((name for name in given if given.count(name) > 1), None):
        raise ConfigError(f"{source}: two columns are called {shown(double)}: keep one")


def _drop_index(cells: dict[str, str], where: str) -> None:
    """Leave out a column of row numbers; what stands under no name otherwise may be meant."""
    for name in [name for name in cells if INDEX_COLUMN.fullmatch(name)]:
        if not cells.pop(name).isdigit():
            raise ConfigError(f"{where} has a cell in a column without a name: name it in the first line")


def cell_value(key: str, text: str, decimal_comma: bool) -> Any:
    """The value of a setting as a spreadsheet's cell has it: TRUE, 3.0 for a whole number, 0,0005 beside semicolons.

    What is none of these is as on a command line, and refused by name where it does not fit.
    """
    _, hint = declaration(key)
    item = get_args(hint)[0] if get_origin(hint) is tuple else hint
    if item is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if hint is int and (whole := WHOLE.fullmatch(text)):
        text = whole[1]
    if hint is float and decimal_comma and text.count(",") == 1:
        text = text.replace(",", ".")
    return parse_value(key, text)
