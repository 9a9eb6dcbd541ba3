"""Full finetuning: the weights themselves train, as float32 masters; the originals wait in main memory.

Break-A-Scene's second phase and DreamBooth are this. What is saved is the difference from the original, as a LoRA of
a chosen rank (by SVD) that every client loads; the share of the change that this misses is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from singleinsert.adapters.base import AdapterOptions, Adapters, target_paths
from singleinsert.adapters.weights import LoraWeights, WeightUpdate

EVERYTHING = ("*",)
"""As a part's targets: every parameter of it, norms and biases too."""


class _Master(nn.Module):
    """The parametrization of one weight: the float32 master in the dtype of the model, or the original while off.

    The original stays in main memory. It comes to the device while adapters are off, and goes again: full finetuning
    costs the card the masters, their gradients and the optimiser's moments, but not a second copy of the model.
    """

    def __init__(self, original: nn.Parameter) -> None:
        super().__init__()
        self.dtype, self.original, self.active = original.dtype, original.detach().cpu().clone(), None

    active: Tensor | None

    def forward(self, master: Tensor) -> Tensor:
        return master.to(self.dtype) if self.active is None else self.active


@dataclass
class FullAdapters(Adapters):
    """Attributes: masters: by full name ("unet.mid_block....to_q.weight"), the module, and the name of its tensor."""

    kind = "full"

    masters: dict[str, tuple[nn.Module, str]] = field(default_factory=dict)
    parameters: dict[str, nn.Parameter] = field(default_factory=dict)
    options: AdapterOptions = field(default_factory=lambda: AdapterOptions({}))
    classes: dict[str, type[nn.Module]] = field(default_factory=dict)

    @classmethod
    def inject(
        cls, parts: Mapping[str, nn.Module], options: AdapterOptions, generator: torch.Generator
    ) -> FullAdapters:
        """Let every parameter of the targets train: the whole of a part for the target "*"."""
        masters: dict[str, tuple[nn.Module, str]] = {}
        for part, names in options.targets.items():
            for path in _module_paths(parts[part], part, tuple(names)):
                module = parts[part].get_submodule(path)
                for own, _ in list(module.named_parameters(recurse=False)):
                    masters[f"{part}.{path}.{own}" if path else f"{part}.{own}"] = (module, own)
        chosen = {part: parts[part] for part, names in options.targets.items() if names}
        adapters = cls(chosen, masters, {name: getattr(*place) for name, place in masters.items()}, options)
        for part, model in chosen.items():
            adapters.classes[part] = _pin_dtype(model)
        for module, own in masters.values():
            original = getattr(module, own)
            master = nn.Parameter(original.detach().float())
            setattr(module, own, master)
            parametrize.register_parametrization(module, own, _Master(original), unsafe=True)
        return adapters

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, (module, own) in self.masters.items():
            yield name, _parametrizations(module)[own].original

    @contextmanager
    def disabled(self) -> Iterator[None]:
        steps = [_parametrizations(module)[own] for module, own in self.masters.values()]
        for step in steps:
            step[0].active = step[0].original.to(step.original.device)
        try:
            yield
        finally:
            for step in steps:
                step[0].active = None

    def eject(self) -> None:
        """Put the original parameter objects back, with the values they had."""
        for name, (module, own) in self.masters.items():
            step = _parametrizations(module)[own]
            before = self.parameters[name]
            with torch.no_grad():
                before.copy_(step[0].original)
            parametrize.remove_parametrizations(module, own, leave_parametrized=False)
            setattr(module, own, before)
        for part, before_class in self.classes.items():
            self.parts[part].__class__ = before_class
        self.parts, self.masters, self.parameters = {}, {}, {}

    def state(self) -> WeightUpdate | None:
        """The change as a LoRA of ``options.rank``; vectors (norms, biases) have no such form and count as missed."""
        if not self.masters:
            return None
        lora: dict[str, dict[str, LoraWeights]] = {}
        missed = total = 0.0
        for name, change in self.changes().items():
            part, _, path = name.removesuffix(".weight").partition(".")
            total += float(change.square().sum())
            if change.ndim not in (2, 4) or not isinstance(self.masters[name][0], nn.Linear | nn.Conv2d):
                missed += float(change.square().sum())
                continue
            weights, left = low_rank(change, self.options.rank)
            missed += left
            lora.setdefault(part, {})[path] = weights
        return WeightUpdate(self.kind, lora, (missed / total) ** 0.5 if total else 0.0)

    def changes(self) -> dict[str, Tensor]:
        """Trained minus original, float32 on the CPU, by full name."""
        return {
            name: parameter.detach().cpu() - _parametrizations(module)[own][0].original.float()
            for (name, parameter), (module, own) in zip(self.named_parameters(), self.masters.values(), strict=True)
        }


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

    diffusers' and transformers' models derive it from their parameters, which are float32 masters from now on, and cast
    their own inputs (the timestep's embedding) to it.
    """
    before, dtype = type(model), getattr(model, "dtype", torch.float32)
    model.__class__ = type(before.__name__, (before,), {"dtype": property(lambda self: dtype)})
    return before


def _parametrizations(module: nn.Module) -> Any:
    return module.parametrizations
