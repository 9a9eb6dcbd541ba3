"""Where finished concepts go: a folder, in which each appears whole, or anything fsspec can write to."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Protocol

from singleinsert.claims import STALE
from singleinsert.errors import InputError, MissingPackageError, first_line

RECORD_END = "_job.json"


class Store(Protocol):
    """Finished concepts, each a folder NAME that holds NAME_job.json."""

    def record(self, name: str) -> dict[str, Any] | None:
        """What NAME_job.json says; None where that concept is not there."""

    def publish(self, work: Path, name: str) -> None:
        """Let the folder ``work``, NAME_job.json in it, appear under ``name``; ``work`` is then gone."""

    def put_text(self, name: str, text: str) -> None:
        """A file beside the concepts."""


class FolderStore:
    """Concepts under a folder on the same disk as what is being worked on: a rename makes them appear."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def record(self, name: str) -> dict[str, Any] | None:
        path = self.folder / name / f"{name}{RECORD_END}"
        try:
            text = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as problem:
            raise InputError(f"{path} cannot be read: {problem.strerror}") from problem
        return parse_record(text, str(path))

    def publish(self, work: Path, name: str) -> None:
        try:
            os.rename(work, self.folder / name)
        except OSError:
            if self.record(name) is None:
                raise
            shutil.rmtree(work)  # another process finished the same job; it holds the same numbers

    def put_text(self, name: str, text: str) -> None:
        from singleinsert.atomic import remove_unfinished, write_text

        write_text(self.folder / name, text)
        remove_unfinished(self.folder, (self.folder / name).stat().st_mtime - STALE, name)


class UrlStore:
    """Concepts under an fsspec URL (s3://bucket/concepts). NAME_job.json goes last: with it, the rest is there."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url
        try:
            self.files, self.root = fsspec.core.url_to_fs(url)
        except ImportError as problem:  # fsspec names the package
            raise MissingPackageError(f"--results {url}: {problem}") from problem
        except ValueError as problem:
            raise InputError(f"--results {url}: {problem}") from problem
        if "memory" in self.files.protocol:
            raise InputError(f"--results {url}: what is in memory is gone when the batch ends; give a place that stays")

    def record(self, name: str) -> dict[str, Any] | None:
        try:
            text = self.files.cat_file(f"{self.root}/{name}/{name}{RECORD_END}")
        except FileNotFoundError:
            return None
        except Exception as problem:  # each file system has errors of its own
            raise InputError(f"--results {self.url}: cannot be read: {first_line(problem)}") from problem
        return parse_record(text, f"{self.url}/{name}/{name}{RECORD_END}")

    def publish(self, work: Path, name: str) -> None:
        record = work / f"{name}{RECORD_END}"
        for path in [*sorted(p for p in work.rglob("*") if p.is_file() and p != record), record]:
            target = f"{self.root}/{name}/{path.relative_to(work).as_posix()}"
            self.files.makedirs(target.rpartition("/")[0], exist_ok=True)
            self.files.put_file(str(path), target)
        shutil.rmtree(work)

    def put_text(self, name: str, text: str) -> None:
        self.files.makedirs(self.root, exist_ok=True)
        self.files.pipe_file(f"{self.root}/{name}", text.encode())


def open_store(folder: Path, url: str) -> Store:
    """The store at ``url``, or in ``folder`` where that is ""."""
    return UrlStore(url) if url else FolderStore(folder)


AGAIN = "delete its folder to train it again"
RECORD: dict[str, type | tuple[type, ...]] = {
    "name": str, "class_word": (str, list), "settings": dict, "digest": str, "base": str, "mask_share": (int, float),
    "losses": dict, "curve": list, "low_memory": bool, "seconds": (int, float), "host": str, "files": dict,
}  # fmt: skip
"""What NAME_job.json holds at least, and of which type."""


def parse_record(text: bytes | str, where: str) -> dict[str, Any]:
    """A finished job's record. InputError where it is none: damage is not taken for a job that has to be done."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise InputError(f"{where} is damaged ({first_line(problem)}): {AGAIN}") from problem
    told = record if isinstance(record, dict) else {}
    wrong = [key for key, kind in RECORD.items() if not isinstance(told.get(key), kind)]
    wrong = wrong or [key for key, terms in told["losses"].items() if not isinstance(terms, dict)]
    if wrong:
        raise InputError(f"{where} is damaged (no {wrong[0]} as a batch writes it): {AGAIN}")
    return told
