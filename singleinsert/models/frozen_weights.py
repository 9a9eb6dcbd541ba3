"""Frozen weights in less memory: 4 or 8 bits each by bitsandbytes, or block by block from main memory.

Both leave what trains alone. With quantised weights the frozen model, which losses compare with, is the quantised one
in every pass. Blocks from main memory are copied to the card when they are called and dropped behind it; frozen weights
never change, so that nothing travels back. No number changes by it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from singleinsert.errors import ConfigError, MissingPackageError

STEP = 64
"""bitsandbytes' kernels for CPUs take layers whose sides are multiples of it, as those of all true models are."""


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a transformer, or a UNet's transformer blocks, in the order of the modules."""
    names = set(getattr(model, "_repeated_blocks", None) or getattr(model, "_no_split_modules", None) or ())
    return [module for module in model.modules() if type(module).__name__ in names]


def layers_of(encoder: nn.Module) -> list[nn.Module]:
    """The layers of an encoder, in order: the blocks that it has several of."""
    blocks = blocks_of(encoder)
    kinds = [type(block) for block in blocks]
    return [block for block in blocks if kinds.count(type(block)) > 1]


def pieces_of_layers(encoder: nn.Module) -> list[nn.Module]:
    """Attention, MLP and norms of each layer of a text encoder; not its lookup, which some models call a block too.

    Not the layers themselves: transformers recomputes a layer in the backward pass without its hooks.
    """
    return [piece for layer in layers_of(encoder) for piece in layer.children()]


def quantize_blocks(model: nn.Module, kind: str) -> None:
    """Replace the linear layers of a model's blocks by bitsandbytes', which compute in the model's dtype.

    On a GPU weights are converted when they get there. Other layers, a small share, stay as they are.

    Args:
        kind: "nf4" or "int8".

    Raises:
        MissingPackageError: bitsandbytes is not there. ConfigError: no layer is large enough.
    """
    try:
        from bitsandbytes import nn as bnb
    except ImportError as error:
        raise MissingPackageError(f"quantize {kind} needs bitsandbytes: pip install bitsandbytes") from error
    found = [
        (parent, name, layer)
        for block in blocks_of(model)
        for parent in block.modules()
        for name, layer in parent.named_children()
        if type(layer) is nn.Linear and not any(side % STEP for side in layer.weight.shape)
    ]
    if not found:
        raise ConfigError(f"run.quantize {kind} has no effect on so small a model: leave it out")
    for parent, name, layer in found:
        setattr(parent, name, _quantized(layer, kind, bnb))


def _quantized(layer: nn.Linear, kind: str, bnb: Any) -> nn.Module:
    sizes: tuple[int, int] = (layer.in_features, layer.out_features)
    options: dict[str, Any] = {"bias": layer.bias is not None, "device": "meta"}
    weight: Tensor = layer.weight.data
    new: Any
    if kind == "nf4":
        new = bnb.Linear4bit(*sizes, compute_dtype=weight.dtype, quant_type="nf4", **options)
        new.weight = bnb.Params4bit(weight, requires_grad=False, quant_type="nf4")
        new.support_avx512bf16_for_cpu = False  # its packing on some CPUs lets no gradient through, in silence
    else:
        new = bnb.Linear8bitLt(*sizes, has_fp16_weights=False, threshold=0.0, **options)
        new.weight = bnb.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    new.bias = layer.bias
    return new.to(weight.device).requires_grad_(False).eval()


@dataclass
class BlockSwap:
    """A block whose weights live in main memory, and on the card while it is called.

    In a graph its copies live until their part of the backward pass is done: with gradient checkpointing that is one
    block's at a time.
    """

    block: nn.Module
    device: torch.device
    _homes: list[tuple[nn.Module, str, nn.Parameter]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Take the frozen weights that the block has now; adapters that come into it later are not moved."""
        for module in self.block.modules():
            self._homes += [
                (module, name, p) for name, p in module._parameters.items() if p is not None and not p.requires_grad
            ]
        for _, _, parameter in self._homes:
            if self.device.type == "cuda" and parameter.device.type == "cpu":
                parameter.data = parameter.data.pin_memory()
        self.block.register_forward_pre_hook(self._fetch)
        self.block.register_forward_hook(self._drop, always_call=True)

    @property
    def parameters(self) -> Iterator[nn.Parameter]:
        return (parameter for _, _, parameter in self._homes)

    def _fetch(self, *_: Any) -> None:
        for module, name, home in self._homes:
            module._parameters[name] = nn.Parameter(home.data.to(self.device, non_blocking=True), requires_grad=False)

    def _drop(self, *_: Any) -> None:
        for module, name, home in self._homes:
            module._parameters[name] = home


def swap_blocks(model: nn.Module, count: int, device: torch.device) -> list[BlockSwap]:
    """Let the last ``count`` blocks of ``model`` live in main memory, where they are now.

    Raises:
        ConfigError: there are not so many.
    """
    blocks = blocks_of(model)
    if count > len(blocks):
        raise ConfigError(f"run.blocks_to_swap {count}: this model has {len(blocks)} blocks")
    return [BlockSwap(block, device) for block in blocks[len(blocks) - count :]]


def move_but_for(model: nn.Module, swaps: list[BlockSwap], device: torch.device) -> None:
    """``model`` to ``device``, the swapped blocks' weights aside."""
    if not swaps:
        model.to(device)
        return
    staying = {id(parameter) for swap in swaps for parameter in swap.parameters}
    for parameter in model.parameters():
        if id(parameter) not in staying:
            parameter.data = parameter.data.to(device)
    for module in model.modules():
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to(device)
