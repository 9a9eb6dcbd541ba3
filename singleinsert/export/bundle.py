"""Embeddings and LoRA in one file, for A1111: others pass over the embeddings, diffusers refuses the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL.Image import Image

from singleinsert.artifact import Artifact
from singleinsert.errors import InputError
from singleinsert.export.metadata import lora_header
from singleinsert.export.tensors import embedding_tensors, lora_tensors
from singleinsert.interchange import BUNDLE_PREFIX
from singleinsert.models.families import FILE_FACTS
from singleinsert.names import problem_with_bundled


def bundle_files(artifact: Artifact, precision: str, preview: Image | None) -> dict[str, Callable[[Path], None]]:
    """{``NAME_bundle.safetensors``: what writes it}. InputError for a trigger with a dot, or without a LoRA.

    A1111 splits the key ``bundle_emb.TRIGGER.string_to_param.*`` at its dots.
    """
    from safetensors.torch import save_file

    if not artifact.lora:
        raise InputError(f"{artifact.name} has no LoRA to bundle its embedding with: export the format webui")
    if FILE_FACTS[artifact.base.family].layout != "kohya":
        raise InputError(f"A1111, for which bundles are, has no {artifact.base.family}: export the format webui")
    stem = f"{artifact.name}_bundle"
    tensors = lora_tensors(artifact, precision)
    for concept in artifact.concepts:
        trigger = artifact.trigger(concept)
        if problem := problem_with_bundled(trigger):
            raise InputError(f"{trigger!r}: {problem}; give another --output_name")
        embedding = embedding_tensors(concept, artifact.base.family, precision, "string_to_param.*")
        tensors |= {f"{BUNDLE_PREFIX}{trigger}.{key}": tensor for key, tensor in embedding.items()}
    header = lora_header(artifact, stem, tensors, preview)
    return {f"{stem}.safetensors": lambda path: save_file(tensors, path, metadata=header)}
