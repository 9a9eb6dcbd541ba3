"""Z-Image: a flow-matching transformer of one stream, told by a Qwen3 language model; its autoencoder is FLUX.1's.

The network says ``x0 - eps``, and is told 1 - s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL.Image import Image
from torch import Tensor

from singleinsert.data.subject import Frame
from singleinsert.errors import ModelError
from singleinsert.models.condition import Condition
from singleinsert.models.family import Embedding, Prompt
from singleinsert.models.file_facts import FileFacts
from singleinsert.models.flow import FlowSchedule
from singleinsert.models.joint_attention import JointSequence
from singleinsert.models.language_flow import PATCH, SHIFT, LanguageFlow
from singleinsert.models.latents import LatentDistribution, decode_latents, encode_image
from singleinsert.models.split_files import PREFIX


@dataclass
class ZImage(LanguageFlow):
    """Prompts are not padded: each has states of its own length, the last but one of the language model's layers."""

    names: ClassVar[tuple[str, ...]] = ("z-image",)
    title: ClassVar[str] = "Z-Image"
    files: ClassVar[Mapping[str, FileFacts]] = {
        # Forge Neo does not know the prefix "transformer."; all clients know this one
        "z-image": FileFacts(
            {"transformer": "diffusion_model."}, "z_image", "Z-Image", 1024, layout="diffusers",
            embedding_keys={"text_encoder": "qwen3_4b"}, blocks=("layers", "noise_refiner", "context_refiner"),
        )
    }  # fmt: skip
    pipeline_class: ClassVar[str] = "ZImagePipeline"
    base_model: ClassVar[str] = "Tongyi-MAI/Z-Image"
    thinking: ClassVar[bool] = True  # which adds nothing to the template

    # loading

    @classmethod
    def match_checkpoint(cls, shapes: Mapping[str, Sequence[int]]) -> str | None:
        """A transformer in its authors' names, as ComfyUI has it."""
        shapes = {key.removeprefix(PREFIX): shape for key, shape in shapes.items()}
        wanted = {"cap_embedder.1.weight", "layers.0.attention.qkv.weight", "cap_pad_token"}
        return cls.names[0] if wanted <= shapes.keys() else None

    @staticmethod
    def convert(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        from diffusers.loaders.single_file_utils import convert_z_image_transformer_checkpoint_to_diffusers

        return convert_z_image_transformer_checkpoint_to_diffusers(tensors)

    @classmethod
    def check_parts(cls, transformer: Any, vae: Any, encoder: Any, source: str) -> None:
        if transformer.siglip_feat_dim is not None:
            raise ModelError(f"{source} is told by pictures too (Z-Image Omni): only {cls.title} is supported")
        if transformer.in_channels != vae.latent_channels:
            raise ModelError(f"{source}: the transformer and the autoencoder do not fit each other")
        if transformer.cap_feat_dim != encoder.hidden_size:
            raise ModelError(f"{source}: the transformer and the text encoder do not fit each other")

    @classmethod
    def own_schedule(cls) -> FlowSchedule:
        return FlowSchedule.shifted(SHIFT, sign=-1, time="1-s")

    @classmethod
    def is_distilled(cls, pipeline: Any, source: str) -> bool:
        """By the name alone: in config and weights Z-Image Turbo is what Z-Image is."""
        return "turbo" in Path(source.split(",")[0]).name.lower()

    # prompts and pictures

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        down = self.pixels_per_latent
        return self.transformer.config.in_channels, height // down, width // down

    def tokenize(self, prompt: str, handles: Mapping[str, int]) -> Prompt:
        return self.tokenize_padded(prompt, handles, padded=False)

    def encode(self, prompt: Prompt, vectors: Mapping[str, Embedding], frame: Frame | None = None) -> Condition:
        states = self.hidden_states(prompt, vectors)[-2]  # (1, L, d)
        return Condition({"states": states}, (states.shape[1],))

    def encode_picture(self, pixels: Tensor) -> LatentDistribution:
        return encode_image(self.vae, pixels)

    def decode(self, latents: Tensor) -> list[Image]:
        return decode_latents(self.vae, latents)

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        if condition.batch < len(x_t):
            condition = condition.expand(len(x_t))
        pictures = list(x_t.to(self.dtype).unsqueeze(2).unbind())  # (c, 1, h, w) each
        output = self.transformer(
            pictures, self.schedule.network_time(t), condition.to(dtype=self.dtype).rows(), return_dict=False
        )[0]
        return torch.stack(output).squeeze(2)

    def layout(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], size: tuple[int, int] | None = None
    ) -> JointSequence:
        """Patches and then words, each rounded up to a multiple; refiners before see one of the two."""
        from diffusers.models.transformers.transformer_z_image import SEQ_MULTI_OF

        pictures, _, states = args
        height, width = (side // PATCH for side in pictures[0].shape[-2:])
        lengths = tuple(len(each) for each in states)
        patches, words = (-(-n // SEQ_MULTI_OF) * SEQ_MULTI_OF for n in (height * width, max(lengths)))
        return JointSequence(pictures, (height, width), 0, patches, lengths, patches + words)

    # sampling

    def pipeline_conditions(self, condition: Condition, negative: Condition | None) -> dict[str, Any]:
        if negative is not None and negative.batch < condition.batch:
            negative = negative.expand(condition.batch)
        return {
            "prompt_embeds": condition.rows(),
            "negative_prompt_embeds": None if negative is None else negative.rows(),
        }

    def sampler_levels(self, scheduler: Any, steps: int, tokens: int) -> tuple[Any, float]:
        from diffusers.pipelines.z_image import pipeline_z_image as theirs

        own = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}
        told = [scheduler.config.get(name, value) for name, value in own.items()]
        return theirs.get_default_z_image_sigmas(steps), theirs.calculate_shift(tokens, *told)

    def pipeline_guidance(self, scale: float) -> float:
        """The pipeline counts what is added to the prompt's prediction: 0 is none, and 3 is what others call 4."""
        return scale - 1
