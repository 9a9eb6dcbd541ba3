"""What is to be done: which concepts, each asked which prompts, trained by which methods."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Collection
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from singleinsert import __version__
from singleinsert.batch.jobs import Job, read_jobs
from singleinsert.batch.jobs import left_out as jobs_left_out
from singleinsert.config import Settings
from singleinsert.config.load import nearest
from singleinsert.errors import ConfigError, InputError
from singleinsert.evaluate import protocol as protocols
from singleinsert.evaluate.cache import key_of
from singleinsert.evaluate.methods import Method, MethodSet
from singleinsert.evaluate.prompt_lists import EditPrompt, prompts_for
from singleinsert.evaluate.protocol import Protocol
from singleinsert.inference.pipeline import Picture
from singleinsert.reading import user_path
from singleinsert.training.run import flatten

PYTHON = "python:"
LIST = "concepts.toml"
PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate", "numpy", "pillow")


@dataclass(frozen=True)
class ConceptPlan:
    """One concept: its settings under every method, and its prompts."""

    name: str
    settings: dict[str, Settings]
    prompts: tuple[EditPrompt, ...]
    seeds: int

    @property
    def any_settings(self) -> Settings:
        return next(iter(self.settings.values()))

    @property
    def class_word(self) -> str:
        return self.any_settings.data.class_word[0]

    def asked(self) -> list[tuple[int, Picture]]:
        """(number of the prompt, picture) of all that is drawn by each method: prompt after prompt, seeds counting up.

        Steps, guidance and the first seed are the settings' [sample]; the size is the training picture's.
        """
        sample, size = self.any_settings.sample, self.any_settings.data.resolution
        return [
            (number, Picture(prompt.text, sample.seed + i, "", sample.num_inference_steps, sample.guidance_scale,
                             size, size))
            for number, prompt in enumerate(self.prompts)
            for i in range(self.seeds)
        ]  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """A whole evaluation."""

    methods: MethodSet
    protocol: Protocol
    preset: str
    concepts: tuple[ConceptPlan, ...]

    @property
    def units(self) -> int:
        return len(self.concepts) * len(self.methods.methods)

    def key(self, concept: ConceptPlan) -> str:
        """Of everything that is asked of one concept, for the queue: what was done under another plan is not done."""
        asked = [[p.text, [[t.question, dict(t.label)] for t in p.targets]] for p in concept.prompts]
        settings = {name: flatten(settings) for name, settings in concept.settings.items()}
        return key_of("plan", asked, concept.seeds, settings, protocols.measures(self.protocol))[:10]

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
                "scheduler": "ddim", "steps": base.sample.num_inference_steps,
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
    jobs = _chosen(_jobs(protocol.concepts, folder, preset, config_file, flags), only, protocol.concept_limit)
    concepts = tuple(_concept(job, methods.methods, protocol, preset) for job in jobs)
    for concept in concepts:
        sizes = {(s.data.resolution, s.sample) for s in concept.settings.values()}
        if len(sizes) > 1:
            raise ConfigError(
                f"{concept.name}: methods differ in data.resolution or [sample], pictures would not compare"
            )
    return Plan(methods, protocol, preset, concepts)


def _concept(job: Job, methods: tuple[Method, ...], protocol: Protocol, preset: str) -> ConceptPlan:
    settings = {method.name: method.applied(job.settings, preset) for method in methods}
    prompts = prompts_for(protocol.prompts, job.settings.data.class_word[0])
    return ConceptPlan(job.name, settings, prompts[: protocol.prompt_limit or None], protocol.seeds)


def _jobs(source: str, folder: Path, preset: str, config_file: Path | None, flags: dict[str, Any]) -> list[Job]:
    if not source:
        raise ConfigError("--concepts is missing: a folder of pictures or a list of them, see docs/evaluation.md")
    path = (
        _written(source.removeprefix(PYTHON), folder / "instances") if source.startswith(PYTHON) else user_path(source)
    )
    if (path / LIST).is_file():
        path = path / LIST
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
