"""What is to be done: which concepts or scenes, each asked which prompts, trained by which methods."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from singleinsert import __version__
from singleinsert.batch.jobs import Job, read_jobs
from singleinsert.batch.jobs import left_out as jobs_left_out
from singleinsert.captions.words import STYLES
from singleinsert.config import Settings
from singleinsert.config.load import nearest
from singleinsert.data.subject import Handle, name_handles
from singleinsert.errors import ConfigError, InputError
from singleinsert.evaluate import protocol as protocols
from singleinsert.evaluate.cache import key_of
from singleinsert.evaluate.methods import Method, MethodSet
from singleinsert.evaluate.prompt_lists import AUTO, BESIDE, EditPrompt, load_prompts, prompts_for
from singleinsert.evaluate.protocol import Protocol
from singleinsert.evaluate.scene_prompts import powerset_prompts, worded
from singleinsert.inference.pipeline import Picture
from singleinsert.merge.closed_form import reads_text
from singleinsert.reading import user_path
from singleinsert.training.run import flatten
from singleinsert.training.stages import trained_layers

PYTHON = "python:"
LIST = "concepts.toml"
PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate", "numpy", "pillow")


@dataclass(frozen=True)
class ConceptPlan:
    """One concept, or a scene of several: its settings under every method that it can be had with, its prompts, and
    negative prompts by method, where there are some."""

    name: str
    settings: dict[str, Settings]
    prompts: tuple[EditPrompt, ...]
    seeds: int
    negatives: Mapping[str, str] = field(default_factory=dict)

    @property
    def any_settings(self) -> Settings:
        return next(iter(self.settings.values()))

    @property
    def class_word(self) -> str:
        """What it is one of; of a scene, all its class words."""
        return ", ".join(self.any_settings.data.class_word)

    @property
    def handles(self) -> tuple[Handle, ...]:
        """A scene's concepts, in order; a single concept's is what its prompts need no name for."""
        return handles_of(self.any_settings)

    @property
    def is_scene(self) -> bool:
        return len(self.any_settings.data.class_word) > 1

    def asked(self, method: str) -> list[tuple[int, Picture]]:
        """(number of the prompt, picture) of all that is drawn by a method: prompt after prompt, seeds counting up.

        Steps, guidance and the first seed are the settings' [sample]; the size is the training picture's. A scene's
        concepts are named as the method has named them in training.
        """
        settings = self.settings[method]
        sample, size = settings.sample, settings.data.resolution
        texts = [
            worded(prompt.text, self.handles, settings.scene.phrase) if self.is_scene else prompt.text
            for prompt in self.prompts
        ]
        negative, steps, guidance = self.negatives.get(method, ""), sample.num_inference_steps, sample.guidance_scale
        return [
            (number, Picture(text, sample.seed + i, negative, steps, guidance, size, size))
            for number, text in enumerate(texts)
            for i in range(self.seeds)
        ]


@dataclass(frozen=True)
class Plan:
    """A whole evaluation."""

    methods: MethodSet
    protocol: Protocol
    preset: str
    concepts: tuple[ConceptPlan, ...]

    @property
    def units(self) -> int:
        return sum(len(concept.settings) for concept in self.concepts)

    def key(self, concept: ConceptPlan) -> str:
        """Of everything that is asked of one concept, for the queue: what was done under another plan is not done."""
        asked = [[p.text, [[t.question, dict(t.label)] for t in p.targets]] for p in concept.prompts]
        apart = [method.name for method in self.methods.methods if method.apart]
        merged = [method.name for method in self.methods.methods if method.merged]
        settings = {name: flatten(settings) for name, settings in concept.settings.items()}
        measures = protocols.measures(self.protocol)
        more = [each for each in (apart, merged, dict(concept.negatives)) if each]
        return key_of("plan", asked, concept.seeds, settings, measures, *more)[:10]

    def facts(self) -> dict[str, Any]:
        """What a reader needs to do the same again."""
        base = self.concepts[0].any_settings
        return {
            "singleinsert": __version__,
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}",
            "packages": {name: version(name) for name in PACKAGES},
            "preset": self.preset,
            "base_model": base.model.pretrained_model_name_or_path,
            "methods": self.methods.name,
            "protocol": protocols.to_values(self.protocol),
            "sampling": {
                "scheduler": "ddim; of a flow model its own", "steps": base.sample.num_inference_steps,
                "guidance_scale": base.sample.guidance_scale, "first_seed": base.sample.seed,
                "resolution": base.data.resolution,
            },
        }  # fmt: skip


def make_plan(
    methods: MethodSet, protocol: Protocol, preset: str, config_file: Path | None, flags: dict[str, Any], folder: Path,
    only: Collection[str] = (),
) -> Plan:  # fmt: skip
    """Everything that can be wrong with what is asked is found here, before anything is trained.

    Args:
        folder: the results'. only: names of concepts; all without.

    Raises:
        ConfigError, InputError: one line.
    """
    methods = methods.with_preset(preset)
    if not methods.methods:
        raise ConfigError(f"no method of {methods.name} can be had with preset {preset}")
    source = _source(protocol.concepts, folder)
    jobs = {  # by the preset that a method changes
        base: _chosen(_jobs(source, folder, base, config_file, flags), only, protocol.concept_limit)
        for base in dict.fromkeys(method.preset_of_runs(preset) for method in methods.methods)
    }
    concepts = tuple(
        _concept({base: each[i] for base, each in jobs.items()}, methods.methods, protocol, preset)
        for i in range(len(next(iter(jobs.values()))))
    )
    if len({concept.is_scene for concept in concepts}) > 1:
        raise ConfigError(f"{source} holds both scenes of several concepts and single concepts: evaluate them apart")
    return Plan(methods, protocol, preset, concepts)


def _concept(jobs: dict[str, Job], methods: tuple[Method, ...], protocol: Protocol, preset: str) -> ConceptPlan:
    """One concept under every method. ``jobs``: it by preset."""
    settings, negatives = {}, {}
    for method in methods:
        base = method.preset_of_runs(preset)
        job = jobs[base]
        if method.masked and STYLES.intersection(job.settings.data.class_word):
            continue
        if method.base and job.preset != base:
            raise ConfigError(f"{job.where} names a preset, but method {method.name} stands on {method.base}")
        settings[method.name] = method.applied(job.settings, base)
        if method.merged:
            _check_mergeable(method.name, settings[method.name])
        if text := method.negative_prompt(settings[method.name]):
            negatives[method.name] = text
    if not settings:
        raise ConfigError(f"{next(iter(jobs.values())).name}: a style has no mask, and every method wants one")
    first = next(iter(settings.values()))
    _check_comparable(next(iter(jobs.values())).name, settings.values())
    if len(first.data.class_word) > 1:
        if protocol.prompts in (AUTO, BESIDE):
            raise ConfigError(
                f"--prompts {protocol.prompts} goes by a single concept's class word: of scenes it is a list's name, "
                "such as scene, or a file"
            )
        formats = load_prompts(protocol.prompts).prompts[: protocol.prompt_limit or None]
        prompts = powerset_prompts(formats, handles_of(first), first.scene.joiner)
    else:
        every = prompts_for(protocol.prompts, first.data.class_word[0], Path(first.data.image[0]))
        prompts = every[: protocol.prompt_limit or None]
    return ConceptPlan(next(iter(jobs.values())).name, settings, prompts, protocol.seeds, negatives)


def _check_mergeable(name: str, settings: Settings) -> None:
    """ConfigError where what a merged method will have learnt cannot be merged."""
    layers = trained_layers(settings)
    others = [*layers["text"], *(path for path in layers["denoiser"] if not reads_text(path))]
    if others or not layers["denoiser"]:
        raise ConfigError(
            f"method {name} is merged, which only keys and values of cross-attention can be, and it changes "
            f"{', '.join(others) or 'no weights'}: adapter.type kv, and trains concept and denoiser, is what merges"
        )


def _check_comparable(name: str, rows: Iterable[Settings]) -> None:
    """ConfigError where rows draw on other models, at other sizes or in other ways."""
    rows = list(rows)
    models = {s.model for s in rows}
    if len(models) > 1:
        names = " and ".join(sorted({model.pretrained_model_name_or_path for model in models}))
        raise ConfigError(f"methods stand on {names}: name one for all by --pretrained_model_name_or_path")
    drawn = {
        (s.data.resolution, s.sample.num_inference_steps, s.sample.guidance_scale, s.sample.seed) for s in rows
    }  # fmt: skip
    if len(drawn) > 1:
        raise ConfigError(f"{name}: methods differ in data.resolution or [sample], pictures would not compare")


def handles_of(settings: Settings) -> tuple[Handle, ...]:
    """The concepts of a run, without a learnt background."""
    return name_handles(settings.data.class_word, settings.data.handles, settings.data.placeholder_token)


def runs_of(settings: Settings, name: str, square: Path, masks: Mapping[str, Path]) -> list[Settings]:
    """The runs of a method that trains each concept of a scene by itself.

    Args:
        square: the scene's training picture, cut. masks: of each concept in it, by handle.
    """
    return [
        replace(
            settings,
            data=replace(
                settings.data, image=(str(square),), class_word=(handle.class_word,), handles=(),
                mask=(str(masks[handle.name]),),
            ),
            run=replace(settings.run, output_name=f"{name}{handle.name}"),
        )
        for handle in handles_of(settings)
    ]  # fmt: skip


def _source(source: str, folder: Path) -> Path:
    if not source:
        raise ConfigError("--concepts is missing: a folder of pictures or a list of them, see docs/evaluation.md")
    path = (
        _written(source.removeprefix(PYTHON), folder / "instances") if source.startswith(PYTHON) else user_path(source)
    )
    return path / LIST if (path / LIST).is_file() else path


def _jobs(path: Path, folder: Path, preset: str, config_file: Path | None, flags: dict[str, Any]) -> list[Job]:
    jobs, problems = read_jobs(path, folder, preset=preset, config_file=config_file, flags=flags)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ConfigError(problems[0] + more)
    return jobs


def left_out(source: str) -> list[str]:
    """What is left out of a folder of photos that is evaluated, and why, a line each."""
    path = user_path(source)
    return [] if source.startswith(PYTHON) or (path / LIST).is_file() else jobs_left_out(path)


def _chosen(jobs: list[Job], only: Collection[str], limit: int) -> list[Job]:
    names = [job.name for job in jobs]
    for name in only:
        if name not in names:
            raise ConfigError(f"--only {name}: no such concept{nearest(name, names)}")
    return [job for job in jobs if not only or job.name in only][: limit or None]


def _written(spec: str, folder: Path) -> Path:
    """Let MODULE:FUNCTION write concepts into ``folder``."""
    module, _, name = spec.partition(":")
    try:
        write = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as problem:
        raise InputError(
            f"--concepts {PYTHON}{spec}: {problem}; the drawn world's is in a checkout, run from its folder"
        ) from problem
    write(folder)
    return folder
