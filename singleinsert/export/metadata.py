"""Header texts of exported files: kohya's training metadata (``ss_*``, ``sshs_*``), modelspec, and our own.

WebUIs read from them the base model, rank, date, tags, trigger words and thumbnail. Everything is a function of the
artifact: exporting twice gives the same texts and hashes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL.Image import Image
from torch import Tensor

from singleinsert.artifact import HEADER_KEY, Artifact, TrainedConcept
from singleinsert.drawing.dataurl import data_url
from singleinsert.models.families import FILE_FACTS

THUMBNAIL_SIZE = 256  # pixels, modelspec's recommendation
THUMBNAIL_MAX_BYTES = 64 * 1024
OLD_WORDS = ("placeholder", "class_word")
LEGACY_HASH_START, LEGACY_HASH_LENGTH = 0x100000, 0x10000


def trigger_phrase(artifact: Artifact) -> str:
    """What to write in a WebUI's prompt for all of the concepts: "kitchencat cat and kitchenmug mug"."""
    phrases = [phrase_of(artifact, concept) for concept in artifact.concepts]
    return " and ".join([", ".join(phrases[:-1]), phrases[-1]] if len(phrases) > 1 else phrases)


def phrase_of(artifact: Artifact, concept: TrainedConcept) -> str:
    """The same for one of them: its embedding's file name and, where it was trained with that, its class word."""
    return concept.words(artifact.trigger(concept))


def lora_header(
    artifact: Artifact, output_name: str, tensors: Mapping[str, Tensor], thumbnail: Image | None
) -> dict[str, str]:
    """Header of a LoRA for the clients.

    Args:
        output_name: the file's stem, which is the name in ``<lora:...>``.
        tensors: what the file will hold, already in its precision; the hashes are made from them.
        thumbnail: picture for WebUIs that show the embedded one.
    """
    header = _training_texts(artifact, output_name)
    model_hash, legacy_hash = kohya_hashes(tensors, header)
    header |= {"sshs_model_hash": model_hash, "sshs_legacy_hash": legacy_hash}
    usage = f"prompt: {trigger_phrase(artifact)} <lora:{output_name}:1>, with {_embeddings(artifact)}"
    header |= _modelspec(artifact, output_name, "lora", usage, thumbnail)
    header["modelspec.hash_sha256"] = f"0x{model_hash}"
    return {"format": "pt", **header, HEADER_KEY: own_text(artifact, artifact.concepts)}


def embedding_header(artifact: Artifact, concept: TrainedConcept, thumbnail: Image | None) -> dict[str, str]:
    """Header of the embedding file of one of the artifact's concepts."""
    usage = f"prompt: {phrase_of(artifact, concept)}"
    alone = replace(artifact, concepts=(replace(concept, trigger=artifact.trigger(concept)),))
    spec = _modelspec(alone, artifact.trigger(concept), "textual-inversion", usage, thumbnail)
    return {"format": "pt", **spec, HEADER_KEY: own_text(artifact, (concept,))}


def kohya_hashes(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> tuple[str, str]:
    """(sshs_model_hash, sshs_legacy_hash) as kohya's trainer computes them.

    The first is the SHA-256 of the file without its header. The second, of additional-networks' first days,
    is taken from 64 KiB at offset 1 MiB of a file whose header holds only the ``ss_*`` texts; 8 hex digits.
    """
    from safetensors.torch import save

    content = save(dict(tensors), {key: text for key, text in header.items() if key.startswith("ss_")})
    data_start = 8 + int.from_bytes(content[:8], "little")
    legacy = content[LEGACY_HASH_START : LEGACY_HASH_START + LEGACY_HASH_LENGTH]
    return hashlib.sha256(content[data_start:]).hexdigest(), hashlib.sha256(legacy).hexdigest()[:8]


def _training_texts(artifact: Artifact, output_name: str) -> dict[str, str]:
    """kohya's ``ss_*`` texts. What the artifact does not know is left out; "None" is never written for it."""
    weights = [w for layers in artifact.lora.values() for w in layers.values()]
    baked = FILE_FACTS[artifact.base.family].layout == "diffusers"
    ranks, alphas = {w.rank for w in weights}, {float(w.rank) if baked else w.alpha for w in weights}
    phrase, details = trigger_phrase(artifact), artifact.metadata
    family, predicts_v = artifact.base.family, artifact.base.prediction_type == "v_prediction"
    folder = f"1_{phrase}"
    tags = {phrase_of(artifact, concept): 1 for concept in artifact.concepts}
    texts: dict[str, object] = {
        "ss_output_name": output_name,
        "ss_network_module": "networks.lora",
        "ss_network_dim": ranks.pop() if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": alphas.pop() if len(alphas) == 1 else "Dynamic",
        "ss_network_args": "{}",
        "ss_v2": family == "sd2",
        "ss_base_model_version": FILE_FACTS[family].base_version
        + ("_v" if predicts_v and family != "sdxl" else ""),  # as kohya
        "ss_sd_model_name": artifact.base.name,
        "ss_num_train_images": 1,
        "ss_tag_frequency": json.dumps({folder: tags}, ensure_ascii=False),
        "ss_dataset_dirs": json.dumps({folder: {"n_repeats": 1, "img_count": 1}}, ensure_ascii=False),
        "ss_training_comment": f"SingleInsert, from one picture; goes with {_embeddings(artifact)}",
    }
    if family == "sd1":
        texts["ss_clip_skip"] = 1
    if "created" in details:
        texts["ss_training_started_at"] = float(details["created"])
    if "resolution" in details:
        texts["ss_resolution"] = f"({details['resolution']}, {details['resolution']})"
    if "seed" in details:
        texts["ss_seed"] = details["seed"]
    if isinstance(details.get("steps"), Mapping):
        texts["ss_steps"] = texts["ss_max_train_steps"] = sum(details["steps"].values())
    if "learning_rate" in details:
        rates = details["learning_rate"]  # one per stage: the last one's made the LoRA
        texts["ss_learning_rate"] = list(rates.values())[-1] if isinstance(rates, Mapping) else rates
    return {key: str(value) for key, value in texts.items()}


def _modelspec(artifact: Artifact, title: str, kind: str, usage: str, thumbnail: Image | None) -> dict[str, str]:
    """The modelspec 1.0.1 texts, with the names that kohya's trainer gives to SD 1.x and 2.x."""
    predicts_v = artifact.base.prediction_type == "v_prediction"
    facts = FILE_FACTS[artifact.base.family]
    architecture, default_resolution = facts.architecture, facts.resolution
    if artifact.base.family == "sd2" and predicts_v:
        architecture, default_resolution = "stable-diffusion-v2-768-v", 768
    resolution = artifact.metadata.get("resolution", default_resolution)
    phrase = trigger_phrase(artifact)
    spec = {
        "sai_model_spec": "1.0.1",
        "architecture": f"{architecture}/{kind}",
        "implementation": "diffusers" if kind == "lora" else "https://github.com/Stability-AI/generative-models",
        "title": title,
        "description": f"{phrase}, learnt from one picture with SingleInsert",
        "resolution": f"{resolution}x{resolution}",
        "trigger_phrase": phrase,
        "usage_hint": usage,
        "prediction_type": "v" if predicts_v else artifact.base.prediction_type,
    }
    if words := [concept.class_word for concept in artifact.concepts if concept.class_word]:
        spec["tags"] = ", ".join(words)
    if "created" in artifact.metadata:
        spec["date"] = datetime.fromtimestamp(int(artifact.metadata["created"]), UTC).isoformat()
    if thumbnail is not None and (url := _data_url(thumbnail)):
        spec["thumbnail"] = url
    return {f"modelspec.{key}": value for key, value in spec.items()}


def _data_url(picture: Image) -> str | None:
    """A small JPEG as a data URL; None if even that is large."""
    url = data_url(picture, "JPEG", largest_side=THUMBNAIL_SIZE, quality=85)
    return url if len(url) <= THUMBNAIL_MAX_BYTES * 4 / 3 else None  # base64 has four letters for three bytes


def _embeddings(artifact: Artifact) -> str:
    names = [artifact.trigger(concept) for concept in artifact.concepts]
    return f"the embedding{'s' * (len(names) > 1)} {', '.join(names)}"


def own_text(artifact: Artifact, concepts: Sequence[TrainedConcept]) -> str:
    """What our loader needs and no client's field holds; ``concepts``: those of the artifact that the file is of.

    Files are handed around: without local paths.
    """
    base = artifact.base
    if Path(base.source).is_absolute() or Path(base.source).exists():
        base = replace(base, source="")
    described = [
        {"name": c.name, "trigger": artifact.trigger(c), "placeholder": c.placeholder, "class_word": c.class_word,
         "metadata": c.metadata}
        for c in concepts
    ]  # fmt: skip
    own: dict[str, Any] = {
        "base": asdict(base),
        "metadata": {key: artifact.metadata[key] for key in ("created", "resolution") if key in artifact.metadata},
        "concepts": described,
    }
    if len(artifact.concepts) > 1:
        own["scene"] = artifact.name
    else:  # what versions before format 2 read
        own |= {key: described[0][key] for key in OLD_WORDS}
    if artifact.update is not None and artifact.lora:
        own["lora"] = {"file": f"{artifact.name}_lora", "digest": artifact.update.key}
    return json.dumps(own, ensure_ascii=False)
