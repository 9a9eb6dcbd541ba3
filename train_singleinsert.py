"""Learn a concept from ONE picture: writes NAME.safetensors (embedding), NAME_lora.safetensors and NAME_sheet.png.

With the bundled miniature model, on any CPU, in minutes:
    python train_singleinsert.py --preset mini --image examples/face.png --output_name mexyz
With Stable Diffusion 1.x or 2.x (MODEL is a diffusers folder, a hub id or a .safetensors checkpoint):
    accelerate launch train_singleinsert.py --preset face --pretrained_model_name_or_path MODEL --image photo.jpg
Several photos of the subject, or several subjects of one picture:
    accelerate launch train_singleinsert.py --preset face --pretrained_model_name_or_path MODEL --image photos
    accelerate launch train_singleinsert.py --preset scene --pretrained_model_name_or_path MODEL --image kitchen.jpg \\
        --class_word cat --class_word mug --learn_background
Forecast at picture, mask, base model, memory and names, and train nothing:
    python train_singleinsert.py --preset face --image photo.jpg --check
Show the mask and stop; photo_mask.png beside the picture can be edited, and the next run takes it:
    python train_singleinsert.py --preset face --image photo.jpg --mask_only
Continue after Ctrl-C:
    python train_singleinsert.py --config_file output/mexyz/mexyz_config.toml --resume_from_checkpoint latest
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from singleinsert.cli import Command, overrides_from_args, print_next, run_script, training_parser
from singleinsert.config import Settings, load_settings, require
from singleinsert.config.load import with_bundled_photo
from singleinsert.errors import ConfigError

if TYPE_CHECKING:
    from singleinsert.artifact import Artifact

STARTED = time.perf_counter()


def run(args: argparse.Namespace) -> None:
    """Arguments -> config -> run -> save."""
    settings = load_settings(args.preset, args.config_file, overrides_from_args(args))
    if bundled := with_bundled_photo(settings):
        settings = bundled
        print(f"no --image: the photo that comes with {settings.model.pretrained_model_name_or_path}", file=sys.stderr)
    require(settings, image="the picture to learn from", class_word="what it shows, such as face or cat")

    if args.check or args.json:
        return check(settings, args)
    if not args.mask_only:
        from singleinsert.training.files import check_early

        check_early(settings)
        from singleinsert.models.threads import choose_threads

        choose_threads(settings.model.pretrained_model_name_or_path)
    # heavy from here on: a wrong flag or preset is reported before torch is imported
    from singleinsert.insert import insert_concepts, write_masks

    if args.mask_only:
        print(*write_masks(settings, print), sep="\n")
        print_next(("train", *args.words), leave_out="--mask_only")
        return
    inserted = insert_concepts(settings, started=STARTED)
    if inserted.files:
        print(*inserted.files, inserted.trained.sheet, sep="\n")
        folder = inserted.files[0].parent
        prompt = prompt_of(inserted.trained.artifact)
        draw: Command = ("infer", "--concept", folder, "--prompt", prompt, "--num_images", 4, "--grid")
        print_next(draw, ("ui", "--folder", folder.parent))


def check(settings: Settings, args: argparse.Namespace) -> None:
    """Print what can be said of the run. ConfigError where it would not begin."""
    from singleinsert.training.forecast import forecast_run

    forecast = forecast_run(settings)
    print(json.dumps(forecast.as_json(), indent=1) if args.json else "\n".join(forecast.lines()))
    if forecast.problems:
        raise ConfigError("; ".join(forecast.problems))
    if not args.json:
        print("no problems found")
        print_next(("train", *args.words), leave_out="--check")


def prompt_of(artifact: Artifact) -> str:
    """A prompt that names everything that was learnt."""
    if len(artifact.concepts) == 1:
        return "{concept} in the snow"
    return "a photo of " + " and ".join(f"{{{concept.name}}}" for concept in artifact.concepts)


def main(argv: Sequence[str] | None = None) -> int:
    return run_script(training_parser(__doc__), run, argv)


if __name__ == "__main__":
    sys.exit(main())
