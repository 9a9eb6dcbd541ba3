"""Concepts from the files that clients use: an embedding and, beside it or not, a LoRA. Ours or anyone's.

Embeddings: ``emb_params`` (kohya), the trigger word (diffusers), ``string_to_param`` (A1111), ``clip_l``;
shape (d,) or (n, d). LoRA: kohya's, diffusers' and peft's names; A1111's bundle holds both in one file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from singleinsert.adapters.naming import LoraKey, parse_lora_key
from singleinsert.adapters.weights import LoraWeights
from singleinsert.artifact import HEADER_KEY, SUFFIX, Artifact, BaseInfo, Lora, check, read_safetensors
from singleinsert.errors import InputError, ModelError, first_line

BUNDLE_PREFIX = "bundle_emb."
ADAPTER_METADATA_KEY = "lora_adapter_metadata"  # diffusers' header key for peft's configuration
PICKLE_SUFFIXES = (".pt", ".bin", ".ckpt", ".pth")
DIFFUSERS_EMBEDDING, DIFFUSERS_LORA = "learned_embeds.safetensors", "pytorch_lora_weights.safetensors"
OUTPUT = Path("output")  # where training runs write when not told otherwise
SD2_WIDTH, SDXL_SECOND_WIDTH = 1024, 1280


def load_pair(embedding_file: Path, lora_file: Path | None = None, *, allow_pickle: bool = False) -> Artifact:
    """A concept from exported files, ours or another trainer's.

    Args:
        embedding_file: a textual embedding; or an A1111 bundle, which holds the LoRA as well.
        lora_file: a LoRA for SD 1.x or 2.x; None for an embedding alone.
        allow_pickle: read .pt and .bin files too (by torch's loader for plain tensors, which runs no code).

    Raises InputError (no such file, pickle not allowed) or ModelError (not such a file, SDXL, damaged).
    """
    tensors, header = _read(embedding_file, allow_pickle)
    bundled = {key: tensor for key, tensor in tensors.items() if key.startswith(BUNDLE_PREFIX)}
    lora: Lora = {}
    name, of_lora = embedding_file.stem, lora_file
    if bundled:
        names = {key.split(".")[1] for key in bundled}
        if len(names) > 1:
            raise ModelError(f"{embedding_file} bundles several embeddings ({', '.join(sorted(names))}); one is wanted")
        (name,), of_lora = names, embedding_file
        lora = _lora_weights(tensors, header, embedding_file)
        tensors = {key.split(".", 2)[2]: tensor for key, tensor in bundled.items()}
    embedding = _embedding(tensors, embedding_file)
    if lora_file is not None:
        lora_tensors, lora_header = _read(lora_file, allow_pickle)
        lora = _lora_weights(lora_tensors, lora_header, lora_file)
        header = {**lora_header, **header}
    artifact = replace(_described(embedding_file, embedding, lora, header), name=name)
    if of_lora is not None and of_lora.name != DIFFUSERS_LORA:
        artifact = replace(artifact, lora_file=of_lora.stem)
    check(artifact, f"{embedding_file}" + (f" with {lora_file}" if lora_file else ""))
    return artifact


def is_lora(keys: Iterable[str]) -> bool:
    """Whether the names of a file's tensors look like a LoRA's."""
    return any("lora" in key for key in keys)


def _read(path: Path, allow_pickle: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
    if path.suffix.lower() not in PICKLE_SUFFIXES:
        return read_safetensors(path)
    if not path.is_file():
        raise InputError(f"no file {path}")
    if not allow_pickle:
        raise InputError(f"{path} is a pickle file, and such files can run code: pass --allow_pickle if you trust it")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelError(f"{path} holds more than plain tensors, or is damaged: {first_line(error)}") from error
    if isinstance(content, Mapping) and "string_to_param" in content:
        content = {f"string_to_param.{key}": value for key, value in content["string_to_param"].items()}
    if not isinstance(content, Mapping):
        content = {"embedding": content}
    return {str(key): value.detach() for key, value in content.items() if isinstance(value, Tensor)}, {}


def _embedding(tensors: Mapping[str, Tensor], path: Path) -> Tensor:
    """The (n, d) float32 vectors among ``tensors``. ModelError if that is not exactly one embedding."""
    if "clip_g" in tensors:
        raise ModelError(f"{path} is an embedding for SDXL (clip_g); SD 1.x and 2.x are supported")
    if is_lora(tensors):
        raise ModelError(f"{path} is a LoRA; name the embedding's file (the LoRA beside it is found by its name)")
    params = {key: tensor for key, tensor in tensors.items() if key.startswith("string_to_param.")} or dict(tensors)
    if len(params) != 1:
        keys = ", ".join(list(params)[:4]) or "none"
        raise ModelError(f"{path} is no textual embedding: it holds {len(params)} tensors ({keys}), one is wanted")
    (tensor,) = params.values()
    vectors = (tensor[None] if tensor.ndim == 1 else tensor).to(torch.float32)
    if vectors.ndim != 2:
        raise ModelError(f"{path} is no textual embedding: its tensor has shape {tuple(tensor.shape)}, not (n, width)")
    if vectors.shape[1] == SDXL_SECOND_WIDTH:
        raise ModelError(f"{path} has vectors of width {SDXL_SECOND_WIDTH}, for SDXL; SD 1.x and 2.x are supported")
    return vectors.contiguous()


def _lora_weights(tensors: Mapping[str, Tensor], header: Mapping[str, str], path: Path) -> Lora:
    """Nested weights from a LoRA file; alpha from the file, peft's configuration, or the rank."""
    try:
        parts = {parse_lora_key(key): tensor for key, tensor in tensors.items() if not key.startswith(BUNDLE_PREFIX)}
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    config = _json(header, ADAPTER_METADATA_KEY, path)
    lora: Lora = {}
    for key, down in parts.items():
        if key.part != "down":
            continue
        up = parts.get(LoraKey(key.component, key.path, "up"))
        if up is None:
            raise ModelError(f"{path}: {key.component}.{key.path} has a down weight and no up weight")
        stored = parts.get(LoraKey(key.component, key.path, "alpha"))
        alpha = float(stored) if stored is not None else _peft_alpha(config, key, down.shape[0])
        weights = LoraWeights(down.to(torch.float32), up.to(torch.float32), alpha)
        lora.setdefault(key.component, {})[key.path] = weights
    if not lora:
        raise ModelError(f"{path} holds no LoRA weights")
    return lora


def _peft_alpha(config: Mapping[str, Any], key: LoraKey, rank: int) -> float:
    """The layer's alpha from diffusers' adapter metadata; the rank where there is none, as in clients."""
    patterns = config.get(f"{key.component}.alpha_pattern") or {}
    for pattern, alpha in patterns.items():
        if key.path.endswith(pattern.lstrip("^").removeprefix("text_model.")):
            return float(alpha)
    return float(config.get(f"{key.component}.lora_alpha", rank))


def _described(path: Path, embedding: Tensor, lora: Lora, header: Mapping[str, str]) -> Artifact:
    """The artifact, described by our own header text if it is there, else by what clients' headers tell."""
    own = _json(header, HEADER_KEY, path)
    if own:
        try:
            base, words = BaseInfo(**own["base"]), (own["placeholder"], own["class_word"])
        except (KeyError, TypeError) as error:
            raise ModelError(f"{path}: the header's text '{HEADER_KEY}' is damaged ({error})") from error
        return Artifact(path.stem, *words, embedding, lora, base, own.get("metadata", {}))
    sd2 = header.get("ss_v2", str(embedding.shape[1] == SD2_WIDTH)) == "True"
    predicts_v = header.get("modelspec.prediction_type") == "v" or header.get("ss_base_model_version", "").endswith(
        "_v"
    )
    prediction = "v_prediction" if predicts_v else "epsilon"
    base = BaseInfo("sd2" if sd2 else "sd1", header.get("ss_sd_model_name", "unknown"), prediction)
    return Artifact(path.stem, "*", "", embedding, lora, base)


def _json(header: Mapping[str, str], key: str, path: Path) -> dict[str, Any]:
    """The object that a header text holds; an empty one where there is none. ModelError where it is damaged."""
    try:
        content = json.loads(header.get(key, "{}"))
    except ValueError as error:
        raise ModelError(f"{path}: the header's text '{key}' is damaged ({error})") from error
    return content if isinstance(content, dict) else {}


def load_concept(where: str | Path, *, allow_pickle: bool = False) -> Artifact:
    """A concept from whatever the user named.

    Args:
        where: an artifact; an embedding (``X_lora.safetensors`` beside ``X.safetensors`` goes with it); two
            files as ``EMBEDDING+LORA``; a bundle; a folder that holds one of these; or a name, for
            ``output/NAME``.

    Raises InputError or ModelError, one line each.
    """
    path = located(where)
    if not path.exists() and "+" in str(where):
        embedding, _, lora = str(where).rpartition("+")
        return load_pair(Path(embedding), Path(lora), allow_pickle=allow_pickle)
    if path.is_dir():
        return _from_folder(path, allow_pickle)
    if not path.exists():
        raise InputError(f"no concept '{where}': neither a file, nor a folder, nor a name under {OUTPUT}{os.sep}")
    if path.suffix == ".safetensors" and _kind(path) == "artifact":
        return Artifact.load(path)
    beside = path.with_name(f"{path.stem}_lora.safetensors")
    return load_pair(path, beside if beside.is_file() else None, allow_pickle=allow_pickle)


def located(where: str | Path) -> Path:
    """``where`` as a path; a plain name that is no path here stands for ``output/NAME``."""
    path = Path(where)
    return OUTPUT / path if not path.exists() and len(path.parts) == 1 and (OUTPUT / path).is_dir() else path


def _from_folder(folder: Path, allow_pickle: bool) -> Artifact:
    """The folder's artifact, else its embedding and LoRA; of several, what is called like the folder."""
    kinds = {path: _kind(path) for path in sorted(folder.glob("*.safetensors"))}
    artifact = _one([path for path, kind in kinds.items() if kind == "artifact"], folder, "artifacts")
    if artifact is not None:
        return Artifact.load(artifact)
    plain = [path for path, kind in kinds.items() if kind == "embedding"]
    embedding = _one(plain or [path for path, kind in kinds.items() if kind == "bundle"], folder, "embeddings")
    if embedding is None:
        raise InputError(f"{folder} holds no artifact and no embedding (.safetensors)")
    beside = embedding.with_name(f"{embedding.stem}_lora.safetensors")
    others = [path for path, kind in kinds.items() if kind == "lora"]
    lora = beside if beside in others else _one(others, folder, "LoRA files")
    concept = load_pair(embedding, lora, allow_pickle=allow_pickle)
    is_default = embedding.stem == DIFFUSERS_EMBEDDING.removesuffix(".safetensors")
    return replace(concept, name=folder.resolve().name.removesuffix("_diffusers")) if is_default else concept


def _one(paths: list[Path], folder: Path, what: str) -> Path | None:
    """The one path, or the one called like the folder; None of none. InputError where it is unclear."""
    named = [path for path in paths if path.stem.removesuffix("_artifact") == folder.resolve().name]
    if len(named or paths) > 1:
        raise InputError(f"{folder} holds several {what} ({', '.join(path.name for path in paths)}): name the file")
    return next(iter(named or paths), None)


def _kind(path: Path) -> str:
    """What a safetensors file is: "artifact", "lora", "embedding", "bundle", or "" for anything else.

    A damaged artifact is one too: what it holds must not be taken from the rounded files beside it without a word.
    """
    from safetensors import SafetensorError, safe_open

    if path.name.endswith(SUFFIX):
        return "artifact"
    try:
        with safe_open(path, framework="pt") as file:
            keys, header = list(file.keys()), file.metadata() or {}
    except (SafetensorError, OSError, ValueError):
        return ""
    if HEADER_KEY in header and "embedding" in keys and "version" in header[HEADER_KEY]:
        return "artifact"
    if any(key.startswith(BUNDLE_PREFIX) for key in keys):
        return "bundle"
    if is_lora(keys):
        return "lora"
    return "embedding" if len(keys) == 1 else ""
