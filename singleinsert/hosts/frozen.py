"""The model as it was before training: its adapters off, or a second model. No gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from singleinsert.errors import ModelError

Off = Callable[[], AbstractContextManager[None]]


class FrozenPredictor:
    """Calls a host's model frozen: ``frozen(*args, **kwargs) -> (b, c, h, w)``, what the model itself is called with.

    Encode the class prompt within :meth:`active`: the frozen model's text encoder is the frozen one too.
    """

    def __init__(self, predict: Callable[..., Any], off: Off = nullcontext) -> None:
        """``predict``: the UNet, or a function that runs it. ``off``: makes the context in which nothing is tuned."""
        self._predict, self._off = predict, off

    @classmethod
    def from_peft(
        cls, unet: nn.Module, *others: nn.Module, predict: Callable[..., Any] | None = None
    ) -> FrozenPredictor:
        """The adapters that peft put into ``unet`` and ``others`` (the text encoders) are off, whatever their names.

        Raises:
            ModelError: a model holds none; leave out those that are not tuned.
        """
        from singleinsert.adapters.lora import LoraAdapters  # here because it imports peft

        layers = {str(place): _peft_layers(model) for place, model in enumerate((unet, *others))}
        return cls(predict or unet, LoraAdapters({}, layers).disabled)

    @classmethod
    def from_network(cls, network: Any, predict: Callable[..., Any]) -> FrozenPredictor:
        """kohya's switch: ``network.set_multiplier(0)``, and afterwards what it was.

        Raises:
            ModelError: the network has no such switch.
        """
        if not hasattr(network, "set_multiplier"):
            raise ModelError(f"the network {type(network).__name__} has no set_multiplier to switch it off with")
        return cls(predict, lambda: _multiplier_zero(network))

    @classmethod
    def from_model(cls, model: nn.Module) -> FrozenPredictor:
        """A second model that nobody trains, for hosts that tune the weights themselves. It is frozen here."""
        return cls(model.requires_grad_(False).eval())

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within it the host's models are the frozen ones, and no graph is built."""
        with torch.no_grad(), self._off():
            try:
                yield
            finally:
                # torch 2.6's autocast would give the tuned model the copies of weights it made here, without a graph
                torch.clear_autocast_cache()

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """The frozen model's output; diffusers' output objects and tuples are unpacked."""
        with self.active():
            output = self._predict(*args, **kwargs)
        output = getattr(output, "sample", output)
        return output[0] if isinstance(output, tuple) else output


def _peft_layers(model: nn.Module) -> dict[str, nn.Module]:
    layers = {path: module for path, module in model.named_modules() if hasattr(module, "_disable_adapters")}
    if not layers:
        raise ModelError(f"{type(model).__name__} holds no peft adapter, so there is nothing to switch off in it")
    return layers


@contextmanager
def _multiplier_zero(network: Any) -> Iterator[None]:
    before = network.multiplier
    network.set_multiplier(0.0)
    try:
        yield
    finally:
        network.set_multiplier(before)
