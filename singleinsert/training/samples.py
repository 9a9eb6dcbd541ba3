"""Pictures drawn while training, from fixed seeds, so that what changes between them is what was learnt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from singleinsert.adapters.folded import folded
from singleinsert.atomic import write_atomically
from singleinsert.data.subject import Handle
from singleinsert.models.condition import Condition
from singleinsert.models.family import Family
from singleinsert.models.sampling import pictures_at_once
from singleinsert.placeholders import with_class_words
from singleinsert.terms import BEFORE
from singleinsert.training.handles import sample_prompts
from singleinsert.training.loop import Run

Wanted = TypeVar("Wanted")
Drawn = TypeVar("Drawn")


class Sampler:
    """Draws the config's sample prompts and writes them to the run's folder of samples.

    Attributes:
        prompts: the prompts as written, with the placeholders in. before: the same without the concepts.
    """

    def __init__(self, run: Run, handles: Sequence[Handle]) -> None:
        self.run, self.settings = run, run.settings.sample
        self.prompts = sample_prompts(self.settings.prompts, handles)
        words = {handle.placeholder: handle.class_word for handle in handles}
        self.before = [with_class_words(prompt, words) for prompt in self.prompts]
        # every prompt is tokenised now: one that cannot be is an error before training, not after an hour of it
        for prompt in (*self.prompts, *self.before, ""):
            run.book.prompt(prompt)

    @torch.no_grad()
    def __call__(self, stage: str, step: int, first_only: bool = False) -> None:
        """Draw every prompt, or the first, on the main process, and show the pictures to the trackers.

        Those of the stage "before", the frozen model's, are drawn once in a run, whose adapters must be off.
        """
        run, repeats = self.run, self.settings.images_per_prompt
        prompts = (self.before if stage == BEFORE else self.prompts)[: 1 if first_only else None]
        if prompts and run.accelerator.is_main_process:
            paths = [run.files.sample(stage, step, index) for index in range(len(prompts) * repeats)]
            if stage == BEFORE and all(path.is_file() for path in paths):
                return
            pictures = self._draw(prompts)
            for picture, path in zip(pictures, paths, strict=True):
                save_png(picture, path)
            self._track(stage, step, pictures)
            seeds = [self.settings.seed + i for _ in prompts for i in range(repeats)]
            run.watch.pictures(stage, step, [prompt for prompt in prompts for _ in range(repeats)], paths, seeds)
        run.accelerator.wait_for_everyone()

    def _draw(self, prompts: Sequence[str]) -> list[Image.Image]:
        """``images_per_prompt`` pictures of each prompt, prompt after prompt."""
        from tqdm.auto import tqdm

        run, model = self.run, self.run.model
        vectors = run.concepts.vectors()
        *conditions, empty = (
            model.encode(run.book.prompt(prompt), vectors).to(model.device, model.dtype) for prompt in (*prompts, "")
        )
        wanted = [(condition, i) for condition in conditions for i in range(self.settings.images_per_prompt)]

        def draw(part: Sequence[tuple[Condition, int]]) -> Tensor:
            latents = draw_latents(
                model, [condition for condition, _ in part], empty, [self.settings.seed + i for _, i in part],
                steps=self.settings.num_inference_steps, guidance_scale=self.settings.guidance_scale,
                size=run.settings.data.resolution,
            )  # fmt: skip
            bar.update(len(part))
            return latents

        section = run.settings.run
        with tqdm(
            total=len(wanted), desc="samples", unit="picture", leave=False, dynamic_ncols=True, disable=None
        ) as bar:
            return draw_in_chunks(
                draw, wanted, batch_of(run), lambda parts: decode_pictures(model, parts, section.moves_denoiser)
            )

    def _track(self, stage: str, step: int, pictures: list[Image.Image]) -> None:
        images: dict[str, Any] = {f"{stage}/samples": np.stack([np.asarray(picture) for picture in pictures])}
        for tracker in self.run.accelerator.trackers:
            if tracker.name == "tensorboard":
                tracker.log_images(images, step=step, dataformats="NHWC")
            elif tracker.name == "wandb":
                tracker.log_images(images, step=None)


def decode_pictures(model: Family, parts: Sequence[Tensor], moves_denoiser: bool) -> list[Image.Image]:
    """Pictures of latents (b, c, h, w)."""
    with autoencoder_at_work(model, moves_denoiser):
        return [picture for part in parts for picture in model.decode(part)]


@contextmanager
def autoencoder_at_work(model: Family, moves_denoiser: bool) -> Iterator[None]:
    """Within it the autoencoder is on the denoiser's device, which the denoiser may leave for a while."""
    device, home = model.device, next(model.autoencoder.parameters()).device
    staying = [parameter for parameter in model.denoiser.parameters() if parameter.device.type == "cpu"]
    try:
        if moves_denoiser:
            model.denoiser.to("cpu")
        model.autoencoder.to(device)
        yield
    finally:
        model.autoencoder.to(home)
        if moves_denoiser:
            model.denoiser.to(device)
            for parameter in staying:
                parameter.data = parameter.data.cpu()


def batch_of(run: Run) -> int:
    """How many pictures a run draws in one batch; where memory is to be saved, one."""
    return 1 if run.settings.run.offload else pictures_at_once(run.model.denoiser)


def draw_in_chunks(
    draw: Callable[[Sequence[Wanted]], Tensor],
    wanted: Sequence[Wanted],
    at_once: int,
    finish: Callable[[list[Tensor]], Drawn],
) -> Drawn:
    """Draw ``wanted``, ``at_once`` of them at a time, fewer where memory runs out; ``finish`` what has come of all."""
    from accelerate.utils.memory import find_executable_batch_size

    @find_executable_batch_size(starting_batch_size=at_once)
    def attempt(size: int) -> Drawn:
        return finish([draw(wanted[i : i + size]) for i in range(0, len(wanted), size)])

    return attempt()


def draw_latents(
    model: Family, conditions: Sequence[Condition], empty: Condition, seeds: Sequence[int], *, steps: int,
    guidance_scale: float, size: int,
) -> Tensor:  # fmt: skip
    """Latents (n, c, h, w) of a square picture of ``size`` pixels per condition, each from a seed of its own."""
    with folded(model.denoiser):
        return model.sample(
            Condition.concatenate(conditions), empty, [torch.Generator().manual_seed(seed) for seed in seeds],
            steps=steps, guidance_scale=guidance_scale, height=size, width=size,
        )  # fmt: skip


def save_png(picture: Image.Image, path: Path) -> None:
    write_atomically(path, lambda target: picture.save(target, format="PNG"))
