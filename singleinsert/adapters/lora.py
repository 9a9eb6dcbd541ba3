"""LoRA through peft: inject, switch off, read out, eject."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional

from singleinsert.adapters.base import AdapterOptions, Adapters, set_within, target_paths
from singleinsert.adapters.weights import LoraWeights, WeightUpdate

NAME = "default"


class _CastLinear(nn.Linear):
    """Float32 weight, multiplied in the input's dtype.

    peft would lift the input to float32 instead, which keeps a float32 copy of every attention input for the
    backward pass. The cast weight is a few kilobytes, and its gradient comes back in float32.
    """

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input, self.weight.to(input.dtype))


class _CastConv2d(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight.to(input.dtype), None)


class _LeanLinear(LoraLinear):
    """peft's layer, with peft's parameters, without what peft asks itself in each forward pass.

    3 operators in place of 5: where alpha is the rank, nothing is multiplied by 1, and the update is added as it is
    multiplied. In float32 the numbers are the same to the last bit, since a short rank is summed in one go; in half
    precision they are rounded once in place of twice.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.lora_variant or self.merged_adapters or kwargs:  # a user has loaded another kind beside, or fused it
            return super().forward(x, *args, **kwargs)
        base = self.base_layer
        result = functional.linear(x, base.weight, base.bias)
        if self._disable_adapters:
            return result
        all_down, all_up = self.lora_A, self.lora_B
        for name in self.active_adapters:
            if name in all_down:
                result = _add_update(result, x, all_down[name], all_up[name], self.scaling[name])
        return result


def _add_update(result: Tensor, x: Tensor, down: nn.Module, up: Any, scaling: float) -> Tensor:
    hidden = down(x)
    if scaling != 1:
        return result + up(hidden) * scaling
    if x.dim() < 3 or result.dtype != hidden.dtype or up.bias is not None:
        return result + up(hidden)
    weight = up.weight.to(x.dtype)
    return torch.addmm(result.flatten(0, -2), hidden.flatten(0, -2), weight.t()).view_as(result)


def make_lean(layer: LoraLayer) -> None:
    """Let peft's ``layer`` compute in fewer operators, if it is a plain one: others multiply in a way of theirs.

    So do those whose LoRA has another dtype than the layer: peft casts the input.
    """
    base = layer.get_base_layer()
    if type(layer) is not LoraLinear or type(base) is not nn.Linear:
        return
    parts = (*layer.lora_A.values(), *layer.lora_B.values())
    if all(isinstance(part, _CastLinear) or part.weight.dtype == base.weight.dtype for part in parts):
        layer.__class__ = _LeanLinear


@dataclass
class LoraAdapters(Adapters):
    """The low-rank layers inside a model's parts. Made by :meth:`inject`, gone after :meth:`eject`.

    Attributes:
        layers: peft's layers, by part and module path.
    """

    kind = "lora"

    layers: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def inject(
        cls, parts: Mapping[str, nn.Module], options: AdapterOptions, generator: torch.Generator
    ) -> LoraAdapters:
        """Put LoRA layers of ``options.rank`` on every layer whose path ends in one of the targets.

        The down matrix is drawn from ``generator`` (kaiming-uniform, as peft does it), the up matrix is zero, so
        that the model is unchanged.
        """
        paths = {part: target_paths(parts[part], part, names) for part, names in options.targets.items()}
        chosen = {part: parts[part] for part in paths if paths[part]}
        layers = {part: _inject(model, paths[part], options.rank, options.alpha) for part, model in chosen.items()}
        adapters = cls(chosen, layers)
        adapters._initialise(generator)
        return adapters

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for part, found in self.layers.items():
            for path, layer in found.items():
                yield f"{part}.{path}.down", layer.lora_A[NAME].weight
                yield f"{part}.{path}.up", layer.lora_B[NAME].weight

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Within it the models are the frozen ones, to the last bit.

        Only peft's flag is set: its ``enable_adapters`` also turns off the adapters' ``requires_grad``, which
        must not change between a forward pass and its backward.
        """
        with set_within(
            (layer for found in self.layers.values() for layer in found.values()), "_disable_adapters", True
        ):
            yield

    def eject(self) -> None:
        """Put the original layer objects back."""
        for part, found in self.layers.items():
            model: Any = self.parts[part]
            for path, layer in found.items():
                parent, _, child = path.rpartition(".")
                setattr(model.get_submodule(parent), child, layer.get_base_layer())
            del model.peft_config
        self.parts, self.layers = {}, {}

    def state(self) -> WeightUpdate | None:
        lora = {
            part: {
                path: LoraWeights(_copy(layer.lora_A[NAME]), _copy(layer.lora_B[NAME]), float(layer.lora_alpha[NAME]))
                for path, layer in found.items()
            }
            for part, found in self.layers.items()
        }
        return WeightUpdate(self.kind, lora) if lora else None

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        for found in self.layers.values():
            for layer in found.values():
                down, up = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
                drawn = torch.empty(down.shape, device=generator.device)
                nn.init.kaiming_uniform_(drawn, a=5**0.5, generator=generator)
                down.copy_(drawn)
                up.zero_()


def _inject(model: nn.Module, paths: Sequence[str], rank: int, alpha: float) -> dict[str, LoraLayer]:
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(paths), init_lora_weights=False)
    device = next(model.parameters()).device  # that of blocks which come to the card when they are called, too
    with torch.random.fork_rng(devices=[]):  # what peft draws here is overwritten
        inject_adapter_in_model(config, model, adapter_name=NAME)
    found: dict[str, LoraLayer] = {}
    for path in paths:
        layer = model.get_submodule(path)
        assert isinstance(layer, LoraLayer)
        layer.cast_input_dtype_enabled = False
        for part in (layer.lora_A[NAME], layer.lora_B[NAME]):
            part.weight = nn.Parameter(part.weight.detach().to(device, torch.float32))
            part.__class__ = _CastLinear if isinstance(part, nn.Linear) else _CastConv2d
        make_lean(layer)
        found[path] = layer
    return found


def _copy(linear: Any) -> Tensor:
    return linear.weight.detach().float().cpu().clone()
