"""The command lines of the two scripts, and what both do around their work. Nothing heavy is imported here.

Flags that name a setting say so in FLAGS and take type, choices and help from its declaration.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import importlib.util
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from singleinsert import __version__
from singleinsert.atomic import os_error
from singleinsert.config.load import declaration, parse_value, preset_names
from singleinsert.errors import ConfigError, InputError, SingleInsertError, one_line
from singleinsert.heap import keep_freed_memory
from singleinsert.reading import user_path
from singleinsert.streams import unbreakable_streams

FLAGS = {
    "pretrained_model_name_or_path": "model.pretrained_model_name_or_path",
    "revision": "model.revision",
    "variant": "model.variant",
    "image": "data.image",
    "mask": "data.mask",
    "mask_index": "mask.mask_index",
    "box": "mask.box",
    "class_word": "data.class_word",
    "describe": "caption.describe",
    "learn_background": "data.learn_background",
    "placeholder_token": "data.placeholder_token",
    "resolution": "data.resolution",
    "output_dir": "run.output_dir",
    "output_name": "run.output_name",
    "seed": "run.seed",
    "stage1_steps": "stage1.steps",
    "stage2_steps": "stage2.steps",
    "stage1_learning_rate": "stage1.learning_rate",
    "stage2_learning_rate": "stage2.learning_rate",
    "stage1_batch_size": "stage1.batch_size",
    "stage2_batch_size": "stage2.batch_size",
    "network_dim": "adapter.network_dim",
    "network_alpha": "adapter.network_alpha",
    "mixed_precision": "run.mixed_precision",
    "gradient_accumulation_steps": "run.gradient_accumulation_steps",
    "micro_batch_size": "run.micro_batch_size",
    "use_8bit_adam": "run.use_8bit_adam",
    "enable_xformers_memory_efficient_attention": "run.enable_xformers_memory_efficient_attention",
    "gradient_checkpointing": "run.gradient_checkpointing",
    "checkpointing_steps": "run.checkpointing_steps",
    "resume_from_checkpoint": "run.resume_from_checkpoint",
    "report_to": "run.report_to",
    "save_precision": "save.save_precision",
}
"""Flag of train_singleinsert.py -> key. A new knob goes to the config, not here: ``--set`` reaches all of them."""

USERS_TO_MEND = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENOTDIR,
)  # fmt: skip
"""Failures of the file system that are no bug."""


def training_parser(description: str | None = None) -> argparse.ArgumentParser:
    """The command line of train_singleinsert.py; ``description`` is the script's docstring."""
    parser = _parser(description)
    add_flags(parser)
    parser.add_argument(
        "--check", action="store_true", help="print what can be said of the run before it begins, and train nothing"
    )
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    return parser


Command = Sequence[str | int | Path]
"""Words of a command line, the first of them one of ``python -m singleinsert``'s commands."""


def print_next(*commands: Command, leave_out: str = "") -> None:
    """Say what there is to do next: whole command lines, as they can be typed.

    Args:
        leave_out: a flag of this command that is no part of the next one.
    """
    for place, command in enumerate(commands):
        line = ("next: " if place == 0 else "or:   ") + typed(
            word for word in command if not leave_out or str(word) != leave_out
        )
        print(line, file=sys.stderr, flush=True)  # stdout is for what was made, which scripts read


def typed(command: Iterable[object]) -> str:
    """A command of ours as it is typed here."""
    installed = Path(sys.argv[0]).stem.lower() == "singleinsert"
    program = ["singleinsert"] if installed else ["python", "-m", "singleinsert"]
    return shlex.join([*program, *map(str, command)])


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Put the flags of train_singleinsert.py on ``parser``; :func:`overrides_from_args` reads them."""
    presets = ", ".join(preset_names())
    parser.add_argument(
        "--preset", metavar="NAME", help=f"settings for a kind of subject or model, joined as in face+sdxl: {presets}"
    )
    parser.add_argument(
        "--config_file",
        metavar="FILE",
        type=path_argument,
        help="TOML file; it overrides --preset, and flags override it",
    )
    for flag, key in FLAGS.items():
        field, hint = declaration(key)
        options = _argument(key, hint) if not field.metadata["several"] else {"action": "append", "metavar": "TEXT"}
        parser.add_argument(f"--{flag}", help=field.metadata["help"].replace("%", "%%"), **options)
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE",
        help="any other setting, as docs/configuration.md lists them; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--low_vram", action="store_true",
        help="for a GPU of 4 GB: sets " + ", ".join(f"{key}={str(v).lower()}" for key, v in low_vram().items()),
    )  # fmt: skip
    parser.add_argument(
        "--scene_words", metavar="WORDS", help='what the picture shows besides the subject: "red hat, beach"'
    )
    parser.add_argument("--mask_only", action="store_true", help="write the mask and a picture of it, and stop")


def low_vram() -> dict[str, Any]:
    """The settings behind ``--low_vram``; a flag of its own overrides each of them."""
    return {
        "run.offload": True,
        "run.gradient_checkpointing": True,
        "run.micro_batch_size": 1,
        "run.use_8bit_adam": importlib.util.find_spec("bitsandbytes") is not None,
    }


def overrides_from_args(args: argparse.Namespace) -> dict[str, Any]:
    """``{"section.key": value}`` of the flags that were given, for ``load_settings``; ``--set`` comes last.

    Raises:
        ConfigError: a --set without "=", or with a key that does not exist.
    """
    given = low_vram() if args.low_vram else {}
    given |= {key: getattr(args, flag) for flag, key in FLAGS.items() if getattr(args, flag) is not None}
    if args.scene_words is not None:
        if args.describe is not None:
            raise ConfigError("--describe and --scene_words both say who describes the picture: give one of them")
        given["caption.describe"] = f"words:{args.scene_words}"
    for item in args.set:
        key, equals, text = item.partition("=")
        if not equals:
            raise ConfigError(f"--set {item}: write --set section.key=value")
        given[key.strip()] = parse_value(key.strip(), text.strip())
    return given


def inference_parser(description: str | None, schedulers: Iterable[str]) -> argparse.ArgumentParser:
    """The command line of infer_singleinsert.py; ``schedulers`` are the names of samplers, beside "auto"."""
    parser = _parser(description)
    add = parser.add_argument
    add("--concept", action="append", default=[], metavar="PATH[:WEIGHT]",
        help="a trained concept: an artifact, its folder, an embedding file with its LoRA beside it, EMBEDDING+LORA, "
        "or the NAME of a run under output; WEIGHT scales the LoRA, 1 by default; repeatable, for several concepts in "
        "one prompt")  # fmt: skip
    add("--prompt", action="append", default=[], metavar="TEXT",
        help="* stands for the concept, {concept} for it and its class word, {NAME} and <NAME> for one of several; "
        "repeatable")  # fmt: skip
    add("--prompt_file", type=path_argument, metavar="FILE",
        help="one prompt a line, # starts a comment; kohya's --n --s --l --d --w --h may follow a prompt")  # fmt: skip
    add("--prompt_list", choices=("views",), help="views: left side, frontal, right side and back view")
    add("--negative_prompt", default="", metavar="TEXT", help="what the pictures should not show")
    add("--seed", type=int, default=0, metavar="N", help="seed of the first picture; the next count up (default 0)")
    add("--num_images", type=int, default=1, metavar="N", help="pictures for each prompt (default 1)")
    add("--num_inference_steps", type=int, default=50, metavar="N", help="sampling steps (default 50)")
    add("--guidance_scale", type=float, default=7.5, metavar="X", help="classifier-free guidance (default 7.5)")
    add("--scheduler", choices=("auto", *schedulers), default="auto",
        help="sampler (default auto: ddim, and for flow models Euler)")  # fmt: skip
    add("--width", type=int, metavar="N", help="width in pixels; default: the concept's resolution")
    add("--height", type=int, metavar="N", help="height in pixels; default: likewise")
    add("--grid", action="store_true", help="also write one sheet of all pictures: prompts are rows, seeds are columns")
    add("--attention_maps", action="store_true",
        help="also write where the concept and its class word act in each picture (cross-attention)")  # fmt: skip
    _add_edit_flags(add)
    add("--output_dir", type=path_argument, default=Path("output/pictures"), metavar="DIR",
        help="folder of the pictures (default output/pictures)")  # fmt: skip
    add("--pretrained_model_name_or_path", metavar="MODEL", help="base model; default: the one of the training")
    add("--revision", metavar="TEXT", help="branch, tag or commit on the hub")
    add("--variant", metavar="TEXT", help="variant of the weight files, such as fp16")
    add("--batch_size", type=int, metavar="N",
        help="pictures at a time (default 4, 16 with a miniature model); they do not change")  # fmt: skip
    add("--mixed_precision", choices=("no", "fp16", "bf16"), default="no", help="no: float32, the default")
    add("--device", default="auto", metavar="NAME", help="cuda, cuda:1, mps or cpu (default auto: the best available)")
    add("--offload", choices=("none", "model", "sequential"), default="none",
        help="keep parts of the model in main memory until a GPU needs them: less GPU memory, more time")  # fmt: skip
    add("--enable_xformers_memory_efficient_attention", action="store_true", help="instead of PyTorch's attention")
    add("--enable_attention_slicing", action="store_true", help="attention head by head: less memory, more time")
    add("--enable_vae_tiling", action="store_true", help="decode large pictures in tiles: less memory")
    add("--allow_pickle", action="store_true", help="also read .pt and .bin embeddings; they can run code")
    return parser


def path_argument(text: str) -> Path:
    """A path on a command line; a ``type`` for argparse."""
    try:
        return user_path(text)
    except ConfigError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from problem


def _add_edit_flags(add: Callable[..., Any]) -> None:
    add("--edit", type=path_argument, metavar="PHOTO",
        help="redraw parts of this photo in place of drawing whole pictures; nothing else of it changes")  # fmt: skip
    add("--edit_mask", action="append", dest="edit_regions", default=[], metavar="FILE",
        type=lambda text: ("file", str(path_argument(text))),
        help="white where the photo may change; repeatable, with one --prompt for each")  # fmt: skip
    add("--edit_class_word", action="append", dest="edit_regions", type=lambda text: ("word", text), metavar="WORD",
        help="the mask is what this word finds in the photo; in place of an --edit_mask")  # fmt: skip
    add("--edit_strength", type=float, metavar="X",
        help="above 0 up to 1: how much may become of what is there now (default 0.75)")  # fmt: skip
    add("--edit_order", choices=("at_once", "one_by_one"),
        help="several masks: in one pass (default), or one after the other, which overlapping ones need")  # fmt: skip
    add("--edit_noise", choices=("fixed", "fresh"), help="of the surroundings, at each step (default fixed)")
    add(
        "--edit_best", type=int, metavar="N", help="draw N for each picture, keep what CLIP finds nearest to its prompt"
    )


EDIT_DETAILS = ("edit_regions", "edit_strength", "edit_order", "edit_noise", "edit_best")


def is_edit(args: argparse.Namespace) -> bool:
    """Whether the command line asks for an edit. InputError where it does so without a photo."""
    if args.edit is None:
        for name in EDIT_DETAILS:
            if getattr(args, name) not in (None, []):
                flag = f"edit_{_edit_flag(args.edit_regions[0])}" if name == "edit_regions" else name
                raise InputError(f"--{flag} is for an edit: give the photo with --edit PHOTO")
    return args.edit is not None


def _edit_flag(region: tuple[str, str]) -> str:
    """The end of the flag that named a region."""
    return "mask" if region[0] == "file" else "class_word"


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line, without the page of usage before it.

    It takes no abbreviated flags: a flag that is added later must not change what a saved command means.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        unknown = message.partition("unrecognized arguments: ")[2].split(" ")[0].partition("=")[0]
        meant = difflib.get_close_matches(unknown, self._option_string_actions, n=1) if unknown else []
        advice = f"; did you mean {meant[0]}?" if meant else " (--help lists the flags)"
        self.exit(2, f"error: {one_line(message, 500)}{advice}\n")


def run_script(
    parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int | None], argv: Sequence[str] | None = None
) -> int:
    """Parse, run, and turn what a user can mend into one line on stderr. ``run`` finds the words as ``args.words``.

    Returns the exit code: what ``run`` returns, or 0; the error's own, mostly 2; 2 for a full or forbidden disk; 130
    after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    with unbreakable_streams():
        for word in words:
            if problem := _unusable(word):
                return _fail(f"argument {word[:80]!r} {problem}", 2)
        args = parser.parse_args(words)
        args.words = words
        keep_freed_memory()
        try:
            return run(args) or 0
        except SingleInsertError as problem:
            return _fail(str(problem), problem.exit_code)
        except KeyboardInterrupt:
            return _fail("stopped", 130)
        except OSError as problem:
            if problem.errno not in USERS_TO_MEND:
                raise  # a bug of ours is shown whole
            cause = os_error(problem, Path.cwd())
            return _fail(f"{problem.filename}: {cause}" if problem.filename else f"{cause}", 2)


def _unusable(word: str) -> str:
    """What is wrong with a word of a command line that no file and no prompt could hold; "" where nothing is."""
    if "\0" in word:
        return "holds a zero byte, which no path and no prompt can"
    if not word.isascii() and any("\ud800" <= letter <= "\udfff" for letter in word):
        return "is not in UTF-8: write it in that encoding, or rename the file"
    return ""


def _fail(line: str, exit_code: int) -> int:
    # above 2, a signal ended it, as the user wished
    line = one_line(line)
    print(f"error: {line}" if exit_code <= 2 else line, file=sys.stderr, flush=True)
    return exit_code


def _parser(description: str | None) -> argparse.ArgumentParser:
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"singleinsert {__version__}")
    return parser


def _argument(key: str, hint: Any) -> dict[str, Any]:
    """Argparse's options for the type of a setting."""
    if hint is bool:
        return {"action": "store_const", "const": True}
    if get_origin(hint) is Literal:
        return {"choices": get_args(hint)}
    if get_origin(hint) is tuple:
        return {"type": lambda text: parse_value(key, text), "metavar": "X,Y,..."}
    return {"type": hint, "metavar": {int: "N", float: "X"}.get(hint, "TEXT")}
