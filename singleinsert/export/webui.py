"""The files that A1111, Forge, ComfyUI and kohya's scripts load, and what WebUIs show beside them.

    NAME.safetensors        the embedding        -> embeddings/
    NAME_lora.safetensors   the LoRA             -> models/Lora/  (ComfyUI: models/loras/)
    NAME.json, NAME_lora.json                    user metadata: trigger words, weight, example prompts
    NAME.preview.png, NAME_lora.preview.png      the cards' pictures

A1111 and Forge look for ``<stem>.json`` and ``<stem>.preview.png`` beside each file. In the embeddings folder
A1111 would read a plain ``<stem>.png`` as an embedding; a ``.preview.png`` it passes over.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from PIL.Image import Image

from singleinsert.artifact import Artifact
from singleinsert.export.metadata import embedding_header, lora_header, phrase_of, trigger_phrase
from singleinsert.export.tensors import embedding_tensors, lora_tensors
from singleinsert.models.families import FILE_FACTS

Writer = Callable[[Path], None]

PREVIEW_SIZE = 512  # pixels; a card shows about 230
EXAMPLES = ("{0}", "{0} on the beach", "an oil painting of {0}", "left side view of {0}")


def example_prompts(artifact: Artifact) -> list[str]:
    """Prompts to paste into A1111 or Forge; they name every embedding and the LoRA."""
    tag = f" <lora:{lora_name(artifact)}:1>" if artifact.lora else ""
    return [example.format(trigger_phrase(artifact)) + tag for example in EXAMPLES]


def lora_name(artifact: Artifact) -> str:
    """The exported LoRA's file stem, which is its name in ``<lora:...>``."""
    return f"{artifact.name}_lora"


def webui_files(artifact: Artifact, precision: str, preview: Image | None, keys: dict[str, str]) -> dict[str, Writer]:
    """{file name: what writes it}. Raises InputError where the weights do not fit the precision.

    ``keys``: {concept: its embedding's key}, so that diffusers needs no ``token=``; WebUIs go by the file's name.
    """
    from safetensors.torch import save_file

    files: dict[str, Writer] = {}
    stems = [artifact.trigger(concept) for concept in artifact.concepts]
    for concept, stem in zip(artifact.concepts, stems, strict=True):
        embedding = embedding_tensors(concept, artifact.base.family, precision, keys[concept.name])
        header = embedding_header(artifact, concept, preview)
        files[f"{stem}.safetensors"] = partial(save_file, embedding, metadata=header)
        files[f"{stem}.json"] = _json_writer(_user_metadata(artifact, phrase_of(artifact, concept)))
    if artifact.lora:
        stem = lora_name(artifact)
        stems.append(stem)
        tensors = lora_tensors(artifact, precision)
        lora_texts = lora_header(artifact, stem, tensors, preview)
        files[f"{stem}.safetensors"] = lambda path: save_file(tensors, path, metadata=lora_texts)
        metadata = _user_metadata(artifact, trigger_phrase(artifact)) | {"preferred weight": 1.0}
        files[f"{stem}.json"] = _json_writer(metadata)
    if preview is not None:
        small = preview.convert("RGB")
        small.thumbnail((PREVIEW_SIZE, PREVIEW_SIZE))
        files |= {f"{stem}.preview.png": lambda path: small.save(path, "PNG") for stem in stems}
    return files


def _user_metadata(artifact: Artifact, activation_text: str) -> dict[str, Any]:
    """What A1111's and Forge's card editor reads and writes; keys it does not know it keeps."""
    prompts = example_prompts(artifact)
    embeddings = [f"{artifact.trigger(concept)}.safetensors" for concept in artifact.concepts]
    parts = f"{' and '.join(embeddings)} {'go' if len(embeddings) > 1 else 'goes'} into embeddings"
    if artifact.lora:
        parts += f", {lora_name(artifact)}.safetensors into models/Lora; use {'all' if len(embeddings) > 1 else 'both'}"
    return {
        "description": f"{trigger_phrase(artifact)}, learnt from one picture with SingleInsert",
        "sd version": FILE_FACTS[artifact.base.family].card,
        "activation text": activation_text,
        "notes": f"Trained on {artifact.base.name}. {parts}.\n" + "\n".join(prompts),
        "example prompts": prompts,
    }


def _json_writer(content: dict[str, Any]) -> Writer:
    text = json.dumps(content, indent=4, ensure_ascii=False) + "\n"

    def write(path: Path) -> None:
        path.write_text(text, encoding="utf-8")

    return write
