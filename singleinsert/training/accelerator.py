"""accelerate: devices, processes, precision, trackers. What the launcher says and the config leaves open is taken."""

from __future__ import annotations

import importlib.util
import os
import uuid
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from singleinsert.atomic import write_text
from singleinsert.config import Settings
from singleinsert.errors import ConfigError, MissingPackageError, first_line
from singleinsert.training.files import RunFiles

TRACKERS = ("tensorboard", "wandb")


def build_accelerator(settings: Settings, files: RunFiles) -> Any:
    """An Accelerator for ``settings``; what they leave to be chosen is chosen: see :func:`choose_precision`.

    The frozen weights are cast, not autocast, and gradients are summed by the loop, so nothing is ever ``prepare``d.

    Raises:
        ConfigError, MissingPackageError: one line.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    run = settings.run
    AcceleratorState._reset_state()  # it outlives an Accelerator; a second run here may want another precision
    precision = choose_precision() if run.mixed_precision == "auto" else run.mixed_precision
    try:
        accelerator = Accelerator(
            mixed_precision=precision,
            gradient_accumulation_steps=run.gradient_accumulation_steps,
            log_with=_trackers(run.report_to) or None,
            project_dir=files.folder,
        )
    except (ValueError, ImportError) as error:
        raise ConfigError(f"run.mixed_precision {precision}: {first_line(error)}") from error
    if accelerator.mixed_precision == "fp16" and accelerator.scaler is None:  # accelerate leaves it out on CPUs
        accelerator.scaler = torch.amp.GradScaler(accelerator.device.type)
    kind = accelerator.distributed_type
    if kind not in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
        raise ConfigError(
            f"accelerate is set to {kind.value}: only one process, several CPUs or several GPUs work here"
        )
    if accelerator.num_processes == 1 and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("several processes were launched, each on its own: on CPUs set ACCELERATE_USE_CPU=true")
    _check_processes(settings, accelerator.num_processes)
    return accelerator


def choose_precision() -> str:
    """As ``accelerate launch`` says; where it says nothing, half precision on a GPU and float32 on a CPU."""
    from accelerate.utils import parse_flag_from_env

    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched != "no" or parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available():
        return launched
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def start_trackers(accelerator: Any, settings: Settings, files: RunFiles) -> None:
    """Open the trackers on the main process; a continued run goes on in the same wandb run, any other begins one."""
    if not accelerator.log_with:
        return
    accelerator.project_configuration.logging_dir = str(files.logs)
    options = {} if settings.run.report_to == "tensorboard" else {"wandb": _wandb_run(accelerator, settings, files)}
    accelerator.init_trackers("singleinsert", init_kwargs=options)


def _wandb_run(accelerator: Any, settings: Settings, files: RunFiles) -> dict[str, str]:
    known = files.wandb_id.read_text() if settings.run.resume_from_checkpoint and files.wandb_id.is_file() else ""
    name = known or f"{files.name}-{uuid.uuid4().hex[:8]}"
    if accelerator.is_main_process:
        write_text(files.wandb_id, name)
    return {"name": files.name, "id": name, "resume": "allow", "dir": str(files.folder)}


def _trackers(report_to: str) -> list[str]:
    if report_to == "none":
        return []
    wanted = list(TRACKERS) if report_to == "all" else [report_to]
    for name in wanted:
        if importlib.util.find_spec(name) is None:
            raise MissingPackageError(f"run.report_to {name} needs the package: pip install {name}")
    return wanted


def _check_processes(settings: Settings, processes: int) -> None:
    for name, section in settings.stages.items():
        batch = section.batch_size * settings.run.gradient_accumulation_steps
        if batch < processes:
            raise ConfigError(
                f"{name}.batch_size is the whole batch, {batch}: it cannot be shared by {processes} processes"
            )
    if settings.run.offload and processes > 1:
        raise ConfigError("run.offload is for one GPU that is short of memory: leave it out, or launch one process")


def sum_gradients(accelerator: Any, parameters: Sequence[nn.Parameter]) -> None:
    """Sum the gradients over all processes, in one message. Each loss was divided by the global batch already."""
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = accelerator.reduce(torch.cat([gradient.flatten() for gradient in gradients]), "sum")
    for parameter, gradient in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = gradient.view_as(parameter)
