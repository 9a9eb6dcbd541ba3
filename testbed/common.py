"""What the testbed's training runs share: device, bfloat16 working copies, averages, checkpoints."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def hold(array: np.ndarray) -> Tensor:
    """An array of the training set as a tensor: on the GPU where there is one, else where it is, mapped or not."""
    return torch.from_numpy(array).to(device())


def to_tensor(pictures: np.ndarray) -> Tensor:
    """uint8 (n, h, w, 3) -> float (n, 3, h, w) in [-1, 1], channels last."""
    x = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)
    return (x.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


class HalfTrainer:
    """Trains a bfloat16 working copy of `modules` with float32 master weights, AdamW and an average (EMA).

    A pure bfloat16 forward and backward needs no autocast copies, which are a sixth of a step on a CPU.
    """

    def __init__(self, modules: Iterable[nn.Module], lr: float, weight_decay: float = 0.01, ema: float = 0.999) -> None:
        self.working = [p for m in modules for p in m.parameters() if p.requires_grad]
        self.master = [p.detach().float().clone().requires_grad_(True) for p in self.working]
        self.average = [p.detach().clone() for p in self.master]
        for p in self.working:
            p.data = p.data.to(torch.bfloat16)
        self.optimizer = torch.optim.AdamW(self.master, lr=lr, weight_decay=weight_decay, betas=(0.9, 0.99), fused=True)
        self.lr, self.ema, self.step_count = lr, ema, 0

    def step(self, lr_scale: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * lr_scale
        for m, p in zip(self.master, self.working, strict=True):
            m.grad = None if p.grad is None else p.grad.float()
            p.grad = None
        torch.nn.utils.clip_grad_norm_([m for m in self.master if m.grad is not None], 1.0)
        self.optimizer.step()
        self.step_count += 1
        with torch.no_grad():
            torch._foreach_copy_([p.data for p in self.working], [m.data for m in self.master])
            if self.step_count % 4 == 0:
                decay = min(self.ema**4, self.step_count / (self.step_count + 40))
                torch._foreach_lerp_(self.average, [m.detach() for m in self.master], 1 - decay)

    def finish(self, average: bool = True) -> None:
        """Put the averaged (or the last) weights, in float32, into the modules; training is over."""
        for p, w in zip(self.working, self.average if average else self.master, strict=True):
            p.data = w.detach().clone()

    def state_dict(self) -> dict[str, Any]:
        return {"master": [m.detach() for m in self.master], "average": self.average,
                "optimizer": self.optimizer.state_dict(), "step": self.step_count}  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for mine, saved in ((self.master, state["master"]), (self.average, state["average"])):
            for a, b in zip(mine, saved, strict=True):
                a.data.copy_(b)
        for p, m in zip(self.working, self.master, strict=True):
            p.data.copy_(m.data)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step_count = state["step"]


def schedule(step: int, steps: int, warmup: int = 200, cooldown: float = 0.25) -> float:
    """Warm-up, constant, then linear to zero over the last `cooldown` share of the run."""
    if step < warmup:
        return (step + 1) / warmup
    start = steps * (1 - cooldown)
    return 1.0 if step < start else max(0.0, (steps - step) / (steps - start))


def run(
    name: str,
    folder: Path,
    trainer: HalfTrainer,
    loss_of_step: Callable[[int], dict[str, Tensor]],
    steps: int,
    on_interval: Callable[[int], None] | None = None,
    save_seconds: float = 240,
    report_every: int = 50,
) -> None:
    """Resumable loop: `loss_of_step(step)` gives the loss terms; their sum is minimised.

    The number of steps may be lowered or raised between starts: write it to `NAME.steps` in `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file, plan = folder / f"{name}.pt", folder / f"{name}.steps"
    if file.exists():
        trainer.load_state_dict(torch.load(file, weights_only=True))
        print(f"{name}: resumed at step {trainer.step_count}", flush=True)

    def save() -> None:
        part = file.with_suffix(".part")
        torch.save(trainer.state_dict(), part)
        os.replace(part, file)

    saved = logged = time.monotonic()
    totals: dict[str, Tensor] = {}
    while True:
        if plan.exists():
            steps = int(plan.read_text())
        step = trainer.step_count
        if step >= steps:
            break
        terms = loss_of_step(step)
        torch.stack(list(terms.values())).sum().backward()
        trainer.step(schedule(step, steps))
        for k, v in terms.items():
            totals[k] = v.detach() + totals.get(k, 0.0)  # not read here: a GPU would wait for each step
        if (step + 1) % report_every == 0:
            text = "  ".join(f"{k} {float(v) / report_every:.4f}" for k, v in totals.items())
            now = time.monotonic()
            print(f"{name} {step + 1}/{steps}  {text}  {report_every / (now - logged):.2f} steps/s", flush=True)
            logged, totals = now, {}
        if time.monotonic() - saved > save_seconds:
            save()
            saved = time.monotonic()
            if on_interval is not None:
                on_interval(step + 1)
    save()
