"""Concepts from the files that clients use: an embedding and, beside it or not, a LoRA. Ours or anyone's.

Embeddings: ``emb_params`` (kohya), the trigger word (diffusers), ``string_to_param`` (A1111), ``clip_l``, for SDXL with
``clip_g``, ``qwen3_4b`` for klein and Z-Image; shape (d,) or (n, d). LoRA: kohya's, diffusers' and peft's names;
A1111's bundle holds all in one file.
What a user names, a file, a folder or a name, is found by :mod:`singleinsert.locate`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from singleinsert.adapters.naming import TEXT_ENCODER, TEXT_ENCODER_2, LoraKey, is_lora, parse_lora_key
from singleinsert.adapters.weights import Lora, LoraWeights, WeightUpdate
from singleinsert.artifact import HEADER_KEY, UNKNOWN, Artifact, BaseInfo, TrainedConcept, check
from singleinsert.errors import InputError, ModelError, first_line
from singleinsert.models.families import FILE_FACTS
from singleinsert.tensorfile import read_safetensors, read_safetensors_header

BUNDLE_PREFIX = "bundle_emb."
ADAPTER_METADATA_KEY = "lora_adapter_metadata"  # diffusers' header key for peft's configuration
PICKLE_SUFFIXES = (".pt", ".bin", ".ckpt", ".pth")
DIFFUSERS_EMBEDDING, DIFFUSERS_LORA = "learned_embeds.safetensors", "pytorch_lora_weights.safetensors"
SD2_WIDTH, SDXL_SECOND_WIDTH = 1024, 1280


@dataclass(frozen=True)
class Described:
    """What an exported file's header says of where it comes from; read from it, or guessed from clients' texts.

    Attributes:
        concepts: by trigger word, as dicts of ``TrainedConcept``'s texts; {} where the file is not ours.
        scene: name of the artifact; "" for one concept alone. lora_file, origin: of ``Artifact`` and ``WeightUpdate``.
    """

    base: BaseInfo
    concepts: Mapping[str, Mapping[str, Any]]
    metadata: dict[str, Any]
    scene: str = ""
    lora_file: str = ""
    origin: str = ""


def load_pair(embedding_file: Path, lora_file: Path | None = None, *, allow_pickle: bool = False) -> Artifact:
    """Concepts from exported files, ours or another trainer's.

    Args:
        embedding_file: a textual embedding; or an A1111 bundle, which holds the LoRA and any number of embeddings.
        lora_file: a LoRA for SD 1.x, 2.x, SDXL, klein or Z-Image; None for an embedding alone.
        allow_pickle: read .pt and .bin files too (by torch's loader for plain tensors, which runs no code).

    Raises InputError (no such file, pickle not allowed) or ModelError (not such a file, damaged).
    """
    tensors, header = _read(embedding_file, allow_pickle)
    lora: Lora = {}
    of_lora = lora_file
    bundled = _bundled(tensors)
    if bundled:
        of_lora = embedding_file
        lora = _lora_weights(tensors, header, embedding_file)
    embeddings = {
        name: _embedding(found, embedding_file) for name, found in (bundled or {embedding_file.stem: tensors}).items()
    }
    if lora_file is not None:
        lora_tensors, lora_header = _read(lora_file, allow_pickle)
        lora = _lora_weights(lora_tensors, lora_header, lora_file)
        header = {**lora_header, **header}
    where = f"{embedding_file}" + (f" with {lora_file}" if lora_file else "")
    described = describe(header, where, next(iter(embeddings.values())), set(tensors), lora)
    artifact = _assembled(embedding_file, embeddings, described)
    if lora:
        artifact = replace(artifact, update=WeightUpdate("lora", lora, origin=described.origin))
    if of_lora is not None and of_lora.name != DIFFUSERS_LORA:  # which every such folder has
        artifact = replace(artifact, lora_file=of_lora.stem)
    check(artifact, where)
    return artifact


def gather_scene(parts: list[Artifact], scene: str) -> Artifact:
    """One artifact of concepts that were exported together and loaded each with the LoRA that they share."""
    concepts = tuple(replace(part.concept, trigger=_own_trigger(part.name, scene, part.concept.name)) for part in parts)
    return replace(parts[0], name=scene, concepts=concepts)


def describe(
    header: Mapping[str, str], where: str, embedding: Mapping[str, Tensor], keys: Collection[str] = (),
    layers: Lora | None = None,
) -> Described:  # fmt: skip
    """Our own header text if it is there, else what clients' headers, the embedding's width, its file's ``keys`` and
    the LoRA's ``layers`` tell."""
    own = _json(header, HEADER_KEY, where)
    if own:
        try:
            words = own.get("concepts") or [{"placeholder": own["placeholder"], "class_word": own["class_word"]}]
            concepts = {str(word.get("trigger", "")): word for word in words}
            lora = own.get("lora", {})
            texts = (own.get("scene", ""), lora.get("file", ""), lora.get("digest", ""))
            if not all(isinstance(text, str) for text in texts):
                raise TypeError(f"{texts!r} are not texts")
            return Described(
                BaseInfo(**own["base"]), concepts, own.get("metadata", {}), *texts,
            )  # fmt: skip
        except (KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{where}: the header's text '{HEADER_KEY}' is damaged ({error!r:.200})") from error
    version = header.get("ss_base_model_version", "")
    predicts_v = header.get("modelspec.prediction_type") == "v" or version.endswith("_v")
    sd2 = header.get("ss_v2", str(embedding[TEXT_ENCODER].shape[1] == SD2_WIDTH)) == "True"
    family = "sdxl" if TEXT_ENCODER_2 in embedding or version.startswith("sdxl") else "sd2" if sd2 else "sd1"
    predicts = "v_prediction" if predicts_v else "epsilon"
    if told := _flow_families(keys, version, layers or {}):
        family, predicts = told[0], "flow"
    base = BaseInfo(family, header.get("ss_sd_model_name", UNKNOWN), predicts)
    return Described(base, {}, {})


def _flow_families(keys: Collection[str], version: str, lora: Lora) -> list[str]:
    """Those of flow models that an embedding's ``keys`` may be of, the likeliest first: by the header, by the LoRA.

    Clients have a name for each language model's embeddings, and some models share theirs.
    """
    layers = {path.split(".")[0] for layers in lora.values() for path in layers}
    found = {
        name: facts for name, facts in FILE_FACTS.items()
        if facts.layout == "diffusers" and {*facts.embedding_keys.values()} == {*keys}
    }  # fmt: skip
    return sorted(found, key=lambda name: (found[name].base_version != version, not layers & {*found[name].blocks}))


def own_description(path: Path) -> Described:
    """What an exported file's header says. Raises ModelError where the file is damaged."""
    _, header = read_safetensors_header(path)
    return describe(header, str(path), {TEXT_ENCODER: torch.empty(0, 0)})


def _assembled(path: Path, embeddings: Mapping[str, Mapping[str, Tensor]], described: Described) -> Artifact:
    """The artifact without its update; ``embeddings``: {trigger: {text encoder: vectors}}."""
    several = len(embeddings) > 1
    name = (described.scene if several else "") or path.stem.removesuffix("_bundle")
    concepts = tuple(
        _described_concept(trigger, tensors, described, several) for trigger, tensors in embeddings.items()
    )
    if several:
        concepts = tuple(replace(c, trigger=_own_trigger(c.trigger, name, c.name)) for c in concepts)
    else:
        (name,) = embeddings
        concepts = (replace(concepts[0], trigger=""),)
    return Artifact(name, concepts, None, described.base, described.metadata, described.lora_file)


def _described_concept(
    trigger: str, tensors: Mapping[str, Tensor], described: Described, several: bool
) -> TrainedConcept:
    """What the header tells of the concept called ``trigger``. A file that was renamed goes by its new name."""
    words = described.concepts.get(trigger, {})
    name = words.get("name") or trigger
    if not words and not several and len(described.concepts) == 1:
        (words,) = described.concepts.values()
        name = words.get("name") or trigger if described.scene else trigger
    told = words.get("placeholder", "*"), words.get("class_word", "")
    return TrainedConcept(name, *told, tensors, trigger, words.get("metadata", {}))


def _own_trigger(trigger: str, scene: str, name: str) -> str:
    """``trigger``, or "" where that is what the rule makes of the names."""
    return "" if trigger == scene + name else trigger


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
    if isinstance(content, Mapping) and isinstance(content.get("string_to_param"), Mapping):
        content = {f"string_to_param.{key}": value for key, value in content["string_to_param"].items()}
    if not isinstance(content, Mapping):
        content = {"embedding": content}
    return {str(key): value.detach() for key, value in content.items() if isinstance(value, Tensor)}, {}


def _bundled(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """{trigger: what an embedding's file would hold} of a bundle's ``bundle_emb.NAME.*`` keys; {} of other files."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith(BUNDLE_PREFIX):
            name, _, rest = key.removeprefix(BUNDLE_PREFIX).partition(".")
            found.setdefault(name, {})[rest] = tensor
    return found


def _embedding(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """{text encoder: (n, d) float32}. ModelError if ``tensors`` are not exactly one embedding."""
    if is_lora(tensors):
        raise ModelError(f"{path} is a LoRA; name the embedding's file (the LoRA beside it is found by its name)")
    if set(tensors) == {"clip_l", "clip_g"}:
        both = {TEXT_ENCODER: _vectors(tensors["clip_l"], path), TEXT_ENCODER_2: _vectors(tensors["clip_g"], path)}
        if len(both[TEXT_ENCODER]) != len(both[TEXT_ENCODER_2]):
            raise ModelError(f"{path} is no textual embedding: clip_l and clip_g hold different numbers of vectors")
        return both
    params = {key: tensor for key, tensor in tensors.items() if key.startswith("string_to_param.")} or dict(tensors)
    if len(params) != 1:
        keys = ", ".join(list(params)[:4]) or "none"
        raise ModelError(f"{path} is no textual embedding: it holds {len(params)} tensors ({keys}), one is wanted")
    vectors = _vectors(next(iter(params.values())), path)
    if vectors.shape[1] == SDXL_SECOND_WIDTH:
        raise ModelError(f"{path} has vectors of width {SDXL_SECOND_WIDTH} alone: SDXL needs clip_l and clip_g")
    return {TEXT_ENCODER: vectors}


def _vectors(tensor: Tensor, path: Path) -> Tensor:
    """(n, d) float32 of an embedding's tensor, (d,) or (n, d)."""
    if tensor.ndim not in (1, 2) or not tensor.is_floating_point() or tensor.layout != torch.strided:
        shape = f"shape {tuple(tensor.shape)}, {tensor.dtype}"
        raise ModelError(f"{path} is no textual embedding: its tensor has {shape}, not (n, width) of numbers")
    return (tensor[None] if tensor.ndim == 1 else tensor).to(torch.float32).contiguous()


def _lora_weights(tensors: Mapping[str, Tensor], header: Mapping[str, str], path: Path) -> Lora:
    """Nested weights from a LoRA file; alpha from the file, peft's configuration, or the rank."""
    try:
        parts = {parse_lora_key(key): tensor for key, tensor in tensors.items() if not key.startswith(BUNDLE_PREFIX)}
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    config = _json(header, ADAPTER_METADATA_KEY, str(path))
    lora: dict[str, dict[str, LoraWeights]] = {}
    for key in parts:
        layer = f"{path}: {key.component}.{key.path}"
        down, up = (parts.get(replace(key, part=part)) for part in ("down", "up"))
        if down is None or up is None:
            there, missing = ("up", "down") if down is None else ("down", "up")
            if down is up:
                there, missing = "alpha", "down and up"
            raise ModelError(f"{layer} has a weight '{there}' and no {missing} weight: the file is damaged")
        if key.part != "down":
            continue
        if (
            down.ndim not in (2, 4)
            or up.ndim not in (2, 4)
            or not (down.is_floating_point() and up.is_floating_point())
        ):
            raise ModelError(f"{layer} is no LoRA of a layer: shapes {tuple(down.shape)} and {tuple(up.shape)}")
        alpha = _alpha(parts.get(replace(key, part="alpha")), config, key, down.shape[0], layer)
        weights = LoraWeights(down.to(torch.float32), up.to(torch.float32), alpha)
        lora.setdefault(key.component, {})[key.path] = weights
    if not lora:
        raise ModelError(f"{path} holds no LoRA weights")
    return lora


def _alpha(stored: Tensor | None, config: Mapping[str, Any], key: LoraKey, rank: int, layer: str) -> float:
    """The layer's alpha, from its tensor or diffusers' metadata; the rank where there is none, as in clients."""
    try:
        if stored is not None:
            alpha = float(stored)
        else:
            patterns = dict(config.get(f"{key.component}.alpha_pattern") or {})
            own = (a for p, a in patterns.items() if key.path.endswith(p.lstrip("^").removeprefix("text_model.")))
            alpha = float(next(own, config.get(f"{key.component}.lora_alpha", rank)))
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ModelError(f"{layer}: its alpha is no number ({first_line(error):.100})") from error
    if not math.isfinite(alpha):
        raise ModelError(f"{layer}: its alpha is {alpha}, and every picture would be black")
    return alpha


def _json(header: Mapping[str, str], key: str, where: str) -> dict[str, Any]:
    """The object that a header text holds; an empty one where there is none. ModelError where it is damaged."""
    try:
        content = json.loads(header.get(key, "{}"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{where}: the header's text '{key}' is damaged ({error})") from error
    if not isinstance(content, dict):
        raise ModelError(f"{where}: the header's text '{key}' is damaged (no object in braces)")
    return content
