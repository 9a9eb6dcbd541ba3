"""Stable Diffusion XL (Illustrious, Pony, NoobAI): two text encoders, a pooled vector, six time ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL.Image import Image
from torch import Tensor, nn

from singleinsert.data.subject import Frame
from singleinsert.errors import ModelError
from singleinsert.models.bundled import ASSETS
from singleinsert.models.condition import Condition
from singleinsert.models.families.sd import StableDiffusion, sampling_scheduler
from singleinsert.models.family import Embedding, FileFacts, Prompt, missing_concepts
from singleinsert.models.latents import decode_latents
from singleinsert.models.schedule import NoiseSchedule
from singleinsert.models.split_files import NOTHING, Beside
from singleinsert.models.text import run_on_prompts
from singleinsert.models.vocabulary import clip_tokenizer

_K_PROJECTION = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
_FIRST_LAYER = "model.diffusion_model.input_blocks.0.0.weight"
_PREFIXES = {
    "unet": "lora_unet_", "text_encoder": "lora_te1_text_model_", "text_encoder_2": "lora_te2_text_model_",
}  # fmt: skip
_WIDTH, _REFINER_WIDTH = 2048, 1280
_TIME_IDS = 6  # original height and width, top and left of the crop, height and width of what is drawn
_V_KEY, _ZERO_SNR_KEY = "v_pred", "ztsnr"  # empty tensors in a checkpoint, by which clients know what it is


@dataclass
class StableDiffusionXL(StableDiffusion):
    """A UNet, an autoencoder and tables like Stable Diffusion's; what differs is what the UNet is told."""

    names: ClassVar[tuple[str, ...]] = ("sdxl",)
    title: ClassVar[str] = "Stable Diffusion XL"
    files: ClassVar[Mapping[str, FileFacts]] = {
        "sdxl": FileFacts(
            _PREFIXES, "sdxl_base_v1-0", "stable-diffusion-xl-v1-base", 1024, "SDXL",
            embedding_keys={"text_encoder": "clip_l", "text_encoder_2": "clip_g"},
        )
    }  # fmt: skip
    pipeline_class: ClassVar[str] = "StableDiffusionXLPipeline"
    weight_parts: ClassVar[tuple[str, ...]] = ("unet", "vae", "text_encoder", "text_encoder_2")
    tokenizer_folders: ClassVar[tuple[str, ...]] = ("tokenizer", "tokenizer_2")
    pipeline_options: ClassVar[Mapping[str, Any]] = {"add_watermarker": False}
    text_parts: ClassVar[tuple[str, ...]] = ("text_encoder", "text_encoder_2")

    tokenizer_2: Any
    text_encoder_2: Any

    # loading

    @classmethod
    def from_pipeline(
        cls, pipeline: Any, source: str, model_name: str, device: torch.device | str, prediction_type: str
    ) -> StableDiffusionXL:
        from singleinsert.models.lean import make_lean

        _check_parts(pipeline, source)
        tokenizers, encoders = (
            [getattr(pipeline, f"{kind}{number}") for number in ("", "_2")] for kind in ("tokenizer", "text_encoder")
        )
        length = min(*(t.model_max_length for t in tokenizers), *(e.config.max_position_embeddings for e in encoders))
        for tokenizer in tokenizers:
            tokenizer.model_max_length = length  # states are joined position by position
        for part in (pipeline.unet, pipeline.vae, *encoders):
            part.requires_grad_(False).eval().to(device)
        make_lean(pipeline.unet)
        schedule = NoiseSchedule.from_scheduler(pipeline.scheduler, prediction_type).to(device)
        return cls(
            tokenizer=tokenizers[0], text_encoder=encoders[0], tokenizer_2=tokenizers[1], text_encoder_2=encoders[1],
            unet=pipeline.unet, vae=pipeline.vae, scheduler=sampling_scheduler(pipeline.scheduler, schedule),
            schedule=schedule, name="sdxl", model_name=model_name, source=source,
        )  # fmt: skip

    @classmethod
    def match_checkpoint(cls, shapes: Mapping[str, Sequence[int]]) -> str | None:
        width = shapes[_K_PROJECTION][1] if _K_PROJECTION in shapes else None
        return "sdxl" if width in (_WIDTH, _REFINER_WIDTH) else None

    @classmethod
    def load_checkpoint(
        cls, path: Path, name: str, dtype: torch.dtype, keys: Mapping[str, Sequence[int]], beside: Beside = NOTHING
    ) -> Any:
        from diffusers import StableDiffusionXLPipeline

        if keys[_K_PROJECTION][1] == _REFINER_WIDTH:
            raise ModelError(f"{path} is SDXL's refiner, which only finishes pictures: give a base model")
        if (channels := keys[_FIRST_LAYER][1]) != 4:
            raise ModelError(f"{path}: the UNet has {channels} input channels, an inpainting or other special model")
        pipeline = StableDiffusionXLPipeline.from_single_file(
            str(path), config=str(ASSETS / name), dtype=dtype, local_files_only=True, tokenizer=clip_tokenizer("sd1"),
            tokenizer_2=clip_tokenizer("sd2"), add_watermarker=False,
        )  # fmt: skip
        if _ZERO_SNR_KEY in keys:
            own = pipeline.scheduler
            pipeline.scheduler = type(own).from_config(own.config, rescale_betas_zero_snr=True)
        return pipeline

    @classmethod
    def checkpoint_prediction_type(cls, path: Path, name: str, keys: Mapping[str, Sequence[int]]) -> str:
        return "v_prediction" if _V_KEY in keys else "epsilon"

    # parts

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        return {**super().parts, "text_encoder_2": self.text_encoder_2}

    @property
    def adapted_parts(self) -> Mapping[str, nn.Module]:
        """transformers keeps the second text encoder, which has a projection, one level deeper than the first."""
        return {**self.parts, "text_encoder_2": self.text_encoder_2.text_model}

    @property
    def tokenizers(self) -> Mapping[str, Any]:
        return {"text_encoder": self.tokenizer, "text_encoder_2": self.tokenizer_2}

    @property
    def embedding_widths(self) -> Mapping[str, int]:
        return {part: encoder.config.hidden_size for part, encoder in self.text_encoders.items()}

    # prompts and pictures

    def encode_all(
        self, prompts: Sequence[Prompt], vectors: Mapping[str, Embedding], frames: Sequence[Frame | None]
    ) -> list[Condition]:
        """The states before the last layer of both encoders, side by side, and the second one's projected summary."""
        for prompt in prompts:
            missing_concepts(prompt, vectors)
        outputs = {}
        for part, encoder in self.text_encoders.items():
            own = {handle: embedding[part] for handle, embedding in vectors.items()}
            tokens = [prompt.tokens[part] for prompt in prompts]
            outputs[part] = run_on_prompts(encoder, tokens, own, output_hidden_states=True)
        states = torch.cat([output.hidden_states[-2] for output in outputs.values()], dim=-1)  # (b, L, 768 + 1280)
        pooled = outputs["text_encoder_2"].text_embeds
        found = [{"states": s, "pooled": p} for s, p in zip(states.split(1), pooled.split(1), strict=True)]
        for tensors, frame in zip(found, frames, strict=True):
            if frame is not None:
                tensors["time_ids"] = torch.tensor([[*frame.original, *frame.crop, *frame.size]], device=states.device)
        return [Condition(tensors) for tensors in found]

    def decode(self, latents: Tensor) -> list[Image]:
        """In float32 where the autoencoder's config says that float16 overflows (``force_upcast``)."""
        dtype = self.vae.dtype
        upcast = dtype == torch.float16 and self.vae.config.force_upcast
        if upcast:
            nn.Module.to(self.vae, torch.float32)
        pictures = decode_latents(self.vae, latents)
        if upcast:
            nn.Module.to(self.vae, dtype)
        return pictures

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        batch = len(x_t)
        time_ids = condition.tensors.get("time_ids")
        if time_ids is None:  # a whole picture of the size that is drawn, as diffusers' pipeline says it
            height, width = (side * self.pixels_per_latent for side in x_t.shape[-2:])
            time_ids = torch.tensor([[height, width, 0, 0, height, width]], device=x_t.device)
        told = {
            "text_embeds": condition.tensors["pooled"].to(self.dtype).expand(batch, -1),  # (b, 1280)
            "time_ids": time_ids.expand(batch, -1),  # (b, 6)
        }
        states = condition.states.to(self.dtype).expand(batch, -1, -1)  # (b, L, 2048)
        return self.unet(x_t.to(self.dtype), t, states, added_cond_kwargs=told, return_dict=False)[0]

    # sampling

    def pipeline(self, scheduler: Any = None, *, denoiser_only: bool = False) -> Any:
        from diffusers import StableDiffusionXLPipeline

        others: dict[str, Any] = {} if denoiser_only else {"vae": self.vae, **self.text_encoders}
        pipeline = StableDiffusionXLPipeline(
            vae=others.get("vae"), text_encoder=others.get("text_encoder"),
            text_encoder_2=others.get("text_encoder_2"), tokenizer=self.tokenizer, tokenizer_2=self.tokenizer_2,
            unet=self.unet, scheduler=scheduler or type(self.scheduler).from_config(self.scheduler.config),
            add_watermarker=False,
        )  # fmt: skip
        pipeline.vae_scale_factor = self.pixels_per_latent
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def pipeline_conditions(self, condition: Condition, negative: Condition | None) -> dict[str, Any]:
        """Without time ids the pipeline tells the UNet of a whole picture of the size that it draws."""
        states, pooled = condition.states, condition.tensors["pooled"]
        found: dict[str, Any] = {"prompt_embeds": states, "pooled_prompt_embeds": pooled}
        if negative is not None:
            found["negative_prompt_embeds"] = negative.states.expand_as(states)
            found["negative_pooled_prompt_embeds"] = negative.tensors["pooled"].expand_as(pooled)
        if "time_ids" in condition.tensors:
            original, crop, size = condition.tensors["time_ids"][0].reshape(3, 2).tolist()  # one for the whole batch
            found |= {
                "original_size": tuple(original),
                "crops_coords_top_left": tuple(crop),
                "target_size": tuple(size),
            }
        return found

    def load_lora(
        self, pipeline: Any, part: str, tensors: dict[str, Tensor], config: dict[str, Any], name: str
    ) -> None:
        if part == "text_encoder_2":
            deeper = f"{part}.text_model."
            tensors = {deeper + key.removeprefix(f"{part}."): tensor for key, tensor in tensors.items()}
        super().load_lora(pipeline, part, tensors, config, name)


def _check_parts(pipeline: Any, source: str) -> None:
    """ModelError where these are not the parts of a base model."""
    unet, vae = pipeline.unet.config, pipeline.vae.config
    if unet.in_channels != vae.latent_channels:
        raise ModelError(
            f"{source}: the UNet has {unet.in_channels} input channels, an inpainting or other special model"
        )
    first, second = pipeline.text_encoder.config, pipeline.text_encoder_2.config
    told = second.projection_dim + _TIME_IDS * (unet.addition_time_embed_dim or 0)
    if (
        unet.addition_embed_type != "text_time"
        or unet.cross_attention_dim != first.hidden_size + second.hidden_size
        or unet.projection_class_embeddings_input_dim != told
    ):
        raise ModelError(
            f"{source}: the UNet and the text encoders do not fit each other: this is no base model of "
            f"{StableDiffusionXL.title} (its refiner cannot be trained)"
        )
    if getattr(vae, "latents_mean", None) is not None:
        raise ModelError(
            f"{source}: the autoencoder has statistics per channel (Playground 2.5), which is not supported"
        )
