"""A step's passes as CUDA graphs (``run.cuda_graphs``): what the host says a thousand times a step, said once.

A pass of a UNet is some 700 small operators, and each costs the host 10 to 60 microseconds, whatever it costs the card.
Where a card is faster than that, launches rule. A graph is one launch: a module's forward pass, and its backward pass,
recorded once for a shape and replayed for every step that has it. Recording and replay are PyTorch's
(``torch.cuda.make_graphed_callables``); here stands when they are right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from singleinsert.config import Settings
from singleinsert.errors import first_line
from singleinsert.models.family import Family
from singleinsert.models.frozen_weights import layers_of
from singleinsert.training.stages import Stage
from singleinsert.training.texts import ConceptSet

MOST = 4
"""Graphs of one module: each shape has its own, and each holds the activations of a pass. Others stay eager."""

Record = Callable[..., Callable[..., Any]]


def record_cuda_graph(function: Callable[..., Any], arguments: tuple[Tensor, ...], pool: Any) -> Callable[..., Any]:
    """``function`` of tensors, forward and backward, as graphs of these shapes; parameters are among ``arguments``."""
    torch.cuda.empty_cache()  # a graph's memory is its own: what eager passes have left behind is of no use to it
    return torch.cuda.make_graphed_callables(
        function,
        arguments,
        num_warmup_iters=1,
        allow_unused_input=True,
        pool=pool,
    )


class StepGraphs:
    """The modules of a stage that are replayed, within :meth:`open` alone: elsewhere every module is as it was.

    A frozen pass is one without gradients, a tuned one has them: only that tells apart what a graph has recorded, as in
    a training step it does. What trains must be LoRA or concepts, whose tensors stay where they are; other adapters
    make weights anew.
    """

    def __init__(self, say: Callable[[str], None], record: Record | None = record_cuda_graph) -> None:
        """``record``: None leaves everything eager."""
        self._say, self.record = say, record
        self._passes: list[_Pass] = []
        self.is_open = False

    def begin(self, modules: Sequence[nn.Module]) -> None:
        """Replay these from now on."""
        self.end()
        self._passes = [_Pass(self, module) for module in modules]

    def end(self) -> None:
        """Every module is as it was, and the graphs' memory is free."""
        for each in self._passes:
            each.remove()
        self._passes = []

    def __enter__(self) -> StepGraphs:
        return self

    def __exit__(self, *reason: object) -> None:
        self.end()

    @contextmanager
    def open(self) -> Iterator[None]:
        """Within it passes are one optimiser step's."""
        self.is_open = True
        try:
            yield
        finally:
            self.is_open = False
            for each in self._passes:
                each.waits = False

    def give_up(self, error: Exception) -> bool:
        """After an error, such as of memory: go on without graphs, with a line. False where there were none."""
        if not self._passes:
            return False
        self._say(f"CUDA graphs do not run here ({first_line(error):.200}): going on without them")
        self.end()
        self.record = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return True


def build_graphs(settings: Settings, device: torch.device, say: Callable[[str], None]) -> StepGraphs:
    """As ``run.cuda_graphs`` says; where there is no GPU for it, with a line."""
    if not settings.run.cuda_graphs:
        return StepGraphs(say, None)
    if device.type != "cuda":
        say("run.cuda_graphs: this run is not on a CUDA card, going on without")
        return StepGraphs(say, None)
    return StepGraphs(say)


class _Pass:
    """One module's forward: eager when a shape is new, recorded when it comes again, and then replayed."""

    def __init__(self, graphs: StepGraphs, module: nn.Module) -> None:
        self._graphs, self._module, self._eager = graphs, module, module.forward
        self._had_own = "forward" in vars(module)
        self._seen: set[Any] = set()
        self._recorded: dict[Any, tuple[Callable[..., Any], list[nn.Parameter]]] = {}
        self._pool: Any = None
        self.waits = False  # for the backward pass of the last replay, which reads what that has left
        module.forward = self

    def remove(self) -> None:
        if self._had_own:
            self._module.forward = self._eager
        else:
            del self._module.forward
        self._recorded.clear()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._graphs.is_open or self.waits:
            return self._eager(*args, **kwargs)
        leaves, shape = pytree.tree_flatten((args, kwargs))
        tensors = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))
        constants = tuple(None if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        facts = tuple((t.shape, t.dtype, t.device, t.requires_grad) for t in tensors)
        key = (torch.is_grad_enabled(), repr(shape), repr(constants), facts)
        if key not in self._recorded:
            if key not in self._seen or len(self._recorded) == MOST:
                self._seen.add(key)
                return self._eager(*args, **kwargs)
            try:
                self._recorded[key] = self._record(leaves, tensors, shape)
            except RuntimeError as error:  # the card's errors are of this kind, out of memory among them
                self._graphs.give_up(error)
                return self._eager(*args, **kwargs)
        replay, parameters = self._recorded[key]
        # a graph writes where it wrote before: what it gave is copied, or the next replay would change it
        return pytree.tree_map_only(Tensor, self._copied, replay(*map(_taken, tensors), *parameters))

    def _record(
        self, leaves: list[Any], tensors: tuple[Tensor, ...], shape: pytree.TreeSpec
    ) -> tuple[Callable[..., Any], list[nn.Parameter]]:
        trained = [p for p in self._module.parameters() if p.requires_grad] if torch.is_grad_enabled() else []
        if self._pool is None and torch.cuda.is_available():
            self._pool = torch.cuda.graph_pool_handle()  # one for all shapes, of which one is between its two passes

        last: list[Any] = []

        def function(*given: Tensor) -> Any:
            found = iter(given)
            args, kwargs = pytree.tree_unflatten([next(found) if isinstance(x, Tensor) else x for x in leaves], shape)
            last[:] = [self._eager(*args, **kwargs)]
            return last[0]

        own = tuple(t.detach().clone().requires_grad_(t.requires_grad) for t in tensors)
        assert self._graphs.record is not None
        replay = self._graphs.record(function, (*own, *trained), self._pool)
        for output in pytree.tree_leaves(last):
            # else the recorded autograd graph lives on, and with it nodes that send every later gradient of a parameter
            # through the stream of the recording
            if output.grad_fn is not None and not output._is_view():
                output.detach_()
        return replay, trained

    def _copied(self, output: Tensor) -> Tensor:
        if output.requires_grad:
            self.waits = True
            output.register_hook(self._before_backward)
        return output.clone()

    def _before_backward(self, gradient: Tensor) -> None:
        """Parameters' gradients may still be where the last replay wrote them, an earlier micro-batch's: autograd hands
        them on without a copy. Only then they are copied, since of a LoRA there are hundreds."""
        self.waits = False
        for _, parameters in self._recorded.values():
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad = parameter.grad.clone()


def _taken(tensor: Tensor) -> Tensor:
    """A pass's input, whose gradient is copied on its way out."""
    if not (tensor.requires_grad and torch.is_grad_enabled()):
        return tensor
    seen = tensor.view_as(tensor)
    seen.register_hook(torch.clone)
    return seen


def passes_of(stage: Stage, model: Family, concepts: ConceptSet) -> list[nn.Module]:
    """What a step of ``stage`` calls again and again: the denoiser; where prompts are encoded anew in each step, the
    layers of text and image encoders too.

    Not a denoiser whose attention is read on the way, and nothing that waits in main memory.
    """
    modules: list[nn.Module] = [] if stage.objective.needs_attention else [model.denoiser]
    if stage.trains & {"concept", "text"}:
        encoders = [*model.text_encoders.values(), *(c.vit for c in concepts.by_handle.values() if hasattr(c, "vit"))]
        modules += [layer for encoder in encoders for layer in layers_of(encoder)]
    return [module for module in modules if next(module.parameters()).device == model.device]
