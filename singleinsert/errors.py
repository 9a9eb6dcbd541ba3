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
    """The first line of an error's text that says anything, for messages of one line; its type where none does."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if line), type(error).__name__)
