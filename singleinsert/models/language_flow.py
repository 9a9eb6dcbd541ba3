"""What flow-matching transformers that are told by a Qwen3 language model have in common: FLUX.2 klein, Z-Image."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from singleinsert.errors import ConfigError, ModelError
from singleinsert.models.chat import ChatTemplate, tokenize_in_chat
from singleinsert.models.family import Embedding, Family, Prompt, missing_concepts
from singleinsert.models.flow import FlowSchedule
from singleinsert.models.joint_attention import (
    JointAttentionMaps,
    JointAttentionProbabilities,
    JointSequence,
)
from singleinsert.models.split_files import NOTHING, Beside, load_parts
from singleinsert.models.text import run_text_encoder
from singleinsert.terms import PROMPT_LENGTH

SHIFT = 2.0
"""Of the noise levels in training: clients sample with 2 to 3, and 2 is the most that an x0 loss bears."""
PATCH = 2


@dataclass
class LanguageFlow(Family):
    """Prompts are read in a chat template; states are outputs of layers in the midst of the language model.

    Attributes:
        distilled: to a few steps; draws pictures, and is not trained.
        template: what stands around a prompt.
    """

    weight_parts: ClassVar[tuple[str, ...]] = ("transformer", "vae", "text_encoder")
    tokenizer_folders: ClassVar[tuple[str, ...]] = ("tokenizer",)
    denoiser_part: ClassVar[str] = "transformer"
    text_parts: ClassVar[tuple[str, ...]] = ("text_encoder",)
    in_parts: ClassVar[bool] = True
    guides_in_one_call: ClassVar[bool] = False
    layers_read: ClassVar[int | None] = None
    """The deepest layer of the language model whose output is read, counted from 1; None: the last but one."""
    thinking: ClassVar[bool]
    """How the chat template is filled: with room for the model to think, or without."""
    base_model: ClassVar[str]
    """The hub id of the undistilled model."""

    tokenizer: Any
    text_encoder: Any
    transformer: Any
    vae: Any
    scheduler: Any
    schedule: FlowSchedule
    name: str
    model_name: str
    source: str
    distilled: bool
    template: ChatTemplate

    # loading

    @classmethod
    def from_pipeline(
        cls, pipeline: Any, source: str, model_name: str, device: torch.device | str, prediction_type: str
    ) -> Self:
        if prediction_type not in ("auto", "flow"):
            raise ModelError(f"{source} predicts the flow's velocity: leave model.prediction_type out")
        transformer, vae, encoder = pipeline.transformer, pipeline.vae, pipeline.text_encoder
        cls.check_parts(transformer.config, vae.config, encoder.config, source)
        if cls.layers_read is not None:
            # one layer more than are read stays, because the last one's states are normalised
            del language_model(encoder).layers[cls.layers_read + 1 :]
            encoder.config.num_hidden_layers = len(language_model(encoder).layers)
        for part in (transformer, vae, encoder):
            part.requires_grad_(False).eval().to(device)
        return cls(
            tokenizer=pipeline.tokenizer, text_encoder=encoder, transformer=transformer, vae=vae,
            scheduler=pipeline.scheduler, schedule=cls.own_schedule().to(device), name=cls.kind_of(encoder.config),
            model_name=model_name, source=source, distilled=cls.is_distilled(pipeline, source),
            template=ChatTemplate.of(pipeline.tokenizer, enable_thinking=cls.thinking),
        )  # fmt: skip

    @classmethod
    def load_checkpoint(
        cls, path: Path, name: str, dtype: torch.dtype, keys: Mapping[str, Sequence[int]], beside: Beside = NOTHING
    ) -> Any:
        return load_parts(cls.pipeline_class, path, beside, beside.folder or cls.base_model, dtype, cls.convert)

    @staticmethod
    @abstractmethod
    def convert(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The transformer's tensors in diffusers' names, from its authors'."""

    @classmethod
    def checkpoint_prediction_type(cls, path: Path, name: str, keys: Mapping[str, Sequence[int]]) -> str:
        return "flow"

    @classmethod
    @abstractmethod
    def check_parts(cls, transformer: Any, vae: Any, encoder: Any, source: str) -> None:
        """ModelError where these configs are not those of the family's parts."""

    @classmethod
    @abstractmethod
    def own_schedule(cls) -> FlowSchedule:
        """The family's sign, clock and shift."""

    @classmethod
    def kind_of(cls, encoder: Any) -> str:
        """Which of :attr:`names` it is, by the language model's config."""
        return cls.names[0]

    @classmethod
    @abstractmethod
    def is_distilled(cls, pipeline: Any, source: str) -> bool:
        """Whether the model is distilled to a few steps."""

    def check_trainable(self) -> None:
        if self.distilled:
            raise ModelError(
                f"{self.source} is distilled to a few steps, which training would undo: train on its base model, such "
                f"as {self.base_model}, and draw with this one"
            )

    # parts

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        return {"transformer": self.transformer, "text_encoder": self.text_encoder, "vae": self.vae}

    @property
    def trainable_parts(self) -> dict[str, tuple[str, ...]]:
        """Without the language model: of the clients none but ComfyUI would load a LoRA of it."""
        return {"denoiser": (self.denoiser_part,), "text": ()}

    @property
    def tokenizers(self) -> Mapping[str, Any]:
        return {"text_encoder": self.tokenizer}

    @property
    def embedding_widths(self) -> Mapping[str, int]:
        return {"text_encoder": self.text_encoder.config.hidden_size}

    @property
    def native_resolution(self) -> int:
        return 128 * self.pixels_per_latent  # the pipelines' default, which no config has

    @property
    def size_multiple(self) -> int:
        return PATCH * self.pixels_per_latent

    # prompts

    def tokenize_padded(self, prompt: str, handles: Mapping[str, int], padded: bool) -> Prompt:
        length = min(PROMPT_LENGTH, self.tokenizer.model_max_length)
        tokens = tokenize_in_chat(self.tokenizer, self.template, prompt, handles, length, padded)
        return Prompt(prompt, {"text_encoder": tokens})

    def hidden_states(self, prompt: Prompt, vectors: Mapping[str, Embedding]) -> tuple[Tensor, ...]:
        """Every layer's output (1, L, d), the embeddings first. Padding is not attended to."""
        missing_concepts(prompt, vectors)
        tokens = prompt.tokens["text_encoder"]
        own = {handle: embedding["text_encoder"] for handle, embedding in vectors.items()}
        attended = (tokens.input_ids != self.tokenizer.pad_token_id).long().to(self.text_device)
        return run_text_encoder(
            language_model(self.text_encoder), tokens, own, attention_mask=attended, output_hidden_states=True,
            use_cache=False,
        ).hidden_states  # fmt: skip

    def word_positions(self, prompt: Prompt, word: str, after: int = -1) -> list[int]:
        """As in the base class. Byte-level tokenizers have other tokens for a word with a space before it."""
        return super().word_positions(prompt, word, after) or super().word_positions(prompt, f" {word}", after)

    def read_attention(self, tokens: Sequence[Any], **options: Any) -> JointAttentionMaps:
        return JointAttentionMaps(self.transformer, self.layout, tokens, **options)

    def read_probabilities(self, latent_size: tuple[int, int], level: int) -> JointAttentionProbabilities:
        """Of all blocks, which have the one size, whatever the ``level``."""
        return JointAttentionProbabilities(self.transformer, partial(self.layout, size=latent_size))

    @abstractmethod
    def layout(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], size: tuple[int, int] | None = None
    ) -> JointSequence:
        """What stands where in the sequence of a call of the transformer; ``size`` (h, w) of the latents if known."""

    # sampling

    def pipeline(self, scheduler: Any = None, *, denoiser_only: bool = False) -> Any:
        import diffusers

        pipeline = getattr(diffusers, self.pipeline_class)(
            scheduler=scheduler or type(self.scheduler).from_config(self.scheduler.config),
            vae=self.no_autoencoder() if denoiser_only else self.vae,
            text_encoder=None if denoiser_only else self.text_encoder, tokenizer=self.tokenizer,
            transformer=self.transformer, **self.pipeline_options_here(),
        )  # fmt: skip
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def pipeline_options_here(self) -> dict[str, Any]:
        """More arguments of the pipeline's class."""
        return {}

    def start_sampler(self, scheduler: Any, steps: int, height: int, width: int, device: torch.device) -> None:
        tokens = (height // self.size_multiple) * (width // self.size_multiple)
        sigmas, mu = self.sampler_levels(scheduler, steps, tokens)
        scheduler.set_timesteps(sigmas=sigmas, mu=mu, device=device)

    @abstractmethod
    def sampler_levels(self, scheduler: Any, steps: int, tokens: int) -> tuple[Any, float]:
        """(noise levels before the shift, its logarithm) that the pipeline gives its sampler for a picture of that
        many patches."""

    def no_autoencoder(self) -> NoAutoencoder:
        """In the autoencoder's place where latents are to come out: pipelines ask it for the latents' size."""
        return NoAutoencoder(SimpleNamespace(block_out_channels=self.vae.config.block_out_channels))

    def load_lora(
        self, pipeline: Any, part: str, tensors: dict[str, Tensor], config: dict[str, Any], name: str
    ) -> None:
        pipeline.load_lora_into_transformer(tensors, transformer=self.transformer, adapter_name=name, metadata=config)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass; transformers honours it only in training mode."""
        self.transformer.enable_gradient_checkpointing()
        if self.text_encoder.config.attention_dropout:
            raise ConfigError("gradient_checkpointing: this text encoder has dropout, which would then be active")
        enable = getattr(self.text_encoder, "activation_checkpointing_enable", None)  # its name from transformers 5.2x
        (enable or self.text_encoder.gradient_checkpointing_enable)({"use_reentrant": False})
        self.text_encoder.train()


@dataclass(frozen=True)
class NoAutoencoder:
    """What a pipeline asks an autoencoder for when it does not decode.

    Attributes:
        config: ``block_out_channels``, and where the pipeline undoes a batch norm, its ``batch_norm_eps``. bn: its
            statistics.
    """

    config: Any
    bn: Any = None


def language_model(encoder: Any) -> Any:
    """The layers of a language model without its head, whichever of transformers' two classes it is of."""
    return getattr(encoder, "model", encoder)
