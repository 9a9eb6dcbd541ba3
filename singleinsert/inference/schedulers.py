"""Samplers by name. Nothing heavy is imported before one is built: the command line lists them."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

from singleinsert.errors import InputError


@dataclass(frozen=True)
class SchedulerChoice:
    """Attributes: diffusers' class; what A1111 calls sampler and schedule type; settings over the model's own."""

    class_name: str
    sampler: str
    schedule_type: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


OWN = "auto"
"""The name that stands for the model's own sampler: DDIM, and for flow models Euler along the flow."""
FLOW = SchedulerChoice("FlowMatchEulerDiscreteScheduler", "Euler", "Simple")
SCHEDULERS = {
    "ddim": SchedulerChoice("DDIMScheduler", "DDIM"),
    "ddpm": SchedulerChoice("DDPMScheduler", "DDPM"),
    "pndm": SchedulerChoice("PNDMScheduler", "PLMS", settings={"skip_prk_steps": True}),
    "euler": SchedulerChoice("EulerDiscreteScheduler", "Euler"),
    "euler_a": SchedulerChoice("EulerAncestralDiscreteScheduler", "Euler a"),
    "heun": SchedulerChoice("HeunDiscreteScheduler", "Heun"),
    "dpmpp_2m": SchedulerChoice("DPMSolverMultistepScheduler", "DPM++ 2M"),
    "dpmpp_2m_karras": SchedulerChoice(
        "DPMSolverMultistepScheduler", "DPM++ 2M", "Karras", {"use_karras_sigmas": True}
    ),
    "unipc": SchedulerChoice("UniPCMultistepScheduler", "UniPC"),
}
NOT_FOR_SAMPLE_PREDICTION = ("pndm", "euler", "euler_a", "heun")


def scheduler_choice(name: str, scheduler: Any) -> SchedulerChoice:
    """What ``name`` means for a model with this ``scheduler`` of its own.

    Raises:
        InputError: no such name, or it is a sampler for tables of alphas_cumprod, and the model has a flow.
    """
    if name != OWN and name not in SCHEDULERS:
        raise InputError(f"scheduler '{name}' is none of {', '.join((OWN, *SCHEDULERS))}")
    if "beta_schedule" in scheduler.config:
        return SCHEDULERS["ddim" if name == OWN else name]
    if name not in (OWN, "euler"):
        raise InputError(f"scheduler {name} cannot sample from a flow-matching model: choose {OWN} or euler")
    return FLOW


def build_scheduler(name: str, own: Any) -> Any:
    """diffusers' scheduler called ``name`` with the model's tables, ``own`` being the model's (DDIM or the flow's).

    Raises:
        InputError: no such name, or it cannot sample from what the model predicts.
    """
    choice, config = scheduler_choice(name, own), own.config
    if choice is FLOW:
        return type(own).from_config(config)
    if config["prediction_type"] == "sample" and name in NOT_FOR_SAMPLE_PREDICTION:
        others = ", ".join(other for other in SCHEDULERS if other not in NOT_FOR_SAMPLE_PREDICTION)
        raise InputError(f"scheduler {name} cannot sample from a model that predicts x0 ('sample'): choose {others}")
    scheduler_class = getattr(importlib.import_module("diffusers"), choice.class_name)
    return scheduler_class.from_config({**config, **choice.settings})
