"""Where finished concepts go: a folder, in which each appears whole, or anything fsspec can write to."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Protocol

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
        return _read_json(self.folder / name / f"{name}{RECORD_END}")

    def publish(self, work: Path, name: str) -> None:
        try:
            os.rename(work, self.folder / name)
        except OSError:
            if self.record(name) is None:
                raise
            shutil.rmtree(work)  # another process finished the same job; it holds the same numbers

    def put_text(self, name: str, text: str) -> None:
        from singleinsert.atomic import write_text

        write_text(self.folder / name, text)


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
            return json.loads(self.files.cat_file(f"{self.root}/{name}/{name}{RECORD_END}"))
        except (FileNotFoundError, ValueError):
            return None
        except Exception as problem:  # each file system has errors of its own
            raise InputError(f"--results {self.url}: cannot be read: {first_line(problem)}") from problem

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


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
