"""The node that trains a concept: it hands a job to SingleInsert's own environment and shows how it goes."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

from . import folders
from .concepts import Concept, ConceptError
from .job import Job, Request, find_installation

PRESETS = ("face", "hair", "clothes", "object", "pet", "sdxl", "paper", "mini")
OF_PRESET = "the preset's"
POLL = 0.5
"""Seconds between two looks at a run."""
SETTLE = 120
"""Seconds from the end of a training until its files are in their place, at the most."""


class TrainConcept:
    """One photo, its mask and a class word become a concept, which ComfyUI's folders then hold."""

    CATEGORY = "SingleInsert"
    RETURN_TYPES = ("SINGLEINSERT_CONCEPT", "STRING")
    RETURN_NAMES = ("concept", "name")
    FUNCTION = "train"
    OUTPUT_NODE = True
    DESCRIPTION = (
        "Trains in SingleInsert's own environment (see the pack's README), not in ComfyUI's. The same picture, mask "
        "and settings are not trained again. Cancel saves the state; the same graph then goes on."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        checkpoints = folders.folder_paths().get_filename_list("checkpoints")
        steps = {"default": 0, "min": 0, "max": 10_000, "tooltip": "0: as the preset says"}
        return {
            "required": {
                "image": ("IMAGE",),
                "name": (
                    "STRING",
                    {"default": "mexyz", "tooltip": "the word for prompts; no word that means something"},
                ),
                "class_word": ("STRING", {"default": "face"}),
                "preset": (list(PRESETS),),
                "base_model": ([OF_PRESET, *checkpoints], {"tooltip": "a checkpoint of ComfyUI's"}),
                "stage1_steps": ("INT", steps),
                "stage2_steps": ("INT", steps),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**31 - 1}),
            },
            "optional": {"mask": ("MASK", {"tooltip": "white: the subject; without one it is found"})},
        }

    def train(
        self, image: Any, name: str, class_word: str, preset: str, base_model: str, stage1_steps: int,
        stage2_steps: int, seed: int, mask: Any = None,
    ) -> tuple[Concept, str]:  # fmt: skip
        if not class_word.strip():
            raise ConceptError("class_word is empty: say what the picture shows, such as face or cat")
        files = {f"{name}.png": png_of(image)}
        if mask is not None:
            files[f"{name}_mask.png"] = png_of_mask(mask, image)
        settings: dict[str, str | int | float] = {"run.seed": seed}
        if base_model != OF_PRESET:
            settings["model.pretrained_model_name_or_path"] = str(
                folders.folder_paths().get_full_path_or_raise("checkpoints", base_model)
            )
        for key, steps in (("stage1.steps", stage1_steps), ("stage2.steps", stage2_steps)):
            if steps:
                settings[key] = steps
        job = Job(find_installation(), Request(name, preset, class_word.strip(), files, settings))
        if not job.is_done():
            free_memory()
            follow(job)
        paths = folders.folder_paths()
        job.fetch(*(Path(paths.get_folder_paths(kind)[0]) for kind in ("embeddings", "loras")))
        return folders.concept(name), name


def follow(job: Job) -> None:
    """Hand the job over and show its steps and samples until it is done; ComfyUI's cancel stops it."""
    from comfy.model_management import processing_interrupted, throw_exception_if_processing_interrupted
    from comfy.utils import ProgressBar

    job.hand_over()
    bar = ProgressBar(1)
    before: dict[str, int] = {}
    total, over = 1, 0.0
    while not (over and job.results):  # trained, and then written for clients and moved to its place
        if over and time.monotonic() - over > SETTLE:
            raise ConceptError(f"{job.request.name} is trained, but its files did not come to {job.output}")
        if processing_interrupted():
            job.stop()
            throw_exception_if_processing_interrupted()
        for event in job.news():
            match event["event"]:
                case "begun":
                    stages = {str(k): int(v) for k, v in event["stages"].items()}
                    total = max(1, sum(stages.values()))
                    before = {name: sum(list(stages.values())[:i]) for i, name in enumerate(stages)}
                case "step":
                    bar.update_absolute(before.get(event["stage"], 0) + event["step"], total)
                case "samples" if event["files"]:
                    show(bar, event, total, before)
                case "interrupted":
                    raise ConceptError(f"{event['reason']} (queue the graph again to go on)")
                case "done":
                    over = time.monotonic()
        time.sleep(POLL)


def show(bar: Any, event: dict[str, Any], total: int, before: dict[str, int]) -> None:
    """A sample as the node's preview; one that is gone already is no loss."""
    from PIL import Image

    try:
        picture = Image.open(event["files"][-1]).convert("RGB")
    except OSError:
        return
    bar.update_absolute(before.get(event["stage"], 0) + event["step"], total, ("JPEG", picture, 512))


def free_memory() -> None:
    """ComfyUI's models leave the card: another process needs it now."""
    from comfy import model_management

    model_management.unload_all_models()
    model_management.soft_empty_cache()


def png_of(image: Any) -> bytes:
    """The first picture of a batch (b, h, w, c) in 0 to 1, as PNG."""
    return _png((image[0, ..., :3].cpu().float().clamp(0, 1) * 255).round().byte().numpy(), "RGB")


def png_of_mask(mask: Any, image: Any) -> bytes:
    """The first mask of a batch (b, h, w) in 0 to 1, as PNG of the picture's size.

    Raises:
        ConceptError: it has another size, or is empty.
    """
    height, width = image.shape[1:3]
    if mask.ndim == 2:
        mask = mask[None]
    if tuple(mask.shape[1:3]) != (height, width):
        raise ConceptError(
            f"the mask is {mask.shape[2]} x {mask.shape[1]}, the picture {width} x {height}: use one of its size"
        )
    if float(mask[0].max()) <= 0.5:
        raise ConceptError("the mask is empty: paint the subject white, or leave the mask unconnected to have it found")
    return _png((mask[0].cpu().float().clamp(0, 1) * 255).round().byte().numpy(), "L")


def _png(array: Any, mode: str) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(array, mode).save(file, "PNG")
    return file.getvalue()
