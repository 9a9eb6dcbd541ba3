"""Pictures drawn while training, from fixed seeds, so that what changes between them is what was learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from singleinsert.atomic import write_atomically
from singleinsert.concepts import Concept
from singleinsert.data.prompts import fill
from singleinsert.models.base import BaseModel
from singleinsert.models.sampling import decode_latents, sample_latents
from singleinsert.models.text import encode, tokenize
from singleinsert.training.files import RunFiles

CHUNK = 4  # pictures drawn at a time: with guidance the UNet sees twice as many


class Sampler:
    """Draws the config's sample prompts and writes them to the run's folder of samples.

    Attributes:
        prompts: the prompts as written, with the placeholder in.
    """

    def __init__(self, settings: Any, accelerator: Any, model: BaseModel, concept: Concept, files: RunFiles) -> None:
        self.settings, self.accelerator, self.files = settings.sample, accelerator, files
        self.model, self.concept, self.offload = model, concept, settings.run.offload
        self.size = settings.data.resolution
        data = settings.data
        self.prompts = [fill(prompt, data.placeholder_token, data.class_word) for prompt in self.settings.prompts]
        # every prompt is tokenised now: one that cannot be is an error before training, not after an hour of it
        self._tokenized = [tokenize(model.tokenizer, prompt, self._placeholders()) for prompt in (*self.prompts, "")]

    @torch.no_grad()
    def __call__(self, stage: str, step: int) -> None:
        """Draw every prompt, on the main process, and show the pictures to the trackers."""
        if self.prompts and self.accelerator.is_main_process:
            pictures = self._draw()
            for index, picture in enumerate(pictures):
                save_png(picture, self.files.sample(stage, step, index))
            self._track(stage, step, pictures)
        self.accelerator.wait_for_everyone()

    def _draw(self) -> list[Image.Image]:
        """``images_per_prompt`` pictures of each prompt, prompt after prompt."""
        from accelerate.utils.memory import find_executable_batch_size

        model, vectors = self.model, {self.concept.placeholder: self.concept.vectors()}
        *conditions, empty = (
            encode(model.text_encoder, prompt, vectors).to(model.device, model.dtype) for prompt in self._tokenized
        )
        wanted = [(condition, i) for condition in conditions for i in range(self.settings.images_per_prompt)]

        @find_executable_batch_size(starting_batch_size=1 if self.offload else CHUNK)  # fewer where memory runs out
        def draw(size: int) -> list[Image.Image]:
            return self._decode([self._denoise(wanted[i : i + size], empty) for i in range(0, len(wanted), size)])

        return draw()

    def _denoise(self, wanted: Sequence[tuple[Tensor, int]], empty: Tensor) -> Tensor:
        return sample_latents(
            self.model,
            torch.cat([condition for condition, _ in wanted]),
            empty,
            [torch.Generator().manual_seed(self.settings.seed + i) for _, i in wanted],
            steps=self.settings.num_inference_steps,
            guidance_scale=self.settings.guidance_scale,
            height=self.size,
            width=self.size,
        )

    def _decode(self, parts: Sequence[Tensor]) -> list[Image.Image]:
        """The VAE comes to the UNet's device; where memory is short, the UNet makes room for it."""
        model, device, home = self.model, self.model.device, self.model.vae.device
        try:
            if self.offload:
                model.unet.to("cpu")
            model.vae.to(device)
            return [picture for part in parts for picture in decode_latents(model, part)]
        finally:
            model.vae.to(home)
            model.unet.to(device)

    def _placeholders(self) -> Mapping[str, int]:
        return {self.concept.placeholder: self.concept.num_vectors}

    def _track(self, stage: str, step: int, pictures: list[Image.Image]) -> None:
        images: dict[str, Any] = {f"{stage}/samples": np.stack([np.asarray(picture) for picture in pictures])}
        for tracker in self.accelerator.trackers:
            if tracker.name == "tensorboard":
                tracker.log_images(images, step=step, dataformats="NHWC")
            elif tracker.name == "wandb":
                tracker.log_images(images, step=None)


def save_png(picture: Image.Image, path: Any) -> None:
    write_atomically(path, lambda target: picture.save(target, format="PNG"))
