"""The loop: stages, steps, the optimiser, checkpoints. It knows no method and no model family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from singleinsert.adapters import adapter_class
from singleinsert.adapters.base import NO_ADAPTERS, Adapters
from singleinsert.config import Settings
from singleinsert.errors import ConfigError, ModelError, first_line
from singleinsert.models.family import Family
from singleinsert.terms import BEFORE, WEIGHT_ROLES
from singleinsert.training.accelerator import sum_gradients
from singleinsert.training.checkpoint import has_adapters, save_checkpoint
from singleinsert.training.files import RunFiles
from singleinsert.training.graphs import build_graphs, passes_of
from singleinsert.training.memory import MicroBatch
from singleinsert.training.prior import Prior
from singleinsert.training.progress import LossLog, RunBar, TimeLeft
from singleinsert.training.prompting import Prompting
from singleinsert.training.seeds import named_generator
from singleinsert.training.signals import Interrupted, StopSignal
from singleinsert.training.source import SampleSource
from singleinsert.training.stages import (
    Stage,
    adapter_options,
    build_lr_scheduler,
    build_optimizer,
    first_sample_step,
    parts_trained,
    step_cost,
)
from singleinsert.training.step import EncodedPicture, training_step
from singleinsert.training.texts import ConceptSet, ConstantConditions, PromptBook, StepConditions
from singleinsert.training.watch import Watch


class Sample(Protocol):
    """Draws the run's sample prompts, or the first alone; those of the stage "before" without the concepts."""

    def __call__(self, stage: str, step: int, first_only: bool = False) -> None: ...


@dataclass
class Run:
    """What a run is made of.

    Attributes:
        pictures: what is learnt from. prompting: which of them a sample sees, and in what words.
        book: the run's prompts. prior: pictures of the class, where a stage wants them.
        identity: everything that the run's numbers depend on, flat.
    """

    settings: Settings
    accelerator: Any
    files: RunFiles
    stages: list[Stage]
    model: Family
    concepts: ConceptSet
    pictures: tuple[EncodedPicture, ...]
    prompting: Prompting
    book: PromptBook
    identity: dict[str, Any]
    watch: Watch
    prior: Prior | None = None


class Loop:
    """Trains a run's stages one after the other, from the start or from a checkpoint's state.

    Attributes:
        adapters: what changes the model's weights, once a stage has wanted it.
        losses: the losses so far.
        on_first_step: called once, after the first optimiser step.
    """

    def __init__(
        self,
        run: Run,
        sample: Sample,
        state: dict[str, Any] | None = None,
        on_first_step: Callable[[], None] = lambda: None,
    ) -> None:
        self.run, self.sample, self.on_first_step = run, sample, on_first_step
        self.adapters: Adapters = NO_ADAPTERS
        self.losses = LossLog(run.accelerator, state["losses"] if state else None, self._tell)
        self.stage_index: int = state["stage"] if state else 0
        self.step: int = state["step"] if state else 0
        size, watch = run.settings.run.micro_batch_size, run.watch
        self.micro_batch = MicroBatch(size, run.accelerator.device, watch.line, watch.out_of_memory)
        self.graphs = build_graphs(run.settings, run.accelerator.device, watch.line)
        self.finished_early = False
        self.source = SampleSource(run)
        self.bank = self.source.bank
        if self.bank and state:
            self.bank.restore(state["bank"], run.accelerator)
        self._restored = state
        self._constant: ConstantConditions | None = None

    def train(self) -> None:
        """Train to the end.

        Raises:
            Interrupted: Ctrl-C or SIGTERM; the state is saved.
            SingleInsertError: the training diverged.
        """
        stages = self.run.stages
        time_left = TimeLeft({s.name: s.steps for s in stages}, {s.name: step_cost(s) for s in stages})
        bar = RunBar(time_left, self.global_step, self.run.accelerator.is_local_main_process)
        with StopSignal() as stop, bar, self.graphs:
            while self.stage_index < len(self.run.stages):
                self._run_stage(self.run.stages[self.stage_index], stop, bar)
                self.stage_index, self.step = self.stage_index + 1, 0

    def _run_stage(self, stage: Stage, stop: StopSignal, bar: RunBar) -> None:
        self._prepare(stage)
        settings = self.run.settings
        while self.step < stage.steps:
            self._optimiser_step(stage)
            self.step += 1
            self.on_first_step()
            self.on_first_step = lambda: None
            bar.step(stage.name, self.step, self.losses.flush(wait=self.step < stage.steps))
            if _due(settings.run.checkpointing_steps, self.global_step):
                self.save()
            self._leave_if_asked(stop)
            if self._asked(self.run.watch.asked_to_finish()):
                stage = self._end_here(stage)
            self._sample_if_due(stage)
            bar.rest()
        if settings.run.final_checkpoint and self.stage_index + 1 == len(self.run.stages):
            self.save()
        self._release()
        self._draw_samples(stage.name, stage.steps)
        bar.rest()
        self._leave_if_asked(stop)

    def _end_here(self, stage: Stage) -> Stage:
        """Let the run consist of what it has done: its last stage, which is returned, ends at this step."""
        self.losses.flush()
        ended = replace(stage, settings=replace(stage.settings, steps=self.step))
        self.finished_early = ended != stage or len(self.run.stages) > self.stage_index + 1
        self.run.stages = [*self.run.stages[: self.stage_index], ended]
        return ended

    def _sample_if_due(self, stage: Stage) -> None:
        interval, asked = self.run.settings.sample.steps_interval, self._asked(self.run.watch.asked_for_samples())
        if self.step >= stage.steps:
            return  # the last step's are drawn in any case, by who calls
        if asked or _due(interval, self.step):
            self._draw_samples(stage.name, self.step)
        elif not interval and self.step == first_sample_step(stage):
            self._draw_samples(stage.name, self.step, first_only=True)

    def _draw_samples(self, stage: str, step: int, first_only: bool = False) -> None:
        """Samples; before the first of them, what the frozen model draws."""
        with self.adapters.disabled():
            self.sample(BEFORE, 0)
        self.sample(stage, step, first_only)

    def _tell(self, row: dict[str, Any]) -> None:
        steps = {stage.name: stage.steps for stage in self.run.stages}
        numbers = {name: value for name, value in row.items() if name not in ("stage", "step")}
        self.run.watch.step(row["stage"], row["step"], steps[row["stage"]], numbers)

    @property
    def global_step(self) -> int:
        return sum(stage.steps for stage in self.run.stages[: self.stage_index]) + self.step

    # one optimiser step

    def _optimiser_step(self, stage: Stage) -> None:
        sums = None
        while sums is None:
            try:
                with self.graphs.open():
                    sums = self._accumulate_gradients(stage)
            except RuntimeError as error:
                if not self.graphs.give_up(error) and not self.micro_batch.halve(error):
                    raise
                self.optimizer.zero_grad(set_to_none=True)  # and the step begins again, on the same draws
        learning_rate = self.optimizer.param_groups[0]["lr"]
        self._apply_gradients(stage)
        self.losses.add(stage.name, self.step + 1, learning_rate, sums)

    def _accumulate_gradients(self, stage: Stage) -> dict[str, Tensor]:
        """Leave a step's gradients in what trains; returns the loss terms, this process's share of each."""
        run, objective = self.run, stage.objective
        mine, most = self.source.share(stage, self.step)
        prompts = dict(zip(mine, self.source.prompts(stage, mine), strict=True))
        tunes_text = objective.needs_class and any(part in self.adapters.parts for part in run.model.text_parts)
        frames = [picture.frame for picture in run.pictures]
        prior = run.prior if objective.needs_prior else None
        conditions = StepConditions(
            run.book, run.concepts, self.adapters, list(prompts.values()), frames, tunes_text,
            prior.prompt if prior else "", self._constant,
        )  # fmt: skip
        sums: dict[str, Tensor] = {}
        for samples in self.micro_batch.pieces(mine, most):
            whole = samples == mine
            ahead = self.source.draw_ahead(stage, self.step, conditions, self.adapters) if whole else None
            draws = ahead or self.source.draw(stage, samples)
            keep = partial(self.bank.keep, samples) if self.bank and stage is run.stages[0] else None
            step = training_step(
                draws, [prompts[sample] for sample in samples], run.pictures, conditions, run.model, self.adapters,
                objective, keep, prior.draw(run.model.schedule, stage.name, samples) if prior else None,
                self.micro_batch.together,
            )  # fmt: skip
            for terms in step:
                means = {name: term.sum() / self.source.batch(stage) for name, term in terms.items()}
                self._backward(torch.stack(list(means.values())).sum())
                for name, value in means.items():
                    sums[name] = sums.get(name, 0) + value.detach()
                del terms, means  # the next graph is built only when this one is gone
        conditions.backward()
        return sums

    def _backward(self, loss: Tensor) -> None:
        scaler = self.run.accelerator.scaler
        (loss if scaler is None else scaler.scale(loss)).backward()

    def _apply_gradients(self, stage: Stage) -> None:
        accelerator = self.run.accelerator
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        if accelerator.num_processes > 1:
            sum_gradients(accelerator, parameters)
        scaler = accelerator.scaler
        if scaler is not None:
            scaler.unscale_(self.optimizer)
        if stage.settings.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(parameters, stage.settings.max_grad_norm)
        if scaler is None:
            self.optimizer.step()
        else:
            scaler.step(self.optimizer)  # left out where a gradient overflowed
            scaler.update()
        self.lr_scheduler.step()  # in any case: to ask whether it was left out would make the host wait
        self.optimizer.zero_grad(set_to_none=True)

    # what trains

    def _prepare(self, stage: Stage) -> None:
        """Let exactly what ``stage`` names require gradients, with an optimiser of its own."""
        restored, self._restored = self._restored, None
        if stage.trains & WEIGHT_ROLES or (restored and has_adapters(restored)):
            self._inject()
        for parameter in (*self.run.concepts.parameters(), *(p for _, p in self.adapters.named_parameters())):
            parameter.requires_grad_(False)
        trainables = self.trainables(stage)
        if not trainables:
            raise ConfigError(
                f"{stage.name}.trains {', '.join(sorted(stage.trains))}: the adapter changes nothing of that, so that "
                "there is nothing to train"
            )
        for parameter in trainables.values():
            parameter.requires_grad_(True)
        on_device = sum(p.nbytes for p in trainables.values() if p.device == self.run.model.device)
        self.micro_batch.begin(on_device, stage.objective.needs_class)
        if self.bank and stage is not self.run.stages[0]:
            self.bank.gather(self.run.accelerator)
        self.optimizer = build_optimizer(trainables.values(), stage, self.run.settings.run.use_8bit_adam)
        self.lr_scheduler = build_lr_scheduler(self.optimizer, stage)
        self._constant = None if stage.trains & {"concept", "text"} else ConstantConditions()
        if self.graphs.record is not None:
            self.graphs.begin(passes_of(stage, self.run.model, self.run.concepts))
        if restored:
            self._restore(restored)

    def _inject(self) -> None:
        """Put the adapter into what any stage trains; once."""
        if self.adapters is not NO_ADAPTERS:
            return
        run = self.run
        self.adapters = adapter_class(run.settings.adapter.type).inject(
            run.model.adapted_parts,
            adapter_options(run.settings, run.model),
            named_generator(run.settings.run.seed, "lora"),
        )

    def trainables(self, stage: Stage) -> dict[str, nn.Parameter]:
        """``{name: parameter}`` of what ``stage`` trains."""
        parts = parts_trained(stage, self.run.model)
        return {name: p for name, p in self._all_parameters().items() if name.split(".")[0] in parts}

    def _all_parameters(self) -> dict[str, nn.Parameter]:
        concepts = {f"concept.{name}": parameter for name, parameter in self.run.concepts.by_handle.named_parameters()}
        return concepts | dict(self.adapters.named_parameters())

    def _release(self) -> None:
        """Drop the stage's optimiser before memory is wanted for samples or the next stage's."""
        self.graphs.end()
        self.optimizer = self.lr_scheduler = None

    # state

    def save(self) -> None:
        """Write a checkpoint: everything the run needs to go on to the same numbers."""
        run = self.run
        self.losses.flush()
        outputs = self.bank.gathered(run.accelerator) if self.bank else None
        if run.accelerator.is_main_process:
            scaler = run.accelerator.scaler
            state = {
                "stage": self.stage_index,
                "step": self.step,
                "parameters": dict(self._all_parameters()),
                "optimizer": self.optimizer.state_dict() if self.optimizer else None,
                "lr_scheduler": self.lr_scheduler.state_dict() if self.optimizer else None,
                "scaler": scaler.state_dict() if scaler is not None else None,
                "losses": self.losses.rows,
                "bank": outputs,
                "identity": run.identity,
            }
            limit = run.settings.run.checkpoints_total_limit
            path = save_checkpoint(run.files.checkpoints, self.global_step, state, limit)
            run.watch.checkpoint(path)
        run.accelerator.wait_for_everyone()

    def _restore(self, state: dict[str, Any]) -> None:
        """ModelError where the state does not fit what trains: the file was changed."""
        try:
            self._load(state)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ModelError(
                f"the checkpoint is damaged, its content does not fit this run ({first_line(error):.200}): go on from "
                "another, or begin anew"
            ) from error

    def _load(self, state: dict[str, Any]) -> None:
        parameters = self._all_parameters()
        if missing := parameters.keys() - state["parameters"].keys():
            raise KeyError(min(missing))
        with torch.no_grad():
            for name, value in state["parameters"].items():
                if parameters[name].shape != value.shape:
                    raise ValueError(f"{name} has shape {tuple(value.shape)}")
                parameters[name].copy_(value)
        if state["step"] < self.run.stages[self.stage_index].steps:
            self.optimizer.load_state_dict(state["optimizer"])
            self.lr_scheduler.load_state_dict(state["lr_scheduler"])
        if self.run.accelerator.scaler is not None and state["scaler"]:
            self.run.accelerator.scaler.load_state_dict(state["scaler"])

    def _leave_if_asked(self, stop: StopSignal) -> None:
        received, accelerator = stop.received or self.run.watch.asked_to_stop(), self.run.accelerator
        if accelerator.num_processes > 1:  # all leave after the same step, whichever was told
            flag = torch.tensor([received], device=accelerator.device)
            received = int(accelerator.gather(flag).max())
        if received:
            self.save()
            raise Interrupted(
                received,
                f"interrupted after {self.run.stages[self.stage_index].name} step {self.step}, state saved in "
                f"{self.run.files.checkpoints}; go on: {self.run.files.resume_command}",
                by_request=not stop.received,
            )

    def _asked(self, told: bool) -> bool:
        """Of any process: all do it together, though the main one alone is asked."""
        accelerator = self.run.accelerator
        if accelerator.num_processes > 1:
            told = bool(accelerator.gather(torch.tensor([int(told)], device=accelerator.device)).max())
        return told


def _due(interval: int, step: int) -> bool:
    return interval > 0 and step % interval == 0
