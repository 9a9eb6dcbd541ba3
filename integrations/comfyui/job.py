"""A training job in the queue folder of a SingleInsert installation: written, followed, stopped, fetched.

Nothing of SingleInsert is imported, because it lives in an environment of its own. What both sides know is files:
``WORK/queue/NAME.toml`` asks for a run; ``events.jsonl`` in its logs tells of it; a file ``stop`` beside that asks it
to save its state and leave; ``WORK/NAME`` holds what it made. While it runs, its logs lie in
``WORK/.batch/work/NAME.001``, of a second try ``NAME.002``, and so on; then with the rest.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .concepts import ConceptError, read_own

CONFIG = Path(__file__).with_name("singleinsert.toml")
EVENTS, STOP = "events.jsonl", "stop"
NAME = re.compile(r"[^\s\\/:*?\"<>|\[\](){}#,;']{1,80}")
"""What a name may be, so that it is a file's name and a word of a prompt; the run itself checks more closely."""
LAST_LINES = 2000
"""Characters of a worker's output that are looked at for a reason."""


@dataclass(frozen=True)
class Installation:
    """Where jobs go, and the Python that does them; none: a worker is started by somebody else."""

    work: Path
    python: str = ""

    def command(self, name: str) -> list[str]:
        """Does this one job and leaves, or waits while another worker is at it."""
        return [self.python, "-m", "singleinsert.batch", str(self.job_file(name)), "--output_dir", str(self.work)]

    @property
    def home(self) -> Path:
        """From where Python finds SingleInsert: the checkout that its environment lies in, if it lies in one."""
        checkouts = (folder for folder in Path(self.python).parents if (folder / "singleinsert/__init__.py").is_file())
        return next(checkouts, self.work)

    def job_file(self, name: str) -> Path:
        return self.work / "queue" / f"{name}.toml"


def find_installation(config: Path = CONFIG) -> Installation:
    """From SINGLEINSERT_QUEUE and SINGLEINSERT_PYTHON, else from singleinsert.toml in this pack's folder.

    Neither can be set by a workflow: a workflow may come from anywhere, and this names a program.

    Raises:
        ConceptError: nothing says where the queue is, or what says so cannot be read.
    """
    said: dict[str, Any] = {}
    try:
        said = tomllib.loads(config.read_text(encoding="utf-8-sig")) if config.exists() else {}
    except (OSError, ValueError) as problem:
        raise ConceptError(f"{config}: {problem}") from problem
    work = os.environ.get("SINGLEINSERT_QUEUE") or said.get("queue")
    python = os.environ.get("SINGLEINSERT_PYTHON") or said.get("python") or ""
    if not isinstance(work, str) or not work or not isinstance(python, str):
        raise ConceptError(
            f"where is SingleInsert? Write into {config}: queue = '/path/to/a/folder/for/jobs' and "
            "python = '/path/to/SingleInsert/.venv/bin/python', and try again"
        )
    python = str(Path(python).expanduser()) if python else ""
    if python and shutil.which(python) is None:
        raise ConceptError(f"{config}: python = {python!r} is no program: give the one of SingleInsert's environment")
    return Installation(Path(work).expanduser().absolute(), python)


@dataclass(frozen=True)
class Request:
    """What to train. ``settings``: {"section.key": value}; ``files``: name beside the job -> bytes, the photo first."""

    name: str
    preset: str
    class_word: str
    files: Mapping[str, bytes]
    settings: Mapping[str, str | int | float] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Of everything that the result depends on."""
        sha = hashlib.sha256(json.dumps([self.preset, self.class_word, sorted(self.settings.items())]).encode())
        for name, content in self.files.items():
            sha.update(name.encode() + hashlib.sha256(content).digest())
        return sha.hexdigest()

    def job(self, folder: Path) -> str:
        """The text of the job's file; its pictures lie in ``folder``."""
        photo, *masks = self.files
        values = {"name": self.name, "preset": self.preset, "class_word": self.class_word} | {
            "data.image": str(folder / photo)
        }
        if masks:
            values["data.mask"] = str(folder / masks[0])
        lines = [f"{_key(key)} = {json.dumps(value)}" for key, value in (values | dict(self.settings)).items()]
        return "\n".join([f"# digest {self.digest}", "[[job]]", *lines, ""])


def _key(key: str) -> str:
    return ".".join(json.dumps(part) for part in key.split("."))


class Job:
    """A request at an installation."""

    def __init__(self, at: Installation, request: Request) -> None:
        """
        Raises:
            ConceptError: the name cannot be one.
        """
        if not NAME.fullmatch(request.name):
            raise ConceptError(f"name {request.name!r}: use letters, digits, - and _ alone, such as mexyz")
        self.at, self.request = at, request
        self.file = at.job_file(request.name)
        self.output = at.work / request.name
        self._read = 0
        self._worker: subprocess.Popen[bytes] | None = None

    @property
    def logs(self) -> Path:
        """Where the run tells of itself now."""
        of_this = re.compile(rf"{re.escape(self.request.name)}\.\d+")
        folders = (self.at.work / ".batch" / "work").glob("*")
        tries = sorted(path for path in folders if of_this.fullmatch(path.name))
        return (tries[-1] if tries else self.output) / "logs" / self.request.name

    def is_done(self) -> bool:
        """Was this very request trained already?"""
        return self._digest_there() == self.request.digest and bool(self.results)

    @property
    def results(self) -> list[Path]:
        """The files for ComfyUI, those of an embedding and of a LoRA; [] while the run is not done."""
        found = [path for path in sorted(self.output.glob("*.safetensors")) if read_own(path)]
        done = any(event.get("event") == "done" for event in _events(self._text()))
        return [path for path in found if not path.stem.endswith("_artifact")] if done else []

    def hand_over(self) -> None:
        """Write the job, and start a worker where the installation names a Python.

        Raises:
            ConceptError: another picture or other settings were trained under this name.
        """
        before = self._digest_there()
        if before and before != self.request.digest and self.output.exists():
            raise ConceptError(
                f"{self.request.name} was trained from another picture or with other settings: choose another name, or "
                f"remove {self.output}"
            )
        pictures = self.at.work / "pictures"
        for folder in (pictures, self.file.parent):
            folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.request.files.items():
            _write(pictures / name, content)
        self._read = len(self._text())
        (self.logs / STOP).unlink(missing_ok=True)
        _write(self.file, self.request.job(pictures).encode())
        if self.at.python:
            log = self.at.work / f"{self.request.name}.log"
            environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
            with log.open("wb") as output:
                self._worker = subprocess.Popen(
                    self.at.command(self.request.name), stdout=output, stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL, env=environment, cwd=self.at.home, start_new_session=True,
                )  # fmt: skip

    def news(self) -> Iterator[dict[str, Any]]:
        """The events since the last call.

        Raises:
            ConceptError: the run has failed, with its own reason.
        """
        text = self._text()
        whole = text[: text.rfind(b"\n") + 1]
        fresh, self._read = whole[self._read :], max(self._read, len(whole))
        for event in _events(fresh):
            if event.get("event") == "failed":
                raise ConceptError(
                    f"the training of {self.request.name} failed: {event.get('reason', 'no reason given')}"
                )
            yield event
        self._check_worker()

    def stop(self) -> None:
        """Ask the run to save its state and leave; a job that nobody has begun is taken back."""
        self.file.unlink(missing_ok=True)
        if self.logs.exists():
            (self.logs / STOP).touch()
        elif self._worker is not None:
            self._worker.terminate()

    def fetch(self, embeddings: Path, loras: Path) -> list[Path]:
        """Copy the files where ComfyUI finds them. Files of another origin are not replaced.

        Raises:
            ConceptError: there are none, or one of that name is not SingleInsert's.
        """
        results, out = self.results, []
        if not results:
            raise ConceptError(f"{self.output} holds no finished concept")
        for path in results:
            target = (loras if path.stem.endswith("_lora") else embeddings) / path.name
            if target.exists() and not read_own(target):
                raise ConceptError(f"{target} is there and is not SingleInsert's: move it away, or choose another name")
            out.append(target)
        for path, target in zip(results, out, strict=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            _write(target, path.read_bytes())
        return out

    def _check_worker(self) -> None:
        """A worker that has left while the run is not done has failed before it began."""
        if self._worker is None or self._worker.poll() is None or self.results:
            return
        text = (self.at.work / f"{self.request.name}.log").read_text(errors="replace")[-LAST_LINES:].strip()
        last = text.splitlines()[-1] if text else f"its worker left with exit code {self._worker.returncode}"
        raise ConceptError(f"the training of {self.request.name} failed: {last}")

    def _digest_there(self) -> str:
        try:
            first = self.file.read_text(encoding="utf-8").splitlines()[0]
        except (OSError, IndexError):
            return ""
        return first.removeprefix("# digest ") if first.startswith("# digest ") else ""

    def _text(self) -> bytes:
        try:
            return (self.logs / EVENTS).read_bytes()
        except OSError:
            return b""


def _events(text: bytes) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            yield event


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
