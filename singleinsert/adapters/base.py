"""What every adapter can do, and what the loop and the step ask of one. A new kind is a file of this folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import nn

from singleinsert.adapters.weights import WeightUpdate
from singleinsert.errors import ConfigError

Targets = Mapping[str, Sequence[str]]
"""Ends of the paths of the layers to change, by part of the model; () leaves a part alone."""


EVERYTHING = ("*",)
"""As a part's targets: every parameter of it, for adapters that can change any."""
ATTENTION: Mapping[str, tuple[str, ...]] = {
    "denoiser": ("to_q", "to_k", "to_v", "to_out.0"),
    "text": ("q_proj", "k_proj", "v_proj", "out_proj"),
}
"""All attention layers of diffusers' denoisers and transformers' text encoders, by role."""


@dataclass(frozen=True)
class AdapterOptions:
    """What an adapter may be told.

    Attributes:
        targets: which layers of which part. rank: of a low-rank update, or of the one that a full update is exported
            as. alpha: the update counts alpha / rank times.
        min_rank, rank_power: how the rank falls with noise, for adapters whose does. denoiser: the name of that part.
        time_span: what the noisiest timestep is next to in the denoiser's own time.
    """

    targets: Targets
    rank: int = 4
    alpha: float = 4.0
    min_rank: int = 1
    rank_power: float = 1.0
    denoiser: str = "unet"
    time_span: float = 1000.0


@dataclass
class Adapters(ABC):
    """Something that changes the weights of a model while it is in, and leaves no trace once it is out.

    Attributes:
        parts: the parts of the model that it has changed, by name.
    """

    kind: ClassVar[str]
    own_targets: ClassVar[Mapping[str, tuple[str, ...]]] = ATTENTION
    """Layers that it changes where the settings name none, by role."""

    parts: dict[str, nn.Module] = field(default_factory=dict)

    @classmethod
    @abstractmethod
    def inject(cls, parts: Mapping[str, nn.Module], options: AdapterOptions, generator: torch.Generator) -> Self:
        """Put the adapter into the layers that ``options.targets`` names; the model's output does not change yet.

        What trains is float32 whatever the dtype of the frozen weights, and is drawn from ``generator``.

        Raises:
            ConfigError: a target that names no layer, one line.
        """

    @classmethod
    def check(cls, parts: Mapping[str, nn.Module], targets: Targets) -> None:
        """ConfigError where a target names no layer, before anything has trained."""
        for part, names in targets.items():
            target_paths(parts[part], part, names)

    @abstractmethod
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """``("<part>.<module path>.<own name>", parameter), ...``: everything that may train, float32."""

    @abstractmethod
    def disabled(self) -> AbstractContextManager[None]:
        """Within it the model is the frozen one, to the last bit."""

    @abstractmethod
    def state(self) -> WeightUpdate | None:
        """Copies on the CPU in float32, in the form that is saved; None where nothing was changed."""

    @abstractmethod
    def eject(self) -> None:
        """Take it out: the model is what it was before, to the last bit."""


class _NoAdapters(Adapters):
    """Nothing: the tuned model is the frozen one."""

    kind = "none"

    @classmethod
    def inject(cls, parts: Mapping[str, nn.Module], options: AdapterOptions, generator: torch.Generator) -> Self:
        return cls()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        return iter(())

    def disabled(self) -> AbstractContextManager[None]:
        return nullcontext()

    def state(self) -> WeightUpdate | None:
        return None

    def eject(self) -> None:
        pass


NO_ADAPTERS: Adapters = _NoAdapters()


@contextmanager
def set_within(layers: Iterable[Any], name: str, value: Any) -> Iterator[None]:
    """Within it the attribute ``name`` of every layer is ``value``; then what it was before."""
    before = [(layer, getattr(layer, name)) for layer in layers]
    for layer, _ in before:
        setattr(layer, name, value)
    try:
        yield
    finally:
        for layer, old in before:
            setattr(layer, name, old)


def target_paths(model: nn.Module, part: str, targets: Sequence[str]) -> list[str]:
    """Paths of the linear and convolution layers whose ends ``targets`` name, in the order of the modules.

    Raises:
        ConfigError: a target that names none.
    """
    layers = [path for path, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    for target in targets:
        if not any(_matches(path, target) for path in layers):
            ends = (path.split(".") for path in layers)
            known = sorted({".".join(end[-2:] if end[-1].isdigit() else end[-1:]) for end in ends})
            raise ConfigError(f"adapter targets: {target!r} names no layer of the {part}; there are {', '.join(known)}")
    return [path for path in layers if any(_matches(path, target) for target in targets)]


def _matches(path: str, target: str) -> bool:
    return path == target or path.endswith("." + target)
