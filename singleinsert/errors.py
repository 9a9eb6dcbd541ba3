"""Errors whose text is the one line a user sees: what is wrong, where, and what to do."""

from typing import Any

LONGEST_LINE = 1000
"""Characters of an error line; what is longer is cut in the middle."""
LONGEST_VALUE = 80
"""Characters of a wrong value that an error line repeats."""


class SingleInsertError(Exception):
    """Base of all; scripts print ``error: ...`` to stderr and leave with ``exit_code``."""

    exit_code = 2

    def __str__(self) -> str:
        """One line of bearable length, whatever keys and values of a user's it repeats."""
        return one_line(super().__str__())


class ConfigError(SingleInsertError):
    """An unknown key, a wrong type, a value out of range."""


class InputError(SingleInsertError):
    """A picture, mask, prompt, word or folder that cannot be used."""


class ModelError(SingleInsertError):
    """A base model folder, checkpoint or artifact that cannot be used."""


class MissingPackageError(SingleInsertError):
    """An optional package is not installed; names the pip command."""


def first_line(error: BaseException) -> str:
    """The first line with text of what an error says; its type's name where it says nothing (``MemoryError()``)."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return one_line(lines[0]) if lines else type(error).__name__


def one_line(text: str, longest: int = LONGEST_LINE) -> str:
    """``text`` without line breaks, cut in the middle where it is longer than ``longest`` characters."""
    text = " ".join(line.strip() for line in text.splitlines() if line.strip())
    half = (longest - 5) // 2
    return text if len(text) <= longest else f"{text[:half]} ... {text[-half:]}"


def shown(value: Any) -> str:
    """A wrong value as an error line repeats it: its ``repr``, cut where it is long."""
    try:
        return one_line(repr(value), LONGEST_VALUE)
    except (ValueError, RecursionError):  # a whole number of 5,000 digits; 2,000 nested lists
        return f"a {type(value).__name__} that is too large to be shown"


def last_line(error: BaseException) -> str:
    """The last line with text, where an error quotes another one's traceback; its type's name where there is none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return one_line(lines[-1]) if lines else type(error).__name__
