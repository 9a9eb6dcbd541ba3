"""The encoders that the metrics are measured with: CLIP, DINO and DINOv2 through transformers, LPIPS (lpips.py).

"mini" is the miniature world's own, bundled: a small CLIP, an instance-trained ViT in DINO's place and a small network
in AlexNet's, all trained by `python -m testbed.backbones`. They know drawings of that world and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from singleinsert.errors import InputError, ModelError, first_line
from singleinsert.metrics import lpips
from singleinsert.metrics.esr import of_ones_own
from singleinsert.models.bundled import ASSETS

MINI = ASSETS / "mini-eval"
BATCH = 32
CLIP_STATISTICS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
FILES = "config.json, model.safetensors and preprocessor_config.json"
TEXT_FILES = f"{FILES}, tokenizer.json (or vocab.json and merges.txt) and tokenizer_config.json"


class ImageEncoder(Protocol):
    name: str

    def images(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Pictures -> unit vectors (n, d) float32 on the CPU."""
        ...


class TextImageEncoder(ImageEncoder, Protocol):
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> unit vectors (n, d) float32 on the CPU, comparable with those of pictures."""
        ...


class PerceptualDistance(Protocol):
    name: str

    def __call__(self, a: Sequence[Image.Image], b: Sequence[Image.Image]) -> Tensor:
        """Pairs of pictures of one size -> distances (n,) float32 on the CPU, 0 for the same picture."""
        ...


class Preparation:
    """What an encoder's `preprocessor_config.json` asks for, without its library's processors, of which the quick ones
    need torchvision. Resizing is PIL's, as in the processors that CLIP and DINO were published with."""

    def __init__(self, config: dict[str, Any], default_size: int, statistics: Any) -> None:
        size = config.get("size", default_size)
        self.resize = config.get("do_resize", True)
        self.size = size if isinstance(size, dict) else {"shortest_edge": size}
        self.resample = Image.Resampling(config.get("resample", Image.Resampling.BICUBIC))
        crop = config.get("crop_size", default_size)
        self.crop = (crop, crop) if isinstance(crop, int) else (crop["height"], crop["width"])
        self.centre_crop = config.get("do_center_crop", "shortest_edge" in self.size)
        mean, std = config.get("image_mean") or statistics[0], config.get("image_std") or statistics[1]
        self.mean, self.std = (torch.tensor(v, dtype=torch.float32)[:, None, None] for v in (mean, std))

    def __call__(self, picture: Image.Image) -> Tensor:
        """A picture -> (3, h, w) float32, normalised."""
        picture = picture.convert("RGB")
        if self.resize:
            picture = picture.resize(self._target(picture.size), self.resample)
        if self.centre_crop:
            height, width = self.crop
            left, top = (picture.width - width) // 2, (picture.height - height) // 2
            picture = picture.crop((left, top, left + width, top + height))
        values = torch.from_numpy(np.array(picture, np.float32) / 255).permute(2, 0, 1)
        return (values - self.mean) / self.std

    def _target(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) after resizing; the longer side is rounded down, as the processors do."""
        if "shortest_edge" not in self.size:
            return self.size["width"], self.size["height"]
        edge, short = self.size["shortest_edge"], min(size)
        return (int(edge * size[0] / short), int(edge * size[1] / short)) if size[0] != size[1] else (edge, edge)


class _Encoder:
    def __init__(self, model: Any, prepare: Preparation, name: str) -> None:
        self._model, self._prepare, self.name = model.eval().requires_grad_(False), prepare, name

    def _features(self, pixels: Tensor) -> Tensor:
        raise NotImplementedError

    @torch.no_grad()
    def images(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Pictures -> unit vectors (n, d) float32 on the CPU."""
        where, parts = self._model.device, []
        for k in range(0, len(pictures), BATCH):
            pixels = torch.stack([self._prepare(picture) for picture in pictures[k : k + BATCH]])
            parts.append(F.normalize(self._features(pixels.to(where)).float(), dim=-1).cpu())
        return torch.cat(parts) if parts else torch.zeros(0, 1)


class Clip(_Encoder):
    """CLIP's two towers (Radford et al. 2021)."""

    def __init__(self, model: Any, tokenizer: Any, prepare: Preparation, name: str) -> None:
        super().__init__(model, prepare, name)
        self._tokenizer = tokenizer
        self._length = model.config.text_config.max_position_embeddings

    def _features(self, pixels: Tensor) -> Tensor:
        return self._model.visual_projection(self._model.vision_model(pixel_values=pixels).pooler_output)

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> unit vectors (n, d) float32 on the CPU; what is longer than the encoder reads is cut off."""
        where, parts = self._model.device, []
        for k in range(0, len(prompts), BATCH):
            ids = self._tokenizer(list(prompts[k : k + BATCH]), padding="max_length", truncation=True,
                                  max_length=self._length, return_tensors="pt").input_ids  # fmt: skip
            pooled = self._model.text_model(input_ids=ids.to(where)).pooler_output
            parts.append(F.normalize(self._model.text_projection(pooled).float(), dim=-1).cpu())
        return torch.cat(parts) if parts else torch.zeros(0, 1)


class Dino(_Encoder):
    """The class token of DINO (Caron et al. 2021) or DINOv2 (Oquab et al. 2023) after the last norm."""

    def _features(self, pixels: Tensor) -> Tensor:
        return self._model(pixel_values=pixels).last_hidden_state[:, 0]


def load_clip(name: str, device: torch.device | str = "cpu") -> TextImageEncoder:
    """ "mini", a hub id ("openai/clip-vit-base-patch32", "openai/clip-vit-large-patch14") or a folder of a CLIPModel.

    Raises:
        ModelError: one line that says which files are needed, or that the model is no CLIP.
    """
    from transformers import CLIPModel, CLIPTokenizer

    source = _source(name, "clip", TEXT_FILES)
    config = _config(source, name, ("clip",), "CLIP")
    try:
        model = CLIPModel.from_pretrained(source, use_safetensors=True, dtype=torch.float32)
        tokenizer = CLIPTokenizer.from_pretrained(source)
        if 2 * len(tokenizer) < config["text_config"].get("vocab_size", len(tokenizer)):
            raise ValueError("the tokenizer's files are missing")  # transformers makes an empty one without a word
        size = config["vision_config"].get("image_size", 224)
        prepare = Preparation(_preprocessor(source), size, CLIP_STATISTICS)
    except Exception as problem:  # transformers, the hub, json: each has errors of its own
        raise _cannot(name, TEXT_FILES, problem) from problem
    return Clip(model.to(device), tokenizer, prepare, f"CLIP {_short(name)}")


def load_dino(name: str, device: torch.device | str = "cpu") -> ImageEncoder:
    """ "mini", a hub id ("facebook/dino-vits16", "facebook/dino-vitb16", "facebook/dinov2-base") or a folder of a
    ViTModel or Dinov2Model.

    Raises:
        ModelError: one line that says which files are needed, or that the model is another one.
    """
    from transformers import AutoModel, ViTModel

    source = _source(name, "vit", FILES)
    config = _config(source, name, ("vit", "dinov2", "dinov2_with_registers"), "DINO")
    try:
        if config["model_type"] == "vit":
            # the pooler of ViTModel is not in DINO's files and would be made up at random
            model: Any = ViTModel.from_pretrained(
                source, add_pooling_layer=False, use_safetensors=True, dtype=torch.float32
            )
        else:
            model = AutoModel.from_pretrained(source, use_safetensors=True, dtype=torch.float32)
        prepare = Preparation(_preprocessor(source), config.get("image_size", 224), IMAGENET_STATISTICS)
    except Exception as problem:  # transformers, the hub, json: each has errors of its own
        raise _cannot(name, FILES, problem) from problem
    return Dino(model.to(device), prepare, f"DINO {_short(name)}")


def load_looks(name: str, device: torch.device | str = "cpu") -> ImageEncoder:
    """What tells a scene's concepts apart by their cut-outs: as :func:`load_dino`, or "python:MODULE:ATTRIBUTE", an
    encoder of one's own.

    Raises:
        InputError, ModelError: one line.
    """
    kind, _, rest = name.partition(":")
    if kind != "python":
        return load_dino(name, device)
    found = of_ones_own(rest, "encoder")
    if not callable(getattr(found, "images", None)):
        raise InputError(f"encoder {name}: it has no method images(pictures)")
    return found


def load_lpips(name: str, device: torch.device | str = "cpu") -> PerceptualDistance:
    """ "mini", "alex", "vgg", or a folder with torchvision's file of AlexNet's or VGG16's weights.

    Raises:
        ModelError: one line that says which file is needed and where it goes.
    """
    return lpips.load(name, device)


def _source(name: str, mini: str, files: str) -> str:
    """The folder or hub id to load from."""
    if name == "mini":
        if not (MINI / mini).is_dir():
            raise ModelError(f"{MINI / mini} is missing: in a checkout, python -m testbed.backbones makes it")
        return str(MINI / mini)
    if not Path(name).is_dir() and (name.startswith((".", "/", "~")) or name.count("/") != 1):
        raise ModelError(f'no folder {name}: give "mini", a hub id, or a folder with {files}')
    return name


def _config(source: str, name: str, kinds: tuple[str, ...], what: str) -> dict[str, Any]:
    from transformers import PreTrainedConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # DINO's files hold no pooler, CLIP's hold positions that are computed: no news
    try:
        config = PreTrainedConfig.get_config_dict(source)[0]
    except Exception as problem:  # transformers and the hub have errors of their own
        raise _cannot(name, TEXT_FILES if what == "CLIP" else FILES, problem) from problem
    if not config or "model_type" not in config:
        raise _cannot(name, TEXT_FILES if what == "CLIP" else FILES, ValueError("config.json is missing or empty"))
    if config["model_type"] not in kinds:
        raise ModelError(f"{name} is a {config['model_type']} model, not {what} ({', '.join(kinds)})")
    return config


def _preprocessor(source: str) -> dict[str, Any]:
    """preprocessor_config.json; empty where there is none, then CLIP's and DINO's published defaults hold."""
    from transformers.utils import cached_file

    file = cached_file(source, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False,
                       _raise_exceptions_for_connection_errors=False)  # fmt: skip
    return json.loads(Path(file).read_text(encoding="utf-8")) if file else {}


def _cannot(name: str, files: str, problem: Exception) -> ModelError:
    where = "in the folder" if Path(name).is_dir() else "in the hub's cache, or in a folder given in its place,"
    return ModelError(f"{name} cannot be loaded: it needs {files} {where.rstrip(',')} ({first_line(problem)})")


def _short(name: str) -> str:
    return Path(name).name or name
