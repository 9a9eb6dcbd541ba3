"""A folder that diffusers loads under its own default file names.

pipe.load_lora_weights("NAME_diffusers")
pipe.load_textual_inversion("NAME_diffusers", token="NAME")

Of several concepts each has a file, since diffusers takes one embedding a file, but a list of files:
pipe.load_textual_inversion(["SCENE_diffusers/SCENEcat.safetensors", "SCENE_diffusers/SCENEmug.safetensors"])
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from singleinsert.artifact import HEADER_KEY, Artifact
from singleinsert.export.metadata import embedding_header, own_text
from singleinsert.export.tensors import embedding_tensors, peft_metadata, peft_tensors
from singleinsert.interchange import ADAPTER_METADATA_KEY, DIFFUSERS_EMBEDDING, DIFFUSERS_LORA


def diffusers_files(artifact: Artifact, precision: str, keys: dict[str, str]) -> dict[str, Callable[[Path], None]]:
    """{file name under the output folder: what writes it}: the embeddings, and the LoRA in peft's layout.

    ``keys``: {concept: its embedding's key}.
    """
    from safetensors.torch import save_file

    folder = f"{artifact.name}_diffusers"
    files: dict[str, Callable[[Path], None]] = {}
    for concept in artifact.concepts:
        several = len(artifact.concepts) > 1
        name = f"{artifact.trigger(concept)}.safetensors" if several else DIFFUSERS_EMBEDDING
        embedding = embedding_tensors(concept, artifact.base.family, precision, keys[concept.name])
        header = embedding_header(artifact, concept, None)
        files[f"{folder}/{name}"] = partial(save_file, embedding, metadata=header)
    if artifact.lora:
        tensors = peft_tensors(artifact, precision)
        config = json.dumps(peft_metadata(artifact), indent=2, sort_keys=True)
        texts = {"format": "pt", ADAPTER_METADATA_KEY: config, HEADER_KEY: own_text(artifact, artifact.concepts)}
        files[f"{folder}/{DIFFUSERS_LORA}"] = lambda path: save_file(tensors, path, metadata=texts)
    return files
