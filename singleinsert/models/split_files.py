"""Models whose parts are files of their own, as ComfyUI keeps them: a transformer, and beside it a text encoder and an
autoencoder. What is not given as a file, the tokenizer and the configs always, comes from a model in diffusers' layout.

    --pretrained_model_name_or_path flux-2-klein-base-4b.safetensors,qwen_3_4b.safetensors,flux2-vae.safetensors

The transformer stands first; which of the others is which is seen by its tensors. A folder or hub id in the list is
that of the rest; without one it is the family's base model on the hub, of which only the missing parts are fetched.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from singleinsert.errors import ModelError, first_line
from singleinsert.models.hub_errors import hub_error

PREFIX = "model.diffusion_model."
_SCALED = ("scale_weight", "weight_scale", "comfy_quant", "scaled_fp8")
Convert = Callable[[dict[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True)
class Beside:
    """What was named beside a transformer's file: other files; a folder in diffusers' layout or hub id, or ""."""

    files: tuple[Path, ...] = ()
    folder: str = ""


NOTHING = Beside()


def split_source(source: str | Path) -> tuple[str, Beside]:
    """The first name of a list with commas between, and the others."""
    if "," not in str(source) or Path(source).exists():
        return str(source), NOTHING
    first, *others = (os.path.expanduser(name.strip()) for name in str(source).split(","))
    files = tuple(Path(name) for name in others if name.endswith(".safetensors"))
    folders = [name for name in others if not name.endswith(".safetensors")]
    if len(folders) > 1 or not first.endswith(".safetensors") or not all(others):
        raise ModelError(
            f"{source} is no list of a model's parts: the transformer's .safetensors file, then those of text encoder "
            "and autoencoder, then at most one folder or hub id for the rest"
        )
    return first, Beside(files, folders[0] if folders else "")


def absolute_source(source: str) -> str:
    """A model's source with whole paths, so that it is found from everywhere; hub ids stay what they are."""
    names = [source] if Path(source).exists() else [name.strip() for name in source.split(",")]
    return ",".join(str(Path(name).resolve()) if Path(name).exists() else name for name in names)


def load_parts(
    pipeline_class: str, transformer: Path, beside: Beside, rest: str, dtype: torch.dtype, convert: Convert
) -> Any:
    """The parts of a pipeline by name, for ``Family.from_pipeline``.

    Args:
        rest: a folder in diffusers' layout or hub id, for what no file holds. convert: the transformer's tensors from
            its authors' names to diffusers'.

    Raises:
        ModelError: a file that is none of the parts, or does not fit its config; no such folder or hub id.
    """
    files = {_part_of(path): path for path in beside.files}
    found: dict[str, Any] = {}
    try:
        index = _index(rest)
        if index.get("_class_name") != pipeline_class:
            raise ModelError(f"{rest} is a {index.get('_class_name')}, and {transformer} wants a {pipeline_class}")
        for part in ("transformer", "vae", "text_encoder", "tokenizer", "scheduler"):
            cls = _class_of(index, part)
            path = transformer if part == "transformer" else files.get(part)
            if path is None:
                found[part] = cls.from_pretrained(rest, subfolder=part, **_options(part, dtype))
            else:
                found[part] = _from_file(cls, part, path, rest, convert).to(dtype)
    except ModelError:
        raise
    except Exception as error:  # diffusers, transformers and the hub have errors of their own
        raise hub_error(rest, error, f"what {transformer.name} does not hold is not to be had there") from error
    return SimpleNamespace(**found, config=SimpleNamespace())


def _options(part: str, dtype: torch.dtype) -> dict[str, Any]:
    return {"dtype" if part == "text_encoder" else "torch_dtype": dtype} if part in ("vae", "text_encoder") else {}


def _index(rest: str) -> Mapping[str, Any]:
    from diffusers import DiffusionPipeline

    return DiffusionPipeline.load_config(rest)


def _class_of(index: Mapping[str, Any], part: str) -> Any:
    import diffusers
    import transformers

    library, name = index[part]
    return getattr(diffusers if library == "diffusers" else transformers, name)


def _part_of(path: Path) -> str:
    from singleinsert.models.single_file import read_header

    shapes, _ = read_header(path)
    if any(key.endswith("embed_tokens.weight") for key in shapes):
        return "text_encoder"
    if any(key.startswith("decoder.conv_in.") for key in shapes):
        return "vae"
    raise ModelError(f"{path} is neither a Qwen3 text encoder nor an autoencoder")


def refuse_scaled(path: Path, keys: Sequence[str]) -> None:
    """ModelError where a file's weights are 8 bits and their scales stand beside them."""
    if any(key.endswith(_SCALED) for key in keys):
        raise ModelError(f"{path} has weights of 8 bits with scales beside them: take the file in bfloat16")


def _from_file(cls: Any, part: str, path: Path, rest: str, convert: Convert) -> nn.Module:
    """A part from its file, with the config of the ``rest``."""
    from accelerate import init_empty_weights
    from safetensors.torch import load_file

    tensors = load_file(path)
    refuse_scaled(path, list(tensors))
    with init_empty_weights():
        if part == "text_encoder":
            config = cls.config_class.from_pretrained(rest, subfolder=part)
            model = cls(config)
        else:
            config = cls.load_config(rest, subfolder=part)
            model = cls.from_config(config)
    target: nn.Module = model
    if part == "transformer":
        tensors = convert({key.removeprefix(PREFIX): tensor for key, tensor in tensors.items()})
    elif part == "vae":
        tensors = _autoencoder(tensors, model.config)
    else:
        target = getattr(model, "model", model)  # the head, which is not read, may be left out of the file
        tensors = {key.removeprefix("model."): x for key, x in tensors.items() if not key.startswith("lm_head.")}
    try:
        target.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        raise ModelError(f"{path} does not fit the config of {rest}'s {part}: {first_line(error)}") from error
    if part == "text_encoder":
        model.tie_weights()
    return model.requires_grad_(False).eval()


def _autoencoder(tensors: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
    """An autoencoder's tensors in diffusers' names, from those or its authors'."""
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    if not any(key.startswith("encoder.down.") for key in tensors):
        return tensors
    inner = {"encoder.quant_conv.": "quant_conv.", "decoder.post_quant_conv.": "post_quant_conv."}
    for old, new in inner.items():
        tensors = {key.replace(old, new) if key.startswith(old) else key: x for key, x in tensors.items()}
    norm = {key: x for key, x in tensors.items() if key.startswith("bn.")}
    return convert_ldm_vae_checkpoint(tensors, config) | norm
