"""Full finetuning: the weights themselves train, as float32 masters. Break-A-Scene's second phase and DreamBooth."""

from __future__ import annotations

from torch import Tensor, nn

from singleinsert.adapters.parametrized import ParametrizedAdapters, Replacement


class _Master(Replacement):
    """The float32 master, in the dtype of the model."""

    def parameter(self, original: nn.Parameter) -> nn.Parameter:
        return nn.Parameter(original.detach().float().clone())

    def weight(self, parameter: Tensor) -> Tensor:
        return parameter.to(self.dtype)


class FullAdapters(ParametrizedAdapters):
    """Every parameter of the targets trains: all of a part, norms and biases too, for the target "*"."""

    kind = "full"

    @staticmethod
    def replace(original: nn.Parameter) -> Replacement:
        return _Master(original)
