"""The protocol: every concept by every method, its pictures, their scores. Resumable at every picture."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from PIL import Image

from singleinsert.artifact import Artifact
from singleinsert.atomic import write_atomically, write_text
from singleinsert.batch.local import POLL, stopped_by_signals
from singleinsert.batch.progress import duration
from singleinsert.config import CaptionSettings, SceneSettings, Settings
from singleinsert.data.subject import TrainingPicture
from singleinsert.drawing.heat import heat_picture
from singleinsert.errors import SingleInsertError
from singleinsert.evaluate import protocol as protocols
from singleinsert.evaluate.cache import Cache, first_stage_key, key_of
from singleinsert.evaluate.plan import ConceptPlan, Plan, runs_of
from singleinsert.evaluate.prompt_lists import EditPrompt
from singleinsert.evaluate.results import Results, Sample, mask_of_reference
from singleinsert.evaluate.scoring import Scorer
from singleinsert.evaluate.studio import Studio
from singleinsert.merge.closed_form import merge_concepts
from singleinsert.training.prepare import find_material
from singleinsert.training.results import flatten
from singleinsert.work.queue import DONE, FAILED, QUEUED, Claim, Queue

HIDDEN, SCORES, REFERENCES, HEATS = ".work", "scores", "concepts", "heats"
HEAT_PROMPTS = 2
SHOWN_SIDE = 160
"""Pixels of a heat map's side, at least."""


class Runner:
    """One process's share of an evaluation.

    Args:
        folder: the results'. cache: shared by all evaluations. processes: how many there are of this one.
        keep_stages: see :class:`~singleinsert.evaluate.studio.Studio`.
        make_scorer: gives the :class:`Scorer` for a protocol and a device.
        until: time of ``time.perf_counter()`` from which on nothing more is begun; None: to the end.
    """

    def __init__(
        self, plan: Plan, folder: Path, cache: Cache, *, processes: int = 1, say: Callable[[str], None] = print,
        keep_stages: bool = False, make_scorer: Callable[..., Any] = Scorer, until: float | None = None,
    ) -> None:  # fmt: skip
        self.plan, self.folder, self.processes, self.say, self.until = plan, folder, processes, say, until
        self.studio = Studio(cache, folder / HIDDEN / "model", plan.protocol.batch_size, keep_stages)
        self.model = self.studio.digest(plan.concepts[0].any_settings)  # other weights, other results
        self.names = {self._name(concept): concept for concept in plan.concepts}
        self.queue = Queue(folder / HIDDEN / "state", self.names)
        self.queue.missing = {
            name
            for name, c in self.names.items()
            if not all(p.is_file() for p in (*self._files(c), *self._heat_files(c)))
        }
        self.scorer = make_scorer(plan.protocol, str(self.studio.model(plan.concepts[0].any_settings).device))
        self._began, self._units = time.perf_counter(), 0

    def run(self) -> bool:
        """Do concepts until none is left, or the time is over; whether all is done.

        Raises:
            SingleInsertError: some failed; the others are done.
        """
        with stopped_by_signals():
            if not self.queue.settled():
                self.scorer.load()  # what is missing is known before anything is trained
            while not self.queue.settled() and not self._late():
                claim = self.queue.claim()
                if claim is None:
                    time.sleep(POLL)  # others have the last ones
                    continue
                self._claimed(claim)
        failed = {self.names[n].name: s.reason for n, s in self.queue.states().items() if s.state == FAILED}
        if failed:
            raise SingleInsertError("; ".join(f"{name} failed: {reason}" for name, reason in failed.items()))
        return self.queue.settled()

    def _late(self) -> bool:
        return self.until is not None and time.perf_counter() >= self.until

    def estimate(self) -> None:
        """Say what is to be done and about how long it takes on this machine, training nothing."""
        from singleinsert.evaluate.estimate import describe, measure

        timing = measure(self.studio.model(settings := self.plan.concepts[0].any_settings), settings)
        for line in describe(self.plan, timing, lambda c, method: self._score_file(c, method).is_file()):
            self.say(line)

    def _claimed(self, claim: Claim) -> None:
        try:
            done = self._concept(self.names[claim.name], self.folder / HIDDEN / claim.name)
        except SingleInsertError as problem:
            state = QUEUED if problem.exit_code > SingleInsertError.exit_code else FAILED
            self.queue.finish(claim, state, str(problem))
            if state == QUEUED:  # a signal
                raise
            self.say(f"{self.names[claim.name].name} failed: {problem}")
        except BaseException as stop:
            self.queue.finish(claim, QUEUED, f"stopped: {stop or type(stop).__name__}")
            raise
        else:
            self.queue.finish(claim, DONE if done else QUEUED, "" if done else "the time was over")

    def _concept(self, concept: ConceptPlan, work: Path) -> bool:
        """All methods on one concept; what is trained for several of them is kept until all are done.

        Returns:
            whether all are done; False where the time was over before.

        Raises:
            SingleInsertError: the last failure to score, such as a judge that waits for people; all else is done then.
        """
        studio, rows = self.studio, list(concept.settings)
        studio.work = work
        shown = self._training_picture(concept)
        reference = _resized_picture(shown, concept.any_settings.data.resolution)
        self._keep_reference(concept, reference)
        runs = self._runs(concept, shown, work)
        digest = studio.digest(concept.any_settings)
        stages = Counter(first_stage_key(run, digest) for each in runs.values() for run in each)
        waiting: SingleInsertError | None = None
        for i in studio.in_order([concept.settings[name] for name in rows]):
            if self._late():
                return False
            settings = concept.settings[rows[i]]
            before = dict(studio.clock.wall)
            artifacts = [studio.concept(run, stages[first_stage_key(run, digest)] > 1) for run in runs[rows[i]]]
            if len(artifacts) > 1:
                artifacts = [_called(a, h.name, concept) for a, h in zip(artifacts, concept.handles, strict=True)]
            if self.plan.methods.only([rows[i]]).methods[0].merged:
                artifacts = [merge_concepts(studio.model(settings), artifacts, concept.name)[0]]
            pictures = [picture for _, picture in concept.asked(rows[i])]
            images = studio.draw(settings, artifacts, pictures)
            try:
                self._score(concept, rows[i], studio.keys(settings, artifacts, pictures), images, reference)
            except SingleInsertError as problem:
                waiting = problem
            if self._heat_files(concept):
                self._heats(concept, rows[i], artifacts)
            self._report_unit(concept, rows[i], before)
        studio.forget_stages()
        if waiting is not None:
            raise waiting
        return True

    def _report_unit(self, concept: ConceptPlan, method: str, before: dict[str, float]) -> None:
        self._units += 1
        seconds = {kind: value - before.get(kind, 0.0) for kind, value in self.studio.clock.wall.items()}
        done = sum(path.is_file() for c in self.plan.concepts for path in self._files(c))
        left = (time.perf_counter() - self._began) / self._units * (self.plan.units - done) / self.processes
        times = ", ".join(f"{kind} {value:.0f} s" for kind, value in seconds.items() if value) or "all from the cache"
        more = f"; about {duration(left)} left" if done < self.plan.units else ""
        self.say(f"[{done}/{self.plan.units}] {concept.name} {method}: {times}{more}")

    # what is kept in the results' folder

    def _files(self, concept: ConceptPlan) -> list[Path]:
        return [self._score_file(concept, method) for method in concept.settings]

    def _heat_files(self, concept: ConceptPlan) -> list[Path]:
        """Records of its attention maps; [] where none are wanted."""
        wanted = concept in self.plan.concepts[: self.plan.protocol.attention]
        return [self._heat_file(concept, method) for method in concept.settings] if wanted else []

    def _heat_file(self, concept: ConceptPlan, method: str) -> Path:
        return self.folder / HEATS / f"{self._name(concept)}-{method}.json"

    def _score_file(self, concept: ConceptPlan, method: str) -> Path:
        return self.folder / SCORES / self._name(concept) / f"{method}.json"

    def _name(self, concept: ConceptPlan) -> str:
        return f"{concept.name}-{key_of(self.plan.key(concept), self.model)[:10]}"

    def _training_picture(self, concept: ConceptPlan) -> TrainingPicture:
        """The training square itself, with its subjects, whatever a method makes of it: the same for every choice of
        rows."""
        plain = replace(concept.any_settings, scene=SceneSettings(), caption=CaptionSettings(mode="off"))
        plain = replace(plain, data=replace(plain.data, learn_background=False))
        return find_material(plain, lambda line: None).given[0]

    def _keep_reference(self, concept: ConceptPlan, reference: TrainingPicture) -> None:
        """For the report."""
        path = self.folder / REFERENCES / f"{concept.name}.png"
        write_atomically(path, lambda target: reference.image.save(target, "PNG"))
        for subject in reference.subjects if concept.is_scene else ():
            place = self.folder / mask_of_reference(f"{REFERENCES}/{path.name}", subject.handle)
            write_atomically(place, lambda target, mask=subject.mask: mask.save(target, "PNG"))  # type: ignore[misc]

    def _runs(self, concept: ConceptPlan, shown: TrainingPicture, work: Path) -> dict[str, list[Settings]]:
        """Method -> the runs that it needs: one, or one for each concept, on pictures and masks written to ``work``."""
        apart = {method.name for method in self.plan.methods.methods if method.apart and concept.is_scene}
        square = work / "apart" / f"{concept.name}.png"
        masks = {s.handle: work / "apart" / f"{concept.name}_{s.handle}_mask.png" for s in shown.subjects}
        if apart:
            for path, image in [(square, shown.image), *((masks[s.handle], s.mask) for s in shown.subjects)]:
                write_atomically(path, lambda target, image=image: image.save(target, "PNG"))  # type: ignore[misc]
        return {
            name: runs_of(settings, concept.name, square, masks) if name in apart else [settings]
            for name, settings in concept.settings.items()
        }

    def _score(
        self, concept: ConceptPlan, method: str, keys: list[str], images: list[Image.Image], reference: TrainingPicture
    ) -> None:
        asked = concept.asked(method)
        targets = [[[t.question, dict(t.label)] for t in p.targets] for p in concept.prompts]
        key = key_of("scores", keys, targets, protocols.measures(self.plan.protocol))
        path = self._score_file(concept, method)
        if path.is_file() and json.loads(path.read_text())["key"] == key:
            return
        prompts = [concept.prompts[number] for number, _ in asked]
        with self.studio.clock.running("score"):
            scores = self.scorer.score(images, prompts, reference)
        samples = [
            asdict(Sample(method, concept.name, number, picture.seed, keys[i], **vars(scores[i])))
            for i, (number, picture) in enumerate(asked)
        ]
        write_text(path, json.dumps({"key": key, "samples": samples}) + "\n")

    def _heats(self, concept: ConceptPlan, method: str, artifacts: list[Artifact]) -> None:
        """Where the concept and its class word act, in the first picture of the first prompts; as a number, the share
        of it that lies on the subject: ``sum(a s) / sum(a)`` for a map a and the subject's mask s."""
        settings, studio = concept.settings[method], self.studio
        firsts = {number: picture for number, picture in reversed(concept.asked(method)) if number < HEAT_PROMPTS}
        record = self._heat_file(concept, method)
        stem = f"{HEATS}/{record.stem}"
        key = key_of("heats", studio.keys(settings, artifacts, list(firsts.values())))
        if record.is_file() and json.loads(record.read_text())["key"] == key:
            return
        rows = []
        with studio.clock.running("attention"):
            found = studio.attention(settings, artifacts, list(firsts.values()))
        for number, (image, maps) in zip(firsts, found, strict=True):
            shown = _resized(image, (max(SHOWN_SIDE, image.width),) * 2)
            files = {"": f"{stem}-{number}.png"} | {w: f"{stem}-{number}-{i}.png" for i, w in enumerate(maps)}
            for word, file in files.items():
                picture = heat_picture(shown, maps[word]) if word else shown
                write_atomically(self.folder / file, lambda target, p=picture: p.save(target, "PNG"))  # type: ignore[misc]
            row: dict[str, Any] = {
                "concept": concept.name, "method": method, "prompt": number, "picture": files.pop(""), "maps": files
            }  # fmt: skip
            rows.append(
                row | {"inside": self.scorer.attention_inside(image, concept.any_settings.data.class_word, maps)}
            )
        write_text(record, json.dumps({"key": key, "rows": rows}) + "\n")

    # what comes of it

    def results(self, facts: dict[str, Any]) -> Results:
        """Everything that is measured so far, in the order of methods and concepts."""
        samples, heats = [], []
        for method in self.plan.methods.methods:
            for concept in self.plan.concepts:
                path = self._score_file(concept, method.name)
                if path.is_file():
                    samples += [Sample(**row) for row in json.loads(path.read_text())["samples"]]
                record = self._heat_file(concept, method.name)
                if record in self._heat_files(concept) and record.is_file():
                    heats += json.loads(record.read_text())["rows"]
        first: dict[str, ConceptPlan] = {}
        for concept in reversed(self.plan.concepts):  # a concept may be one that not every method can be had with
            first |= dict.fromkeys(concept.settings, concept)
        begun = {sample.concept for sample in samples}
        return Results(
            title=self.plan.methods.title,
            facts=self.plan.facts() | facts,
            methods=[
                {"name": m.name, "label": m.label, "group": m.group, "note": m.note, "paper": dict(m.paper),
                 "settings": _changes(m.name, first[m.name]) if m.name in first else {}}
                for m in self.plan.methods.methods
            ],
            claims=[dict(claim) for claim in self.plan.methods.claims],
            published=[asdict(row) for row in self.plan.methods.published],
            concepts=[
                {"name": c.name, "class_word": c.class_word, "picture": f"{REFERENCES}/{c.name}.png",
                 "handles": {h.name: h.class_word for h in c.handles} if c.is_scene else {},
                 "prompts": [_told(prompt) for prompt in c.prompts]}
                for c in self.plan.concepts
                if c.name in begun
            ],
            samples=samples,
            heats=heats,
        )  # fmt: skip

    def clear(self) -> None:
        """Drop what is only needed while working."""
        for name in self.names:
            shutil.rmtree(self.folder / HIDDEN / name, ignore_errors=True)


def _changes(method: str, concept: ConceptPlan) -> dict[str, Any]:
    """All settings of training of a method, on one concept: what a reader needs to train the same."""
    values = flatten(concept.settings[method])
    kept = ("concept", "adapter", "stage1", "stage2", *(["scene"] if concept.is_scene else []))
    return {key: value for key, value in values.items() if key.split(".")[0] in kept}


def _called(artifact: Artifact, handle: str, scene: ConceptPlan) -> Artifact:
    """A concept that was trained by itself, called as the scene's prompts call it."""
    named = replace(artifact.concept, name=handle, trigger="")
    return replace(artifact, name=f"{scene.name}{handle}", concepts=(named,))


def _told(prompt: EditPrompt) -> dict[str, Any]:
    handles = {"handles": list(prompt.handles)} if prompt.handles else {}
    return {"text": prompt.text, "questions": [target.question for target in prompt.targets]} | handles


def _resized_picture(picture: TrainingPicture, side: int) -> TrainingPicture:
    """The picture and its subjects' masks at the size of what is drawn."""
    size = (side, side)
    subjects = tuple(replace(subject, mask=_resized(subject.mask, size)) for subject in picture.subjects)
    return replace(picture, image=_resized(picture.image, size), subjects=subjects)


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)
