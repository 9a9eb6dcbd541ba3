"""Switches for memory and speed: each does what it says, or says in one line why it cannot."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from singleinsert.errors import MissingPackageError, first_line
from singleinsert.models.family import Family
from singleinsert.models.frozen_weights import BlockSwap, move_but_for, pieces_of_layers, quantize_blocks, swap_blocks


def set_switches(model: Family, run: Any, say: Callable[[str], None] = print) -> None:
    """Set on a loaded model what the section ``run`` of the settings asks for."""
    set_tf32(run.allow_tf32)
    if run.offload:
        offload_encoders(model, swapped=run.swap_text_encoders)
        offload_layers_told_time(model)
    if run.channels_last:
        enable_channels_last(model)
    if run.enable_xformers_memory_efficient_attention:
        enable_xformers(model, say)
    if run.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    if run.compile:
        enable_compile(model, say)


def place_frozen_weights(model: Family, run: Any, device: torch.device) -> None:
    """From main memory to ``device``: quantised, or without the blocks that stay, as the section ``run`` says.

    Text encoders that :func:`set_switches` leaves in main memory are not quantised: they compute in float32 there. Nor
    are those whose layers are swapped.
    """
    swaps: dict[str, list[BlockSwap]] = {}
    if run.blocks_to_swap:
        swaps[model.denoiser_part] = swap_blocks(model.denoiser, run.blocks_to_swap, device)
    if run.swap_text_encoders:
        for name, encoder in model.text_encoders.items():
            swaps[name] = [BlockSwap(piece, device) for piece in pieces_of_layers(encoder)]
    if run.quantize != "no":
        kept = run.offload or run.swap_text_encoders
        for part in (model.denoiser, *(() if kept else model.text_encoders.values())):
            quantize_blocks(part, run.quantize)
    for name, part in model.parts.items():
        move_but_for(part, swaps.get(name, []), device)
    model.schedule = model.schedule.to(device)


def set_tf32(allowed: bool) -> None:
    """Let float32 products and convolutions of this process round their factors to TF32, or not."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def offload_encoders(model: Family, swapped: bool = False) -> None:
    """Text encoders and autoencoder to main memory. Text encoders compute in float32: CPUs are slow in half.

    Args:
        swapped: text encoders whose layers come to the GPU one by one compute there.
    """
    for encoder in () if swapped else model.text_encoders.values():
        nn.Module.to(encoder, "cpu", torch.float32)
    model.autoencoder.to("cpu")


def offload_layers_told_time(model: Family) -> None:
    """Large layers that see the noise level alone: called once in a pass, with no gradient that would need them."""
    device = model.device
    for layer in model.layers_told_time:
        layer.to("cpu")
        BlockSwap(layer, device)


def enable_channels_last(model: Family) -> None:
    """Weights of convolutions in the order that tensor cores read; activations follow them."""
    for part in (model.denoiser, model.autoencoder):
        part.to(memory_format=torch.channels_last)


def enable_compile(model: Family, say: Callable[[str], None], backend: str = "inductor") -> None:
    """Compile each kind of transformer block of the denoiser, once per shape; where that cannot be, say so and go on.

    Blocks compile when they are first used, and again when LoRA comes into them or is switched off.
    """
    try:
        probe = torch.ones(2, device=model.device)
        torch.compile(lambda x: x * 2 + 1, backend=backend)(probe)
    except Exception as error:  # no C++ compiler, no Triton, an old card: the compiler has errors of many kinds
        say(f"torch.compile does not run here ({first_line(error)}): going on without it")
        return
    torch._dynamo.config.recompile_limit = 64  # blocks of four widths; with, without and with silenced LoRA
    model.denoiser.compile_repeated_blocks(backend=backend, dynamic=False)


def enable_xformers(model: Family, say: Callable[[str], None] = print) -> None:
    """xformers' attention in denoiser and autoencoder; where its kernels do not load, PyTorch's own, with a line.

    Both keep no scores, so that the switch never costs memory.
    """
    if importlib.util.find_spec("xformers") is None:
        raise MissingPackageError(
            "enable_xformers_memory_efficient_attention needs xformers: pip install xformers, or leave the switch "
            "out, PyTorch's own attention is memory-efficient too"
        )
    parts = model.denoiser, model.autoencoder
    try:
        for part in parts:
            part.enable_xformers_memory_efficient_attention()
    except Exception as error:  # ValueError, ImportError, NotImplementedError: it tries its kernels first
        for part in parts:
            part.disable_xformers_memory_efficient_attention()
        say(f"xformers does not run here ({first_line(error)}): going on with PyTorch's own attention")
