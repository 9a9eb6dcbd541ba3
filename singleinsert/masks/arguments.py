"""The command line of `python -m singleinsert.masks`; nothing heavy is imported for it."""

from __future__ import annotations

import argparse
from dataclasses import asdict, fields
from typing import Any, get_origin, get_type_hints

from singleinsert.cli import Parser, path_argument
from singleinsert.config import MaskSettings, Settings, load_settings


def build_parser(description: str) -> argparse.ArgumentParser:
    """The parser of all three subcommands."""
    parser = Parser(
        prog="python -m singleinsert.masks",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)

    find = commands.add_parser(
        "find", help="one picture: NAME_mask.png and NAME_mask_overlay.png; or several named masks"
    )
    find.add_argument("--image", required=True, type=path_argument, help="the picture")
    find.add_argument(
        "--class_word",
        action="append",
        metavar="WORD",
        help="what to find; given several times (NAME=WORD, NAME=WORD|PART to cut PART away): a folder of named masks",
    )
    find.add_argument(
        "--disjoint", action="store_true", help="several masks: remove from later ones what earlier ones cover"
    )
    find.add_argument("--output_dir", type=path_argument, help="folder; default: the picture's")
    find.add_argument("--overwrite", action="store_true", help="replace a mask that is already there")
    _add_mask_flags(find)

    batch = commands.add_parser(
        "batch", help="a folder of pictures; the same command again continues with those that have no mask"
    )
    batch.add_argument("--images", required=True, type=path_argument, help="folder of pictures")
    batch.add_argument("--class_word", help="one word for all pictures")
    batch.add_argument(
        "--class_words",
        type=path_argument,
        help='TOML file: "picture name" = "class word", a line each; it overrides --class_word',
    )
    batch.add_argument(
        "--output_dir", type=path_argument, help="folder of the masks, named as the pictures; default: IMAGES_masks"
    )
    _add_mask_flags(batch)

    edit = commands.add_parser("edit", help="a local page with brush, eraser and click")
    edit.add_argument("--image", required=True, type=path_argument, help="the picture")
    edit.add_argument(
        "--mask",
        type=path_argument,
        help="the mask to start from, and the file to write; default: the picture's mask, or NAME_mask.png beside it",
    )
    edit.add_argument("--port", type=int, default=7861)
    edit.add_argument("--open", action="store_true", help="open the page in the browser")
    _add_mask_flags(edit)
    return parser


def _add_mask_flags(parser: argparse.ArgumentParser) -> None:
    """A flag for every setting of [mask], from its declaration."""
    parser.add_argument("--preset", help="its [mask] section, and its class word where none is given")
    parser.add_argument("--config_file", type=path_argument, help="TOML file, read after the preset")
    hints = get_type_hints(MaskSettings)
    for field in fields(MaskSettings):
        flag, hint = f"--{field.name}", hints[field.name]
        options: dict[str, Any] = {"dest": f"mask.{field.name}", "help": field.metadata["help"].replace("%", "%%")}
        if field.name == "box":
            options |= {"type": numbers, "metavar": "LEFT,TOP,RIGHT,BOTTOM"}
        elif get_origin(hint) is tuple:
            options |= {"nargs": "+", "metavar": field.name.upper()}
        elif hint is bool:
            options |= {"action": argparse.BooleanOptionalAction, "default": None}
        else:
            options |= {"type": hint if hint in (int, float) else str, "metavar": field.name.upper()}
        parser.add_argument(flag, **options)


def numbers(text: str) -> tuple[float, ...]:
    """ "1,2,3,4" -> (1.0, 2.0, 3.0, 4.0)."""
    return tuple(float(part) for part in text.split(","))


def settings_of(args: argparse.Namespace) -> tuple[Settings, dict[str, Any]]:
    """(all settings; the [mask] section as keywords of `find_mask`)."""
    overrides = {key: value for key, value in vars(args).items() if key.startswith("mask.") and value is not None}
    settings = load_settings(args.preset, args.config_file, overrides)
    return settings, asdict(settings.mask)
