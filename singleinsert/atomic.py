"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from singleinsert.errors import InputError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path``, then rename it into place.

    ``write`` is handed a path with the same suffix (writers such as PIL look at it) in the same folder, which is made
    if it is missing. Whatever ends it early, ``path`` is as it was and nothing is left beside it.

    Raises:
        InputError: the disk is full, or the place cannot be written to.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem[:40]}-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        _settle(temporary)
        os.replace(temporary, path)
    except Exception as problem:
        cause = os_error(problem, path.parent)
        if cause is None:
            raise
        raise InputError(f"cannot write {path}: {cause}") from problem
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """``text`` as UTF-8 with plain newlines, by :func:`write_atomically`."""
    write_atomically(path, lambda target: target.write_bytes(text.encode("utf-8")))


def _settle(temporary: Path) -> None:
    """Ordinary permissions (mkstemp makes a file private), and content on disk before the name points to it."""
    umask = os.umask(0)
    os.umask(umask)
    with open(temporary, "r+b") as file:
        os.fsync(file.fileno())
    os.chmod(temporary, 0o666 & ~umask)


def os_error(problem: BaseException, folder: Path) -> str | None:
    """What to tell a user of a failed write; None where the failure was not the file system's.

    Writers in other languages (safetensors, torch) report a full disk as an error of their own, with the system's
    text in it.
    """
    code = problem.errno if isinstance(problem, OSError) else None
    if code is None and "No space left on device" in str(problem):
        code = errno.ENOSPC
    if code in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({_free(folder)} left): make room and run again"
    if code is None:
        return None
    return os.strerror(code).lower()


def _free(folder: Path) -> str:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return f"{shutil.disk_usage(folder).free / 1e6:.0f} MB"
