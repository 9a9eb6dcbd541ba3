"""Has a concept taken more with it than the subject? Looks at a finished one as a run does after its training.

    python -m singleinsert.check mexyz                     a NAME under output, an artifact, or an embedding file
    python -m singleinsert.check mexyz:0.7 --grid look.png     with a weaker LoRA, and the pictures that were drawn
What it was learnt from is in its record; of other trainers' concepts it must be given:
    python -m singleinsert.check zoexy.safetensors --image zoe.jpg --mask zoe_mask.png --class_word woman \\
        --pretrained_model_name_or_path MODEL
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from singleinsert.cli import Parser, path_argument, run_script
from singleinsert.errors import ConfigError, InputError
from singleinsert.specs import check_concept, located, split_weight

if TYPE_CHECKING:
    from torch import Tensor

    from singleinsert.artifact import Artifact
    from singleinsert.config import Settings
    from singleinsert.inference.pipeline import ConceptPipeline
    from singleinsert.training.explained import Errors
    from singleinsert.training.look import DrawLatents, Looked
    from singleinsert.training.prepare import Material


def parser() -> argparse.ArgumentParser:
    """The command line; building it imports nothing heavy."""
    out = Parser(
        prog="python -m singleinsert.check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = out.add_argument
    add("concept", metavar="CONCEPT[:WEIGHT]", help="as --concept of infer_singleinsert.py")
    add("--image", action="append", default=[], metavar="PHOTO", help="what it was learnt from; default: its record")
    add("--mask", action="append", default=[], metavar="FILE", help="white on the subject, one for each photo")
    add("--class_word", action="append", default=[], metavar="WORD", help="what it is one of; default: its record")
    add("--scene_words", metavar="WORDS", help='what to look for besides background and pose: "wearing a red hat"')
    add("--resolution", type=int, metavar="N", help="side of the pictures in pixels; default: its record")
    add("--num_images", type=int, default=8, metavar="N", help="pictures with it, and as many without (default 8)")
    add("--guidance_scale", type=float, metavar="X", help="default: that of the training's samples")
    add("--grid", type=path_argument, metavar="FILE", help="also write the pictures as a PNG file")
    add("--pretrained_model_name_or_path", metavar="MODEL", help="base model; default: the one of the training")
    add("--revision", metavar="TEXT", help="branch, tag or commit on the hub")
    add("--variant", metavar="TEXT", help="variant of the weight files, such as fp16")
    add("--mixed_precision", choices=("no", "fp16", "bf16"), default="no", help="no: float32, the default")
    add("--device", default="auto", metavar="NAME", help="cuda, cuda:1, mps or cpu (default auto: the best available)")
    add("--allow_pickle", action="store_true", help="also read .pt and .bin embeddings; they can run code")
    out.set_defaults(
        offload="none", enable_xformers_memory_efficient_attention=False, enable_vae_tiling=False,
        enable_attention_slicing=False,
    )  # fmt: skip
    return out


def run(args: argparse.Namespace) -> None:
    """Load, draw, measure, and print the line."""
    check_concept(args.concept)
    if args.num_images < 1:
        raise InputError(f"--num_images {args.num_images}: at least 1 is needed")
    from singleinsert.inference.pipeline import ConceptPipeline
    from singleinsert.inference.setup import load_base, load_concepts
    from singleinsert.training.prepare import find_material

    (artifact,), weights = load_concepts([args.concept], allow_pickle=args.allow_pickle)
    settings = settings_of(artifact, args)
    material = find_material(settings, lambda line: None)
    model = load_base(args, [artifact])
    pipeline = ConceptPipeline(model, [artifact], weights)
    drawn: dict[str, Tensor] = {}
    looked = look_at(pipeline, settings, material, args, drawn)
    for each in looked.found:
        if each.background is None and each.pose is None:
            print(f"note: {each.name} covers its picture, and its two sides look the same: nothing can be measured")
    print(looked.line)
    if args.grid:
        write_grid(args.grid, pipeline, material, drawn)
        print(args.grid)


def look_at(
    pipeline: ConceptPipeline,
    settings: Settings,
    material: Material,
    args: argparse.Namespace,
    drawn: dict[str, Tensor],
) -> Looked:
    """What came back of ``material`` in new pictures; their latents are left in ``drawn``, by prompt."""
    from singleinsert.data.subject import BACKGROUND
    from singleinsert.training.encode import encode_pictures
    from singleinsert.training.look import (
        Looked,
        advice_for,
        look,
        look_passes,
        phrasings_of_material,
        references_of,
    )

    guidance = settings.sample.guidance_scale if args.guidance_scale is None else args.guidance_scale
    model, size = pipeline.model, settings.data.resolution
    handles = [handle for handle in material.handles if handle.name != BACKGROUND]
    references = references_of(model, encode_pictures(material, model, size, model.device), material, handles, settings)
    draw = drawing_of(pipeline, guidance, size, drawn)
    phrasings = phrasings_of_material(material)
    found = look(draw, errors_of(pipeline), handles, references, phrasings, args.num_images)
    passes = look_passes(handles, phrasings, guidance, args.num_images)
    return Looked(found, advice_for(found, settings, material), passes)


def drawing_of(pipeline: ConceptPipeline, guidance_scale: float, size: int, drawn: dict[str, Tensor]) -> DrawLatents:
    """Draws with the concepts at their weights, or with the LoRA's weight at 0, which is the frozen model."""
    import torch

    from singleinsert.models.sampling import pictures_at_once
    from singleinsert.training.look import STEPS
    from singleinsert.training.samples import draw_in_chunks, draw_latents

    model, weights = pipeline.model, pipeline.weights[:1]

    @torch.no_grad()
    def draw(prompt: str, tuned: bool, seeds: Sequence[int]) -> Tensor:
        pipeline.set_weights(weights if tuned else [0.0])
        condition, empty = (pipeline.encode(text).to(model.device, model.dtype) for text in (prompt, ""))

        def chunk(part: Sequence[int]) -> Tensor:
            conditions = [condition] * len(part)
            return draw_latents(
                model, conditions, empty, part, steps=STEPS, guidance_scale=guidance_scale, size=size
            ).float()

        drawn[prompt] = draw_in_chunks(chunk, seeds, pictures_at_once(model.denoiser), torch.cat)
        return drawn[prompt]

    return draw


def errors_of(pipeline: ConceptPipeline) -> Errors:
    """The pipeline's model with the LoRA's weight at 0."""
    from singleinsert.training.explained import errors_under

    def errors(latents: Tensor, prompt: str) -> Tensor:
        pipeline.set_weights([0.0])
        condition = pipeline.encode(prompt).to(pipeline.model.device, pipeline.model.dtype)
        return errors_under(pipeline.model, condition, latents)

    return errors


def settings_of(artifact: Artifact, args: argparse.Namespace) -> Settings:
    """How the concept was learnt, by its record, with what the flags say instead.

    Raises:
        InputError: neither says which picture it was learnt from, or that is gone.
    """
    from singleinsert.config import Settings
    from singleinsert.config.load import checked_value, from_values, values_in
    from singleinsert.reading import parse_toml

    record = str(artifact.metadata.get("settings", ""))
    values = values_in(parse_toml(record, artifact.name), f"the record of {artifact.name}") if record else {}
    values |= {"caption.describe": ""}
    if args.resolution or not record:
        values["data.resolution"] = checked_value(
            "data.resolution", args.resolution or artifact.metadata.get("resolution", Settings().data.resolution)
        )
    if args.image:
        values |= {"data.image": tuple(args.image), "data.mask": tuple(args.mask), "data.description": ()}
    elif args.mask:
        values["data.mask"] = tuple(args.mask)
    else:
        values["data.mask"] = masks_of_the_run(artifact, args.concept) or values.get("data.mask", ())
    if args.class_word:
        values["data.class_word"] = tuple(args.class_word)
    elif not record:
        values["data.class_word"] = tuple(c.class_word for c in artifact.concepts if c.class_word)
    settings = from_values(values)
    _check_given(artifact, settings)
    return settings if args.scene_words is None else with_words(settings, args.scene_words)


def with_words(settings: Settings, words: str) -> Settings:
    """The settings with words of the user's as the description of every picture, whatever lies beside it."""
    from singleinsert.captions.describe import caption_of_words
    from singleinsert.data.folders import picture_paths

    text = caption_of_words(words, settings.data.class_word[0])
    data = replace(settings.data, description=(text,) * len(picture_paths(settings.data.image)))
    return replace(settings, data=data, caption=replace(settings.caption, mode="auto"))


def _check_given(artifact: Artifact, settings: Settings) -> None:
    if not settings.data.image:
        raise InputError(f"{artifact.name} does not say what it was learnt from: give the photo as --image")
    for path in settings.data.image:
        if not Path(path).exists():
            raise InputError(f"the photo of {artifact.name} is not at {path}: give it as --image")
    if not settings.data.class_word:
        raise ConfigError(f"{artifact.name} does not say what it is one of: give the word as --class_word")


def masks_of_the_run(artifact: Artifact, spec: str) -> tuple[str, ...]:
    """The mask files that the run has left beside the artifact: nothing need be found again. () where there are none.

    They are one for each picture, or one for each concept of a single one, which is how ``data.mask`` takes them.
    """
    place = located(split_weight(spec)[0])
    folder = place if place.is_dir() else place.parent
    single = folder / f"{artifact.name}_mask.png"
    several = sorted(folder.glob(f"{artifact.name}_[0-9][0-9]_mask.png"))
    return tuple(str(path) for path in ([single] if single.is_file() else several))


def write_grid(path: Path, pipeline: ConceptPipeline, material: Material, drawn: dict[str, Tensor]) -> None:
    """The training picture, then a row for each prompt, as a PNG file."""
    from singleinsert.atomic import write_atomically
    from singleinsert.drawing.grid import make_grid

    rows = [[picture.image for picture in material.pictures[:8]]]
    rows += [pipeline.model.decode(latents) for latents in drawn.values()]
    grid = make_grid(rows, ["learnt from", *drawn])
    write_atomically(path, lambda target: grid.save(target, "PNG"))


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code; an error is one line on stderr."""
    return run_script(parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
