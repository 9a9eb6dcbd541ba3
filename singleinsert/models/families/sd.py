"""Stable Diffusion 1.x and 2.x: one CLIP or OpenCLIP text encoder, a UNet, alpha-bar tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL.Image import Image
from torch import Tensor, nn

from singleinsert.data.subject import Frame
from singleinsert.errors import ConfigError, ModelError
from singleinsert.models.attention import AttentionProbabilities, CrossAttentionMaps
from singleinsert.models.bundled import ASSETS
from singleinsert.models.condition import Condition
from singleinsert.models.family import Embedding, Family, FileFacts, Prompt, missing_concepts
from singleinsert.models.latents import LatentDistribution, decode_latents, encode_image
from singleinsert.models.schedule import NoiseSchedule
from singleinsert.models.split_files import NOTHING, Beside
from singleinsert.models.text import run_on_prompts
from singleinsert.models.vocabulary import clip_tokenizer

_SCHEDULER_KEYS = (
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "set_alpha_to_one",
    "timestep_spacing", "rescale_betas_zero_snr",
)  # fmt: skip
_K_PROJECTION = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
_PREFIXES = {"unet": "lora_unet_", "text_encoder": "lora_te_text_model_"}
_NAME_OF_WIDTH = {768: "sd1", 1024: "sd2"}


@dataclass
class StableDiffusion(Family):
    """Attributes: name: which text encoder the WebUIs expect: "sd1" (CLIP) or "sd2" (OpenCLIP)."""

    names: ClassVar[tuple[str, ...]] = ("sd1", "sd2")
    title: ClassVar[str] = "Stable Diffusion 1.x and 2.x"
    files: ClassVar[Mapping[str, FileFacts]] = {
        "sd1": FileFacts(_PREFIXES, "sd_v1", "stable-diffusion-v1", 512, "SD1"),
        "sd2": FileFacts(_PREFIXES, "sd_v2", "stable-diffusion-v2-512", 512, "SD2"),
    }
    pipeline_class: ClassVar[str] = "StableDiffusionPipeline"
    weight_parts: ClassVar[tuple[str, ...]] = ("unet", "vae", "text_encoder")
    tokenizer_folders: ClassVar[tuple[str, ...]] = ("tokenizer",)
    pipeline_options: ClassVar[Mapping[str, Any]] = {
        "safety_checker": None, "feature_extractor": None, "image_encoder": None, "requires_safety_checker": False,
    }  # fmt: skip
    denoiser_part: ClassVar[str] = "unet"
    text_parts: ClassVar[tuple[str, ...]] = ("text_encoder",)

    tokenizer: Any
    text_encoder: Any
    unet: Any
    vae: Any
    scheduler: Any
    schedule: NoiseSchedule
    name: str
    model_name: str
    source: str

    # loading

    @classmethod
    def from_pipeline(
        cls, pipeline: Any, source: str, model_name: str, device: torch.device | str, prediction_type: str
    ) -> StableDiffusion:
        from singleinsert.models.lean import make_lean

        unet, vae, text_encoder, tokenizer = pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.tokenizer
        if unet.config.in_channels != vae.config.latent_channels:
            raise ModelError(
                f"{source}: the UNet has {unet.config.in_channels} input channels, an inpainting or other special model"
            )
        if unet.config.cross_attention_dim != text_encoder.config.hidden_size:
            raise ModelError(f"{source}: the UNet and the text encoder do not fit each other: this is no {cls.title}")
        # the length the encoder has positions for, whatever the tokenizer's own config says
        tokenizer.model_max_length = min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)
        for part in (unet, vae, text_encoder):
            part.requires_grad_(False).eval().to(device)
        make_lean(unet)
        schedule = NoiseSchedule.from_scheduler(pipeline.scheduler, prediction_type).to(device)
        return cls(
            tokenizer=tokenizer, text_encoder=text_encoder, unet=unet, vae=vae,
            scheduler=sampling_scheduler(pipeline.scheduler, schedule), schedule=schedule,
            name=name_of(text_encoder.config), model_name=model_name, source=source,
        )  # fmt: skip

    @classmethod
    def match_checkpoint(cls, shapes: Mapping[str, Sequence[int]]) -> str | None:
        return _NAME_OF_WIDTH.get(shapes[_K_PROJECTION][1]) if _K_PROJECTION in shapes else None

    @classmethod
    def load_checkpoint(
        cls, path: Path, name: str, dtype: torch.dtype, keys: Mapping[str, Sequence[int]], beside: Beside = NOTHING
    ) -> Any:
        from diffusers import StableDiffusionPipeline

        return StableDiffusionPipeline.from_single_file(
            str(path), config=str(ASSETS / name), dtype=dtype, local_files_only=True, tokenizer=clip_tokenizer(name),
            safety_checker=None, feature_extractor=None, image_encoder=None,
        )  # fmt: skip

    @classmethod
    def checkpoint_prediction_type(cls, path: Path, name: str, keys: Mapping[str, Sequence[int]]) -> str:
        if name == "sd2":
            raise ModelError(
                f"{path}: an SD 2.x checkpoint does not tell its prediction type: set model.prediction_type to "
                "v_prediction (the 768 px models) or epsilon (the 512 px base models)"
            )
        return "epsilon"

    # parts

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        return {"unet": self.unet, "text_encoder": self.text_encoder, "vae": self.vae}

    @property
    def tokenizers(self) -> Mapping[str, Any]:
        return {"text_encoder": self.tokenizer}

    @property
    def embedding_widths(self) -> Mapping[str, int]:
        return {"text_encoder": self.text_encoder.config.hidden_size}

    @property
    def native_resolution(self) -> int:
        return self.unet.config.sample_size * self.pixels_per_latent

    @property
    def size_multiple(self) -> int:
        return 8

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return self.vae.config.latent_channels, height // self.pixels_per_latent, width // self.pixels_per_latent

    # prompts and pictures

    def encode(self, prompt: Prompt, vectors: Mapping[str, Embedding], frame: Frame | None = None) -> Condition:
        return self.encode_all([prompt], vectors, [frame])[0]

    def encode_all(
        self, prompts: Sequence[Prompt], vectors: Mapping[str, Embedding], frames: Sequence[Frame | None]
    ) -> list[Condition]:
        for prompt in prompts:
            missing_concepts(prompt, vectors)
        own = {handle: embedding["text_encoder"] for handle, embedding in vectors.items()}
        tokens = [prompt.tokens["text_encoder"] for prompt in prompts]
        states = run_on_prompts(self.text_encoder, tokens, own)[0]  # (b, L, d)
        return [Condition({"states": row}) for row in states.split(1)]

    def encode_picture(self, pixels: Tensor) -> LatentDistribution:
        return encode_image(self.vae, pixels)

    def decode(self, latents: Tensor) -> list[Image]:
        return decode_latents(self.vae, latents)

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        states = condition.states.to(self.dtype).expand(len(x_t), -1, -1)  # (1 or b, L, d) -> (b, L, d)
        return self.unet(x_t.to(self.dtype), t, states, return_dict=False)[0]

    # sampling

    def pipeline(self, scheduler: Any = None, *, denoiser_only: bool = False) -> Any:
        from diffusers import StableDiffusionPipeline

        others = {} if denoiser_only else {"vae": self.vae, "text_encoder": self.text_encoder}
        pipeline = StableDiffusionPipeline(
            vae=others.get("vae"), text_encoder=others.get("text_encoder"), tokenizer=self.tokenizer, unet=self.unet,
            scheduler=scheduler or type(self.scheduler).from_config(self.scheduler.config), safety_checker=None,
            feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
        pipeline.vae_scale_factor = self.pixels_per_latent
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def pipeline_conditions(self, condition: Condition, negative: Condition | None) -> dict[str, Any]:
        states = condition.states
        return {
            "prompt_embeds": states,
            "negative_prompt_embeds": None if negative is None else negative.states.expand_as(states),
        }

    def load_lora(
        self, pipeline: Any, part: str, tensors: dict[str, Tensor], config: dict[str, Any], name: str
    ) -> None:
        options: dict[str, Any] = {"network_alphas": None, "adapter_name": name, "metadata": config}
        if part == self.denoiser_part:
            pipeline.load_lora_into_unet(tensors, unet=self.unet, **options)
        else:
            pipeline.load_lora_into_text_encoder(tensors, text_encoder=self.parts[part], prefix=part, **options)

    def read_attention(self, tokens: Sequence[Any], **options: Any) -> CrossAttentionMaps:
        return CrossAttentionMaps(self.unet, tokens, **options)

    def read_probabilities(self, latent_size: tuple[int, int], level: int) -> AttentionProbabilities:
        return AttentionProbabilities(self.unet, latent_size, level)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass, in whichever stage runs.

        transformers honours it only in training mode; CLIP's dropout, the one thing that mode would change, must be 0.
        diffusers honours it wherever a graph is built, so the frozen passes pay nothing.
        """
        self.unet.enable_gradient_checkpointing()
        for encoder in self.text_encoders.values():
            if encoder.config.attention_dropout:
                raise ConfigError("gradient_checkpointing: this text encoder has dropout, which would then be active")
            enable = getattr(encoder, "activation_checkpointing_enable", None)  # its name from transformers 5.2x
            (enable or encoder.gradient_checkpointing_enable)({"use_reentrant": False})
            encoder.train()


def sampling_scheduler(scheduler: Any, schedule: NoiseSchedule) -> Any:
    """DDIM with the tables of a model's own ``scheduler``, for what ``schedule`` says that the model predicts."""
    from diffusers import DDIMScheduler

    known = {key: value for key, value in scheduler.config.items() if key in _SCHEDULER_KEYS}
    known |= {"clip_sample": False, "steps_offset": 1, "prediction_type": schedule.prediction_type}
    if known.get("rescale_betas_zero_snr"):
        known["timestep_spacing"] = "trailing"  # the last row is pure noise, and only this begins there
    return DDIMScheduler.from_config(known)


def name_of(text_config: Any) -> str:
    """By the text encoder: OpenCLIP's (width 1024, true GELU) is SD 2.x, CLIP's (768, quick GELU) SD 1.x."""
    if text_config.hidden_size in _NAME_OF_WIDTH:
        return _NAME_OF_WIDTH[text_config.hidden_size]
    return "sd2" if text_config.hidden_act == "gelu" else "sd1"
