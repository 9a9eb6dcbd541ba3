"""Describe everything in a picture but the subject (SID), so that it stays out of the concept.

python -m singleinsert.captions write --image me.jpg --class_word face --scene_words "red hat, beach"
python -m singleinsert.captions write --image me.jpg --class_word face --describe vlm:HuggingFaceTB/SmolVLM-Instruct
python -m singleinsert.captions write --images photos --class_word dog --describe openai:http://localhost:11434/v1#gemma3
python -m singleinsert.captions check --image me.jpg --class_word face --rho
python -m singleinsert.captions edit --image me.jpg --class_word face
python -m singleinsert.captions show --images photos --sheet captions.png
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from singleinsert.captions.arguments import build_parser, settings_of
from singleinsert.cli import run_script


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0; 1 where some pictures of a folder have no caption that can be used; 2 with one line on stderr."""
    codes: list[int] = []

    def run(args: argparse.Namespace) -> None:
        settings = settings_of(args)
        if args.command == "edit":
            from singleinsert.captions.page import edit

            codes.append(edit(args, settings))
            return
        from singleinsert.captions import commands

        command = {"write": commands.write, "check": commands.check, "show": commands.show}[args.command]
        codes.append(command(args, settings))

    return run_script(build_parser(__doc__ or ""), run, argv) or codes[0]


if __name__ == "__main__":
    sys.exit(main())
