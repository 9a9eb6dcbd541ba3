"""Find a mask for a class word, for one picture or a folder of them, look at it, and correct it.

python -m singleinsert.masks find --image annaxy.jpg --class_word face
python -m singleinsert.masks find --image scene.jpg --class_word cat --class_word mug="coffee cup"
python -m singleinsert.masks batch --images photos --class_word face
python -m singleinsert.masks edit --image annaxy.jpg
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from singleinsert.cli import Command, print_next, run_script
from singleinsert.config import Settings
from singleinsert.errors import ConfigError, InputError
from singleinsert.masks.arguments import build_parser, settings_of


def find(args: argparse.Namespace, settings: Settings, options: dict[str, Any]) -> int:
    """One picture."""
    from singleinsert.data.pictures import load_picture
    from singleinsert.masks import find_mask, write_mask
    from singleinsert.masks.find import place_of, refuse_second

    words = args.class_word or list(settings.data.class_word)
    if not words:
        raise ConfigError("--class_word is missing: what does the picture show, such as face or cat?")
    picture = load_picture(args.image)
    folder = args.output_dir or picture.path.parent
    if len(words) > 1 or "=" in words[0]:
        return _find_several(picture, words, folder, args, options)
    beside = folder.resolve() == picture.path.parent.resolve()
    refuse_existing(place_of(picture.path) if beside else folder / f"{picture.path.stem}_mask.png", args.overwrite)
    if beside:
        refuse_second(picture.path)
    result = find_mask(picture, words[0], beside=False, **options)
    written = write_mask(result, folder, picture.path.stem, args.overwrite)
    print(*result.lines(), *written, sep="\n")
    given: tuple[str | Path, ...] = () if beside else ("--mask", written[0])
    learn: Command = ("train", "--image", picture.path, "--class_word", words[0], *given)
    print_next(("masks", "edit", "--image", picture.path, *given), learn)
    return 0


def _find_several(
    picture: Any, words: list[str], folder: Path, args: argparse.Namespace, options: dict[str, Any]
) -> int:
    from singleinsert.atomic import write_atomically
    from singleinsert.data.folders import set_beside
    from singleinsert.data.subject import name_handles, plain_name
    from singleinsert.masks.collection import INDEX, find_masks, save_masks
    from singleinsert.masks.files import share_of

    texts = [word.rpartition("=")[2] for word in words]
    class_words = [text.split("|")[0].strip() for text in texts]
    told = [word.rpartition("=")[0] for word in words]
    unnamed = [word for word, name in zip(class_words, told, strict=True) if not name]
    by_class = iter([plain_name(h.name) for h in name_handles(unnamed, (), "")] if unnamed else [])
    names = [name or next(by_class) for name in told]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"two masks are named {double}: write NAME=WORD")
    named = dict(zip(names, texts, strict=True))
    target = folder / set_beside(picture.path).name
    refuse_existing(target / INDEX, args.overwrite)
    masks = find_masks(picture, named, **options)
    if args.disjoint:
        masks = masks.disjoint()
    for each in masks.masks:
        print(f"{each.name}: {each.class_word}, {share_of(each.mask):.1%} of the picture, by {each.source}")
    for (a, b), share in masks.overlaps().items():
        print(f"{a} and {b} overlap by {share:.0%} of the smaller one; --disjoint cuts them apart")
    save_masks(masks, target)
    write_atomically(target / "overlay.png", masks.sheet(picture).save)
    print(target)
    learn: list[str | Path] = ["train", *(("--preset", "scene") if len(words) > 1 else ())]
    learn += ["--image", picture.path, "--mask", target]
    learn += [part for word in class_words for part in ("--class_word", word)]
    print_next((*learn, *(("--set", f"data.handles={','.join(names)}") if any(told) else ())))
    return 0


def refuse_existing(path: Path, overwrite: bool) -> None:
    """InputError where a file is there that may have been drawn by hand."""
    if path.exists() and not overwrite:
        raise InputError(f"{path} is already there: --overwrite replaces it, --output_dir writes elsewhere")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0; 1 where some pictures of a batch got no mask; 2 with one line on stderr."""

    def run(args: argparse.Namespace) -> int:
        settings, options = settings_of(args)
        if args.command == "find":
            return find(args, settings, options)
        if args.command == "batch":
            from singleinsert.masks.batch import batch

            return batch(args, settings, options)
        from singleinsert.masks.editor import serve

        return serve(args.image, args.mask, options, port=args.port, open_browser=args.open)

    return run_script(build_parser(__doc__ or ""), run, argv)


if __name__ == "__main__":
    sys.exit(main())
