"""T-LoRA (Soboleva et al. 2025): a LoRA whose rank falls with noise, started from orthogonal components.

``W' = W + (alpha / r) (P diag(l) M(t) Q - P0 diag(l0) M(t) Q0)``: P (out, r), l (r), Q (r, in) train, and begin as P0,
l0, Q0, the LAST singular triples of a random matrix, so that all components count from the start (section 4.2 of the
paper). M(t) turns off the components above r(t), in the denoiser alone: text encoders know no noise level.

What is saved is the difference as a LoRA of rank 2 r. Clients' files cannot say M(t): they have every component on at
every noise level. Our own drawing reads it from the artifact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from singleinsert.adapters.base import AdapterOptions, Adapters, Targets, set_within, target_paths
from singleinsert.adapters.ranks import RankByNoise, RankGate
from singleinsert.adapters.weights import LoraWeights, WeightUpdate
from singleinsert.errors import ConfigError


class _OrthogonalLayer(nn.Module):
    """A linear layer with an update whose components are (rank) outer products.

    Attributes:
        down: (rank, in) Q. scale: (rank,) l. up: (out, rank) P. first: the same three at the start, frozen.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        self.base, self.factor, self.active = base, alpha / rank, True
        self.gate: RankGate | None = None
        device = base.weight.device
        start = last_singular_triples(base.out_features, base.in_features, rank, generator)
        self.up, self.scale, self.down = (nn.Parameter(tensor.to(device)) for tensor in start)
        for name, tensor in zip(("up", "scale", "down"), start, strict=True):
            self.register_buffer(f"first_{name}", tensor.to(device, copy=True), persistent=False)

    # other code asks a linear layer for these
    @property
    def weight(self) -> Tensor:
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    @property
    def in_features(self) -> int:
        return self.base.in_features

    @property
    def out_features(self) -> int:
        return self.base.out_features

    def joined(self) -> tuple[Tensor, Tensor]:
        """(2 rank, in) and (out, 2 rank) float32: the update, and the start that is taken away from it."""
        start: Any = self
        down = torch.cat([self.down, start.first_down])
        up = torch.cat([self.up * self.scale, -start.first_up * start.first_scale], dim=1)
        return down, up

    def forward(self, x: Tensor) -> Tensor:
        out = self.base(x)
        if not self.active:
            return out
        down, up = (tensor.to(x.dtype) for tensor in self.joined())
        components = functional.linear(x, down)  # (b, L, 2 rank)
        if self.gate is not None:
            components = self.gate.apply(components)
        return out + self.factor * functional.linear(components, up)


def last_singular_triples(
    rows: int, columns: int, rank: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """(rows, rank), (rank,), (rank, columns): those of the smallest singular values of a random normal matrix, whose
    elements have the variance 1 / columns. Float32 on the CPU.

    Raises:
        ConfigError: a matrix has no so many.
    """
    if rank > min(rows, columns):
        raise ConfigError(f"adapter.network_dim {rank}: a layer of {rows} x {columns} has no so many components")
    drawn = torch.randn(rows, columns, generator=generator) / columns**0.5
    u, s, v = torch.linalg.svd(drawn, full_matrices=False)
    return u[:, -rank:].contiguous(), s[-rank:].contiguous(), v[-rank:].contiguous()


@dataclass
class TimestepLoraAdapters(Adapters):
    """Attributes:
    layers: by part and module path. options: as injected. ends: what takes the looks at the denoiser away.
    """

    kind = "tlora"

    layers: dict[str, dict[str, _OrthogonalLayer]] = field(default_factory=dict)
    options: AdapterOptions = field(default_factory=lambda: AdapterOptions({}))
    ends: list[Callable[[], None]] = field(default_factory=list)

    @classmethod
    def check(cls, parts: Mapping[str, nn.Module], targets: Targets) -> None:
        for part, names in targets.items():
            for path in target_paths(parts[part], part, names):
                if not isinstance(parts[part].get_submodule(path), nn.Linear):
                    raise ConfigError(f"adapter.type tlora: {path} of the {part} is no linear layer: leave it out")

    @classmethod
    def inject(cls, parts: Mapping[str, nn.Module], options: AdapterOptions, generator: torch.Generator) -> Self:
        cls.check(parts, options.targets)
        if options.time_span <= 0:
            raise ConfigError(
                "adapter.type tlora: this model's time runs from noise to picture, which it does not know"
            )
        adapters = cls({}, {}, options)
        for part, names in options.targets.items():
            for path in target_paths(parts[part], part, names):
                base: Any = parts[part].get_submodule(path)
                layer = _OrthogonalLayer(base, options.rank, options.alpha, generator)
                _put(parts[part], path, layer)
                adapters.parts[part] = parts[part]
                adapters.layers.setdefault(part, {})[path] = layer
        if options.denoiser in adapters.layers:
            gate = RankGate(adapters.ranks, options.time_span)
            adapters.ends.append(gate.watch(parts[options.denoiser]))
            for layer in adapters.layers[options.denoiser].values():
                layer.gate = gate
        return adapters

    @property
    def ranks(self) -> RankByNoise:
        return RankByNoise(self.options.rank, min(self.options.min_rank, self.options.rank), self.options.rank_power)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for part, found in self.layers.items():
            for path, layer in found.items():
                for name in ("down", "scale", "up"):
                    yield f"{part}.{path}.{name}", getattr(layer, name)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        with set_within((layer for found in self.layers.values() for layer in found.values()), "active", False):
            yield

    @torch.no_grad()
    def state(self) -> WeightUpdate | None:
        lora: dict[str, dict[str, LoraWeights]] = {}
        for part, found in self.layers.items():
            for path, layer in found.items():
                down, up = (tensor.float().cpu().clone() for tensor in layer.joined())
                lora.setdefault(part, {})[path] = LoraWeights(down, up, 2 * self.options.alpha)
        return WeightUpdate(self.kind, lora, ranks=self.ranks) if lora else None

    def eject(self) -> None:
        """Put the original layer objects back."""
        for end in self.ends:
            end()
        for part, found in self.layers.items():
            for path, layer in found.items():
                _put(self.parts[part], path, layer.base)
        self.parts, self.layers, self.ends = {}, {}, []


def _put(model: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, child = path.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)
