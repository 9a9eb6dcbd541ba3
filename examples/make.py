"""Draws the pictures of this folder: instances of the miniature world that mini-sd never saw, and their masks.

python -m examples.make
"""

from __future__ import annotations

from pathlib import Path

from testbed.world.scene import Instance, Scene, draw, held_out

FOLDER = Path(__file__).parent
SEEDS = {"face": 10_002_062, "cat": 10_000_606, "cup": 10_000_127}


def main() -> None:
    for word, seed in SEEDS.items():
        scene = Scene.from_seed(seed, Instance.from_seed(seed, word))
        if not held_out(scene):
            raise SystemExit(f"{word} {seed} is no longer held out: choose another seed")
        drawn = draw(scene)
        drawn.image.save(FOLDER / f"{word}.png")
        drawn.masks["subject"].save(FOLDER / f"{word}_mask.png")


if __name__ == "__main__":
    main()
