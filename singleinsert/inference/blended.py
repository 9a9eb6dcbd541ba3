"""Blended Latent Diffusion (Avrahami et al. 2023, arXiv 2206.02779): new things inside masks, the photo around them.

Sampling starts from the photo's noised latents. After each step the latents outside of the masks are put back: the
photo's own, noised to the level that the latents have AFTER that step; after the last one they are clean. What the
decoder draws is pasted into the photo through feathered masks (:mod:`~singleinsert.inference.canvas`).

Several regions in one pass: each region's prompt has a row of its own in the batch. The rows start from the same
latents with the same noise, and after each step every latent is taken from the row whose region it lies in. All
samplers are linear in the model's output, so this is a step with the outputs mixed by the masks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from singleinsert.adapters.folded import folded
from singleinsert.errors import InputError
from singleinsert.inference.canvas import Canvas
from singleinsert.inference.pipeline import ConceptPipeline, Picture, batches
from singleinsert.models.condition import Condition
from singleinsert.models.family import Family
from singleinsert.models.sampling import known_latents, noised_for, sample_images

ORDERS = ("at_once", "one_by_one")
NOISES = ("fixed", "fresh")
OTHER_NOISE = 0x5EED_0F_F4E5  # beside a picture's seed: noise of its own for the surroundings


def edit_pictures(
    pipeline: ConceptPipeline,
    canvas: Canvas,
    pictures: Sequence[Picture],
    *,
    strength: float = 0.75,
    order: str = "at_once",
    noise: str = "fixed",
    batch_size: int | None = None,
) -> Iterator[Image]:
    """Edit the canvas's photo, once for each of ``pictures``: RGB pictures of the photo's size, pixels outside of the
    masks unchanged.

    Args:
        pictures: seed, negative prompt, steps and guidance; prompts are the regions', sizes the canvas's.
        strength: share of the steps that are taken, in (0, 1]; 1 starts from noise with a trace of the photo.
        order: "at_once", or "one_by_one": each region sees those before it done, and the later one has what two share.
        noise: of the surroundings: "fixed" is the starting noise in every step, "fresh" is drawn anew.
        batch_size: rows at a time; a picture has one for each region of a pass. None: as many as suit the model.

    Raises:
        InputError: a strength, prompt, order or number that cannot be; before anything is drawn.
    """
    check_strength(strength)
    for name, value, known in (("order", order, ORDERS), ("noise", noise, NOISES)):
        if value not in known:
            raise InputError(f"{name} '{value}' is none of {', '.join(known)}")
    width, height = canvas.size
    pictures = [replace(picture, width=width, height=height) for picture in pictures]
    conditions = pipeline.conditions([replace(p, prompt=r.prompt) for p in pictures for r in canvas.regions])
    numbers = range(len(canvas.regions))
    passes = [list(numbers)] if order == "at_once" else [[number] for number in numbers]

    def draw(batch: Sequence[Picture]) -> Iterator[Image]:
        device = pipeline.pipeline._execution_device
        latents, images = canvas.latents.to(device).expand(len(batch), -1, -1, -1), list[Image]()
        for regions in passes:
            with starting_late(pipeline.pipeline, strength):
                masks = [canvas.masks[number] for number in regions]
                blend = Blend(pipeline.model, latents, masks, batch, fresh=noise == "fresh")
                prompts = [canvas.regions[number].prompt for number in regions]
                images = _sample(pipeline, conditions, batch, prompts, blend)
            latents = blend.result
        return (canvas.paste(image) for image in images)

    size = max(1, pipeline.at_once(batch_size) // len(passes[0]))
    return (image for batch in batches(pictures, size) for image in draw(batch))


def check_strength(strength: float) -> None:
    """InputError unless it lies in (0, 1]."""
    if not (math.isfinite(strength) and 0 < strength <= 1):
        raise InputError(f"an edit strength of {strength:g} cannot be: above 0 (nothing changes) up to 1 (all is new)")


def _sample(
    pipeline: ConceptPipeline,
    conditions: dict[str, Condition],
    batch: Sequence[Picture],
    prompts: Sequence[str],
    blend: Blend,
) -> list[Image]:
    """One pass: a picture for each of ``batch``; rows are picture by picture, regions within."""
    device, (steps, guidance, width, height) = blend.source.device, batch[0].batch_key()
    negative = [conditions[picture.negative_prompt] for picture in batch for _ in prompts]
    with folded(pipeline.model.denoiser):
        return sample_images(
            pipeline.model,
            Condition.concatenate([conditions[prompt] for _ in batch for prompt in prompts]).to(device),
            Condition.concatenate(negative).to(device),
            blend.generators,
            steps=steps, guidance_scale=guidance, height=height, width=width, callback=blend,
            pipeline=pipeline.pipeline,
            latents=blend.start(pipeline.pipeline.scheduler, steps).to(pipeline.model.dtype),
        )  # fmt: skip


class Blend:
    """diffusers' callback that joins the regions' rows and puts the photo back around them.

    Attributes:
        source: (b, c, h, w) float32, the clean latents of the surroundings.
        generators: one a row, each past its starting noise; rows of one picture go on with the same noise.
        result: the blended latents after the last step so far.
    """

    def __init__(
        self, model: Family, source: Tensor, masks: Sequence[Sequence[Tensor]], pictures: Sequence[Picture], *,
        fresh: bool = False,
    ) -> None:  # fmt: skip
        """``masks``: of each region its stages, (1, 1, h, w) each. ``pictures``: of one size, which is given."""
        self.source = self.result = source
        self._model, self._size = model, (pictures[0].height or 0, pictures[0].width or 0)
        self._rows, self._fresh = len(masks), fresh
        self._masks = [[stage.to(source.device) for stage in stages] for stages in masks]
        self.generators = [torch.Generator().manual_seed(p.seed) for p in pictures for _ in masks]
        self._noise = _noise(self.generators, source)[:: self._rows]
        self._others = [torch.Generator().manual_seed(picture.seed ^ OTHER_NOISE) for picture in pictures]

    def start(self, scheduler: Any, steps: int) -> Tensor:
        """Where sampling starts: (b * regions, c, h, w), the noised source."""
        self._model.start_sampler(scheduler, steps, *self._size, self.source.device)
        noised = noised_for(scheduler, self.source, self._noise, 0)
        return noised.repeat_interleave(self._rows, dim=0)

    def __call__(self, pipeline: Any, step: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """After the last step one row a picture is handed back: there is nothing more to do for the others."""
        scheduler, latents = pipeline.scheduler, self._model.unpacked(tensors["latents"], *self._size)
        total = len(scheduler.timesteps)
        noise = _noise(self._others, self.source) if self._fresh and step + 1 < total else self._noise
        masks = torch.stack([stages[step * len(stages) // total] for stages in self._masks], dim=1)  # (1, r, 1, h, w)
        shares = masks / masks.sum(1, keepdim=True).clamp_min(1e-6)
        drawn = (shares * latents.float().unflatten(0, (-1, self._rows))).sum(1)
        inside = masks.amax(1)
        self.result = inside * drawn + (1 - inside) * known_latents(scheduler, self.source, noise, step + 1)
        rows = self.result if step + 1 == total else self.result.repeat_interleave(self._rows, dim=0)
        return {"latents": self._model.packed(rows.to(latents.dtype))}


def _noise(generators: Sequence[torch.Generator], like: Tensor) -> Tensor:
    """Unit normal noise (len(generators), c, h, w), a generator a row."""
    return torch.stack([torch.randn(like.shape[1:], generator=g) for g in generators]).to(like.device)


@contextmanager
def starting_late(pipeline: Any, strength: float) -> Iterator[None]:
    """Within it, the pipeline's sampler takes the last ``strength`` of its steps, from latents that are noised already.

    The shortened schedule is a whole one to the sampler: orders that fall at the end, and the levels that its
    ``add_noise`` reads, follow from it. (diffusers' own start in the middle does not fit PNDM, which then goes on from
    its third timestep with latents of the level before.)
    """
    before = pipeline.scheduler
    pipeline.scheduler = _late(before, strength)
    try:
        yield
    finally:
        pipeline.scheduler = before


def _late(scheduler: Any, strength: float) -> Any:
    from diffusers import PNDMScheduler

    kind: Any = type(scheduler)

    class Late(kind):
        init_noise_sigma = 1.0  # the latents that are handed in have their noise

        @wraps(kind.set_timesteps)  # pipelines look at its signature
        def set_timesteps(self, *args: Any, **options: Any) -> None:
            super().set_timesteps(*args, **options)
            first = self.num_inference_steps - max(1, round(strength * self.num_inference_steps))
            if isinstance(self, PNDMScheduler):
                # it steps from its first timestep twice, and so has the second one twice
                left = self.timesteps.unique().flip(0)[first:]
                self.timesteps = torch.cat([left[:2], left[1:]])
                return
            self.timesteps = self.timesteps[first * self.order :]
            if hasattr(self, "sigmas"):
                self.sigmas: Tensor = self.sigmas[first * self.order :]
                self.set_begin_index(0)

    return Late.from_config(scheduler.config)
