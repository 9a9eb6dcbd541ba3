"""The command line of `python -m singleinsert.captions`; nothing heavy is imported for it."""

from __future__ import annotations

import argparse
from pathlib import Path

from singleinsert.cli import Parser
from singleinsert.config import Settings, load_settings
from singleinsert.config.load import declaration
from singleinsert.errors import ConfigError


def build_parser(description: str) -> argparse.ArgumentParser:
    """The parser of all four subcommands. No flag may be abbreviated."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog="python -m singleinsert.captions", description=description, formatter_class=shape,
                    allow_abbrev=False)  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True)

    write = commands.add_parser("write", help="photo.txt beside photo.jpg, for one picture or a folder of them",
                                allow_abbrev=False)  # fmt: skip
    _add_pictures(write)
    _add_writers(write)
    write.add_argument("--metadata", action="store_true", help="into metadata.jsonl of the folder, not into .txt files")
    write.add_argument("--overwrite", action="store_true", help="replace captions that are already there")

    check = commands.add_parser("check", help="look at captions that are there, change nothing", allow_abbrev=False)
    _add_pictures(check)
    _add_writers(check, critic=True)
    _add_checks(check)

    edit = commands.add_parser("edit", help="a local page: picture, phrases and verdicts, edit, save",
                               allow_abbrev=False)  # fmt: skip
    edit.add_argument("--image", required=True, help="the picture")
    _add_writers(edit)
    edit.add_argument("--port", type=int, default=7862, metavar="N", help="default 7862; 0: any that is free")
    edit.add_argument("--open", action="store_true", help="open the page in the browser")

    show = commands.add_parser("show", help="print captions, and a sheet of pictures with them", allow_abbrev=False)
    _add_pictures(show)
    show.add_argument("--sheet", metavar="FILE", help="write the sheet there, such as captions.png")
    return parser


def _add_pictures(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--image", help="the picture")
    what.add_argument("--images", metavar="FOLDER", help="a folder of pictures")


def _add_writers(parser: argparse.ArgumentParser, critic: bool = False) -> None:
    parser.add_argument(
        "--class_word", metavar="WORD", help="what the subject is one of, such as face; art for a style"
    )
    parser.add_argument("--preset", metavar="NAME", help="its class word and its [caption] section")
    parser.add_argument("--config_file", metavar="FILE", help="TOML file, read after the preset")
    told = "who looks at each phrase: vlm:MODEL or openai:URL#MODEL" if critic else _help_of("caption.describe")
    parser.add_argument("--describe", metavar="MODEL", help=told)
    if not critic:
        parser.add_argument("--scene_words", metavar="WORDS", help='no model: what is in the picture, "red hat, beach"')
        parser.add_argument("--instruction", metavar="TEXT", help=_help_of("caption.instruction"))
    parser.add_argument("--device", default="auto", metavar="NAME", help="of a local model: cuda, cpu (default auto)")
    parser.add_argument("--pretrained_model_name_or_path", metavar="MODEL",
                        help=_help_of("model", "its tokens are counted, and rho asks it: " if critic else
                                      "its tokens are counted: "))  # fmt: skip
    parser.add_argument("--num_vectors", type=int, metavar="N", help="tokens that the concept takes (default 1)")


def _add_checks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rho", action="store_true",
                        help="does each phrase help the base model to draw the picture? wrong ones do not")  # fmt: skip
    parser.add_argument("--resolution", type=int, metavar="N", help="rho: side in pixels (default: the model's own)")
    parser.add_argument("--places", action="store_true",
                        help="where does each thing lie, to the subject's mask? found by the mask backend")  # fmt: skip
    parser.add_argument("--mask", metavar="FILE", help="places: the subject's mask; default: found")
    parser.add_argument("--backend", metavar="NAME", help="places: " + _help_of("mask.backend"))


def _help_of(key: str, before: str = "") -> str:
    key = "model.pretrained_model_name_or_path" if key == "model" else key
    return before + declaration(key)[0].metadata["help"].replace("%", "%%")


def settings_of(args: argparse.Namespace) -> Settings:
    """The settings of a preset, a config file and flags, the later ones winning.

    Raises:
        ConfigError: --describe beside --scene_words; a wrong value.
    """
    described, listed = getattr(args, "describe", None), getattr(args, "scene_words", None)
    if described and listed is not None:
        raise ConfigError("--describe and --scene_words: one of the two writes the caption")
    given = {
        "data.class_word": getattr(args, "class_word", None),
        "caption.describe": described if listed is None else f"words:{listed}",
        "caption.instruction": getattr(args, "instruction", None),
        "model.pretrained_model_name_or_path": getattr(args, "pretrained_model_name_or_path", None),
        "mask.backend": getattr(args, "backend", None),
        "concept.num_vectors": getattr(args, "num_vectors", None),
    }
    overrides = {key: value for key, value in given.items() if value is not None}
    config_file = getattr(args, "config_file", None)
    return load_settings(getattr(args, "preset", None), Path(config_file) if config_file else None, overrides)
