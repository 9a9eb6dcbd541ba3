"""LoRA on the attention of the UNet and the text encoder, through peft: inject, switch off, read out, eject."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional

from singleinsert.adapters.weights import LoraWeights
from singleinsert.errors import ConfigError

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


class LoraAdapters:
    """The low-rank layers inside a UNet and a text encoder. Made by :meth:`inject`, gone after :meth:`eject`."""

    def __init__(self, models: Mapping[str, nn.Module], layers: Mapping[str, Mapping[str, Any]]) -> None:
        self.models = dict(models)
        self.layers = {component: dict(found) for component, found in layers.items()}

    @classmethod
    def inject(
        cls,
        unet: nn.Module,
        text_encoder: nn.Module,
        *,
        rank: int,
        alpha: float,
        unet_targets: Sequence[str],
        text_encoder_targets: Sequence[str],
        generator: torch.Generator,
    ) -> LoraAdapters:
        """Put LoRA layers of ``rank`` on every layer whose path ends in one of the targets.

        The down matrix is drawn from ``generator`` (kaiming-uniform, as peft does it), the up matrix is zero, so
        that the model is unchanged. Trainables are float32 whatever the dtype of the frozen weights. A component
        with no targets is left alone.

        Raises:
            ConfigError: a target that names no linear or convolution layer.
        """
        models = {"unet": unet, "text_encoder": text_encoder}
        targets = {"unet": unet_targets, "text_encoder": text_encoder_targets}
        paths = {component: layer_paths(models[component], component, targets[component]) for component in models}
        layers = {c: _inject(models[c], paths[c], rank, alpha) for c in models if paths[c]}
        adapters = cls(models, layers)
        adapters._initialise(generator)
        return adapters

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """``("unet.<module path>.down", parameter), ...`` in the order of the modules; all float32."""
        for component, found in self.layers.items():
            for path, layer in found.items():
                yield f"{component}.{path}.down", layer.lora_A[NAME].weight
                yield f"{component}.{path}.up", layer.lora_B[NAME].weight

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Within it the models are the frozen ones, to the last bit.

        Only peft's flag is set: its ``enable_adapters`` also turns off the adapters' ``requires_grad``, which
        must not change between a forward pass and its backward.
        """
        layers = [layer for found in self.layers.values() for layer in found.values()]
        before = [layer._disable_adapters for layer in layers]
        for layer in layers:
            layer._disable_adapters = True
        try:
            yield
        finally:
            for layer, flag in zip(layers, before, strict=True):
                layer._disable_adapters = flag

    def eject(self) -> None:
        """Put the original layer objects back: the models are what they were before, to the last bit."""
        for component, found in self.layers.items():
            model: Any = self.models[component]
            for path, layer in found.items():
                parent, _, child = path.rpartition(".")
                setattr(model.get_submodule(parent), child, layer.get_base_layer())
            del model.peft_config
        self.layers = {}

    def state(self) -> dict[str, dict[str, LoraWeights]]:
        """Copies of the weights on the CPU: ``{component: {module path: LoraWeights}}``."""
        return {
            component: {
                path: LoraWeights(_copy(layer.lora_A[NAME]), _copy(layer.lora_B[NAME]), float(layer.lora_alpha[NAME]))
                for path, layer in found.items()
            }
            for component, found in self.layers.items()
        }

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        for found in self.layers.values():
            for layer in found.values():
                down, up = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
                drawn = torch.empty(down.shape, device=generator.device)
                nn.init.kaiming_uniform_(drawn, a=5**0.5, generator=generator)
                down.copy_(drawn)
                up.zero_()


def layer_paths(model: nn.Module, component: str, targets: Sequence[str]) -> list[str]:
    """Paths of the layers that ``targets`` name, in the order of the modules; ConfigError where one names none."""
    layers = [path for path, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    for target in targets:
        if not any(_matches(path, target) for path in layers):
            known = sorted({path.split(".")[-1] for path in layers if not path[-1].isdigit()} | {"to_out.0"})
            raise ConfigError(
                f"adapter.{component}_targets: {target!r} names no layer of the {component}; "
                f"there are {', '.join(known)}"
            )
    return [path for path in layers if any(_matches(path, target) for target in targets)]


def _matches(path: str, target: str) -> bool:
    return path == target or path.endswith("." + target)


def _inject(model: nn.Module, paths: Sequence[str], rank: int, alpha: float) -> dict[str, LoraLayer]:
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(paths), init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):  # what peft draws here is overwritten
        inject_adapter_in_model(config, model, adapter_name=NAME)
    found: dict[str, LoraLayer] = {}
    for path in paths:
        layer = model.get_submodule(path)
        assert isinstance(layer, LoraLayer)
        layer.cast_input_dtype_enabled = False
        for part in (layer.lora_A[NAME], layer.lora_B[NAME]):
            part.weight = nn.Parameter(part.weight.detach().float())
            part.__class__ = _CastLinear if isinstance(part, nn.Linear) else _CastConv2d
        found[path] = layer
    return found


def _copy(linear: Any) -> Tensor:
    return linear.weight.detach().float().cpu().clone()
