"""LoRA folded into copies of the weights while pictures are drawn: one matrix in place of three."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.utils import parametrize


@contextmanager
def folded(model: nn.Module) -> Iterator[None]:
    """Within it, each LoRA layer of ``model`` multiplies by ``W + sum(scale * up @ down)`` of its active LoRAs.

    Weights that are parametrized (full, kv and svd adapters) are computed once. Afterwards the weights are the very
    tensors that they were. Nothing may train or move within it. Left as they are: layers of half precision, whose
    rounding would swallow the update, those that somebody looks into (a rank that follows the noise does), and those
    that offloading moves.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer) and _can_fold(layer)]
    before = [(layer, layer._disable_adapters, layer.get_base_layer().weight.data) for layer in layers]
    try:
        for layer, _, weight in before:
            layer.get_base_layer().weight.data = _sum(layer, weight)
            layer._disable_adapters = True
        with parametrize.cached():
            yield
    finally:
        for layer, disabled, weight in before:
            layer._disable_adapters = disabled
            layer.get_base_layer().weight.data = weight


def _can_fold(layer: Any) -> bool:
    base = layer.get_base_layer()
    plain = not layer.merged and not layer._disable_adapters and not any(layer.lora_bias.values())
    plain = plain and not any(part._forward_hooks or part._forward_pre_hooks for part in layer.modules())
    return plain and not layer.lora_variant and base.weight.dtype == torch.float32 and not hasattr(base, "_hf_hook")


@torch.no_grad()
def _sum(layer: Any, weight: Tensor) -> Tensor:
    for name in layer.active_adapters:
        if name in layer.lora_A:
            weight = weight + layer.get_delta_weight(name)
    return weight
