"""Nodes that put a concept on a model: its LoRA, its embedding, and the prompt with both."""

from __future__ import annotations

from typing import Any

from . import folders
from .attention import Recorder, slots_of
from .concepts import Concept, fill_prompt

CATEGORY = "SingleInsert"
NOTHING = "no concept found"


class LoadConcept:
    """A concept by its name, from ComfyUI's embeddings and loras folders."""

    CATEGORY = CATEGORY
    RETURN_TYPES = ("SINGLEINSERT_CONCEPT",)
    RETURN_NAMES = ("concept",)
    FUNCTION = "load"
    DESCRIPTION = (
        "A concept that SingleInsert has trained: NAME.safetensors in embeddings, NAME_lora.safetensors in loras."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"name": (list(folders.concepts()) or [NOTHING],)}}

    @classmethod
    def IS_CHANGED(cls, name: str) -> Any:
        """The files may have been written anew under the same name."""
        found = folders.concepts().get(name)
        if found is None:
            return float("nan")
        loras, embeddings = folders.list_files("loras"), folders.list_files("embeddings")
        files = [loras.get(found.lora), *(embeddings.get(f"{word.embedding}.safetensors") for word in found.words)]
        return [(str(f), f.stat().st_mtime_ns, f.stat().st_size) for f in files if f is not None]

    def load(self, name: str) -> tuple[Concept]:
        return (folders.concept(name),)


class ApplyConcept:
    """Model and text encoder with the concept's LoRA, and the prompt with its embedding, encoded."""

    CATEGORY = CATEGORY
    RETURN_TYPES = ("MODEL", "CLIP", "CONDITIONING", "STRING", "SINGLEINSERT_ATTENTION")
    RETURN_NAMES = ("model", "clip", "conditioning", "prompt", "attention")
    FUNCTION = "apply"
    DESCRIPTION = (
        "Puts the LoRA on, writes embedding and class word for {concept} in the prompt, and encodes it. For several "
        "concepts chain the nodes, and write the last one's prompt with embedding:NAME for the others."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        strength = {"default": 1.0, "min": -4.0, "max": 4.0, "step": 0.05}
        return {
            "required": {
                "model": ("MODEL",),
                "clip": ("CLIP",),
                "concept": ("SINGLEINSERT_CONCEPT",),
                "prompt": ("STRING", {"multiline": True, "default": "{concept} on the beach", "dynamicPrompts": True}),
                "strength_model": ("FLOAT", strength | {"tooltip": "0 leaves the embedding alone on the base model"}),
                "strength_clip": ("FLOAT", strength),
            }
        }

    def apply(
        self, model: Any, clip: Any, concept: Concept, prompt: str, strength_model: float, strength_clip: float
    ) -> tuple[Any, Any, Any, str, Recorder]:
        text = fill_prompt(prompt, concept)
        if concept.lora and (strength_model or strength_clip):
            model, clip = load_lora(model, clip, concept.lora, strength_model, strength_clip)
        tokens = clip.tokenize(text)
        conditioning = clip.encode_from_tokens_scheduled(tokens)
        recorder = Recorder(slots_of(tokens))
        return recorder.put_on(model), clip, conditioning, text, recorder


def load_lora(model: Any, clip: Any, name: str, strength_model: float, strength_clip: float) -> tuple[Any, Any]:
    """ComfyUI's own *Load LoRA*."""
    from nodes import LoraLoader

    found: tuple[Any, Any] = LoraLoader().load_lora(model, clip, name, strength_model, strength_clip)
    return found
