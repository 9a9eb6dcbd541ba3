"""What is trained and drawn, under keys made from all that it depends on: nothing is done twice, in any run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from singleinsert.artifact import Artifact
from singleinsert.atomic import write_atomically
from singleinsert.batch.worker import digest_of, read_inputs
from singleinsert.config import FREE_SECTIONS, Settings, keys_declared, values_off
from singleinsert.data.captions import caption_file, read_caption
from singleinsert.data.folders import list_folder, picture_paths
from singleinsert.data.opening import open_picture
from singleinsert.inference.pipeline import Picture
from singleinsert.models.fingerprint import add_tensors
from singleinsert.terms import STAGES
from singleinsert.training.results import flatten

FORMAT = 1
"""Goes up when the same settings begin to mean something else."""


class Cache:
    """``concepts/KEY.safetensors``, ``pictures/KE/KEY.png``; ``stages/KEY.safetensors`` where stages I are kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def concept(self, key: str) -> Path:
        return self.folder / "concepts" / f"{key}.safetensors"

    @property
    def stages(self) -> Path:
        return self.folder / "stages"

    def picture(self, key: str) -> Path:
        return self.folder / "pictures" / key[:2] / f"{key}.png"

    def load_picture(self, key: str) -> Image.Image:
        return open_picture(self.picture(key)).convert("RGB")

    def save_picture(self, key: str, image: Image.Image) -> None:
        write_atomically(self.picture(key), lambda target: image.save(target, "PNG"))


def key_of(*parts: Any) -> str:
    """A short fingerprint of anything JSON holds."""
    text = json.dumps([FORMAT, *parts], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def concept_key(settings: Settings, model: str) -> str:
    """Of a trained concept: every setting that changes a number, picture's and mask's bytes, the model's weights."""
    return key_of("concept", _numbers(settings), digest_of(_contents(settings)), model)


def first_stage_key(settings: Settings, model: str) -> str:
    """Of the state at the end of stage I, which knows neither stage II nor its adapters, nor what is kept for it."""
    later = (*STAGES[1:], "adapter", "run.teacher_bank")
    values = {key: value for key, value in _numbers(settings).items() if not {key, key.split(".")[0]} & {*later}}
    return key_of("first stage", values, digest_of(_contents(settings)), model)


def _contents(settings: Settings) -> dict[str, bytes]:
    """Bytes of all that a run learns from, descriptions and class pictures of the user's own among them."""
    own = list_folder(Path(settings.prior.folder)).pictures if settings.prior.folder else ()
    pictures = picture_paths(settings.data.image)
    told = {f"caption/{n}": (read_caption(path) or "").encode() for n, path in enumerate(pictures) if _has_row(path)}
    return read_inputs(settings) | told | {f"prior/{path.name}": path.read_bytes() for path in own}


def _has_row(picture: Path) -> bool:
    """Is its description a row of metadata.jsonl, which is no file of its own?"""
    return not caption_file(picture).is_file() and read_caption(picture) is not None


def picture_key(picture: Picture, scheduler: str, concept: str, model: str) -> str:
    """Of a drawn picture. ``concept``: :func:`digest_of_artifacts`."""
    return key_of("picture", vars(picture), scheduler, concept, model)


def digest_of_artifacts(artifacts: Sequence[Artifact]) -> str:
    """Fingerprint of all concepts that are loaded together, by their names where there are several."""
    parts = [part for artifact in artifacts for part in artifact.parts()]
    digests = [artifact_digest(part) for part in parts]
    return digests[0] if len(parts) == 1 else key_of("concepts", digests, [part.concept.name for part in parts])


def artifact_digest(artifact: Artifact) -> str:
    """Fingerprint of the parts of a concept that change a picture: its vectors, its LoRA, its words."""
    words = [artifact.placeholder, artifact.class_word]
    if artifact.update is not None and artifact.update.ranks is not None:
        words.append(repr(artifact.update.ranks))
    sums = hashlib.sha256(json.dumps(words).encode())
    tensors = {f"embedding.{part}": vectors for part, vectors in artifact.concept.embeddings.items()}
    for component, layers in artifact.lora.items():
        for path, weights in layers.items():
            scale = torch.tensor(weights.alpha)
            tensors |= {f"{component}.{path}.{n}": t for n, t in (("d", weights.down), ("u", weights.up), ("a", scale))}
    add_tensors(sums, tensors)
    return sums.hexdigest()[:24]


def _numbers(settings: Settings) -> dict[str, Any]:
    """Settings that change a trained number: not paths, whose contents count, nor what only changes rounding, nor what
    is off."""
    offs = values_off()
    values = {key: value for key, value in flatten(settings).items() if key not in offs or value != offs[key]}
    left_out = {*keys_declared("free"), "model.pretrained_model_name_or_path", "model.revision", "model.variant"}
    left_out -= {"data.description"} if settings.data.description else set()  # free because a run's identity has it
    sections = FREE_SECTIONS if any(s.prior_weight for s in settings.stages.values()) else {*FREE_SECTIONS, "prior"}
    return {k: v for k, v in values.items() if k not in left_out and k.split(".")[0] not in sections}
