"""What a piece of training costs, counted operator by operator: FLOPs and operators by component, live bytes by kind.

Made for fake tensors: nothing is computed, and every count is exact. One multiply-add is two FLOPs, by the formulas of
torch's own counter; elementwise operators and normalisations count nothing, as there. Operators are those that launch
something on a GPU: views are none.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop

aten = torch.ops.aten

# torch's table leaves out the attention of CPUs, whose fake tensors play the card here
FORMULAS = {
    **flop_registry,
    aten._scaled_dot_product_flash_attention_for_cpu: sdpa_flop,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: sdpa_backward_flop,
}

NO_LAUNCH = (aten.detach, aten._unsafe_view, aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty_strided)
"""Operators that are no views by their declaration, and launch nothing."""

KINDS = ("frozen weights", "trainables", "gradients", "optimiser", "activations")
PASSES = ("no graph", "forward", "recomputed", "backward")


class Account(TorchDispatchMode):
    """Counts while it is active.

    Attributes:
        flops: {(component, one of PASSES): FLOPs}, on any device. operators: likewise, how many of them. One that uses
            no weights, and those of the backward pass, belong to the component entered last.
        live: {one of KINDS: bytes} on ``card`` now. peak: the same at the moment of their highest sum.
    """

    def __init__(self, card: torch.device, components: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.card = card
        self.flops: dict[tuple[str, str], int] = defaultdict(int)
        self.operators: dict[tuple[str, str], int] = defaultdict(int)
        self.live = dict.fromkeys(KINDS, 0)
        self.peak = dict(self.live)
        self._storages: dict[int, tuple[str, int]] = {}
        self._owners = {
            parameter.untyped_storage()._cdata: name
            for name, module in components.items()
            for parameter in module.parameters()
        }
        self._component = "other"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default and isinstance(args[0], FakeTensor):
            return args[0].fake_device  # asked for more often than anything else
        out = func(*args, **(kwargs or {}))
        formula = FORMULAS.get(func._overloadpacket)
        if formula is not None:
            self._enter_component(args)
        if not func.is_view and func._overloadpacket not in NO_LAUNCH:
            self.operators[self._component, _current_pass()] += 1
        if formula is not None:
            self.flops[self._component, _current_pass()] += formula(*args, **(kwargs or {}), out_val=out)
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._see(leaf, "activations")
        return out

    def hold(self, tensors: Iterable[Tensor], kind: str) -> None:
        """Count what of ``tensors`` lies on the card as ``kind``, whatever it was counted as before."""
        for tensor in tensors:
            self._see(tensor, kind)
            key = tensor.untyped_storage()._cdata
            if key in self._storages:
                before, size = self._storages[key]
                self._storages[key] = kind, size
                self.live[before] -= size
                self.live[kind] += size

    def name_weights(self, component: str, parameters: Iterable[Tensor]) -> None:
        """Let ``component`` be entered where one of ``parameters`` is used, whatever module it is in."""
        self._owners |= {parameter.untyped_storage()._cdata: component for parameter in parameters}

    def within(self, component: str, act: Callable[..., None]) -> Callable[..., None]:
        """``act``, with all of its operators counted as ``component``'s."""

        def acted(*args: Any) -> None:
            before, self._component = self._component, component
            owners, self._owners = self._owners, {}
            act(*args)
            self._component, self._owners = before, owners

        return acted

    def start(self) -> None:
        """Forget what was counted so far, but for what is live."""
        self.flops.clear()
        self.operators.clear()
        self.peak = dict(self.live)

    def _see(self, tensor: Tensor, kind: str) -> None:
        if tensor.device != self.card:
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages:
            return
        self._storages[key] = kind, size
        weakref.finalize(storage, self._freed, key).atexit = False
        self.live[kind] += size
        if sum(self.live.values()) > sum(self.peak.values()):
            self.peak = dict(self.live)

    def _freed(self, key: int) -> None:
        kind, size = self._storages.pop(key)
        self.live[kind] -= size

    def _enter_component(self, operands: Iterable[Any]) -> None:
        """An operator belongs to whose weights it uses; one without weights to the component entered last."""
        for operand in operands:
            if isinstance(operand, Tensor):
                owner = self._owners.get(operand.untyped_storage()._cdata)
                if owner is not None:
                    self._component = owner


def _current_pass() -> str:
    in_backward = torch._C._current_graph_task_id() != -1
    if torch.is_grad_enabled():
        return "recomputed" if in_backward else "forward"
    return "backward" if in_backward else "no graph"
