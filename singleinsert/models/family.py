"""The one seam between a training step and a model: what every family of text-to-image models can be asked for.

A family is a file in ``families/``. Everything above it (steps, samples, pipelines, export, evaluation) speaks of
parts by their role and of prompts by their text, never of a UNet, a transformer or a certain text encoder.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL.Image import Image
from torch import Tensor, nn

from singleinsert.data.subject import Frame
from singleinsert.errors import ConfigError, InputError, ModelError
from singleinsert.imports import importing
from singleinsert.models.condition import Condition
from singleinsert.models.file_facts import FileFacts
from singleinsert.models.keys import kept_keys
from singleinsert.models.latents import LatentDistribution
from singleinsert.models.schedule import Schedule
from singleinsert.models.split_files import NOTHING, Beside
from singleinsert.models.text import (
    Slot,
    TokenizedPrompt,
    check_words,
    tokenize,
    word_embeddings,
    word_positions,
)

Embedding = Mapping[str, Tensor]
"""A concept's vectors for each text encoder's lookup: part name -> (n, width), the same n for all."""


@dataclass(frozen=True)
class Prompt:
    """One text, tokenised for each of a family's text encoders.

    Attributes:
        text: as it was given. tokens: part name -> its ids, with the concepts' slots.
    """

    text: str
    tokens: Mapping[str, TokenizedPrompt]

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Where the concepts' vectors stand, in the first encoder's positions: those that attention maps have."""
        return next(iter(self.tokens.values())).slots

    def positions(self, handle: str) -> list[int]:
        """Where a concept's vectors stand; [] where the prompt does not hold it."""
        return [slot.position for slot in self.slots if slot.placeholder == handle]


class Family(ABC):
    """A loaded base model. Nothing in it requires a gradient until an adapter is put in.

    Attributes:
        name: the family's key, one of :attr:`names`. model_name: short name of the weights, for metadata.
        source: what :func:`~singleinsert.models.loading.load_base_model` was given.
        schedule: the noise schedule for training, on the denoiser's device.
        scheduler: diffusers' scheduler with the model's tables, for sampling.
    """

    names: ClassVar[tuple[str, ...]]
    """The values that :attr:`name` may have."""
    title: ClassVar[str]
    """For messages."""
    files: ClassVar[Mapping[str, FileFacts]]
    """What the clients' files say, by each of :attr:`names`."""
    pipeline_class: ClassVar[str]
    """diffusers' pipeline, as model_index.json names it."""
    weight_parts: ClassVar[tuple[str, ...]]
    """Folders of a model in diffusers' layout that hold weights."""
    tokenizer_folders: ClassVar[tuple[str, ...]]
    """Folders of a model in diffusers' layout that hold tokenizers."""
    pipeline_options: ClassVar[Mapping[str, Any]] = {}
    """More keyword arguments of the pipeline's ``from_pretrained``."""
    denoiser_part: ClassVar[str]
    """Name of the denoiser among :attr:`parts`, as diffusers' pipelines call it."""
    text_parts: ClassVar[tuple[str, ...]]
    """Names of the text encoders among :attr:`parts`; the first one's positions are those of attention maps."""
    in_parts: ClassVar[bool] = False
    """Is a single file one part, its transformer, that others are named beside?"""
    guides_in_one_call: ClassVar[bool] = True
    """Does the pipeline ask with both prompts in one call, the negative ones first?"""

    name: str
    model_name: str
    source: str
    schedule: Schedule
    scheduler: Any

    # loading

    @classmethod
    @abstractmethod
    def from_pipeline(
        cls, pipeline: Any, source: str, model_name: str, device: torch.device | str, prediction_type: str
    ) -> Family:
        """The family over a loaded diffusers pipeline's parts; frozen, in evaluation mode, on ``device``.

        Args:
            prediction_type: "auto" believes the model's own config.

        Raises:
            ModelError: a model of this layout that cannot be trained, such as one for inpainting.
        """

    @classmethod
    def load_pipeline(
        cls, source: str, *, revision: str | None, variant: str | None, dtype: torch.dtype, device: torch.device
    ) -> Any:
        """What :meth:`from_pipeline` takes, from a folder or a hub id: diffusers' :attr:`pipeline_class`.

        A family that diffusers does not know overrides this; then any object will do, and ``pipeline_class`` is only
        what model_index.json says.
        """
        with importing():
            import diffusers

            pipeline_class = getattr(diffusers, cls.pipeline_class)
        return pipeline_class.from_pretrained(
            source, revision=revision, variant=variant, dtype=dtype, device_map=device.type, use_safetensors=True,
            **cls.pipeline_options,
        )  # fmt: skip

    def check_trainable(self) -> None:  # noqa: B027 (most families can)
        """ModelError, in one line, where the model draws pictures and cannot be trained: distilled to a few steps."""

    @classmethod
    def match_checkpoint(cls, shapes: Mapping[str, Sequence[int]]) -> str | None:
        """Which of :attr:`names` a single file's tensors (name -> shape) are; None where it is no such model."""
        return None

    @classmethod
    def load_checkpoint(
        cls, path: Path, name: str, dtype: torch.dtype, keys: Mapping[str, Sequence[int]], beside: Beside = NOTHING
    ) -> Any:
        """diffusers' pipeline from a single file that :meth:`match_checkpoint` has called ``name``.

        Args:
            keys: name -> shape of every tensor in the file; some files say by a key of their own what they are.
            beside: what was named with it, for models whose parts are files of their own.
        """
        raise ModelError(f"{path}: {cls.title} is loaded from a folder in diffusers' layout or a hub id")

    @classmethod
    def checkpoint_prediction_type(cls, path: Path, name: str, keys: Mapping[str, Sequence[int]]) -> str:
        """What a single file without metadata was trained to predict. ModelError where it may be either."""
        return "epsilon"

    # parts by their role

    @property
    @abstractmethod
    def parts(self) -> Mapping[str, nn.Module]:
        """Every part with weights, by the name that files and diffusers' pipelines have for it."""

    @property
    @abstractmethod
    def tokenizers(self) -> Mapping[str, Any]:
        """The tokenizer of each of :attr:`text_parts`."""

    @property
    def denoiser(self) -> Any:
        return self.parts[self.denoiser_part]

    @property
    def autoencoder(self) -> Any:
        return self.parts["vae"]

    @property
    def pixels_per_latent(self) -> int:
        """Of the autoencoder, along one side."""
        return 2 ** (len(self.autoencoder.config.block_out_channels) - 1)

    @property
    def text_encoders(self) -> dict[str, Any]:
        return {part: self.parts[part] for part in self.text_parts}

    @property
    def trainable_parts(self) -> dict[str, tuple[str, ...]]:
        """Names of parts by what a stage's ``trains`` calls them."""
        return {"denoiser": (self.denoiser_part,), "text": self.text_parts}

    @property
    def adapted_parts(self) -> Mapping[str, nn.Module]:
        """The modules that adapters go into, by part: the paths of layers in files are counted from them."""
        return self.parts

    @property
    def layers_told_time(self) -> Sequence[nn.Module]:
        """Large layers of the denoiser, outside of its blocks, that see the noise level alone."""
        return ()

    @property
    def device(self) -> torch.device:
        """The denoiser's. The text encoders and the autoencoder may wait elsewhere."""
        return next(self.denoiser.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The denoiser's, by its first parameter that computes.

        diffusers' own ``dtype`` goes through all modules before: with a LoRA in SD 1.5 two answers took a third of what
        a pass costs the host.
        """
        kept = tuple(self.denoiser._keep_in_fp32_modules or ())
        return next(
            parameter.dtype
            for name, parameter in self.denoiser.named_parameters()
            if parameter.is_floating_point() and not any(part in name for part in kept)
        )

    @property
    def text_device(self) -> torch.device:
        """Where prompts are encoded, and so where concepts live."""
        return next(self.parts[self.text_parts[0]].parameters()).device

    @property
    @abstractmethod
    def embedding_widths(self) -> Mapping[str, int]:
        """Width of each text encoder's input embeddings, by part; 768 for SD 1.x."""

    @property
    @abstractmethod
    def native_resolution(self) -> int:
        """Side in pixels of the pictures that the denoiser was trained on."""

    @property
    @abstractmethod
    def size_multiple(self) -> int:
        """Width and height of a picture are multiples of this many pixels."""

    @abstractmethod
    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(c, h, w) of the latents of a picture of that size in pixels."""

    # prompts

    def tokenize(self, prompt: str, handles: Mapping[str, int]) -> Prompt:
        """Tokenise ``prompt``, leaving ``handles[h]`` consecutive slots for each concept h that it names.

        Raises:
            InputError: the prompt is so long that a slot would be cut off. Plain words are cut off with a warning.
        """
        return Prompt(prompt, {part: tokenize(self.tokenizers[part], prompt, handles) for part in self.text_parts})

    @abstractmethod
    def encode(self, prompt: Prompt, vectors: Mapping[str, Embedding], frame: Frame | None = None) -> Condition:
        """The condition (b = 1) of ``prompt``, differentiable in ``vectors`` (handle -> its embedding).

        Args:
            frame: the training picture's; None is a whole picture, of whatever size is then drawn.

        Raises:
            InputError: the prompt names a concept that ``vectors`` does not have.
        """

    def encode_all(
        self, prompts: Sequence[Prompt], vectors: Mapping[str, Embedding], frames: Sequence[Frame | None]
    ) -> list[Condition]:
        """The condition of each of ``prompts`` with its frame, where a family can in one batch."""
        return [self.encode(prompt, vectors, frame) for prompt, frame in zip(prompts, frames, strict=True)]

    def word_embeddings(self, word: str) -> dict[str, Tensor]:
        """Each text encoder's own input embeddings (k, d) float32 of the k tokens of ``word``; k differs by tokenizer.

        Raises:
            InputError: a tokenizer does not know the word.
        """
        return {part: word_embeddings(self.tokenizers[part], self.parts[part], word) for part in self.text_parts}

    def check_words(self, placeholder: str, class_word: str) -> None:
        """InputError where a tokenizer does not know one of them, or the placeholder hides a word of its own."""
        for tokenizer in self.tokenizers.values():
            check_words(tokenizer, placeholder, class_word)

    def word_positions(self, prompt: Prompt, word: str, after: int = -1) -> list[int]:
        """Where ``word`` stands for the first time behind position ``after``, outside of slots; [] where it does not.

        Positions are those that attention maps have: the first text encoder's.
        """
        first = self.text_parts[0]
        return word_positions(self.tokenizers[first], prompt.tokens[first], word, after)

    # pictures

    @abstractmethod
    def encode_picture(self, pixels: Tensor) -> LatentDistribution:
        """The posterior of pixels (1, 3, H, W) in [-1, 1], in the denoiser's scale; float32 whatever the dtype."""

    @abstractmethod
    def decode(self, latents: Tensor) -> list[Image]:
        """b pictures from latents (b, c, h, w): the exact inverse of :meth:`encode_picture`'s scaling and shift."""

    @abstractmethod
    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The denoiser's output (b, c, h, w) in its dtype; packing and guidance inputs stay inside.

        Args:
            x_t: (b, c, h, w) noisy latents. t: (b,) int64, rows of the schedule's tables. condition: b or 1 prompts.
        """

    @torch.no_grad()
    def sample(
        self,
        condition: Condition,
        negative: Condition | None,
        generators: Sequence[torch.Generator],
        *,
        steps: int,
        guidance_scale: float,
        height: int,
        width: int,
    ) -> Tensor:
        """Latents (b, c, h, w) of one picture per prompt of ``condition``, by the denoiser alone.

        Args:
            condition: b prompts. negative: 1 or b, None only without guidance. generators: b of them, so that a picture
                does not depend on the others. height, width: in pixels.
        """
        pipeline = self.pipeline(denoiser_only=True)
        with kept_keys(self.denoiser):
            latents = pipeline(
                **self.pipeline_conditions(condition, negative), generator=list(generators), num_inference_steps=steps,
                guidance_scale=self.pipeline_guidance(guidance_scale), height=height, width=width, output_type="latent",
            ).images  # fmt: skip
        return self.finished(latents)

    def pipeline(self, scheduler: Any = None, *, denoiser_only: bool = False) -> Any:
        """diffusers' own pipeline over these very parts; ``denoiser_only`` leaves the others out: latents come out.

        Raises:
            ConfigError: diffusers has none for this family; pictures are drawn while it trains, and not otherwise.
        """
        raise self._without_pipeline()

    def pipeline_conditions(self, condition: Condition, negative: Condition | None) -> dict[str, Any]:
        """The pipeline's keyword arguments for a batch of conditions (and as many, or one, negative ones)."""
        raise self._without_pipeline()

    def pipeline_guidance(self, scale: float) -> float:
        """The pipeline's own number for a guidance ``scale``, of which 1 is none."""
        return scale

    def start_sampler(self, scheduler: Any, steps: int, height: int, width: int, device: torch.device) -> None:
        """Set the sampler's steps as the pipeline does for pictures of that size in pixels."""
        scheduler.set_timesteps(steps, device=device)

    def unpacked(self, latents: Tensor, height: int, width: int) -> Tensor:
        """Latents (b, c, h, w) from those that the pipeline shows its callbacks; height and width in pixels."""
        return latents

    def packed(self, latents: Tensor) -> Tensor:
        """The inverse of :meth:`unpacked`."""
        return latents

    def finished(self, latents: Tensor) -> Tensor:
        """Latents (b, c, h, w) in the denoiser's scale from those that the pipeline hands out at its end."""
        return latents

    def load_lora(
        self, pipeline: Any, part: str, tensors: dict[str, Tensor], config: dict[str, Any], name: str
    ) -> None:
        """Put a LoRA in peft's form into a part, as an adapter called ``name``, by diffusers' own loader.

        Args:
            tensors: "<part>.<path>.lora_A.weight", "...lora_B.weight"; paths as in :attr:`adapted_parts`.
            config: peft's LoraConfig, its keys under "<part>." too.
        """
        raise self._without_pipeline()

    def _without_pipeline(self) -> ConfigError:
        return ConfigError(f"models of family {self.name} have no pipeline to draw pictures with")

    def read_attention(self, tokens: Sequence[Any], **options: Any) -> Any:
        """A context within which cross-attention is read: :class:`~singleinsert.models.attention.CrossAttentionMaps`.

        Raises:
            ConfigError: this family's attention cannot be read.
        """
        raise ConfigError(f"attention maps cannot be read from a model of family {self.name}")

    def read_probabilities(self, latent_size: tuple[int, int], level: int) -> Any:
        """A context within which one call's attention is read with its graph, all tokens, at one level.

        It is left with :meth:`~singleinsert.models.attention.AttentionProbabilities.probabilities`. ``level``: the
        feature maps read are those nearest to (h, w) of the latents divided by it.

        Raises:
            ConfigError: this family's attention cannot be read.
        """
        raise ConfigError(f"attention losses need a model whose cross-attention can be read, and {self.name} has none")

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass. ConfigError where the model cannot."""
        raise ConfigError(f"gradient_checkpointing: models of family {self.name} do not have it")


def missing_concepts(prompt: Prompt, vectors: Mapping[str, Embedding]) -> None:
    """InputError where ``prompt`` names a concept that ``vectors`` does not have."""
    missing = {slot.placeholder for slot in prompt.slots} - set(vectors)
    if missing:
        raise InputError(f"the prompt holds {', '.join(sorted(missing))}, for which no concept is loaded")
