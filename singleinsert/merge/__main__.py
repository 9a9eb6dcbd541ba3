"""Join concepts that were trained apart into one LoRA, in closed form (Custom Diffusion).

python -m singleinsert.merge mexyz hatxy --output_name pair
python -m singleinsert.merge output/mexyz output/hatxy:0.8 --output_name pair --format webui bundle
python -m singleinsert.merge mexyz --output_name mexyzalone
python infer_singleinsert.py --concept pair --prompt "{mexyz} wearing {hatxy}"

Adding LoRAs, as every client does with two of them, lets each concept's LoRA act on the other one's words as well. The
one that is written here acts on each concept's words as its own LoRA did, and on all others as little as can be; that
of one concept alone leaves all other words alone. It is for concepts that change only the keys and values of
cross-attention: train them with --set adapter.type=kv.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from singleinsert.cli import Parser, path_argument, run_script
from singleinsert.export import FORMATS


def parser() -> argparse.ArgumentParser:
    """The command line; building it imports nothing heavy."""
    out = Parser(
        prog="python -m singleinsert.merge",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("concepts", nargs="+", metavar="CONCEPT", help="as --concept of infer_singleinsert.py: a path or "
                     "a name under output, and :WEIGHT for its LoRA")  # fmt: skip
    out.add_argument("--output_name", required=True, metavar="NAME", help="name of the joined concepts")
    out.add_argument("--output_dir", type=path_argument, metavar="DIR", help="default: output/NAME")
    out.add_argument("--format", nargs="+", default=["webui"], choices=FORMATS, dest="formats")
    out.add_argument("--save_precision", default="fp16", choices=("fp16", "fp32", "bf16"))
    out.add_argument("--pretrained_model_name_or_path", metavar="MODEL",
                     help="base model; default: the one of the training")  # fmt: skip
    out.add_argument("--overwrite", action="store_true", help="replace files that are there")
    out.add_argument("--allow_pickle", action="store_true", help="read .pt and .bin files, which you trust")
    return out


def run(args: argparse.Namespace) -> None:
    """Check, load, join, write, and print what was kept and the paths written."""
    from singleinsert.specs import check_concept

    for spec in args.concepts:
        check_concept(spec)

    from singleinsert.artifact import SUFFIX
    from singleinsert.errors import InputError
    from singleinsert.export import export
    from singleinsert.inference.loras import check_fits
    from singleinsert.inference.setup import load_concepts, recorded_base
    from singleinsert.merge.closed_form import check_mergeable, merge_concepts
    from singleinsert.models.bundled import place_of_model
    from singleinsert.models.loading import load_base_model
    from singleinsert.names import problem_with_name

    if problem := problem_with_name(args.output_name):
        raise InputError(f"--output_name {args.output_name}: {problem}")
    artifacts, weights = load_concepts(args.concepts, allow_pickle=args.allow_pickle)
    check_mergeable(artifacts)
    folder = args.output_dir or Path("output") / args.output_name
    target = folder / f"{args.output_name}{SUFFIX}"
    if target.exists() and not args.overwrite:
        raise InputError(f"{target} is there already: choose another name, or pass --overwrite")
    given = args.pretrained_model_name_or_path
    model = load_base_model(place_of_model(given) if given else recorded_base(artifacts))
    for artifact in artifacts:
        check_fits(artifact, model)
    merged, kept = merge_concepts(model, artifacts, args.output_name, weights)
    for name, error in kept.concepts.items():
        print(f"{name}: differs by {error:.1%} from its own LoRA, in texts that were not used")
    print(f"other words: {kept.others:.1%} of what adding the LoRAs would change")
    files = export(merged, folder, formats=args.formats, precision=args.save_precision, overwrite=args.overwrite)
    merged.save(target)
    print(*files, target, sep="\n")


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code; an error is one line on stderr."""
    return run_script(parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
