"""A base model with concepts loaded, and pictures from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from singleinsert.adapters.folded import folded
from singleinsert.artifact import Artifact
from singleinsert.errors import InputError
from singleinsert.inference.loras import load_loras, make_loras_lean, set_weights
from singleinsert.inference.prompts import ConceptName, resolve, slot
from singleinsert.inference.schedulers import OWN, build_scheduler
from singleinsert.models.condition import Condition
from singleinsert.models.family import Embedding, Family, Prompt
from singleinsert.models.sampling import pictures_at_once, sample_images

OFFLOADS = ("none", "model", "sequential")


@dataclass(frozen=True)
class Picture:
    """One picture to draw. ``width`` and ``height`` in pixels; None is the model's own resolution."""

    prompt: str
    seed: int = 0
    negative_prompt: str = ""
    steps: int = 50
    guidance_scale: float = 7.5
    width: int | None = None
    height: int | None = None

    def batch_key(self) -> tuple[Any, ...]:
        """Pictures that agree in this can be drawn at once."""
        return (self.steps, self.guidance_scale, self.width, self.height)


class ConceptPipeline:
    """Draws pictures in which any of the loaded concepts may appear, alone or together.

    Each concept's vectors are written in at the text encoder's lookup under a slot of its own, and each LoRA is an
    adapter of its own with its own weight, also where several concepts share it. The base model is changed in place,
    until :meth:`close`.

    Attributes:
        concepts: what was given, each concept as an artifact of its own.
        pipeline: diffusers' StableDiffusionPipeline, with its scheduler; for callbacks.
    """

    def __init__(
        self,
        model: Family,
        concepts: Sequence[Artifact] = (),
        weights: Sequence[float] | None = None,
        *,
        scheduler: str = OWN,
        offload: str = "none",
        offload_device: str = "cuda",
    ) -> None:
        """Load ``concepts`` into ``model``.

        Args:
            concepts: artifacts, of one concept or several each.
            weights: of each artifact's LoRA, 1 by default; the embeddings are not scaled.
            scheduler: a name of ``singleinsert.inference.schedulers.SCHEDULERS``, or "auto", the model's own.
            offload: "none", "model" (UNet and VAE wait in main memory until they are needed) or "sequential" (their
                layers do); the text encoders, which are small, stay on ``offload_device``. ``model`` is on the CPU.

        Raises:
            ModelError: a concept is for another kind of model. InputError: two of one name, an unknown scheduler.
        """
        self.model = model
        self.concepts = tuple(part for artifact in concepts for part in artifact.parts())
        self._sizes = [len(artifact.concepts) for artifact in concepts]
        names = [concept.name.lower() for concept in self.concepts]
        if len(set(names)) < len(names):
            raise InputError(
                f"two concepts are called {max(names, key=names.count)}, and a prompt could not tell them apart: give "
                "one another name by python -m singleinsert.export --output_name"
            )
        self.pipeline = model.pipeline(build_scheduler(scheduler, model.scheduler))
        self._ends = load_loras(self.pipeline, model, self.concepts)
        self.set_weights(weights if weights is not None else [1.0] * len(concepts))
        if offload != "sequential":  # whose hooks bring each layer's weights when that layer is called
            make_loras_lean(model)
        self._vectors: dict[str, Embedding] = {
            slot(i): {part: tensor.to(model.device) for part, tensor in concept.concept.embeddings.items()}
            for i, concept in enumerate(self.concepts)
        }
        self._offload(offload, offload_device)

    def set_weights(self, weights: Sequence[float]) -> None:
        """Scale the LoRA of each artifact given; 0 leaves the embeddings alone at work."""
        if len(weights) != len(self._sizes):
            raise InputError(f"{len(weights)} weights for {len(self._sizes)} concepts")
        self.weights = [float(weight) for weight, size in zip(weights, self._sizes, strict=True) for _ in range(size)]
        set_weights(self.model, self.concepts, self.weights)

    @property
    def names(self) -> list[ConceptName]:
        """What prompts may call the concepts."""
        return [
            ConceptName(c.name, c.class_word, c.placeholder, weight, c.lora_stem, c.concept.name, c.concept.alone)
            for c, weight in zip(self.concepts, self.weights, strict=True)
        ]

    def close(self) -> None:
        """Take the concepts' LoRAs out: the base model is what it was, to the last bit. Nothing is drawn after it."""
        self.pipeline.unload_lora_weights()
        for end in self._ends:
            end()
        self.concepts, self.weights, self._sizes = (), [], []

    def tokenize(self, prompt: str) -> Prompt:
        """A prompt as a user writes it, its concepts' vectors as slots. InputError where it names an unknown one."""
        counts = {slot(i): concept.num_vectors for i, concept in enumerate(self.concepts)}
        return self.model.tokenize(resolve(prompt, self.names), counts)

    @torch.no_grad()
    def encode(self, prompt: str) -> Condition:
        """The condition of a prompt as a user writes it. InputError where it names an unknown concept."""
        return self.model.encode(self.tokenize(prompt), self._vectors)

    def render(
        self,
        pictures: Sequence[Picture],
        *,
        batch_size: int | None = None,
        callback: Callable[..., dict[str, Any]] | None = None,
    ) -> Iterator[Image]:
        """Draw ``pictures`` in order, up to ``batch_size`` neighbours of one kind at a time; None is as many as suit
        the model.

        Each picture has a generator of its own, on the CPU: it is the same whatever else is drawn with it.
        ``callback(pipeline, step, timestep, tensors) -> tensors`` sees every step, as in diffusers.

        Raises:
            InputError: a prompt or a size that cannot be; before anything is drawn.
        """
        conditions = self.conditions(pictures)
        return (
            image
            for batch in batches(pictures, self.at_once(batch_size))
            for image in self._draw(batch, conditions, callback)
        )

    def render_with_attention(
        self, pictures: Sequence[Picture], *, batch_size: int | None = None, **options: Any
    ) -> Iterator[tuple[Image, dict[str, Tensor]]]:
        """As :meth:`render`, the same pictures, each with a map (h, w) of where the concepts and their words act.

        Maps are called by each concept's placeholder (with several concepts, by its name) and its class word; a
        prompt that does not hold one has no such map. ``options``: of
        :class:`~singleinsert.models.attention.CrossAttentionMaps`.

        Raises:
            InputError: as :meth:`render`.
        """
        conditions = self.conditions(pictures)
        tokens = {picture.prompt: self.map_tokens(picture.prompt) for picture in pictures}

        def draw(batch: Sequence[Picture]) -> Iterator[tuple[Image, dict[str, Tensor]]]:
            with self.model.read_attention([tokens[p.prompt] for p in batch], **options) as attention:
                images = self._draw(batch, conditions, None)
            return zip(images, attention.maps(), strict=True)

        return (found for batch in batches(pictures, self.at_once(batch_size)) for found in draw(batch))

    def at_once(self, asked: int | None) -> int:
        """Pictures of one batch: as many as were asked for, or what suits the model."""
        return asked or pictures_at_once(self.model.denoiser)

    def map_tokens(self, prompt: str) -> dict[str, list[int]]:
        """Name of a map -> positions in the prompt, of concepts and class words that are in it."""
        tokenized, found = self.tokenize(prompt), dict[str, list[int]]()
        for i, concept in enumerate(self.concepts):
            name = concept.placeholder if len(self.concepts) == 1 else concept.name
            found[name] = tokenized.positions(slot(i))
            found[concept.class_word] = self.model.word_positions(tokenized, concept.class_word)
        return {name: positions for name, positions in found.items() if positions}

    def conditions(self, pictures: Sequence[Picture]) -> dict[str, Condition]:
        """Text -> condition, on the CPU, for all prompts of ``pictures``. InputError where one cannot be drawn."""
        for picture in pictures:
            self._check(picture)
        prompts = {text for picture in pictures for text in (picture.prompt, picture.negative_prompt)}
        return {prompt: self.encode(prompt).to(torch.device("cpu")) for prompt in sorted(prompts)}

    def _draw(self, batch: Sequence[Picture], conditions: dict[str, Condition], callback: Any) -> list[Image]:
        device, (steps, guidance, width, height) = self.pipeline._execution_device, batch[0].batch_key()
        condition = Condition.concatenate([conditions[picture.prompt] for picture in batch]).to(device)
        negative = Condition.concatenate([conditions[picture.negative_prompt] for picture in batch]).to(device)
        with folded(self.model.denoiser):
            return sample_images(
                self.model, condition, negative,
                [torch.Generator().manual_seed(picture.seed) for picture in batch],
                steps=steps, guidance_scale=guidance, height=height, width=width, callback=callback,
                pipeline=self.pipeline,
            )  # fmt: skip

    def _check(self, picture: Picture) -> None:
        for side in (picture.width, picture.height):
            multiple = self.model.size_multiple
            if side is not None and (side < multiple or side % multiple):
                raise InputError(
                    f"a picture of {side} pixels cannot be drawn: width and height are multiples of {multiple}"
                )
        if not 1 <= picture.steps <= self.model.schedule.num_timesteps:
            most = self.model.schedule.num_timesteps
            raise InputError(f"{picture.steps} sampling steps: between 1 and {most}, the model's own, are needed")
        if not math.isfinite(picture.guidance_scale):
            raise InputError(f"a guidance scale of {picture.guidance_scale} is no number: 7.5 is usual, 1 is none")

    def _offload(self, kind: str, device: str) -> None:
        if kind not in OFFLOADS:
            raise InputError(f"offload '{kind}' is none of {', '.join(OFFLOADS)}")
        if kind == "none":
            return
        # diffusers' hooks sit on the pipeline's own calls, and prompts are encoded outside of them
        self.pipeline._exclude_from_cpu_offload = [*self.pipeline._exclude_from_cpu_offload, *self.model.text_parts]
        if kind == "model":
            self.pipeline.enable_model_cpu_offload(device=device)
        else:
            self.pipeline.enable_sequential_cpu_offload(device=device)


def batches(pictures: Sequence[Picture], size: int) -> Iterator[list[Picture]]:
    """Neighbours that can be drawn at once, at most ``size`` of them at a time."""
    for _, group in groupby(pictures, key=Picture.batch_key):
        neighbours = list(group)
        yield from (neighbours[start : start + size] for start in range(0, len(neighbours), size))
