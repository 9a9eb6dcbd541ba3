"""Errors whose text is the one line a user sees: what is wrong, where, and what to do."""


class SingleInsertError(Exception):
    """Base of all; scripts print ``error: ...`` to stderr and leave with ``exit_code``."""

    exit_code = 2


class ConfigError(SingleInsertError):
    """An unknown key, a wrong type, a value out of range."""


class InputError(SingleInsertError):
    """A picture, mask, prompt, word or folder that cannot be used."""


class ModelError(SingleInsertError):
    """A base model folder, checkpoint or artifact that cannot be used."""


class MissingPackageError(SingleInsertError):
    """An optional package is not installed; names the pip command."""


def first_line(error: BaseException) -> str:
    """The first line with text of what an error says; its type's name where it says nothing, as ``MemoryError()``."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
