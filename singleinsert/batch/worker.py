"""One process, many concepts: the base model stays, each job goes into it, is exported, and leaves no trace."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from singleinsert.atomic import write_text
from singleinsert.batch.store import RECORD_END, Store
from singleinsert.claims import this_host
from singleinsert.cli import low_vram
from singleinsert.config import Settings, keys_declared
from singleinsert.config.load import to_values
from singleinsert.data.captions import CAPTION_SUFFIXES
from singleinsert.data.folders import MASK_END
from singleinsert.errors import ConfigError, InputError, ModelError, SingleInsertError, first_line
from singleinsert.training.watch import SilentWatch
from singleinsert.work.queue import DONE, FAILED

if TYPE_CHECKING:
    from singleinsert.artifact import Artifact
    from singleinsert.training.files import RunFiles

LOW_MEMORY = {key.removeprefix("run."): value for key, value in low_vram().items() if key != "run.use_8bit_adam"}
"""[run] of the second try after memory ran out: --low_vram, but for what changes more than how sums are rounded."""
CURVE_POINTS = 60
SOURCE_SIDE, RESULTS_SHOWN = 256, 3
"""Of a finished job on the batch's page: pixels of the source's longer side, and how many results."""
INPUTS_END = ".inputs"
"""Of the folder, beside a job's own, into which pictures go that came with it."""


@dataclass(frozen=True)
class Task:
    """A job in the hands of a worker.

    Attributes:
        work: a folder of its own; what an earlier try left in it is gone on with.
        inputs: pictures by path, where the worker cannot see them.
    """

    name: str
    settings: Settings
    work: Path
    inputs: dict[str, bytes] | None = None

    @property
    def copies(self) -> Path:
        """Folder of the ``inputs``, beside ``work``."""
        return self.work.with_name(self.work.name + INPUTS_END)


@dataclass(frozen=True)
class Outcome:
    """How a job went: "done" or "failed", the reason in a line, and what was said meanwhile."""

    state: str
    reason: str = ""
    log: str = ""
    record: dict[str, Any] | None = None


class KeptModel:
    """The base model of the run before, where the next run wants the same; for the ``load`` of training."""

    def __init__(self) -> None:
        self._model: Any = None
        self._key: tuple[Any, ...] = ()

    def is_for(self, settings: Settings) -> bool:
        """Is it loaded already?"""
        return self._model is not None and self._key[: len(source_key(settings))] == source_key(settings)

    def __call__(self, settings: Settings, accelerator: Any) -> Any:
        from singleinsert.training.run import load_model

        key = (*source_key(settings), accelerator.mixed_precision, str(accelerator.device))
        if self._model is None or key != self._key:
            self.forget()  # two do not fit
            self._model, self._key = load_model(settings, accelerator), key
        return self._model

    def forget(self) -> None:
        from accelerate.utils.memory import clear_device_cache

        self._model = None
        clear_device_cache(garbage_collection=True)


class LogWatch(SilentWatch):
    """Hands a job's lines to its log."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say

    def line(self, text: str) -> None:
        self.say(text)


class Worker:
    """Trains one job after the other; keeps the base model while the next job wants the same."""

    def __init__(self) -> None:
        self.model = KeptModel()

    def prefers(self, settings: Settings) -> bool:
        """Can it begin without loading a model?"""
        return self.model.is_for(settings)

    def do(self, task: Task, store: Store) -> Outcome:
        """Train, export, publish. Whatever goes wrong with this job is its outcome; only signals get through."""
        from singleinsert.training.signals import Interrupted

        log: list[str] = []
        try:
            record = self._try(task, log.append)
            store.publish(task.work, task.name)
            return Outcome(DONE, "", "\n".join(log), record)
        except Interrupted:
            raise
        except SingleInsertError as problem:
            reason = str(problem)
        except Exception as problem:
            self.model = KeptModel()  # who knows what became of it
            reason = f"{type(problem).__name__}: {first_line(problem)}"
            log.append(traceback.format_exc())
        finally:
            shutil.rmtree(task.copies, ignore_errors=True)
        return Outcome(FAILED, reason, "\n".join([*log, reason]))

    def _try(self, task: Task, say: Callable[[str], None]) -> dict[str, Any]:
        """Once more where memory ran out. Its frames hold tensors, so that the second try is outside of ``except``."""
        try:
            return self._train(task, task.settings, say)
        except Exception as problem:
            from singleinsert.training.memory import out_of_memory

            if not out_of_memory(problem):
                raise
            say(f"out of memory ({first_line(problem)}): once more with {LOW_MEMORY}")
        self.model.forget()
        less = replace(task.settings, run=replace(task.settings.run, **LOW_MEMORY))
        return self._train(task, less, say, sparing=True)

    def _train(
        self, task: Task, settings: Settings, say: Callable[[str], None], sparing: bool = False
    ) -> dict[str, Any]:
        from singleinsert.insert import insert_concepts
        from singleinsert.training.checkpoint import LATEST, checkpoints
        from singleinsert.training.files import RunFiles
        from singleinsert.training.results import resolved

        started, files = time.time(), RunFiles(task.work, task.name)
        digest = digest_of(read_inputs(settings)) if task.inputs is None else digest_of(task.inputs)
        watch, inserted = LogWatch(say), None
        if checkpoints(files.checkpoints):
            going_on = replace(settings, run=replace(settings.run, resume_from_checkpoint=LATEST))
            try:
                inserted = insert_concepts(
                    near(task, going_on), watch, folder=task.work, load=self.model, overwrite=True
                )
            except (ConfigError, ModelError) as problem:  # of other settings, or damaged; the second try tells which
                say(f"{problem}: begins anew")
        if inserted is None:
            shutil.rmtree(task.work, ignore_errors=True)
            inserted = insert_concepts(near(task, settings), watch, folder=task.work, load=self.model, overwrite=True)
        trained = inserted.trained
        _drop_checkpoints(files, keep=settings.run.final_checkpoint)
        write_text(
            files.config, resolved(settings)
        )  # says neither that it was resumed nor where pictures lay meanwhile
        metadata = trained.artifact.metadata
        record = {
            "name": task.name,
            "class_word": ", ".join(settings.data.class_word),
            "settings": plain_values(task.settings),
            "digest": digest,
            "base": trained.artifact.base.name,
            "mask_share": metadata["mask_share"],
            "losses": metadata["losses"],
            "curve": loss_curve(files.logs),
            "low_memory": sparing,
            "finished": round(time.time()),
            "seconds": round(time.time() - started, 1),
            "host": this_host().split()[0],
            "shown": _shown(near(task, settings), files, trained.artifact),
            "files": {p.name: p.stat().st_size for p in sorted(task.work.iterdir()) if p.is_file()},
        }
        write_text(task.work / f"{task.name}{RECORD_END}", json.dumps(record, indent=1) + "\n")
        return record


def _drop_checkpoints(files: RunFiles, keep: bool) -> None:
    """Gigabytes, of a run that is finished: all, or all but the last one, from which it can go on."""
    from singleinsert.training.checkpoint import checkpoints

    for path in checkpoints(files.checkpoints)[: -1 if keep else None]:
        path.unlink()
    if not keep:
        shutil.rmtree(files.checkpoints.parent, ignore_errors=True)


def _shown(settings: Settings, files: RunFiles, artifact: Artifact) -> dict[str, Any]:
    """For the batch's page: a small source, which is written, and the last samples of the first prompts, with the
    prompts as one types them. Files as seen from the job's folder."""
    from singleinsert.data.folders import picture_paths
    from singleinsert.data.pictures import load_picture
    from singleinsert.training.events import read_events
    from singleinsert.training.results import as_typed
    from singleinsert.training.samples import save_png

    source, samples = load_picture(picture_paths(settings.data.image)[0]).image, dict[str, str]()
    source.thumbnail((SOURCE_SIDE, SOURCE_SIDE))
    save_png(source, files.source)
    drawn = [event for event in read_events(files.logs) if event["event"] == "samples"]
    for prompt, path in zip(drawn[-1]["prompts"], drawn[-1]["files"], strict=True) if drawn else ():
        samples.setdefault(as_typed(prompt, artifact), f"{files.samples.name}/{Path(path).name}")
    results = [{"prompt": prompt, "file": file} for prompt, file in samples.items()]
    return {"source": f"{files.samples.name}/{files.source.name}", "results": results[:RESULTS_SHOWN]}


def near(task: Task, settings: Settings) -> Settings:
    """``settings`` on the pictures that came with the task, where any did."""
    return settings if task.inputs is None else with_inputs(settings, task.inputs, task.copies)


def source_key(settings: Settings) -> tuple[Any, ...]:
    """What a loaded model depends on, besides precision and device."""
    values = to_values(settings)
    return (*vars(settings.model).values(), *(values[key] for key in sorted(keys_declared("loaded"))))


def plain_values(settings: Settings) -> dict[str, Any]:
    """``{"section.key": value}`` as JSON has it, without where the batch put the job."""
    values = to_values(settings)
    del values["run.output_dir"]
    return json.loads(json.dumps(values))


def input_paths(settings: Settings) -> list[tuple[str, Path]]:
    """A job's pictures, the descriptions beside them and their mask files, by "kind/place"; no mask where it is still
    to be found.

    Raises:
        InputError: as of :func:`~singleinsert.masks.find.mask_file`.
    """
    from singleinsert.data.captions import caption_file
    from singleinsert.data.folders import picture_paths
    from singleinsert.training.prepare import mask_files

    files: list[tuple[str, Path]] = []
    pictures = picture_paths(settings.data.image)
    for place, path in enumerate(pictures):
        files.append((f"image/{place}", path))
        if caption_file(path).is_file():
            files.append((f"image/{place}", caption_file(path)))
    return files + mask_files(settings, pictures)


def read_inputs(settings: Settings) -> dict[str, bytes]:
    """Contents of a job's pictures, their descriptions (as .txt) and mask files, by "kind/place/file name"; what cannot
    be read is left out, the job will say so."""
    from singleinsert.data.captions import caption_file, read_caption

    found: dict[str, bytes] = {}
    try:
        files = input_paths(settings)
    except InputError:  # of a mask; the pictures alone
        files = [(f"image/{place}", Path(text)) for place, text in enumerate(settings.data.image)]
    for key, path in files:
        with suppress(OSError, ValueError, InputError):
            found[f"{key}/{path.name}"] = path.read_bytes()
            if key.startswith("image/") and not caption_file(path).is_file() and (text := read_caption(path)):
                found[f"{key}/{caption_file(path).name}"] = text.encode()  # of its folder's metadata.jsonl
    return found


def with_inputs(settings: Settings, inputs: dict[str, bytes], folder: Path) -> Settings:
    """``settings`` on copies of its pictures and masks, written under ``folder``."""
    paths: dict[str, dict[int, str]] = {}
    images = {key.split("/")[1]: Path(key).stem for key in inputs if key.startswith("image/")}
    for key, content in inputs.items():
        kind, place, name = key.split("/", 2)
        if kind == "beside":  # the one rule finds it there again
            path = folder / "image" / place / f"{images[place]}{MASK_END}{Path(name).suffix}"
        else:
            path = folder / kind / place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if kind == "set":
            paths.setdefault("mask", {})[int(place)] = str(path.parent)
        elif kind == "mask" or (kind == "image" and path.suffix not in CAPTION_SUFFIXES):
            paths.setdefault(kind, {})[int(place)] = str(path)
    copied: dict[str, Any] = {kind: tuple(found[place] for place in sorted(found)) for kind, found in paths.items()}
    return replace(settings, data=replace(settings.data, **copied))


def digest_of(inputs: dict[str, bytes]) -> str:
    """Fingerprint of the files of picture, description and mask."""
    return hashlib.sha256(b"".join(hashlib.sha256(inputs[key]).digest() for key in sorted(inputs))).hexdigest()[:16]


def loss_curve(logs: Path) -> list[float]:
    """The loss over all steps of the run whose logs these are, thinned to what a small drawing shows."""
    from singleinsert.training.events import loss_rows, read_events

    losses = [float(row["loss"]) for row in loss_rows(read_events(logs))]
    stride = max(1, len(losses) // CURVE_POINTS)
    return [round(sum(part) / len(part), 6) for i in range(0, len(losses), stride) if (part := losses[i : i + stride])]
