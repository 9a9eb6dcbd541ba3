"""FLUX.2 klein: a flow-matching transformer over packed latents, told by three layers of a Qwen3 language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from PIL.Image import Image
from torch import Tensor, nn

from singleinsert.data.subject import Frame
from singleinsert.errors import ConfigError, ModelError
from singleinsert.models.chat import ChatTemplate, tokenize_in_chat
from singleinsert.models.condition import Condition
from singleinsert.models.family import Embedding, Family, FileFacts, Prompt, missing_concepts
from singleinsert.models.flow import FlowSchedule
from singleinsert.models.latents import LatentDistribution
from singleinsert.models.text import run_text_encoder

TAPS = (9, 18, 27)
"""Layers of the language model whose outputs, side by side, are the states: embeddings are layer 0."""
PROMPT_LENGTH = 512
"""Tokens; shorter prompts are padded, and the transformer attends to the padding too."""
PATCH = 2
SHIFT = 2.0
"""Of the noise levels in training: near that of ComfyUI's sampling (2.02), and the most that an x0 loss bears."""
_WIDTH_OF_9B = 4096
_PREFIXES = {"transformer": "transformer."}


@dataclass
class Flux2Klein(Family):
    """Latents are 2 x 2 patches of the autoencoder's, normalised by the statistics of its batch norm.

    Attributes:
        distilled: to a few steps; draws pictures, and is not trained.
        template: what stands around a prompt.
    """

    names: ClassVar[tuple[str, ...]] = ("flux2-klein-4b", "flux2-klein-9b")
    title: ClassVar[str] = "FLUX.2 klein"
    files: ClassVar[Mapping[str, FileFacts]] = {
        f"flux2-klein-{size}": FileFacts(
            _PREFIXES, f"flux2_klein_{size}", f"Flux.2-klein-{size}", 1024, layout="diffusers",
            embedding_keys={"text_encoder": f"qwen3_{size}"},
        )
        for size in ("4b", "9b")
    }  # fmt: skip
    pipeline_class: ClassVar[str] = "Flux2KleinPipeline"
    weight_parts: ClassVar[tuple[str, ...]] = ("transformer", "vae", "text_encoder")
    tokenizer_folders: ClassVar[tuple[str, ...]] = ("tokenizer",)
    denoiser_part: ClassVar[str] = "transformer"
    text_parts: ClassVar[tuple[str, ...]] = ("text_encoder",)

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
    ) -> Flux2Klein:
        if prediction_type not in ("auto", "flow"):
            raise ModelError(f"{source} predicts the flow's velocity: leave model.prediction_type out")
        transformer, vae, encoder = pipeline.transformer, pipeline.vae, pipeline.text_encoder
        _check_parts(transformer.config, vae.config, encoder.config, source)
        # a fourth of it goes; one layer more than are read stays, because the last one's states are normalised
        del encoder.model.layers[TAPS[-1] + 1 :]
        encoder.config.num_hidden_layers = len(encoder.model.layers)
        for part in (transformer, vae, encoder):
            part.requires_grad_(False).eval().to(device)
        return cls(
            tokenizer=pipeline.tokenizer, text_encoder=encoder, transformer=transformer, vae=vae,
            scheduler=pipeline.scheduler, schedule=FlowSchedule.shifted(SHIFT).to(device),
            name=cls.names[int(encoder.config.hidden_size == _WIDTH_OF_9B)], model_name=model_name, source=source,
            distilled=bool(pipeline.config.is_distilled),
            template=ChatTemplate.of(pipeline.tokenizer, enable_thinking=False),
        )  # fmt: skip

    def check_trainable(self) -> None:
        if self.distilled:
            raise ModelError(
                f"{self.source} is distilled to a few steps, which training would undo: train on its base model, such "
                "as black-forest-labs/FLUX.2-klein-base-4B, and draw with this one"
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
        return 128 * self.pixels_per_latent  # the pipeline's default_sample_size, which no config has

    @property
    def size_multiple(self) -> int:
        return PATCH * self.pixels_per_latent

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return self.transformer.config.in_channels, height // self.size_multiple, width // self.size_multiple

    # prompts and pictures

    def tokenize(self, prompt: str, handles: Mapping[str, int]) -> Prompt:
        length = min(PROMPT_LENGTH, self.tokenizer.model_max_length)
        tokens = tokenize_in_chat(self.tokenizer, self.template, prompt, handles, length)
        return Prompt(prompt, {"text_encoder": tokens})

    def encode(self, prompt: Prompt, vectors: Mapping[str, Embedding], frame: Frame | None = None) -> Condition:
        missing_concepts(prompt, vectors)
        tokens = prompt.tokens["text_encoder"]
        own = {handle: embedding["text_encoder"] for handle, embedding in vectors.items()}
        attended = (tokens.input_ids != self.tokenizer.pad_token_id).long().to(self.text_device)
        output = run_text_encoder(
            self.text_encoder.model, tokens, own, attention_mask=attended, output_hidden_states=True, use_cache=False
        )
        return Condition({"states": torch.cat([output.hidden_states[tap] for tap in TAPS], dim=-1)})  # (1, 512, 3 d)

    @torch.no_grad()
    def encode_picture(self, pixels: Tensor) -> LatentDistribution:
        dtype = self.vae.dtype
        nn.Module.to(self.vae, torch.float32)
        posterior = self.vae.encode(pixels.to(self.vae.device, torch.float32)).latent_dist
        mean, std = self._statistics(posterior.mean)
        nn.Module.to(self.vae, dtype)
        return LatentDistribution((_patchify(posterior.mean) - mean) / std, _patchify(posterior.std) / std)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[Image]:
        from diffusers.image_processor import VaeImageProcessor

        latents = latents.to(self.vae.device, self.vae.dtype)
        mean, std = self._statistics(latents)
        pixels = self.vae.decode(_unpatchify(latents * std + mean), return_dict=False)[0]
        return VaeImageProcessor().postprocess(pixels, output_type="pil")

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (1, c, 1, 1) of each channel of the packed latents."""
        norm = self.vae.bn
        std = torch.sqrt(norm.running_var.view(1, -1, 1, 1) + self.vae.config.batch_norm_eps)
        return norm.running_mean.view(1, -1, 1, 1).to(like), std.to(like)

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        states = condition.states.to(self.dtype).expand(len(x_t), -1, -1)  # (b, 512, 3 d)
        return velocity(self.transformer, x_t.to(self.dtype), self.schedule.network_time(t).to(self.dtype), states)

    # sampling

    def sample(
        self, condition: Condition, negative: Condition | None, generators: Sequence[torch.Generator], **options: Any
    ) -> Tensor:
        return _patchify(super().sample(condition, negative, generators, **options))

    def pipeline(self, scheduler: Any = None, *, denoiser_only: bool = False) -> Any:
        from diffusers import Flux2KleinPipeline

        pipeline = Flux2KleinPipeline(
            scheduler=scheduler or type(self.scheduler).from_config(self.scheduler.config),
            vae=self._no_autoencoder() if denoiser_only else self.vae,
            text_encoder=None if denoiser_only else self.text_encoder, tokenizer=self.tokenizer,
            transformer=self.transformer, is_distilled=self.distilled,
        )  # fmt: skip
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _no_autoencoder(self) -> Any:
        """In the autoencoder's place where latents are to come out: the pipeline undoes its normalisation before that,
        and this one's changes nothing, to the last bit."""
        channels = self.transformer.config.in_channels
        plain = SimpleNamespace(running_mean=torch.zeros(channels), running_var=torch.ones(channels))
        config = SimpleNamespace(block_out_channels=self.vae.config.block_out_channels, batch_norm_eps=0.0)
        return _NoAutoencoder(plain, config)

    def pipeline_conditions(self, condition: Condition, negative: Condition | None) -> dict[str, Any]:
        states = condition.states
        return {
            "prompt_embeds": states,
            "negative_prompt_embeds": None if negative is None else negative.states.expand_as(states),
        }

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
class _NoAutoencoder:
    """What the pipeline asks an autoencoder for when it does not decode."""

    bn: Any
    config: Any


def _check_parts(transformer: Any, vae: Any, encoder: Any, source: str) -> None:
    """ModelError where these configs are not those of a klein's parts."""
    if transformer.guidance_embeds:
        raise ModelError(f"{source} takes guidance as an input (FLUX.2 dev): only {Flux2Klein.title} is supported")
    if transformer.in_channels != PATCH**2 * vae.latent_channels:
        raise ModelError(f"{source}: the transformer and the autoencoder do not fit each other")
    if transformer.joint_attention_dim != len(TAPS) * encoder.hidden_size or encoder.num_hidden_layers <= TAPS[-1]:
        raise ModelError(f"{source}: the transformer and the text encoder do not fit each other")


def velocity(transformer: Any, x_s: Tensor, s: Tensor, states: Tensor) -> Tensor:
    """The transformer's output (b, c, h, w) for noisy latents (b, c, h, w) of noise levels s (b,), told ``states``
    (b, L, 3 d)."""
    height, width = x_s.shape[-2:]
    output = transformer(
        hidden_states=x_s.flatten(2).transpose(1, 2), timestep=s, guidance=None, encoder_hidden_states=states,
        txt_ids=_positions(1, 1, states.shape[1], x_s.device), img_ids=_positions(height, width, 1, x_s.device),
        return_dict=False,
    )[0]  # (b, h w, c)  # fmt: skip
    return output.transpose(1, 2).unflatten(2, (height, width))


def _patchify(z: Tensor) -> Tensor:
    """(b, c, 2 h, 2 w) -> (b, 4 c, h, w): a patch's channels are those of its four pixels, c major."""
    return nn.functional.pixel_unshuffle(z, PATCH)


def _unpatchify(latents: Tensor) -> Tensor:
    """The inverse of :func:`_patchify`."""
    return nn.functional.pixel_shuffle(latents, PATCH)


def _positions(height: int, width: int, length: int, device: torch.device) -> Tensor:
    """(n, 4) int64: picture, row, column and place in the text of each token, in their order."""
    axes = [torch.arange(n, device=device) for n in (1, height, width, length)]
    return torch.cartesian_prod(*axes)
