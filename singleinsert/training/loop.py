"""The loop: stages, steps, the optimiser, checkpoints. It knows no method and no model family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from singleinsert.adapters.lora import LoraAdapters
from singleinsert.concepts import Concept
from singleinsert.models.base import BaseModel
from singleinsert.models.text import TokenizedPrompt
from singleinsert.training.bank import TeacherBank
from singleinsert.training.checkpoint import save_checkpoint
from singleinsert.training.draws import Draws, Sampling, draw
from singleinsert.training.files import RunFiles
from singleinsert.training.memory import MicroBatch
from singleinsert.training.progress import LossLog
from singleinsert.training.seeds import named_generator
from singleinsert.training.signals import Interrupted, StopSignal
from singleinsert.training.stages import Stage, build_lr_scheduler, build_optimizer, lora_targets, wants_bank
from singleinsert.training.step import Conditions, Subject, training_step


@dataclass
class Run:
    """What a run is made of. ``frozen_class`` is the frozen text encoder's view (1, L, d) of the class prompt."""

    settings: Any
    accelerator: Any
    files: RunFiles
    stages: list[Stage]
    model: BaseModel
    concept: Concept
    subject: Subject
    prompt: TokenizedPrompt
    class_prompt: TokenizedPrompt
    frozen_class: Tensor
    identity: dict[str, Any]
    say: Callable[[str], None]


class Loop:
    """Trains a run's stages one after the other, from the start or from a checkpoint's state.

    Attributes:
        adapters: the LoRA layers, once a stage has wanted them.
        losses: the table of losses so far.
        on_first_step: called once, after the first optimiser step.
    """

    def __init__(
        self,
        run: Run,
        sample: Callable[[str, int], None],
        state: dict[str, Any] | None = None,
        on_first_step: Callable[[], None] = lambda: None,
    ) -> None:
        self.run, self.sample, self.on_first_step = run, sample, on_first_step
        self.adapters: LoraAdapters = LoraAdapters({}, {})
        self.losses = LossLog(run.accelerator, state["losses"] if state else None)
        self.stage_index: int = state["stage"] if state else 0
        self.step: int = state["step"] if state else 0
        self._sampling = {
            stage.name: Sampling.of_stage(stage.settings, self._batch(stage), run.model.schedule)
            for stage in run.stages
        }
        self.micro_batch = MicroBatch(run.settings.run.micro_batch_size, run.accelerator.device, run.say)
        self.bank = self._build_bank()
        if self.bank and state:
            self.bank.restore(state["bank"], run.accelerator)
        self._restored = state

    def train(self) -> None:
        """Train to the end.

        Raises:
            Interrupted: Ctrl-C or SIGTERM; the state is saved.
            SingleInsertError: the training diverged.
        """
        with StopSignal() as stop:
            while self.stage_index < len(self.run.stages):
                self._run_stage(self.run.stages[self.stage_index], stop)
                self.stage_index, self.step = self.stage_index + 1, 0

    def _run_stage(self, stage: Stage, stop: StopSignal) -> None:
        self._prepare(stage)
        settings = self.run.settings
        with self._bar(stage) as bar:
            while self.step < stage.steps:
                self._optimiser_step(stage)
                self.step += 1
                self.on_first_step()
                self.on_first_step = _nothing
                bar.update()
                if self.losses.due or self.step == stage.steps:
                    bar.set_postfix({name: f"{value:.4f}" for name, value in self.losses.flush().items()})
                if _due(settings.run.checkpointing_steps, self.global_step):
                    self.save()
                self._leave_if_asked(stop)
                if _due(settings.sample.steps_interval, self.step) and self.step < stage.steps:
                    self.sample(stage.name, self.step)
        self._release()
        self.sample(stage.name, stage.steps)
        self._leave_if_asked(stop)

    @property
    def global_step(self) -> int:
        return sum(stage.steps for stage in self.run.stages[: self.stage_index]) + self.step

    # one optimiser step

    def _optimiser_step(self, stage: Stage) -> None:
        sums = None
        while sums is None:
            try:
                sums = self._accumulate_gradients(stage)
            except RuntimeError as error:
                if not self.micro_batch.halve(error):
                    raise
                self.optimizer.zero_grad(set_to_none=True)  # and the step begins again, on the same draws
        learning_rate = self.optimizer.param_groups[0]["lr"]
        self._apply_gradients(stage)
        self.losses.add(stage.name, self.step + 1, learning_rate, sums)

    def _accumulate_gradients(self, stage: Stage) -> dict[str, Tensor]:
        """Leave a step's gradients in what trains; returns the loss terms, this process's share of each."""
        run, objective = self.run, stage.objective
        wants_class = objective.needs_class and bool(self.adapters.layers.get("text_encoder"))
        conditions = Conditions.encode(
            run.model, run.concept, run.prompt, run.class_prompt if wants_class else None, run.frozen_class
        )
        sums: dict[str, Tensor] = {}
        for samples in self.micro_batch.pieces(*self._share(stage)):
            draws = self._draw(stage, samples).to(run.accelerator.device)
            keep = partial(self.bank.keep, samples) if self.bank and stage is run.stages[0] else None
            for terms in training_step(draws, run.subject, conditions, run.model, self.adapters, objective, keep):
                means = {name: term.sum() / self._batch(stage) for name, term in terms.items()}
                self._backward(torch.stack(list(means.values())).sum())
                for name, value in means.items():
                    sums[name] = sums.get(name, 0) + value.detach()
                del terms, means  # the next graph is built only when this one is gone
        conditions.backward()
        return sums

    def _batch(self, stage: Stage) -> int:
        """Samples of one optimiser step, over all processes and accumulated batches."""
        return stage.settings.batch_size * self.run.accelerator.gradient_accumulation_steps

    def _share(self, stage: Stage) -> tuple[range, int]:
        """This process's samples of the step, and how many of them it may take at a time."""
        batch, first = self._batch(stage), self.step * self._batch(stage)
        processes, rank = self.run.accelerator.num_processes, self.run.accelerator.process_index
        mine = range(first + batch * rank // processes, first + batch * (rank + 1) // processes)
        return mine, -(-stage.settings.batch_size // processes)

    def _draw(self, stage: Stage, samples: range) -> Draws:
        schedule, shape = self.run.model.schedule, self.run.subject.latents.mean.shape[1:]
        if self.bank and stage is not self.run.stages[0] and self.bank.serves(samples, self._batch(stage)):
            return self.bank.draw(schedule, shape, samples)
        return draw(schedule, shape, self.run.settings.run.seed, stage.name, samples, self._sampling[stage.name])

    def _backward(self, loss: Tensor) -> None:
        scaler = self.run.accelerator.scaler
        (loss if scaler is None else scaler.scale(loss)).backward()

    def _apply_gradients(self, stage: Stage) -> None:
        accelerator, parameters = self.run.accelerator, list(self.trainables(stage).values())
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
        if stage.trains & {"unet", "text_encoder"} or (restored and _has_adapters(restored)):
            self._inject()
        for parameter in (*self.run.concept.parameters(), *(p for _, p in self.adapters.named_parameters())):
            parameter.requires_grad_(False)
        trainables = self.trainables(stage)
        for parameter in trainables.values():
            parameter.requires_grad_(True)
        self.micro_batch.begin(sum(p.nbytes for p in trainables.values() if p.device == self.run.model.device))
        if self.bank and stage is not self.run.stages[0]:
            self.bank.gather(self.run.accelerator)
        self.optimizer = build_optimizer(trainables.values(), stage, self.run.settings.run.use_8bit_adam)
        self.lr_scheduler = build_lr_scheduler(self.optimizer, stage)
        if restored:
            self._restore(restored)

    def _inject(self) -> None:
        """Put LoRA into what any stage trains; once."""
        if self.adapters.layers:
            return
        run, adapter = self.run, self.run.settings.adapter
        targets = lora_targets(run.settings)
        self.adapters = LoraAdapters.inject(
            run.model.unet,
            run.model.text_encoder,
            rank=adapter.network_dim,
            alpha=adapter.network_alpha,
            unet_targets=targets["unet"],
            text_encoder_targets=targets["text_encoder"],
            generator=named_generator(run.settings.run.seed, "lora"),
        )

    def _build_bank(self) -> TeacherBank | None:
        """A bank of the first stage's frozen predictions, where a later stage can use them."""
        if not wants_bank(self.run.settings, self.run.stages):
            return None
        first = self.run.stages[0]
        samples = first.steps * self._batch(first)
        return TeacherBank(self.run.settings.run.seed, first.name, samples, self._sampling[first.name])

    def trainables(self, stage: Stage) -> dict[str, nn.Parameter]:
        """``{name: parameter}`` of what ``stage`` trains."""
        return {name: p for name, p in self._all_parameters().items() if name.split(".")[0] in stage.trains}

    def _all_parameters(self) -> dict[str, nn.Parameter]:
        concept = {f"concept.{name}": parameter for name, parameter in self.run.concept.named_parameters()}
        return concept | dict(self.adapters.named_parameters())

    def _release(self) -> None:
        """Drop the stage's optimiser before memory is wanted for samples or the next stage's."""
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
            save_checkpoint(run.files.checkpoints, self.global_step, state, limit)
            self.losses.write(run.files.losses)
        run.accelerator.wait_for_everyone()

    def _restore(self, state: dict[str, Any]) -> None:
        parameters = self._all_parameters()
        with torch.no_grad():
            for name, value in state["parameters"].items():
                parameters[name].copy_(value)
        if state["step"] < self.run.stages[self.stage_index].steps:
            self.optimizer.load_state_dict(state["optimizer"])
            self.lr_scheduler.load_state_dict(state["lr_scheduler"])
        if self.run.accelerator.scaler is not None and state["scaler"]:
            self.run.accelerator.scaler.load_state_dict(state["scaler"])

    def _leave_if_asked(self, stop: StopSignal) -> None:
        received, accelerator = stop.received, self.run.accelerator
        if accelerator.num_processes > 1:  # all leave after the same step, whichever was told
            flag = torch.tensor([received], device=accelerator.device)
            received = int(accelerator.gather(flag).max())
        if received:
            self.save()
            raise Interrupted(
                received,
                f"interrupted after {self.run.stages[self.stage_index].name} step {self.step}, state saved in "
                f"{self.run.files.checkpoints}: go on with --resume_from_checkpoint latest",
            )

    def _bar(self, stage: Stage) -> Any:
        from tqdm.auto import tqdm

        # a word that is given, even False, would win over TQDM_DISABLE
        hidden = {} if self.run.accelerator.is_local_main_process else {"disable": True}
        return tqdm(total=stage.steps, initial=self.step, desc=stage.name, dynamic_ncols=True, **hidden)


def sum_gradients(accelerator: Any, parameters: Sequence[nn.Parameter]) -> None:
    """Sum the gradients over all processes, in one message. Each loss was divided by the global batch already."""
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = accelerator.reduce(torch.cat([gradient.flatten() for gradient in gradients]), "sum")
    for parameter, gradient in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = gradient.view_as(parameter)


def _due(interval: int, step: int) -> bool:
    return interval > 0 and step % interval == 0


def _has_adapters(state: dict[str, Any]) -> bool:
    return any(not name.startswith("concept.") for name in state["parameters"])


def _nothing() -> None:
    pass
