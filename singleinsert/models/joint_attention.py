"""Where in the picture a word acts, in transformers that read words and patches as one sequence (FLUX.2, Z-Image).

They have no cross-attention: in one softmax a patch's query meets the keys of the words and of all other patches. What
is read here is the softmax over the words alone, how a patch divides what it looks at of them: that is what a
cross-attention map says, and what losses and pictures of such maps expect. Queries and keys are those that PyTorch's
attention is called with, norms and positions in them; its output is not touched.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from singleinsert.errors import ConfigError, InputError
from singleinsert.models.attention import Tokens


@dataclass(frozen=True)
class JointSequence:
    """What stands where in the sequence of one call of a transformer.

    Attributes:
        latents: what the call was given. size: (h, w) of the patches, row by row from ``picture`` on.
        text: where the words begin, ``lengths`` of them in each sample. total: length of the whole.
    """

    latents: Any
    size: tuple[int, int]
    picture: int
    text: int
    lengths: tuple[int, ...]
    total: int


Layout = Callable[[Sequence[Any], Mapping[str, Any]], JointSequence]
"""A family's knowledge of its transformer: (arguments, keyword arguments) of a call -> its sequence."""


class _Reader(ABC):
    """Within it, attention in calls of ``denoiser`` is handed to :meth:`add`."""

    def __init__(self, denoiser: Any, layout: Layout) -> None:
        if any(getattr(module, "_compiled_call_impl", None) for module in denoiser.modules()):
            raise ConfigError("attention cannot be read from compiled blocks: leave run.compile out")
        self._denoiser, self._layout = denoiser, layout
        self._hooks: list[Any] = []
        self._sequence: JointSequence | None = None
        self._inside = False

    def __enter__(self) -> Self:
        self._hooks = [
            self._denoiser.register_forward_pre_hook(self._begin, with_kwargs=True),
            self._denoiser.register_forward_hook(self._end, always_call=True),
        ]
        self._real: Any = F.scaled_dot_product_attention
        F.scaled_dot_product_attention = self._attend
        return self

    def __exit__(self, *exception: Any) -> None:
        F.scaled_dot_product_attention = self._real
        for hook in self._hooks:
            hook.remove()

    def _begin(self, denoiser: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        before, self._sequence, self._inside = self._sequence, self._layout(args, kwargs), True
        self.begin(self._sequence, before)

    def _end(self, *_: Any) -> None:
        self._inside = False

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any) -> Tensor:
        """In the place of PyTorch's own, in every thread: a backward pass recomputes in one of its own."""
        if self._sequence is not None and query.shape[-2] == self._sequence.total:  # refiners see one half alone
            scale = options.get("scale")
            scale = query.shape[-1] ** -0.5 if scale is None else scale
            self.add(query, key, scale, self._sequence, self._inside)
        return self._real(query, key, value, *args, **options)

    def begin(self, sequence: JointSequence, before: JointSequence | None) -> None:  # noqa: B027 (only maps need it)
        """A call begins; ``before`` is the last one's sequence."""

    @abstractmethod
    def add(self, query: Tensor, key: Tensor, scale: float, sequence: JointSequence, inside: bool) -> None:
        """One block's queries and keys (b, heads, total, d). ``inside``: in a call, and not in its recomputation."""


class JointAttentionMaps(_Reader):
    """Within it, every call of ``denoiser`` adds to the maps; as
    :class:`~singleinsert.models.attention.CrossAttentionMaps`.

    With classifier-free guidance the prompts are the first ``len(tokens)`` samples of the first call with the same
    latents.
    """

    def __init__(self, denoiser: Any, layout: Layout, tokens: Sequence[Tokens]) -> None:
        super().__init__(denoiser, layout)
        self.tokens = list(tokens)
        self._sums: list[dict[str, Tensor]] = [{} for _ in self.tokens]
        self._blocks = 0
        self._counts = False

    def begin(self, sequence: JointSequence, before: JointSequence | None) -> None:
        self._counts = before is None or sequence.latents is not before.latents

    @torch.no_grad()
    def add(self, query: Tensor, key: Tensor, scale: float, sequence: JointSequence, inside: bool) -> None:
        if not (self._counts and inside):
            return
        self._blocks += 1
        for i, (names, sums) in enumerate(zip(self.tokens, self._sums, strict=True)):
            found = word_probabilities(query[i], key[i], scale, sequence, i)  # (n, L)
            for name, positions in names.items():
                one = found[:, list(positions)].mean(dim=1).reshape(sequence.size)
                sums[name] = sums[name] + one if name in sums else one

    def maps(self) -> list[dict[str, Tensor]]:
        """For each picture, name -> (h, w) float32 on the CPU: the mean over blocks and calls.

        Raises:
            InputError: nothing was read.
        """
        if not self._blocks:
            raise InputError("no attention was read: the transformer's is none of PyTorch's own")
        return [{name: total.cpu() / self._blocks for name, total in sums.items()} for sums in self._sums]


class JointAttentionProbabilities(_Reader):
    """Within it, one call leaves the attention of every word, with its graph; as
    :class:`~singleinsert.models.attention.AttentionProbabilities`, but that all blocks have the one size.

    Under gradient checkpointing, call backward within the context.
    """

    def __init__(self, denoiser: Any, layout: Layout) -> None:
        super().__init__(denoiser, layout)
        self._sum: Tensor | None = None
        self._blocks = 0
        self._collecting = True

    def add(self, query: Tensor, key: Tensor, scale: float, sequence: JointSequence, inside: bool) -> None:
        most = max(sequence.lengths)
        rows = [word_probabilities(query[i], key[i], scale, sequence, i) for i in range(len(query))]
        found = torch.stack([F.pad(row, (0, most - row.shape[1])) for row in rows])  # (b, n, L)
        if self._collecting and inside:
            found = found.unflatten(1, sequence.size)
            self._sum = found if self._sum is None else self._sum + found
            self._blocks += 1

    def probabilities(self) -> Tensor:
        """(b, h, w, L) float32, the mean over heads and blocks of the one call so far; 0 behind a prompt's end."""
        if self._sum is None:
            raise InputError("no attention was read: the transformer's is none of PyTorch's own")
        self._collecting = False
        return self._sum / self._blocks


def word_probabilities(query: Tensor, key: Tensor, scale: float, sequence: JointSequence, sample: int) -> Tensor:
    """softmax(q k^T scale) over a sample's words, the mean over the heads: (n, L) float32.

    Args:
        query, key: (heads, total, d) of that sample.
    """
    points, length = sequence.size[0] * sequence.size[1], sequence.lengths[sample]
    patches = query[:, sequence.picture : sequence.picture + points].float()
    words = key[:, sequence.text : sequence.text + length].float()
    total = patches.new_zeros(points, length)
    for own, said in zip(patches, words, strict=True):  # one head at a time: all of them are hundreds of megabytes
        total = total + (own @ said.T * scale).softmax(dim=-1)
    return total / len(patches)
