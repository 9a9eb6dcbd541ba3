"""One command for everything: ``singleinsert COMMAND ...``, or ``python -m singleinsert COMMAND ...``."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable, Sequence

COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("train_singleinsert", "learn concepts from a picture"),
    "infer": ("infer_singleinsert", "draw with them"),
    "ui": ("singleinsert.ui.__main__", "all of it on a page in the browser"),
    "masks": ("singleinsert.masks.__main__", "find, edit and collect masks"),
    "captions": ("singleinsert.captions.__main__", "describe pictures, and check descriptions"),
    "check": ("singleinsert.check", "see whether a background or pose was learnt with a concept"),
    "batch": ("singleinsert.batch.__main__", "learn from many photos"),
    "export": ("singleinsert.export.__main__", "convert what was learnt for A1111, ComfyUI, diffusers"),
    "merge": ("singleinsert.merge.__main__", "join concepts that were trained apart into one LoRA"),
    "evaluate": ("singleinsert.evaluate.__main__", "compare methods and settings"),
    "config": ("singleinsert.config.__main__", "print every setting"),
}
"""Name -> (module with a ``main(argv)``, what it does)."""

EXAMPLES = """
Two minutes on any machine, without a model of one's own:
  singleinsert train --preset mini
  singleinsert infer --concept mexyz --prompt "{concept} in the snow" --num_images 4 --grid
Without the program on the path, python -m singleinsert takes its place.
"""


def overview() -> str:
    lines = [f"  singleinsert {name:10}{what}" for name, (_, what) in COMMANDS.items()]
    head = "Learn concepts from a picture, and draw with them. Each command explains itself with --help:"
    return "\n".join([head, "", *lines]) + "\n" + EXAMPLES


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that is named; the exit code is its own."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("--help", "-h"):
        print(overview(), end="")
        return 0
    if words[0] == "--version":
        from singleinsert import __version__

        print(f"singleinsert {__version__}")
        return 0
    name, *rest = words
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        advice = f"did you mean {near[0]}?" if near else f"there are: {', '.join(COMMANDS)}"
        print(f"error: no command {name[:80]!r}; {advice}", file=sys.stderr)
        return 2
    run: Callable[[Sequence[str]], int] = importlib.import_module(COMMANDS[name][0]).main
    return run(rest)


if __name__ == "__main__":
    sys.exit(main())
