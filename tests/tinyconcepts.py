"""Trained concepts for the tiny models, with weights set by formula: no training is needed to test what follows it."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from tinymodels import CONCEPT_WIDTH, hashed

from singleinsert.adapters.base import AdapterOptions
from singleinsert.adapters.lora import LoraAdapters
from singleinsert.artifact import Artifact, BaseInfo, TrainedConcept
from singleinsert.models.family import Family
from singleinsert.models.loading import load_base_model
from singleinsert.models.sampling import sample_images

UNET_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")
CREATED = 1_700_000_000


def inject_lora(model: Family, name: str, rank: int, alpha: float, text_targets=TEXT_TARGETS) -> LoraAdapters:
    """The training core's own adapters in ``model``, with both matrices of every layer set by formula."""
    targets = {model.denoiser_part: UNET_TARGETS} | dict.fromkeys(model.text_parts, text_targets)
    adapters = LoraAdapters.inject(model.adapted_parts, AdapterOptions(targets, rank, alpha), torch.Generator())
    with torch.no_grad():
        for key, parameter in adapters.named_parameters():
            parameter.copy_(0.3 * hashed(tuple(parameter.shape), zlib.crc32(f"{name}.{key}".encode())))
    return adapters


def picture_as_trained(
    folder: Path, artifact: Artifact, alpha: float, text_targets=TEXT_TARGETS, *, seed: int, **sampling
) -> Image.Image:
    """A picture of the model as training leaves it: our adapters in it, the concept's vectors at the lookups."""
    model = load_base_model(folder)
    weights = artifact.lora
    targets = {part: UNET_TARGETS if part == model.denoiser_part else text_targets for part in weights}
    rank = next(iter(next(iter(weights.values())).values())).down.shape[0]
    adapters = LoraAdapters.inject(model.adapted_parts, AdapterOptions(targets, rank, alpha), torch.Generator())
    with torch.no_grad():
        for key, parameter in adapters.named_parameters():
            part, path = key.rsplit(".", 1)[0].split(".", 1)
            matrices = weights[part][path]
            parameter.copy_(matrices.down if key.endswith(".down") else matrices.up)
        prompt = model.tokenize("* face in the snow", {"*": artifact.num_vectors})
        condition = model.encode(prompt, {"*": artifact.concept.embeddings})
        negative = model.encode(model.tokenize("", {}), {})
    return sample_images(model, condition, negative, [torch.Generator().manual_seed(seed)], **sampling)[0]


def make_scene(
    folder: Path, name: str = "kitchen", concepts=(("catty", "cat"), ("muggy", "mug")), **options
) -> Artifact:  # fmt: skip
    """Several concepts, (name, class word) each, with one LoRA; the n-th has n vectors and the placeholder <name>."""
    whole = make_concept(folder, name, **options)
    parts = tuple(
        TrainedConcept(c, f"<{c}>", word, {"text_encoder": hashed((n, CONCEPT_WIDTH), zlib.crc32(c.encode()))},
                       metadata={"mask_share": n / 8})
        for n, (c, word) in enumerate(concepts, start=1)
    )  # fmt: skip
    return replace(whole, concepts=parts)


def with_embedding(artifact: Artifact, embedding: torch.Tensor) -> Artifact:
    """The artifact of one concept with other vectors."""
    return replace(artifact, concepts=(replace(artifact.concept, embeddings={"text_encoder": embedding}),))


def make_concept(
    folder: Path, name: str = "zork", *, num_vectors: int = 1, rank: int = 2, alpha: float = 2.0, lora: bool = True,
    class_word: str = "face", text_targets=TEXT_TARGETS, **base,
) -> Artifact:  # fmt: skip
    """A concept as training would hand it out, for the model in ``folder``."""
    model = load_base_model(folder)
    update = inject_lora(model, name, rank, alpha, text_targets).state() if lora else None
    return Artifact.of_one_concept(
        name=name, placeholder="*", class_word=class_word,
        embeddings={
            part: hashed((num_vectors, width), zlib.crc32(name.encode()) + i)
            for i, (part, width) in enumerate(model.embedding_widths.items())
        },
        lora={} if update is None else update.lora,
        base=BaseInfo(model.name, model.model_name, model.schedule.prediction_type, model.source),
        metadata={
            "created": CREATED, "resolution": 32, "seed": 7, "steps": {"stage1": 5, "stage2": 10},
            "learning_rate": {"stage1": 1e-4, "stage2": 5e-5}, "settings": "[run]\nseed = 7\n",
        } | base,
    )  # fmt: skip
