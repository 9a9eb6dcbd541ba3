"""From what a user names to what draws: concepts, the base model, the device, the list of pictures."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import torch

from singleinsert.artifact import UNKNOWN, Artifact
from singleinsert.data.prompts import NOVEL_VIEWS
from singleinsert.dtypes import DTYPES
from singleinsert.errors import InputError, first_line
from singleinsert.inference.pipeline import Picture
from singleinsert.inference.prompts import PromptLine, note_of_weights, prompt_lines
from singleinsert.locate import load_concept
from singleinsert.models.bundled import place_of_model
from singleinsert.models.family import Family
from singleinsert.models.loading import load_base_model
from singleinsert.models.split_files import split_source
from singleinsert.specs import split_weight
from singleinsert.terms import BUNDLED_MODELS

PROMPT_LISTS = {"views": NOVEL_VIEWS}


def load_concepts(specs: Sequence[str], *, allow_pickle: bool = False) -> tuple[list[Artifact], list[float]]:
    """Concepts and weights from ``PATH``, ``PATH:WEIGHT`` or ``NAME:WEIGHT``. InputError or ModelError, one line."""
    pairs = [split_weight(spec) for spec in specs]
    return [load_concept(path, allow_pickle=allow_pickle) for path, _ in pairs], [weight for _, weight in pairs]


def notes(lines: Sequence[PromptLine], concepts: Sequence[Artifact]) -> list[str]:
    """What a user may not have meant, a line each: WebUIs' brackets, and a LoRA that is not where its embedding is."""
    missing = [concept for concept in concepts if concept.lora_file and not concept.lora]
    found = [f"{c.name} goes with {c.lora_file}.safetensors, which is not beside it: drawn without" for c in missing]
    weights = note_of_weights([line.prompt for line in lines])
    return [weights, *found] if weights else found


def load_base(args: Namespace, concepts: Sequence[Artifact]) -> Family:
    """The model that the flags name, else the one the first concept was trained on.

    Raises:
        InputError: no model is named and none is recorded, or the device is not there. ModelError: it cannot be loaded.
    """
    device = pick_device(args.device)
    if args.offload != "none" and device == "cpu":
        raise InputError(f"--offload {args.offload} moves parts to a GPU when they are needed, and there is none")
    given = args.pretrained_model_name_or_path
    for line in [] if given else notes_of_bases(concepts):
        print(f"note: {line}", file=sys.stderr)
    prediction_type = "auto" if given or not concepts else concepts[0].base.prediction_type
    model = load_base_model(
        place_of_model(given) if given else recorded_base(concepts),
        revision=args.revision, variant=args.variant, dtype=DTYPES[args.mixed_precision],
        device="cpu" if args.offload != "none" else device, prediction_type=prediction_type,
    )  # fmt: skip
    if args.enable_xformers_memory_efficient_attention:
        from singleinsert.training.switches import enable_xformers

        enable_xformers(model)
    if args.enable_vae_tiling:
        model.autoencoder.enable_tiling()
    if args.enable_attention_slicing:
        model.denoiser.set_attention_slice("auto")
    return model


def notes_of_bases(concepts: Sequence[Artifact]) -> list[str]:
    """Concepts that were trained on another model than the first, whose model draws, a line each."""
    return [
        f"{concept.name} was trained on {concept.base.name}, and what draws is {concepts[0].base.name}, the model of "
        f"{concepts[0].name}: --pretrained_model_name_or_path chooses"
        for concept in concepts[1:]
        if len({concept.base.name, concepts[0].base.name} - {UNKNOWN}) > 1
    ]


def recorded_base(concepts: Sequence[Artifact]) -> str | Path:
    """What to load for the first concept: the recorded source, or the bundled model wherever it is installed."""
    flag = "give one as --pretrained_model_name_or_path"
    if not concepts:
        raise InputError(f"no --concept and no base model: {flag}")
    base = concepts[0].base
    if base.name in BUNDLED_MODELS and not (base.source and Path(base.source).is_dir()):
        return place_of_model(base.name)
    if not base.source:
        raise InputError(f"{concepts[0].name} does not say where its base model ({base.name}) is: {flag}")
    first, _ = split_source(base.source)
    if Path(first).is_absolute() and not Path(first).exists():
        raise InputError(f"the base model of {concepts[0].name} is no longer at {base.source}: {flag}")
    return base.source


def pick_device(name: str) -> str:
    """A torch device that is there. "auto": cuda, else mps, else cpu. InputError where the one named is missing."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name} is not there ({first_line(error)})") from error
    return name


def lines_of(args: Namespace) -> list[PromptLine]:
    """The prompts of all flags, in order. InputError where there are none."""
    lines = [PromptLine(prompt) for prompt in (*args.prompt, *PROMPT_LISTS.get(args.prompt_list, ()))]
    if args.prompt_file is not None:
        lines += prompt_lines(args.prompt_file)
    if not lines:
        raise InputError("no prompt: give --prompt, --prompt_file or --prompt_list")
    return lines


def plan(lines: Sequence[PromptLine], args: Namespace, concepts: Sequence[Artifact]) -> list[list[Picture]]:
    """The pictures of each line: ``--num_images`` of them, seeds counting up. A line's own options win.

    Raises:
        InputError: a number that cannot be.
    """
    for flag in ("num_images", "batch_size"):
        if getattr(args, flag) is not None and getattr(args, flag) < 1:
            raise InputError(f"--{flag} {getattr(args, flag)}: at least 1 is needed")
    trained_at = concepts[0].metadata.get("resolution") if concepts else None

    def first(*choices: int | None) -> int | None:
        return next((choice for choice in choices if choice is not None), None)

    rows = []
    for line in lines:
        seed = args.seed if line.seed is None else line.seed
        picture = Picture(
            prompt=line.prompt,
            negative_prompt=args.negative_prompt if line.negative_prompt is None else line.negative_prompt,
            steps=args.num_inference_steps if line.steps is None else line.steps,
            guidance_scale=args.guidance_scale if line.guidance_scale is None else line.guidance_scale,
            width=first(line.width, args.width, trained_at),
            height=first(line.height, args.height, trained_at),
        )
        if not 0 <= seed < 2**64 - args.num_images:
            raise InputError(f"seed {seed} is out of range: 0 to 2**64 - 1")
        rows.append([Picture(**{**vars(picture), "seed": seed + i}) for i in range(args.num_images)])
    return rows
