"""Stages as data: what trains, on which objective, with which optimiser, for how long."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from singleinsert.adapters import adapter_class
from singleinsert.adapters.base import AdapterOptions
from singleinsert.config import Settings, StageSettings
from singleinsert.errors import ConfigError, MissingPackageError
from singleinsert.losses import OBJECTIVES, Objective
from singleinsert.models.family import Family
from singleinsert.models.flow import LARGEST_SHIFT_FOR_X0
from singleinsert.terms import WEIGHT_ROLES
from singleinsert.training.prompting import Variation


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a run. ``settings`` is its section of the config (steps, batch_size, learning_rate, ...)."""

    name: str
    settings: StageSettings
    objective: Objective

    @property
    def steps(self) -> int:
        return self.settings.steps

    @property
    def trains(self) -> frozenset[str]:
        return frozenset(self.settings.trains)


def stages_of(settings: Settings) -> list[Stage]:
    """The stages of a run's settings that have steps.

    Raises:
        ConfigError: a loss term, or a way to draw timesteps, that could have no effect, or a shift that spoils a loss.
    """
    stages = [Stage(name, part, _objective(part)) for name, part in settings.stages.items()]
    _check_frozen_weights(settings)
    _check_graphs(settings)
    adapted = False
    for stage in stages:
        _refuse_without_effect(stage)
        adapted |= bool(stage.trains & WEIGHT_ROLES)
        if stage.objective.needs_class and not adapted:
            raise ConfigError(
                f"{stage.name}.semantic_weight has no effect while the base model is unchanged: set it to 0, or let "
                f"{stage.name}.trains include {' or '.join(sorted(WEIGHT_ROLES))}"
            )
        if stage.objective.needs_prior and not stage.trains & WEIGHT_ROLES:
            raise ConfigError(
                f"{stage.name}.prior_weight has no effect while the base model is unchanged: set it to 0, or let "
                f"{stage.name}.trains include {' or '.join(sorted(WEIGHT_ROLES))}"
            )
        if settings.model.timestep_shift > LARGEST_SHIFT_FOR_X0 and stage.objective.loss_space == "x0":
            raise ConfigError(
                f"model.timestep_shift {settings.model.timestep_shift:g} with {stage.name}.loss_space x0 would look at "
                f"noise alone: {LARGEST_SHIFT_FOR_X0:g} is the most, or set {stage.name}.loss_space to v"
            )
    if stages and wants_bank(settings, stages):
        _refuse_own_draws(*stages)
    return stages


def _refuse_without_effect(stage: Stage) -> None:
    """A setting of another objective that somebody has set is no setting of this one."""
    own = {field.name for field in dataclasses.fields(stage.objective)}  # type: ignore[arg-type]
    known = {field.name for build in OBJECTIVES.values() for field in dataclasses.fields(build)}  # type: ignore[arg-type]
    defaults = getattr(Settings(), stage.name)
    for name in sorted(known - own):
        value = getattr(stage.settings, name)
        # a weight of 0 asks for nothing; false asks for something where true is the default
        if value != getattr(defaults, name) and (value or isinstance(value, bool)):
            raise ConfigError(
                f"{stage.name}.{name} has no effect with {stage.name}.objective {stage.settings.objective}: leave it "
                "out"
            )


WEIGHTS_COST = 1.4
"""Of a sample where weights train, against one where the concept alone does: docs/cost.md's count of a run."""


def step_cost(stage: Stage) -> float:
    """What an optimiser step of ``stage`` costs, against those of other stages."""
    return stage.settings.batch_size * (WEIGHTS_COST if stage.trains & WEIGHT_ROLES else 1.0)


EARLY = 3
"""After one in so many of a stage's steps, a first picture of what it learns."""
SHORT = 10
"""A stage of fewer steps has its first picture at its end."""


def first_sample_step(stage: Stage) -> int:
    """After which step a first picture is drawn where no interval is asked for; 0: none before the end."""
    return -(-stage.steps // EARLY) if stage.steps >= SHORT else 0


def _check_frozen_weights(settings: Settings) -> None:
    """ConfigError for ways to keep the frozen weights that do not go together, or save nothing."""
    run, adapter = settings.run, settings.adapter.type
    ways = {
        "quantize": run.quantize != "no", "blocks_to_swap": run.blocks_to_swap,
        "swap_text_encoders": run.swap_text_encoders,
    }  # fmt: skip
    asked = [name for name, there in ways.items() if there]
    if asked and settings.trains_weights and adapter != "lora":
        raise ConfigError(f"run.{asked[0]} keeps weights as adapter.type {adapter} cannot change them: use lora")
    if asked[:2] == ["quantize", "blocks_to_swap"]:
        raise ConfigError("run.quantize and run.blocks_to_swap do not go together: leave one out")
    for name in asked:
        if name != "quantize" and not run.gradient_checkpointing:
            raise ConfigError(
                f"run.{name} saves nothing without gradient_checkpointing: every block's copy would wait for its "
                "backward pass"
            )


def _check_graphs(settings: Settings) -> None:
    """ConfigError for what cannot be recorded as a CUDA graph."""
    run, adapter = settings.run, settings.adapter.type
    if not run.cuda_graphs:
        return
    others = {
        "gradient_checkpointing": run.gradient_checkpointing, "offload": run.offload, "compile": run.compile,
        "quantize": run.quantize != "no", "blocks_to_swap": run.blocks_to_swap,
        "swap_text_encoders": run.swap_text_encoders,
    }  # fmt: skip
    if asked := [name for name, there in others.items() if there]:
        raise ConfigError(f"run.cuda_graphs and run.{asked[0]} do not go together: leave one out")
    if settings.trains_weights and adapter != "lora":
        raise ConfigError(f"run.cuda_graphs goes with adapter.type lora alone: {adapter} makes weights anew")


def wants_bank(settings: Settings, stages: Sequence[Stage]) -> bool:
    """Does the first stage keep the frozen model's predictions for a later one?"""
    first, *later = stages
    frozen = first.objective.needs_frozen and any(stage.objective.needs_frozen for stage in later)
    return frozen and settings.run.teacher_bank


def _refuse_own_draws(first: Stage, second: Stage) -> None:
    """A stage that draws from the first one's predictions has its timesteps, its noise and its prompts."""
    for name in ("timestep_importance", "stratified_timesteps"):
        own = getattr(second.settings, name)
        if own and own != getattr(first.settings, name):
            raise ConfigError(
                f"{second.name}.{name} has no effect while {second.name} draws from the predictions that {first.name} "
                f"has kept: set {first.name}.{name}, or run.teacher_bank to false"
            )
    own, kept = Variation.of_stage(second.settings), Variation.of_stage(first.settings)
    if own != kept and (own.templates or kept.templates):
        raise ConfigError(
            f"{second.name} is asked what {first.name} was asked while it draws from the predictions that {first.name} "
            "has kept: give both the same prompt_places, prompt_edits, prompt_share and prompt_foreground, "
            "or set run.teacher_bank to false"
        )


def adapter_options(settings: Settings, model: Family) -> AdapterOptions:
    """What the run's adapter is told: layer targets of the parts that some stage trains, () for the others."""
    adapter, parts = settings.adapter, model.trainable_parts
    for name, stage in settings.stages.items():
        if without := [role for role in stage.trains if role in WEIGHT_ROLES and not parts[role]]:
            raise ConfigError(
                f"{name}.trains has {without[0]}, of which a {model.name} trains nothing, since hardly a client would "
                f"load it: leave it out, as --preset klein and --preset zimage do"
            )
    return AdapterOptions(
        {part: names for role, names in trained_layers(settings).items() for part in parts[role]},
        adapter.network_dim,
        adapter.network_alpha,
        adapter.min_rank,
        adapter.rank_power,
        model.denoiser_part,
        model.schedule.time_span,
    )


def trained_layers(settings: Settings) -> dict[str, tuple[str, ...]]:
    """The layers that some stage changes, by the end of their path: of the "denoiser" and of the "text" encoders."""
    wanted = frozenset().union(*(stage.trains for stage in stages_of(settings)))
    adapter = settings.adapter
    own = adapter_class(adapter.type).own_targets
    targets = {"denoiser": adapter.denoiser_targets or own["denoiser"], "text": adapter.text_targets or own["text"]}
    return {role: names if role in wanted else () for role, names in targets.items()}


def parts_trained(stage: Stage, model: Family) -> frozenset[str]:
    """First parts of the names of the parameters that ``stage`` trains: "concept", and parts of the model."""
    parts = {"concept": ("concept",)} | model.trainable_parts
    return frozenset(part for role in stage.trains for part in parts[role])


def _objective(section: Any) -> Objective:
    build: Any = OBJECTIVES[section.objective]
    return build(**{field.name: getattr(section, field.name) for field in dataclasses.fields(build)})


def adamw_8bit() -> Any:
    """bitsandbytes' class. MissingPackageError where the package is not there."""
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise MissingPackageError(
            "use_8bit_adam needs bitsandbytes: pip install bitsandbytes, or leave the switch out"
        ) from error
    return AdamW8bit


def build_optimizer(parameters: Iterable[nn.Parameter], stage: Stage, use_8bit_adam: bool) -> Any:
    """AdamW, or bitsandbytes' AdamW with 8-bit moments.

    Raises:
        MissingPackageError: 8-bit Adam is asked for and bitsandbytes is not there.
    """
    section = stage.settings
    cls: Any = adamw_8bit() if use_8bit_adam else torch.optim.AdamW
    by_device: dict[torch.device, list[nn.Parameter]] = {}
    for parameter in parameters:
        by_device.setdefault(parameter.device, []).append(parameter)
    options: dict[str, Any] = {"betas": (section.adam_beta1, section.adam_beta2), "eps": section.adam_epsilon}
    if not use_8bit_adam and all(device.type in ("cuda", "cpu") for device in by_device):
        options["fused"] = True  # one operator, no temporary copies, and under a loss scale no waiting for the GPU
    return cls(
        [{"params": group} for group in by_device.values()], lr=section.learning_rate,
        weight_decay=section.adam_weight_decay, **options,
    )  # fmt: skip


def build_lr_scheduler(optimizer: Any, stage: Stage) -> Any:
    """diffusers' schedule of that name over the stage's steps."""
    from diffusers.optimization import get_scheduler

    section = stage.settings
    return get_scheduler(
        section.lr_scheduler, optimizer, num_warmup_steps=section.lr_warmup_steps, num_training_steps=stage.steps
    )
