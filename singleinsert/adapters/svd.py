"""SVDiff (Han et al. 2023): each weight keeps its singular vectors, and only its singular values shift.

``W' = U diag(relu(s + d)) V^T``, with d starting at 0. Convolutions count as (out, in * k * k) matrices. Norms and
biases, which the paper trains at a thousandth of the rate, stay as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from singleinsert.adapters.parametrized import ParametrizedAdapters, Replacement


class _Spectrum(Replacement):
    """The original plus ``U diag(relu(s + d) - s) V^T``, which is the original to the last bit at d = 0."""

    u: Tensor
    s: Tensor
    v: Tensor

    def __init__(self, original: nn.Parameter) -> None:
        super().__init__(original)
        u, s, v = torch.linalg.svd(original.detach().float().flatten(1), full_matrices=False)
        self.register_buffer("frozen", original.detach(), persistent=False)
        for name, tensor in (("u", u), ("s", s), ("v", v)):
            self.register_buffer(name, tensor, persistent=False)

    def parameter(self, original: nn.Parameter) -> nn.Parameter:
        return nn.Parameter(torch.zeros_like(self.s))

    def weight(self, parameter: Tensor) -> Tensor:
        shift = (self.s + parameter).relu() - self.s  # (k,)
        change = (self.u * shift) @ self.v  # (out, in * k * k)
        return (self.frozen.float() + change.reshape(self.frozen.shape)).to(self.dtype)

    frozen: Tensor


class SpectralAdapters(ParametrizedAdapters):
    """Shifts of singular values, one number for each; their change of a weight is of full rank, so that what is
    exported as a LoRA misses a part of it."""

    kind = "svd"

    @classmethod
    def wants(cls, name: str) -> bool:
        return name == "weight"

    @staticmethod
    def replace(original: nn.Parameter) -> Replacement:
        return _Spectrum(original)
