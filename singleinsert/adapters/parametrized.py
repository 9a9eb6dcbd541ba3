"""Adapters that put a function of what trains in the place of a weight: full finetuning, spectral shifts.

PyTorch's parametrizations do the work: a module's weight becomes ``parametrization(parameter)``, whatever class the
module is of, and goes back to being the parameter that it was. What is saved is the difference from the original as a
LoRA of a chosen rank (by SVD) that every client loads; the share of the change that this misses is told.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from singleinsert.adapters.base import EVERYTHING, AdapterOptions, Adapters, Targets, target_paths
from singleinsert.adapters.weights import LoraWeights, WeightUpdate


class Replacement(nn.Module):
    """What stands in a weight's place.

    The original waits in main memory. It comes to the device while adapters are off, and goes again, so that a card
    holds no second copy of the model.
    """

    active: Tensor | None

    def __init__(self, original: nn.Parameter) -> None:
        super().__init__()
        self.dtype, self.active = original.dtype, None
        self.original = original.detach().cpu().clone()

    def parameter(self, original: nn.Parameter) -> nn.Parameter:
        """What trains in its place: float32, on the original's device."""
        raise NotImplementedError

    def weight(self, parameter: Tensor) -> Tensor:
        """The weight that the module is to have, in :attr:`dtype`."""
        raise NotImplementedError

    def forward(self, parameter: Tensor) -> Tensor:
        return self.weight(parameter) if self.active is None else self.active


@dataclass
class ParametrizedAdapters(Adapters):
    """Attributes:
    places: by full name ("unet.mid_block....to_q.weight"), the module, and the name of its tensor.
    before: the parameter objects that were there. options: as injected.
    classes: of the parts, to be put back. orders: of the modules' own parameters, likewise.
    """

    places: dict[str, tuple[nn.Module, str]] = field(default_factory=dict)
    before: dict[str, nn.Parameter] = field(default_factory=dict)
    options: AdapterOptions = field(default_factory=lambda: AdapterOptions({}))
    classes: dict[str, type[nn.Module]] = field(default_factory=dict)
    orders: dict[nn.Module, list[str]] = field(default_factory=dict)

    @staticmethod
    @abstractmethod
    def replace(original: nn.Parameter) -> Replacement:
        """What stands in a weight's place."""

    @classmethod
    def wants(cls, name: str) -> bool:
        """Is a module's tensor of this name ("weight", "bias") to be replaced?"""
        return True

    @classmethod
    def check(cls, parts: Mapping[str, nn.Module], targets: Targets) -> None:
        for part, names in targets.items():
            _module_paths(parts[part], part, tuple(names))

    @classmethod
    def inject(cls, parts: Mapping[str, nn.Module], options: AdapterOptions, generator: torch.Generator) -> Self:
        places: dict[str, tuple[nn.Module, str]] = {}
        for part, names in options.targets.items():
            for path in _module_paths(parts[part], part, tuple(names)):
                module = parts[part].get_submodule(path)
                for own, _ in list(module.named_parameters(recurse=False)):
                    if cls.wants(own):
                        places[f"{part}.{path}.{own}" if path else f"{part}.{own}"] = (module, own)
        chosen = {part: parts[part] for part, names in options.targets.items() if names}
        before = {name: getattr(*place) for name, place in places.items()}
        orders = {module: list(module._parameters) for module, _ in places.values()}
        classes = {part: _pin_dtype(model) for part, model in chosen.items()}
        adapters = cls(chosen, places, before, options, classes, orders)
        for name, (module, own) in places.items():
            replacement = cls.replace(before[name])
            setattr(module, own, replacement.parameter(before[name]))
            parametrize.register_parametrization(module, own, replacement, unsafe=True)
        return adapters

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, (module, own) in self.places.items():
            yield name, _parametrizations(module)[own].original

    @contextmanager
    def disabled(self) -> Iterator[None]:
        steps = [_parametrizations(module)[own] for module, own in self.places.values()]
        for step in steps:
            step[0].active = step[0].original.to(step.original.device)
        try:
            yield
        finally:
            for step in steps:
                step[0].active = None

    def eject(self) -> None:
        """Put the original parameter objects back, with the values they had."""
        for name, (module, own) in self.places.items():
            original = _parametrizations(module)[own][0].original
            parametrize.remove_parametrizations(module, own, leave_parametrized=False)
            with torch.no_grad():
                self.before[name].copy_(original)
            setattr(module, own, self.before[name])
        for module, order in self.orders.items():  # what was put back came last
            module._parameters = {name: module._parameters[name] for name in order}
        for part, before_class in self.classes.items():
            self.parts[part].__class__ = before_class
        self.parts, self.places, self.before, self.classes, self.orders = {}, {}, {}, {}, {}

    def state(self) -> WeightUpdate | None:
        """The change as a LoRA of ``options.rank``; vectors (norms, biases) have no such form and count as missed."""
        if not self.places:
            return None
        lora: dict[str, dict[str, LoraWeights]] = {}
        missed = total = 0.0
        for name, (module, _) in self.places.items():
            change = self.change_of(name)
            size = float(change.square().sum())
            total += size
            if change.ndim not in (2, 4) or not isinstance(module, nn.Linear | nn.Conv2d):
                missed += size
                continue
            weights, left = low_rank(change, self.options.rank)
            missed += left
            part, _, path = name.removesuffix(".weight").partition(".")
            lora.setdefault(part, {})[path] = weights
        return WeightUpdate(self.kind, lora, (missed / total) ** 0.5 if total else 0.0)

    @torch.no_grad()
    def change_of(self, name: str) -> Tensor:
        """Trained minus original weight, float32 on the CPU."""
        module, own = self.places[name]
        return getattr(module, own).detach().float().cpu() - _parametrizations(module)[own][0].original.float()


def low_rank(change: Tensor, rank: int) -> tuple[LoraWeights, float]:
    """The nearest update of ``rank`` to a change of weights, and the squared norm of what it misses.

    Args:
        change: (out, in) or (out, in, k, k), float32. By Eckart and Young (1936) the first singular triples of the
            (out, in * k * k) matrix are the nearest; ``up = U sqrt(S)``, ``down = sqrt(S) V^T``, alpha = rank.
    """
    matrix = change.flatten(1)
    rank = min(rank, *matrix.shape)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    root = s[:rank].sqrt()
    up, down = u[:, :rank] * root, root[:, None] * v[:rank]
    if change.ndim == 4:
        up, down = up[:, :, None, None], down.reshape(rank, *change.shape[1:])
    return LoraWeights(down.contiguous(), up.contiguous(), float(rank)), float(s[rank:].square().sum())


def _module_paths(model: nn.Module, part: str, targets: tuple[str, ...]) -> list[str]:
    if targets != EVERYTHING:
        return target_paths(model, part, targets)
    return [path for path, module in model.named_modules() if any(True for _ in module.parameters(recurse=False))]


def _pin_dtype(model: nn.Module) -> type[nn.Module]:
    """Let ``model.dtype`` go on being the dtype that it computes in; returns the class to put back.

    diffusers' and transformers' models derive it from their parameters, which are float32 from now on, and cast their
    own inputs (the timestep's embedding) to it. The class keeps its full name: transformers knows by that which hidden
    states a model can give.
    """
    before, dtype = type(model), getattr(model, "dtype", torch.float32)
    named = {"__module__": before.__module__, "__qualname__": before.__qualname__}
    model.__class__ = type(before.__name__, (before,), named | {"dtype": property(lambda self: dtype)})
    return before


def _parametrizations(module: nn.Module) -> Any:
    return module.parametrizations
