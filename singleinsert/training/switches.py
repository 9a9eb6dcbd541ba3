"""Switches for memory and speed: each does what it says, or says in one line why it cannot."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from singleinsert.errors import ConfigError, MissingPackageError, first_line
from singleinsert.models.base import BaseModel


def set_switches(model: BaseModel, run: Any, say: Callable[[str], None] = print) -> None:
    """Set on a loaded model what the section ``run`` of the settings asks for."""
    set_tf32(run.allow_tf32)
    if run.offload:
        offload_encoders(model)
    if run.channels_last:
        enable_channels_last(model)
    if run.enable_xformers_memory_efficient_attention:
        enable_xformers(model, say)
    if run.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    if run.compile:
        enable_compile(model, say)


def set_tf32(allowed: bool) -> None:
    """Let float32 products and convolutions of this process round their factors to TF32, or not."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def offload_encoders(model: BaseModel) -> None:
    """Text encoder and VAE to main memory. The text encoder computes in float32: CPUs are slow in half precision."""
    nn.Module.to(model.text_encoder, "cpu", torch.float32)
    model.vae.to("cpu")


def enable_channels_last(model: BaseModel) -> None:
    """Weights of convolutions in the order that tensor cores read; activations follow them."""
    for part in (model.unet, model.vae):
        part.to(memory_format=torch.channels_last)


def enable_compile(model: BaseModel, say: Callable[[str], None], backend: str = "inductor") -> None:
    """Compile each kind of transformer block of the UNet, once per shape; where that cannot be, say so and go on.

    Blocks compile when they are first used, and again when LoRA comes into them or is switched off.
    """
    try:
        probe = torch.ones(2, device=model.device)
        torch.compile(lambda x: x * 2 + 1, backend=backend)(probe)
    except Exception as error:  # no C++ compiler, no Triton, an old card: the compiler has errors of many kinds
        say(f"torch.compile does not run here ({first_line(error)}): going on without it")
        return
    torch._dynamo.config.recompile_limit = 64  # blocks of four widths; with, without and with silenced LoRA
    model.unet.compile_repeated_blocks(backend=backend, dynamic=False)


def enable_xformers(model: BaseModel, say: Callable[[str], None] = print) -> None:
    """xformers' attention in UNet and VAE; where its kernels do not load, say so and stay with PyTorch's own (SDPA).

    Both keep no scores, so that the switch never costs memory.
    """
    if importlib.util.find_spec("xformers") is None:
        raise MissingPackageError(
            "enable_xformers_memory_efficient_attention needs xformers: pip install xformers, or leave the switch "
            "out, PyTorch's own attention is memory-efficient too"
        )
    parts = model.unet, model.vae
    try:
        for part in parts:
            part.enable_xformers_memory_efficient_attention()
    except Exception as error:  # ValueError, ImportError, NotImplementedError: it tries its kernels first
        for part in parts:
            part.disable_xformers_memory_efficient_attention()
        say(f"xformers does not run here ({first_line(error)}): going on with PyTorch's own attention")


def enable_gradient_checkpointing(model: BaseModel) -> None:
    """Recompute activations of UNet and text encoder in the backward pass, in whichever stage runs.

    transformers honours it only in training mode; CLIP's dropout, the one thing that mode would change, must be 0.
    diffusers honours it wherever a graph is built, so the frozen passes pay nothing.
    """
    model.unet.enable_gradient_checkpointing()
    if model.text_encoder.config.attention_dropout:
        raise ConfigError("gradient_checkpointing: this text encoder has dropout, which would then be active")
    enable = getattr(model.text_encoder, "activation_checkpointing_enable", None)  # its name from transformers 5.2x on
    (enable or model.text_encoder.gradient_checkpointing_enable)({"use_reentrant": False})
    model.text_encoder.train()
