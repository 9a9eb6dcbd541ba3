"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from singleinsert.errors import InputError, first_line

_TEMPORARY = re.compile(r"\.(?P<name>.+)\.\w{8}\.part(\.\w+)?$")
_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # how writers in Rust (safetensors) give the system's number
LONGEST_SHOWN = 190  # bytes of the final name in a temporary one: file systems take 255


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path``, then rename it into place.

    ``write`` is handed a path with the same suffix (writers such as PIL look at it) in the same folder, which is made
    if it is missing. Whatever ends it early, ``path`` is as it was. Nothing is left beside it, unless the process is
    killed; then the next run of that name removes what is left, see :func:`unfinished`.

    Raises:
        InputError: the disk is full, or the place cannot be written to.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shown = path.name.encode()[:LONGEST_SHOWN].decode(errors="ignore")
        handle, name = tempfile.mkstemp(prefix=f".{shown}.", suffix=f".part{path.suffix}", dir=path.parent)
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


def nearest_parent(folder: Path) -> Path:
    """``folder``, or the first above it that is there."""
    there = folder.resolve()
    while not there.exists():
        there = there.parent
    return there


def check_folder_to_write(folder: Path, what: str) -> None:
    """InputError where ``folder`` is none that could be made, or written into. ``what``: its name in the message."""
    there = nearest_parent(folder)
    if not there.is_dir():
        raise InputError(f"{what}: {there} is a file, not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{what}: nothing can be written in {there}")


def unfinished(folder: Path) -> dict[Path, str]:
    """Files in ``folder`` that are being written, or were when their process was killed: {path: name it would have}.

    A name of more than ``LONGEST_SHOWN`` bytes is cut.
    """
    found = {path: _TEMPORARY.fullmatch(path.name) for path in folder.glob(".*.part*")}
    return {path: match["name"] for path, match in found.items() if match}


def remove_unfinished(folder: Path, before: float, name: str = "") -> None:
    """Remove what killed writes of ``name``, or of anything, have left in ``folder``.

    Args:
        before: a file's time of the last change, so long ago that nobody can still be at a write from before it.
    """
    for path, final in unfinished(folder).items():
        with suppress(FileNotFoundError):  # another process removes it, or ends its write
            if final == (name or final) and path.stat().st_mtime < before:
                path.unlink()


def _settle(temporary: Path) -> None:
    """Ordinary permissions (mkstemp makes a file private), and content on disk before the name points to it."""
    umask = os.umask(0)
    os.umask(umask)
    with open(temporary, "r+b") as file:
        os.fsync(file.fileno())
    os.chmod(temporary, 0o666 & ~umask)


def os_error(problem: BaseException, folder: Path) -> str | None:
    """What to tell a user of a failed write; None where the failure was not the file system's.

    Writers in other languages (safetensors, torch) report the system's errors as errors of their own, with its text and
    mostly its number in them.
    """
    code = problem.errno if isinstance(problem, OSError) else None
    if code is None and (found := _OS_ERROR.search(str(problem))):
        code = int(found[1])
    if code is None and "No space left on device" in str(problem):
        code = errno.ENOSPC
    if code in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({_free(folder)} left): make room and run again"
    if code == errno.EFBIG:
        return "the file would be larger than this system lets one be (ulimit -f)"
    if code is not None:
        return os.strerror(code).lower()
    is_write = isinstance(problem, OSError) or "I/O error" in str(problem)
    return first_line(problem) if is_write else None


def _free(folder: Path) -> str:
    return f"{shutil.disk_usage(nearest_parent(folder)).free / 1e6:.0f} MB"
