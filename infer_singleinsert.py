"""Draw pictures with trained concepts, one or several in a prompt.

    # what training left under output/mexyz, on the base model it was trained on
    python infer_singleinsert.py --concept mexyz --prompt "{concept} in the snow" --num_images 4 --grid
    python infer_singleinsert.py --concept mexyz:0.8 --prompt_list views --scheduler dpmpp_2m --num_inference_steps 25
    # two concepts that were trained apart; exported files of any trainer; another base model of the family
    python infer_singleinsert.py --concept mexyz --concept hatxy:0.7 --prompt "{mexyz} wearing {hatxy}"
    python infer_singleinsert.py --concept zoexy.safetensors+zoexy_lora.safetensors --prompt "a portrait of *" \\
        --pretrained_model_name_or_path MODEL --mixed_precision fp16 --prompt_file prompts.txt
    # parts of a photo drawn anew, the rest of it untouched (docs/editing.md)
    python infer_singleinsert.py --concept hatxy --edit photo.jpg --edit_mask top.png --prompt "wearing {hatxy}"
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from singleinsert.cli import Command, inference_parser, is_edit, print_next, run_script
from singleinsert.imports import importing
from singleinsert.inference.schedulers import SCHEDULERS
from singleinsert.specs import check_concept, located, split_weight


def run(args: argparse.Namespace) -> None:
    """Arguments -> load -> render -> save."""
    for spec in args.concept:  # a name that is none is told before anything heavy is imported
        check_concept(spec)

    if is_edit(args):
        with importing():
            from singleinsert.edit import edit_photo

        return edit_photo(args)

    with importing():
        from tqdm import tqdm

        from singleinsert.inference.output import PictureFolder
        from singleinsert.inference.pipeline import ConceptPipeline
        from singleinsert.inference.prompts import warn_of_prompt
        from singleinsert.inference.setup import lines_of, load_base, load_concepts, notes, pick_device, plan

    lines = lines_of(args)
    concepts, weights = load_concepts(args.concept, allow_pickle=args.allow_pickle)
    for note in notes(lines, concepts):
        print(f"note: {note}", file=sys.stderr)
    rows = plan(lines, args, concepts)
    model = load_base(args, concepts)
    pipeline = ConceptPipeline(
        model, concepts, weights, scheduler=args.scheduler, offload=args.offload,
        offload_device=pick_device(args.device),
    )  # fmt: skip
    for line in lines:
        warn_of_prompt(line.prompt, pipeline.names)
    pictures = [picture for row in rows for picture in row]
    if args.attention_maps:
        drawing = pipeline.render_with_attention(pictures, batch_size=args.batch_size)
    else:  # refuses at once what cannot be drawn; draws when asked
        drawing = ((image, {}) for image in pipeline.render(pictures, batch_size=args.batch_size))
    folder, images = PictureFolder(args.output_dir), []
    for picture, (image, maps) in zip(
        pictures, tqdm(drawing, total=len(pictures), unit="picture", disable=None), strict=True
    ):
        images.append(image)
        path = folder.save(image, picture, pipeline, args.scheduler)
        tqdm.write(str(path), file=sys.stdout)
        if maps:
            tqdm.write(str(folder.save_attention(path, image, maps)), file=sys.stdout)
    if args.grid:
        columns = args.num_images
        grid = [images[start : start + columns] for start in range(0, len(images), columns)]
        print(folder.save_grid(grid, rows, pipeline))
    if concepts:
        print_next(*next_commands(args))


def next_commands(args: argparse.Namespace) -> list[Command]:
    """What is worth a look after these pictures: where the concept acts, or its files for other programs."""
    concept = args.concept[0]
    looked: list[Command] = [] if args.attention_maps else [("infer", *args.words, "--attention_maps")]
    return [*looked, ("export", located(split_weight(concept)[0]), "--format", "bundle", "diffusers")]


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code; an error is one line on stderr."""
    return run_script(inference_parser(__doc__, SCHEDULERS), run, argv)


if __name__ == "__main__":
    sys.exit(main())
