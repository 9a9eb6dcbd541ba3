"""One process's base model: trains concepts on it and draws with them, one by one; stage I once for all rows."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from singleinsert.artifact import Artifact
from singleinsert.batch.worker import KeptModel
from singleinsert.config import Settings
from singleinsert.evaluate.cache import (
    Cache,
    concept_key,
    digest_of_artifacts,
    first_stage_key,
    picture_key,
)
from singleinsert.inference.pipeline import ConceptPipeline, Picture
from singleinsert.inference.schedulers import OWN
from singleinsert.models.family import Family
from singleinsert.models.fingerprint import model_digest
from singleinsert.training.accelerator import build_accelerator
from singleinsert.training.checkpoint import checkpoint_path
from singleinsert.training.files import RunFiles
from singleinsert.training.run import train
from singleinsert.training.stages import stages_of, wants_bank
from singleinsert.training.watch import SilentWatch


def scheduler_for(model: Family) -> str:
    """The sampler that all rows draw with: DDIM, and the model's own where it is a flow."""
    return OWN if model.schedule.prediction_type == "flow" else "ddim"


class Clock:
    """Seconds by kind of work: of the wall's clock, and of this process's processors, which others do not lengthen."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = {}
        self.processor: dict[str, float] = {}

    @contextmanager
    def running(self, kind: str) -> Iterator[None]:
        wall, processor = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.wall[kind] = self.wall.get(kind, 0.0) + time.perf_counter() - wall
            self.processor[kind] = self.processor.get(kind, 0.0) + time.process_time() - processor


class Studio:
    """Trains and draws what the cache does not hold.

    Attributes:
        work: folder of what is being trained, and of stages I while they are wanted; to be set for each concept.
        clock: what "train", "draw" and "score" took. counts: "trained" and "drawn"; from the cache, "concepts" and
            "pictures".
    """

    def __init__(self, cache: Cache, work: Path, batch_size: int, keep_stages: bool = False) -> None:
        """``keep_stages``: stages I stay in the cache, for rows that come later."""
        self.cache, self.work, self.batch_size, self.keep_stages = cache, work, batch_size, keep_stages
        self.clock, self.counts = Clock(), Counter[str]()
        self._kept = KeptModel()
        self._digest: tuple[Any, str] = (None, "")

    def model(self, settings: Settings) -> Family:
        """The base model of ``settings``, on its device and in its precision."""
        return self._kept(settings, build_accelerator(settings, RunFiles(self.work, "model")))

    def digest(self, settings: Settings) -> str:
        """Fingerprint of that model."""
        model = self.model(settings)
        if self._digest[0] is not model:
            self._digest = (model, model_digest(model))
        return self._digest[1]

    def in_order(self, rows: Sequence[Settings]) -> list[int]:
        """Indices of ``rows`` so that a stage I is trained by a row whose checkpoint serves all others: one that
        keeps the teacher's predictions for its stage II."""
        return sorted(range(len(rows)), key=lambda i: not wants_bank(rows[i], stages_of(rows[i])))

    def concept(self, settings: Settings, shared: bool) -> Artifact:
        """The trained concept of ``settings``, from the cache or trained now.

        Args:
            shared: other rows of the same concept have the same stage I: it is kept until :meth:`forget_stages`.
        """
        model = self.digest(settings)
        done = self.cache.concept(concept_key(settings, model))
        if done.is_file():
            self.counts["concepts"] += 1
            return Artifact.load(done)
        with self.clock.running("train"):
            artifact = self._train(settings, first_stage_key(settings, model) if shared or self.keep_stages else "")
            artifact.save(done)
        self.counts["trained"] += 1
        return artifact

    def _train(self, settings: Settings, first_stage: str) -> Artifact:
        folder, steps = self.work / "run", settings.stage1.steps
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
        changes: dict[str, Any] = {
            "checkpointing_steps": 0, "resume_from_checkpoint": "", "report_to": "none", "check": "off",
        }  # fmt: skip
        kept = None
        if first_stage and steps:
            kept = self._first_stage(settings, first_stage)
            if kept is not None:
                changes["resume_from_checkpoint"] = str(kept)
            else:
                changes |= {"checkpointing_steps": steps, "checkpoints_total_limit": 0}
        quick = replace(settings.sample, prompts=(), steps_interval=0)
        settings = replace(settings, sample=quick, run=replace(settings.run, **changes))
        artifact = train(settings, folder=folder, load=self._kept, watch=SilentWatch()).artifact
        if first_stage and steps and kept is None:
            target = self._stage_path(first_stage, wants_bank(settings, stages_of(settings)))
            target.parent.mkdir(parents=True, exist_ok=True)
            checkpoint_path(RunFiles(folder, settings.name).checkpoints, steps).replace(target)
        shutil.rmtree(folder)
        return artifact

    def _first_stage(self, settings: Settings, key: str) -> Path | None:
        """A checkpoint from the end of stage I that ``settings`` can go on from."""
        banks = (True,) if wants_bank(settings, stages_of(settings)) else (True, False)
        return next((path for bank in banks if (path := self._stage_path(key, bank)).is_file()), None)

    def _stage_path(self, key: str, bank: bool) -> Path:
        folder = self.cache.stages if self.keep_stages else self.work / "stages"
        return folder / f"{key}{'-bank' if bank else ''}.safetensors"

    def forget_stages(self) -> None:
        """Drop the checkpoints of stage I that are not kept; with SD 1.x each is a gigabyte."""
        shutil.rmtree(self.work, ignore_errors=True)

    def keys(self, settings: Settings, artifacts: Sequence[Artifact], pictures: Sequence[Picture]) -> list[str]:
        """Of the pictures, in the cache."""
        concept, model = digest_of_artifacts(artifacts), self.digest(settings)
        scheduler = scheduler_for(self.model(settings))
        return [picture_key(picture, scheduler, concept, model) for picture in pictures]

    def draw(self, settings: Settings, artifacts: Sequence[Artifact], pictures: Sequence[Picture]) -> list[Image.Image]:
        """All ``pictures``; those that are not in the cache are drawn now and put there, as soon as they are whole."""
        keys = self.keys(settings, artifacts, pictures)
        missing = [i for i, key in enumerate(keys) if not self.cache.picture(key).is_file()]
        if missing:
            with self.clock.running("draw"), _loaded(self.model(settings), artifacts) as pipeline:
                drawn = pipeline.render([pictures[i] for i in missing], batch_size=self.batch_size)
                for i, image in zip(missing, drawn, strict=True):
                    self.cache.save_picture(keys[i], image)
            self.counts["drawn"] += len(missing)
        self.counts["pictures"] += len(keys) - len(missing)
        return [self.cache.load_picture(key) for key in keys]

    def attention(
        self, settings: Settings, artifacts: Sequence[Artifact], pictures: Sequence[Picture]
    ) -> list[tuple[Image.Image, dict[str, Tensor]]]:
        """Pictures with the maps of where the concept and its class word act."""
        with _loaded(self.model(settings), artifacts) as pipeline:
            return list(pipeline.render_with_attention(pictures, batch_size=self.batch_size))


class _loaded:
    """Within it, a pipeline with the concepts in; afterwards the base model is what it was."""

    def __init__(self, model: Family, artifacts: Sequence[Artifact]) -> None:
        self.model, self.artifacts = model, artifacts

    def __enter__(self) -> ConceptPipeline:
        self.model.autoencoder.to(self.model.device)  # training has put it away
        self.pipeline = ConceptPipeline(self.model, self.artifacts, scheduler=scheduler_for(self.model))
        return self.pipeline

    def __exit__(self, *exception: object) -> None:
        self.pipeline.close()
