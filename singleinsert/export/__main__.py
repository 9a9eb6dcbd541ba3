"""Convert an artifact (or an exported pair) again.

python -m singleinsert.export NAME_artifact.safetensors --output_dir converted
python -m singleinsert.export NAME_artifact.safetensors --format webui diffusers bundle --save_precision fp32
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from singleinsert.cli import Parser, path_argument, print_next, run_script
from singleinsert.export import FORMATS


def parser() -> argparse.ArgumentParser:
    """The command line; building it imports nothing heavy."""
    out = Parser(
        prog="python -m singleinsert.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument(
        "artifact", type=path_argument, help="NAME_artifact.safetensors, an embedding file, or a folder with either"
    )
    out.add_argument("--format", nargs="+", default=["webui"], choices=FORMATS, dest="formats")
    out.add_argument("--save_precision", default="fp16", choices=("fp16", "fp32", "bf16"))
    out.add_argument("--output_dir", type=path_argument, help="default: the artifact's folder")
    out.add_argument("--output_name", help="export under another name (file stem and trigger word)")
    out.add_argument("--trigger_word", default="", help="the embedding's key for diffusers; default: the name")
    out.add_argument(
        "--preview", type=path_argument, help="picture for the cards; default: NAME.preview.png beside the artifact"
    )
    out.add_argument("--overwrite", action="store_true", help="replace files that are there")
    out.add_argument("--allow_pickle", action="store_true", help="read .pt and .bin files, which you trust")
    return out


def run(args: argparse.Namespace) -> None:
    """Load, convert, write, and print the paths written."""
    from dataclasses import replace

    from singleinsert.data.pictures import load_picture
    from singleinsert.export import export
    from singleinsert.locate import load_concept, located
    from singleinsert.models.trigger import common_word_note

    artifact = load_concept(args.artifact, allow_pickle=args.allow_pickle)
    place = located(args.artifact)
    folder = place if place.is_dir() else place.parent
    beside = folder / f"{artifact.name}.preview.png"
    preview_path = args.preview or (beside if beside.is_file() else None)
    preview = None
    if preview_path is not None:
        preview = load_picture(preview_path).image
    if args.output_name:
        artifact = replace(artifact, name=args.output_name)
    if len(artifact.concepts) == 1 and (note := common_word_note(artifact.name)):
        print(f"note: {note}", file=sys.stderr)
    for path in export(
        artifact, args.output_dir or folder, formats=args.formats, precision=args.save_precision,
        preview=preview, trigger_word=args.trigger_word, overwrite=args.overwrite,
    ):  # fmt: skip
        print(path)
    where = args.output_dir or folder
    print_next(("infer", "--concept", where, "--prompt", "{concept} in the snow", "--num_images", 4, "--grid"))
    print("into A1111, Forge or ComfyUI: docs/clients.md says which file goes where")


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code; an error is one line on stderr."""
    return run_script(parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
