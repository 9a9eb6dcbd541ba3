"""Learn a concept from ONE picture: writes NAME.safetensors (embedding), NAME_lora.safetensors and NAME_sheet.png.

With the bundled miniature model, on any CPU, in minutes:
    python train_singleinsert.py --preset mini --image examples/face.png --output_name mexyz
With Stable Diffusion 1.x or 2.x (MODEL is a diffusers folder, a hub id or a .safetensors checkpoint):
    accelerate launch train_singleinsert.py --preset face --pretrained_model_name_or_path MODEL --image photo.jpg
Several photos of the subject, or several subjects of one picture:
    accelerate launch train_singleinsert.py --preset face --pretrained_model_name_or_path MODEL --image photos
    accelerate launch train_singleinsert.py --preset scene --pretrained_model_name_or_path MODEL --image kitchen.jpg \\
        --class_word cat --class_word mug --learn_background
Show the mask and stop; photo_mask.png beside the picture can be edited, and the next run takes it:
    python train_singleinsert.py --preset face --image photo.jpg --mask_only
Continue after Ctrl-C:
    python train_singleinsert.py --config_file output/mexyz/mexyz_config.toml --resume_from_checkpoint latest
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from singleinsert.cli import overrides_from_args, run_script, training_parser
from singleinsert.config import load_settings, require

STARTED = time.perf_counter()


def run(args: argparse.Namespace) -> None:
    """Arguments -> config -> run -> save."""
    settings = load_settings(args.preset, args.config_file, overrides_from_args(args))
    require(settings, image="the picture to learn from", class_word="what it shows, such as face or cat")

    if not args.mask_only:
        from singleinsert.training.files import check_early

        check_early(settings)
    # heavy from here on: a wrong flag or preset is reported before torch is imported
    from singleinsert.insert import insert_concepts, write_masks

    if args.mask_only:
        print(*write_masks(settings, print), sep="\n")
        return
    inserted = insert_concepts(settings, started=STARTED)
    if inserted.files:
        print(*inserted.files, inserted.trained.sheet, sep="\n")


def main(argv: Sequence[str] | None = None) -> int:
    return run_script(training_parser(__doc__), run, argv)


if __name__ == "__main__":
    sys.exit(main())
