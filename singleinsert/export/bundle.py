"""Embedding and LoRA in one file, for A1111: others pass over the embedding, diffusers refuses the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL.Image import Image

from singleinsert.artifact import Artifact
from singleinsert.errors import InputError
from singleinsert.export.metadata import lora_header
from singleinsert.export.tensors import embedding_tensor, kohya_tensors
from singleinsert.interchange import BUNDLE_PREFIX


def bundle_files(artifact: Artifact, precision: str, preview: Image | None) -> dict[str, Callable[[Path], None]]:
    """{``NAME_bundle.safetensors``: what writes it}. InputError for a name with a dot, or without a LoRA.

    A1111 splits the key ``bundle_emb.NAME.string_to_param.*`` at its dots; NAME is the trigger word.
    """
    from safetensors.torch import save_file

    if "." in artifact.name:
        raise InputError(
            f"a bundle cannot hold the name '{artifact.name}': A1111 splits it at the dot; rename the concept"
        )
    if not artifact.lora:
        raise InputError(f"{artifact.name} has no LoRA to bundle its embedding with: export the format webui")
    stem = f"{artifact.name}_bundle"
    tensors = kohya_tensors(artifact, precision)
    tensors[f"{BUNDLE_PREFIX}{artifact.name}.string_to_param.*"] = embedding_tensor(artifact, precision)
    header = lora_header(artifact, stem, tensors, preview)
    return {f"{stem}.safetensors": lambda path: save_file(tensors, path, metadata=header)}
