"""A folder that diffusers loads under its own default file names.

pipe.load_lora_weights("NAME_diffusers")
pipe.load_textual_inversion("NAME_diffusers", token="NAME")
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from singleinsert.artifact import Artifact
from singleinsert.export.metadata import embedding_header
from singleinsert.export.tensors import embedding_tensor, peft_metadata, peft_tensors
from singleinsert.interchange import ADAPTER_METADATA_KEY, DIFFUSERS_EMBEDDING, DIFFUSERS_LORA


def diffusers_files(artifact: Artifact, precision: str, trigger_word: str) -> dict[str, Callable[[Path], None]]:
    """{file name under the output folder: what writes it}: the embedding, and the LoRA in peft's layout.

    The alphas go into ``lora_adapter_metadata``, the only place where diffusers reads them in this layout.
    """
    from safetensors.torch import save_file

    folder = f"{artifact.name}_diffusers"
    header = embedding_header(artifact, None)
    embedding = {trigger_word: embedding_tensor(artifact, precision)}
    files: dict[str, Callable[[Path], None]] = {
        f"{folder}/{DIFFUSERS_EMBEDDING}": lambda path: save_file(embedding, path, metadata=header)
    }
    if artifact.lora:
        tensors = peft_tensors(artifact, precision)
        config = json.dumps(peft_metadata(artifact), indent=2, sort_keys=True)
        texts = {"format": "pt", ADAPTER_METADATA_KEY: config}
        files[f"{folder}/{DIFFUSERS_LORA}"] = lambda path: save_file(tensors, path, metadata=texts)
    return files
