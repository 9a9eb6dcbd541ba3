"""Answers on disk: a CSV file for each person, a row for each answer, written and flushed as it is given."""

from __future__ import annotations

import csv
import io
import os
import re
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from singleinsert.errors import InputError

NAME = re.compile(r"[\w.-]{1,60}")


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        item: the screen's key. methods: those on the screen in its order, joined by "|".
        method: of the picture that was rated; "" where two were compared.
        answer: "1" to "5"; "left", "right" or "cannot say".
    """

    rater: str
    item: str
    concept: str
    text: str
    methods: str
    method: str
    question: str
    answer: str
    time: str

    @property
    def place(self) -> tuple[str, str, str, str]:
        """What it answers: a later answer in the same place replaces it."""
        return self.rater, self.item, self.method, self.question


COLUMNS = [field.name for field in fields(Answer)]


class AnswerFile:
    """One person's answers to one kind of question."""

    def __init__(self, folder: Path, kind: str, rater: str) -> None:
        """Read what is there already.

        Raises:
            InputError: a name that no file can have, or a file that holds something else.
        """
        if not NAME.fullmatch(rater) or rater.startswith("."):
            raise InputError(f"--rater {rater!r}: letters, digits, dots, dashes and underscores, at most 60")
        self.path, self.rater = folder / f"{kind}-{rater}.csv", rater
        self._lock = threading.Lock()
        self.answers = {answer.place: answer for answer in read_answers(self.path)}

    def add(self, answer: Answer) -> None:
        """Write one answer; it is on the disk when this returns."""
        with self._lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            torn = _torn(self.path)
            with self.path.open("r+b" if self.path.exists() else "wb") as file:
                file.seek(0, os.SEEK_END)
                if torn:  # the end of a row that a crash has cut
                    file.truncate(file.tell() - torn)
                    file.seek(0, os.SEEK_END)
                header = "" if file.tell() else _row(COLUMNS)
                file.write((header + _row(asdict(answer).values())).encode())
                file.flush()
                os.fsync(file.fileno())
            self.answers[answer.place] = answer


def read_answers(path: Path) -> list[Answer]:
    """The answers of a file, [] where there is none; of several in one place, the last counts.

    Raises:
        InputError: a file that no study has written.
    """
    if not path.exists():
        return []
    try:
        data = path.read_bytes()
        whole = data[: len(data) - _torn(path)].decode("utf-8-sig")
        rows = list(csv.reader(io.StringIO(whole)))
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise InputError(f"{path} cannot be read as a table of answers: {problem}") from problem
    if (rows and rows[0] != COLUMNS) or any(len(row) != len(COLUMNS) for row in rows):
        raise InputError(f"{path} was not written by a study: its columns must be {', '.join(COLUMNS)}")
    found = {answer.place: answer for answer in (Answer(*row) for row in rows[1:])}
    return list(found.values())


def read_all(folder: Path, kind: str) -> list[Answer]:
    """Everybody's answers to one kind of question. InputError where a file is none."""
    return [answer for path in sorted(folder.glob(f"{kind}-*.csv")) for answer in read_answers(path)]


def _row(values: Iterable[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(values)
    return out.getvalue()


def _torn(path: Path) -> int:
    """How many bytes at the end are no whole row."""
    data = path.read_bytes() if path.exists() else b""
    return len(data) - (data.rfind(b"\n") + 1)
