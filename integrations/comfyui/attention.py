"""Where in a picture the concept's words act: cross-attention of the sampling, averaged, as a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .concepts import ConceptError

MOST_PIXELS = 4096
"""Levels with more latent pixels than this are left out: their maps cost most and say least."""
SLOTS_OF_A_CHUNK = 77
ANOTHER = 1.5
"""Noise so many times that of the step before begins another sampling; ancestral samplers add less between steps."""
BLOCKS = [("input", n) for n in range(12)] + [("middle", 0)] + [("output", n) for n in range(12)]
"""Where a UNet of SD 1, SD 2 or SDXL may have cross-attention, as ComfyUI numbers them."""
COLORS = (
    (0, 0, 4),
    (40, 11, 84),
    (101, 21, 110),
    (159, 42, 99),
    (212, 72, 66),
    (245, 125, 21),
    (250, 193, 39),
    (252, 255, 164),
)
"""The "inferno" scale, whose lightness grows evenly."""

Replacement = Callable[[Tensor, Tensor, Tensor, Mapping[str, Any]], Tensor]


def slots_of(tokens: Mapping[str, Sequence[Sequence[Any]]]) -> tuple[int, ...]:
    """The slots of a prompt's states that hold a vector of an embedding file, of what ``clip.tokenize`` gives.

    The first encoder's tokens decide; a second encoder has the same slots (SDXL).
    """
    chunks = next(iter(tokens.values()), ())
    return tuple(
        SLOTS_OF_A_CHUNK * c + k
        for c, chunk in enumerate(chunks)
        for k, entry in enumerate(chunk)
        if isinstance(entry[0], Tensor)
    )


class Recorder:
    """Collects the share of the attention that falls on ``slots`` of the prompt while pictures are sampled."""

    def __init__(self, slots: tuple[int, ...]) -> None:
        self.slots = slots
        self.forget()

    def forget(self) -> None:
        self._noise = math.inf
        self._sums: dict[tuple[int, int], Tensor] = {}
        self._counts: dict[tuple[int, int], int] = {}

    def put_on(self, model: Any) -> Any:
        """A copy of ComfyUI's model that this recorder watches; what it predicts stays the same.

        A replacement that another node has put on a block goes on doing its work.
        """
        watched = model.clone()
        options = watched.model_options.get("transformer_options", {})
        before = options.get("patches_replace", {}).get("attn2", {})
        for block in BLOCKS:
            watched.set_model_attn2_replace(self._watcher(before.get(block)), *block)
        return watched

    def _watcher(self, before: Replacement | None) -> Replacement:
        def attend(q: Tensor, k: Tensor, v: Tensor, options: Mapping[str, Any]) -> Tensor:
            self.see(q, k, options)
            if before is not None:
                return before(q, k, v, options)
            from comfy.ldm.modules.attention import optimized_attention

            found: Tensor = optimized_attention(
                q, k, v, options["n_heads"], attn_precision=options.get("attn_precision"), transformer_options=options
            )
            return found

        return attend

    def see(self, q: Tensor, k: Tensor, options: Mapping[str, Any]) -> None:
        """Take note of one block: q (b, pixels, heads * d), k (b, L, heads * d); ``options``: ComfyUI's, of this call.

        Of a batch with both halves of guidance only the prompt's half counts. Where the noise rises, another sampling
        has begun.
        """
        if q.shape[1] > MOST_PIXELS or not self.slots:
            return
        noise = float(options["sigmas"].max())
        if noise > ANOTHER * self._noise:
            self.forget()
        self._noise = noise
        height, width = level_size(q.shape[1], options["original_shape"])
        halves = options["cond_or_uncond"]
        parts = zip(halves, q.chunk(len(halves)), k.chunk(len(halves)), strict=True)
        share = [self._share(a, b, options["n_heads"]) for half, a, b in parts if half == 0]
        if not share:
            return
        seen = torch.cat(share).unflatten(1, (height, width)).cpu()
        self._sums[height, width] = self._sums.get((height, width), torch.zeros_like(seen)) + seen
        self._counts[height, width] = self._counts.get((height, width), 0) + 1

    def _share(self, q: Tensor, k: Tensor, heads: int) -> Tensor:
        """(b, pixels): mean over the heads of what falls on the slots."""
        slots = [slot for slot in self.slots if slot < k.shape[1]]
        q, k = (x.unflatten(-1, (heads, -1)).transpose(1, 2).float() for x in (q, k))  # (b, heads, n, d)
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        return scores.softmax(-1)[..., slots].sum(-1).mean(1)

    def heat(self, height: int, width: int) -> Tensor:
        """(b, height, width) in 0 to 1, of each picture its largest value 1.

        Raises:
            ConceptError: nothing was sampled with this recorder's model.
        """
        if not self._sums:
            raise ConceptError(
                "no attention was recorded: connect the model and the conditioning of one Apply node to the sampler"
            )
        maps = [
            F.interpolate((total / self._counts[size])[:, None], (height, width), mode="bilinear")[:, 0]
            for size, total in self._sums.items()
        ]
        heat = torch.stack(maps).mean(0)
        low, high = heat.amin((1, 2), keepdim=True), heat.amax((1, 2), keepdim=True)
        return (heat - low) / (high - low).clamp(min=1e-12)


def level_size(pixels: int, latents: Sequence[int]) -> tuple[int, int]:
    """Height and width of a level of so many pixels, of latents (b, c, h, w): each level halves, rounding up."""
    height, width = latents[-2:]
    while height * width > pixels:
        height, width = -(-height // 2), -(-width // 2)
    return height, width


def paint(picture: Tensor, heat: Tensor, opacity: float) -> Tensor:
    """Pictures (b, h, w, 3) in 0 to 1 under their heat (b, h, w)."""
    colors = torch.tensor(COLORS) / 255
    place = heat * (len(colors) - 1)
    low = place.floor().long().clamp(max=len(colors) - 2)
    painted = torch.lerp(colors[low], colors[low + 1], (place - low)[..., None])
    return torch.lerp(picture[..., :3].cpu().float(), painted, opacity)


class ConceptAttention:
    """Where the concept acted in the pictures that were sampled."""

    CATEGORY = "SingleInsert"
    RETURN_TYPES = ("IMAGE", "MASK")
    RETURN_NAMES = ("overlay", "heat")
    FUNCTION = "show"
    DESCRIPTION = (
        "Cross-attention on the concept's words, averaged over the sampling; heat as a mask for further nodes."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "attention": ("SINGLEINSERT_ATTENTION",),
                "image": ("IMAGE", {"tooltip": "the decoded picture of that sampling"}),
                "opacity": ("FLOAT", {"default": 0.6, "min": 0.0, "max": 1.0, "step": 0.05}),
            }
        }

    def show(self, attention: Recorder, image: Tensor, opacity: float) -> tuple[Tensor, Tensor]:
        heat = attention.heat(image.shape[1], image.shape[2])
        if len(heat) != len(image):
            raise ConceptError(
                f"{len(image)} pictures, but attention of {len(heat)}: connect the picture of that sampling"
            )
        return paint(image, heat, opacity), heat
