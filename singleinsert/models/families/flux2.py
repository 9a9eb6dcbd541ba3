"""FLUX.2 klein: a flow-matching transformer over packed latents, told by three layers of a Qwen3 language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor, nn

from singleinsert.data.subject import Frame
from singleinsert.errors import ModelError
from singleinsert.models.condition import Condition
from singleinsert.models.family import Embedding, Prompt
from singleinsert.models.file_facts import FileFacts
from singleinsert.models.flow import FlowSchedule
from singleinsert.models.joint_attention import JointSequence
from singleinsert.models.language_flow import PATCH, SHIFT, LanguageFlow, NoAutoencoder
from singleinsert.models.latents import LatentDistribution
from singleinsert.models.split_files import PREFIX

TAPS = (9, 18, 27)
"""Layers of the language model whose outputs, side by side, are the states: embeddings are layer 0."""
_WIDTH_OF_9B = 4096
_PREFIXES = {"transformer": "transformer."}
_BLOCKS = ("transformer_blocks", "single_transformer_blocks")


@dataclass
class Flux2Klein(LanguageFlow):
    """Latents are 2 x 2 patches of the autoencoder's, normalised by the statistics of its batch norm. Prompts are
    padded to 512 tokens, and the transformer attends to the padding too."""

    names: ClassVar[tuple[str, ...]] = ("flux2-klein-4b", "flux2-klein-9b")
    title: ClassVar[str] = "FLUX.2 klein"
    files: ClassVar[Mapping[str, FileFacts]] = {
        f"flux2-klein-{size}": FileFacts(
            _PREFIXES, f"flux2_klein_{size}", f"Flux.2-klein-{size}", 1024, layout="diffusers",
            embedding_keys={"text_encoder": f"qwen3_{size}"}, blocks=_BLOCKS,
        )
        for size in ("4b", "9b")
    }  # fmt: skip
    pipeline_class: ClassVar[str] = "Flux2KleinPipeline"
    base_model: ClassVar[str] = "black-forest-labs/FLUX.2-klein-base-4B"
    layers_read: ClassVar[int | None] = TAPS[-1]  # a fourth of them goes
    thinking: ClassVar[bool] = False

    # loading

    @classmethod
    def match_checkpoint(cls, shapes: Mapping[str, Sequence[int]]) -> str | None:
        """A transformer in its authors' names, as ComfyUI has it; FLUX.2 dev has a guidance input."""
        shapes = {key.removeprefix(PREFIX): shape for key, shape in shapes.items()}
        wanted = {"double_stream_modulation_img.lin.weight", "txt_in.weight"}
        if not wanted <= shapes.keys() or "guidance_in.in_layer.weight" in shapes:
            return None
        return cls.names[int(shapes["txt_in.weight"][1] == len(TAPS) * _WIDTH_OF_9B)]

    @staticmethod
    def convert(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        from diffusers.loaders.single_file_utils import convert_flux2_transformer_checkpoint_to_diffusers

        return convert_flux2_transformer_checkpoint_to_diffusers(tensors)

    @classmethod
    def check_parts(cls, transformer: Any, vae: Any, encoder: Any, source: str) -> None:
        if transformer.guidance_embeds:
            raise ModelError(f"{source} takes guidance as an input (FLUX.2 dev): only {cls.title} is supported")
        if transformer.in_channels != PATCH**2 * vae.latent_channels:
            raise ModelError(f"{source}: the transformer and the autoencoder do not fit each other")
        width = len(TAPS) * encoder.hidden_size
        if transformer.joint_attention_dim != width or encoder.num_hidden_layers <= TAPS[-1]:
            raise ModelError(f"{source}: the transformer and the text encoder do not fit each other")

    @classmethod
    def own_schedule(cls) -> FlowSchedule:
        return FlowSchedule.shifted(SHIFT)

    @classmethod
    def kind_of(cls, encoder: Any) -> str:
        return cls.names[int(encoder.hidden_size == _WIDTH_OF_9B)]

    @classmethod
    def is_distilled(cls, pipeline: Any, source: str) -> bool:
        """A folder says so; of a file only the name tells: the distilled ones have klein in it, and no base."""
        name = Path(source.split(",")[0]).name.lower()
        return bool(getattr(pipeline.config, "is_distilled", "klein" in name and "base" not in name))

    @property
    def layers_told_time(self) -> tuple[nn.Module, ...]:
        """The modulations, which all blocks share: a fourteenth of the weights."""
        model = self.transformer
        return model.double_stream_modulation_img, model.double_stream_modulation_txt, model.single_stream_modulation

    # prompts and pictures

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return self.transformer.config.in_channels, height // self.size_multiple, width // self.size_multiple

    def tokenize(self, prompt: str, handles: Mapping[str, int]) -> Prompt:
        return self.tokenize_padded(prompt, handles, padded=True)

    def encode(self, prompt: Prompt, vectors: Mapping[str, Embedding], frame: Frame | None = None) -> Condition:
        states = self.hidden_states(prompt, vectors)
        return Condition({"states": torch.cat([states[tap] for tap in TAPS], dim=-1)})  # (1, 512, 3 d)

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

    def layout(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], size: tuple[int, int] | None = None
    ) -> JointSequence:
        """Words and then patches, in double and single blocks alike."""
        latents, states = kwargs["hidden_states"], kwargs["encoder_hidden_states"]  # (b, n, c), (b, L, 3 d)
        if size is None:
            last = kwargs["img_ids"].reshape(-1, 4).amax(dim=0).tolist()
            size = (int(last[1]) + 1, int(last[2]) + 1)
        length = states.shape[1]
        return JointSequence(latents, size, length, 0, (length,) * len(latents), length + latents.shape[1])

    # sampling

    def pipeline_options_here(self) -> dict[str, Any]:
        return {"is_distilled": self.distilled}

    def no_autoencoder(self) -> NoAutoencoder:
        """The pipeline undoes the normalisation before latents come out: this one's changes nothing, to the bit."""
        channels = self.transformer.config.in_channels
        plain = SimpleNamespace(running_mean=torch.zeros(channels), running_var=torch.ones(channels))
        shape = self.vae.config.block_out_channels
        return NoAutoencoder(SimpleNamespace(block_out_channels=shape, batch_norm_eps=0.0), plain)

    def pipeline_conditions(self, condition: Condition, negative: Condition | None) -> dict[str, Any]:
        states = condition.states
        return {
            "prompt_embeds": states,
            "negative_prompt_embeds": None if negative is None else negative.states.expand_as(states),
        }

    def sampler_levels(self, scheduler: Any, steps: int, tokens: int) -> tuple[Any, float]:
        from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

        return np.linspace(1.0, 1 / steps, steps), compute_empirical_mu(tokens, steps)

    def unpacked(self, latents: Tensor, height: int, width: int) -> Tensor:
        return latents.transpose(1, 2).unflatten(2, self.latent_shape(height, width)[1:])

    def packed(self, latents: Tensor) -> Tensor:
        return latents.flatten(2).transpose(1, 2)

    def finished(self, latents: Tensor) -> Tensor:
        return _patchify(latents)


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
