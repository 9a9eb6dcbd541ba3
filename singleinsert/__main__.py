"""python -m singleinsert: what commands there are."""

from __future__ import annotations

import sys

COMMANDS = """\
Learn concepts from a picture, and draw with them. Each command explains itself with --help:

  python train_singleinsert.py --preset mini --image face.png --class_word face     learn
  python infer_singleinsert.py --concept output/face --prompt "{concept} in snow"   draw
  python -m singleinsert.masks      find, edit and collect masks
  python -m singleinsert.check      see whether a background or pose was learnt with a concept
  python -m singleinsert.batch      learn from many photos
  python -m singleinsert.export     convert what was learnt for A1111, ComfyUI, diffusers
  python -m singleinsert.evaluate   compare methods and settings
  python -m singleinsert.config     print every setting
"""


def main() -> int:
    print(COMMANDS, end="")
    return 2 if len(sys.argv) > 1 and sys.argv[1] not in ("--help", "-h") else 0


if __name__ == "__main__":
    sys.exit(main())
