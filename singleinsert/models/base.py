"""The base model, from a diffusers folder, a hub id or one ``.safetensors`` file; frozen, one dtype, one device."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from singleinsert.errors import ModelError, first_line
from singleinsert.models.schedule import NoiseSchedule

Family = Literal["sd1", "sd2"]

ASSETS = Path(__file__).resolve().parent.parent / "assets"
MINI_SD = ASSETS / "mini-sd"

WEIGHTS = ("unet", "vae", "text_encoder")


@dataclass
class BaseModel:
    """Stable Diffusion's parts. Nothing in it requires a gradient until an adapter is put in.

    Attributes:
        scheduler: diffusers' DDIMScheduler with the model's tables, for sampling.
        schedule: the same tables for training, on the model's device.
        family: which text encoder the WebUIs expect: "sd1" (CLIP) or "sd2" (OpenCLIP).
        source: what :func:`load_base_model` was given. name: its short form, for metadata.
    """

    tokenizer: Any
    text_encoder: Any
    unet: Any
    vae: Any
    scheduler: Any
    schedule: NoiseSchedule
    family: Family
    source: str
    name: str

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    @property
    def text_width(self) -> int:
        """Width of the text encoder's input embeddings: 768 for SD 1.x, 1024 for SD 2.x."""
        return self.text_encoder.config.hidden_size

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent, along one side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def native_resolution(self) -> int:
        """Side in pixels of the pictures that the UNet was trained on."""
        return self.unet.config.sample_size * self.vae_scale_factor


def load_base_model(
    source: str | Path,
    *,
    revision: str | None = None,
    variant: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    prediction_type: str = "auto",
) -> BaseModel:
    """Load a Stable Diffusion 1.x or 2.x model.

    Args:
        source: a folder in diffusers' layout, a hub id, or a ``.safetensors`` checkpoint as WebUIs use.
        revision, variant: as in diffusers, for folders and hub ids.
        prediction_type: "auto" believes the model's scheduler config (a checkpoint: its metadata).

    Raises:
        ModelError: one line: what is missing or not supported, and what to do.
    """
    _quiet()
    path = Path(source)
    if path.suffix in (".ckpt", ".pt", ".pth", ".bin"):
        raise ModelError(f"{source}: pickle checkpoints are not loaded, they can run code: convert it to .safetensors")
    if path.suffix == ".safetensors":
        from singleinsert.models.single_file import load_single_file

        pipeline, prediction_type = load_single_file(path, dtype, prediction_type)
    else:
        pipeline = _load_folder_or_hub(source, path, revision, variant, dtype, torch.device(device))
    return _assemble(pipeline, source, device, prediction_type)


def _quiet() -> None:
    """No bars for files that load in a moment, no advice on packages (torchvision) that must not be installed."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def _load_folder_or_hub(
    source: str | Path, path: Path, revision: str | None, variant: str | None, dtype: torch.dtype, device: torch.device
) -> Any:
    """diffusers' pipeline, each tensor straight to ``device`` (of its type the current one) and in ``dtype``."""
    from diffusers import StableDiffusionPipeline

    if path.is_dir():
        check_folder(path, variant)
    elif str(source).startswith((".", "/", "~")) or str(source).count("/") != 1 or path.is_file():
        raise ModelError(f"no model folder {source}: give a diffusers folder, a .safetensors file or a hub id")
    try:
        return StableDiffusionPipeline.from_pretrained(
            str(source), revision=revision, variant=variant, dtype=dtype, device_map=device.type, use_safetensors=True,
            safety_checker=None, feature_extractor=None, image_encoder=None, requires_safety_checker=False,
        )  # fmt: skip
    except Exception as error:  # diffusers, transformers, the hub: each has errors of its own
        if "cached locally" in str(error):
            raise ModelError(
                f"{source}: the hub was not reached, and the model is not in its cache: give a folder in diffusers' "
                "layout or a .safetensors file, or go online (without HF_HUB_OFFLINE)"
            ) from error
        raise ModelError(f"{source}: cannot be loaded as Stable Diffusion 1.x or 2.x: {first_line(error)}") from error


def check_folder(folder: Path, variant: str | None = None) -> None:
    """Raise ModelError, in one line, where a diffusers folder is incomplete or of another kind of model."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise ModelError(f"{folder} is no diffusers model: model_index.json is missing")
    try:
        kind = json.loads(index.read_text())["_class_name"]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ModelError(f"{index} cannot be read: {first_line(error)}") from error
    if kind != "StableDiffusionPipeline":
        raise ModelError(f"{folder} is a {kind}: only Stable Diffusion 1.x and 2.x are supported")
    wanted = {f"{part}/config.json": part for part in WEIGHTS}
    wanted["scheduler/scheduler_config.json"] = "scheduler"
    missing = [name for name in wanted if not (folder / name).is_file()]
    if not any((folder / "tokenizer" / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        missing.append("tokenizer/tokenizer.json (or vocab.json and merges.txt)")
    missing += [
        f"{part}/{_weights_problem(folder / part, variant)}"
        for part in WEIGHTS
        if _weights_problem(folder / part, variant)
    ]
    if missing:
        raise ModelError(f"model folder {folder} is incomplete: {', '.join(missing)} missing")


def _weights_problem(folder: Path, variant: str | None) -> str:
    """What to say of a part's weights, "" where they are there."""
    middle = f".{variant}" if variant else ""
    if any(folder.glob(f"*model{middle}.safetensors*")) or any(folder.glob(f"*model{middle}-*.safetensors")):
        return ""
    others = sorted(file.name for pattern in ("*.safetensors", "*.bin") for file in folder.glob(pattern))
    return f"*model{middle}.safetensors" + (f" (there is {others[0]})" if others else "")


def _assemble(pipeline: Any, source: str | Path, device: torch.device | str, prediction_type: str) -> BaseModel:
    from diffusers import DDIMScheduler

    unet, vae, text_encoder, tokenizer = pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.tokenizer
    if unet.config.in_channels != vae.config.latent_channels:
        raise ModelError(
            f"{source}: the UNet has {unet.config.in_channels} input channels, an inpainting or other special model"
        )
    if unet.config.cross_attention_dim != text_encoder.config.hidden_size:
        raise ModelError(f"{source}: only Stable Diffusion 1.x and 2.x are supported")
    # the length the encoder has positions for, whatever the tokenizer's own config says
    tokenizer.model_max_length = min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)
    for part in (unet, vae, text_encoder):
        part.requires_grad_(False).eval().to(device)
    schedule = NoiseSchedule.from_scheduler(pipeline.scheduler, prediction_type).to(device)
    known = {key: value for key, value in pipeline.scheduler.config.items() if key in _SCHEDULER_KEYS}
    known |= {"clip_sample": False, "steps_offset": 1, "prediction_type": schedule.prediction_type}
    return BaseModel(
        tokenizer=tokenizer, text_encoder=text_encoder, unet=unet, vae=vae, scheduler=DDIMScheduler.from_config(known),
        schedule=schedule, family=family_of(text_encoder.config), source=str(source), name=short_name(source),
    )  # fmt: skip


_SCHEDULER_KEYS = (
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "set_alpha_to_one",
    "timestep_spacing", "rescale_betas_zero_snr",
)  # fmt: skip


def family_of(text_config: Any) -> Family:
    """By the text encoder: OpenCLIP's (width 1024, true GELU) is SD 2.x, CLIP's (768, quick GELU) SD 1.x."""
    if text_config.hidden_size in (768, 1024):
        return "sd1" if text_config.hidden_size == 768 else "sd2"
    return "sd2" if text_config.hidden_act == "gelu" else "sd1"


def short_name(source: str | Path) -> str:
    """Folder name, file stem, or the last part of a hub id."""
    name = Path(source).expanduser().name or str(source)
    return name.removesuffix(".safetensors")
