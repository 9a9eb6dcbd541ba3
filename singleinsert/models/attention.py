"""Where in the picture a word acts: the UNet's cross-attention, read out while it draws.

The processors that compute attention stay what they are (PyTorch's SDPA, xformers', or any other) and give the output.
Beside each of them the probabilities of a few chosen tokens are computed a second time, which those kernels keep to
themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from singleinsert.errors import InputError

Tokens = Mapping[str, Sequence[int]]
"""Name of a map -> positions in the prompt; the map is the mean over them."""

CROSS = ".attn2"


class CrossAttentionMaps:
    """Within it, every call of ``denoiser`` adds to the maps; afterwards the processors are those that were there.

        with CrossAttentionMaps(denoiser, [{"*": [1], "face": [2]}]) as attention:
            pipeline(...)
        attention.maps()[0]["*"]        # (h, w)

    The output of the UNet does not change, to the last bit.

    Args:
        tokens: for each picture of the batch. With classifier-free guidance the UNet sees twice as many samples, or
            more; the last ``len(tokens)`` are the ones with the prompts.
        layers: which cross-attention layers count, by their path ("down_blocks.0...attn2"); None: all.
        sides: longer sides of the feature maps that count, such as ``{16}``; None: all.
        timesteps: (low, high), the calls with low <= t < high count; None: all.
    """

    def __init__(
        self,
        denoiser: Any,
        tokens: Sequence[Tokens],
        *,
        layers: Callable[[str], bool] | None = None,
        sides: Collection[int] | None = None,
        timesteps: tuple[float, float] | None = None,
    ) -> None:
        self.denoiser, self.tokens = denoiser, list(tokens)
        self.layers, self.sides, self.timesteps = layers, sides, timesteps
        self._before: dict[str, Any] = {}
        self._hook: Any = None
        self._size = (0, 0)
        self._counts = False
        self._sums: dict[tuple[int, int], list[dict[str, Tensor]]] = {}
        self._calls: dict[tuple[int, int], int] = {}

    def __enter__(self) -> CrossAttentionMaps:
        for name, module in self.denoiser.named_modules():
            if name.endswith(CROSS) and (self.layers is None or self.layers(name)):
                self._before[name] = module.processor
                module.set_processor(_Reader(module.processor, self))
        if not self._before:
            raise InputError("no cross-attention layer to read: layers leaves none, or this UNet has none")
        self._hook = self.denoiser.register_forward_pre_hook(self._begin, with_kwargs=True)
        return self

    def __exit__(self, *exception: object) -> None:
        for name, processor in self._before.items():
            self.denoiser.get_submodule(name).set_processor(processor)
        self._before.clear()
        self._hook.remove()

    def maps(self) -> list[dict[str, Tensor]]:
        """For each picture, name -> (h, w) float32 on the CPU, probabilities: the mean over layers and calls.

        Smaller feature maps are brought to the size of the largest one bilinearly.

        Raises:
            InputError: nothing was read.
        """
        if not self._sums:
            raise InputError("no attention was read: no call of the UNet fits sides and timesteps")
        largest, calls = max(self._sums), sum(self._calls.values())
        return [
            {
                name: sum(_resized(sums[i][name], largest) for sums in self._sums.values()).cpu() / calls  # type: ignore[union-attr]
                for name in names
            }
            for i, names in enumerate(self.tokens)
        ]

    def _begin(self, denoiser: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        sample = args[0] if args else kwargs["sample"]
        t = float(torch.as_tensor(args[1] if len(args) > 1 else kwargs["timestep"]).flatten()[0])
        self._size = tuple(sample.shape[-2:])
        self._counts = self.timesteps is None or self.timesteps[0] <= t < self.timesteps[1]

    @torch.no_grad()
    def add(self, attn: Any, hidden: Tensor, context: Tensor) -> None:
        """Add one layer's maps. hidden (b, n, c), context (b, L, d)."""
        if not self._counts:
            return
        size = _size_of(hidden.shape[1], self._size)
        if self.sides is not None and max(size) not in self.sides:
            return
        wanted = len(self.tokens)
        probabilities = token_probabilities(attn, hidden[-wanted:], context[-wanted:])
        sums = self._sums.setdefault(size, [{} for _ in self.tokens])
        self._calls[size] = self._calls.get(size, 0) + 1
        for i, names in enumerate(self.tokens):
            for name, positions in names.items():
                found = probabilities[i][:, list(positions)].mean(dim=1).reshape(size)
                sums[i][name] = sums[i][name] + found if name in sums[i] else found


class AttentionProbabilities:
    """Within it, one call of ``denoiser`` leaves the cross-attention of every token at one level, with its graph.

    Read are the layers of the down and up blocks (as Break-A-Scene does, not the middle block) whose feature maps are
    nearest to the latents' size divided by ``level``: 16 x 16 for SD at 512 px and level 4. The UNet's output does not
    change. Under gradient checkpointing the backward pass runs the layers a second time, and must find them doing what
    they did: call backward within the context. What is computed then is not collected again.
    """

    def __init__(self, denoiser: Any, latent_size: tuple[int, int], level: int) -> None:
        self.denoiser, self.size = denoiser, latent_size
        self.layers = layers_at(denoiser, latent_size, level)
        self._before: dict[str, Any] = {}
        self._sum: Tensor | None = None
        self._collecting = False

    def __enter__(self) -> AttentionProbabilities:
        self._collecting = True
        for name in self.layers:
            module = self.denoiser.get_submodule(name)
            self._before[name] = module.processor
            module.set_processor(_Reader(module.processor, self))
        return self

    def __exit__(self, *exception: object) -> None:
        self._collecting = False
        for name, processor in self._before.items():
            self.denoiser.get_submodule(name).set_processor(processor)
        self._before.clear()

    def add(self, attn: Any, hidden: Tensor, context: Tensor) -> None:
        """Add one layer's probabilities. hidden (b, n, c), context (b, L, d)."""
        found = token_probabilities(attn, hidden, context)  # (b, n, L)
        if self._collecting:
            found = found.unflatten(1, _size_of(hidden.shape[1], self.size))  # (b, h, w, L)
            self._sum = found if self._sum is None else self._sum + found

    def probabilities(self) -> Tensor:
        """(b, h, w, L) float32, the mean over heads and layers of the one call so far."""
        assert self._sum is not None, "the UNet was not called"
        self._collecting = False
        return self._sum / len(self.layers)


def layers_at(denoiser: Any, latent_size: tuple[int, int], level: int) -> list[str]:
    """Paths of the cross-attention layers whose feature maps are nearest to the latents' size / ``level``.

    Raises:
        InputError: the UNet has no cross-attention in its down and up blocks.
    """
    side, blocks = max(latent_size), len(denoiser.config.block_out_channels)
    sides = [side]
    for _ in range(blocks - 1):
        sides.append(-(-sides[-1] // 2))  # a UNet halves, rounding up
    found: dict[int, list[str]] = {}
    for name, _ in denoiser.named_modules():
        kind, _, rest = name.partition(".")
        if name.endswith(CROSS) and kind in ("down_blocks", "up_blocks"):
            block = int(rest.split(".")[0])
            found.setdefault(sides[block if kind == "down_blocks" else blocks - 1 - block], []).append(name)
    if not found:
        raise InputError("no cross-attention layer to read: this UNet has none in its down and up blocks")
    return found[min(found, key=lambda s: (abs(s - side / level), s))]


def token_probabilities(attn: Any, hidden: Tensor, context: Tensor) -> Tensor:
    """softmax(q k^T * scale) over the tokens, the mean over the heads: (b, n, L) float32.

    Args:
        attn: diffusers' Attention. hidden: (b, n, c), its input. context: (b, L, d), the text condition.
    """
    if attn.group_norm is not None:
        hidden = attn.group_norm(hidden.transpose(1, 2)).transpose(1, 2)
    if attn.norm_cross:
        context = attn.norm_encoder_hidden_states(context)
    query, key = (_heads(x, attn.heads).float() for x in (attn.to_q(hidden), attn.to_k(context)))
    total = query.new_zeros(len(query), query.shape[2], key.shape[2])
    for head in range(attn.heads):  # one at a time: at 64 x 64 all of them are a gigabyte
        total += (query[:, head] @ key[:, head].transpose(1, 2) * attn.scale).softmax(dim=-1)
    return total / attn.heads


def _heads(x: Tensor, heads: int) -> Tensor:
    """(b, n, heads * d) -> (b, heads, n, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _size_of(tokens: int, size: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of a feature map of ``tokens`` places in a UNet that halves (h, w), rounding up."""
    height, width = size
    while height * width > tokens:
        height, width = -(-height // 2), -(-width // 2)
    if height * width != tokens:
        raise InputError(f"a feature map of {tokens} places is no halving of {size[0]} x {size[1]}")
    return height, width


def _resized(grid: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(grid.shape) == size:
        return grid
    return F.interpolate(grid[None, None], size, mode="bilinear", align_corners=False)[0, 0]


class _Reader:
    """An attention processor that lets another one work and shows what it was given."""

    def __init__(self, inner: Any, maps: CrossAttentionMaps | AttentionProbabilities) -> None:
        self.inner, self.maps = inner, maps

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> Tensor:
        if encoder_hidden_states is not None:
            self.maps.add(attn, hidden_states, encoder_hidden_states)
        return self.inner(attn, hidden_states, encoder_hidden_states, *args, **kwargs)
