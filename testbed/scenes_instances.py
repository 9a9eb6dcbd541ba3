"""Unseen scenes to learn several concepts from, for `python -m singleinsert.evaluate scenes`.

python -m testbed.scenes_instances --out FOLDER              the sixteen scenes of the table
python -m testbed.scenes_instances --out FOLDER --choosing   eight other ones, on which settings are chosen

Half of them have two subjects, the others three or four; some have two of one class. All features of every subject, in
their combination, are held out from training. Photos from the front, nothing worn, no subject covered by another.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

from singleinsert.atomic import write_atomically, write_text

from .instances import held_out_instance
from .scenes_judge import shown_share
from .world.features import EDITS
from .world.scene import Instance, Scene
from .world.scenes import CLASS_ODDS, draw_scene

TRAINING_BACKGROUNDS = ("pink fabric", "wooden floor", "water")
"""Where the training pictures are; no prompt of the list `mini-scenes` asks for one of these."""
REPORT = (2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4)
CHOOSING = (2, 2, 2, 2, 3, 3, 4, 4)
TWINS_EVERY, TWIN_CLASSES = 4, ("face", "cat", "dog")
"""Every fourth scene has two subjects of one class."""
FIRST_REPORT, FIRST_CHOOSING = 6_000_000_000, 7_000_000_000
VISIBLE = 0.98
"""Share of a subject that no other covers, at least."""


def report_scenes() -> Iterator[tuple[str, Scene]]:
    """(name, scene) of those that the table is made of."""
    return _scenes("scene", REPORT, FIRST_REPORT)


def choosing_scenes() -> Iterator[tuple[str, Scene]]:
    """(name, scene) of those that settings are chosen on; they share no instance with the others."""
    return _scenes("choose", CHOOSING, FIRST_CHOOSING)


def _scenes(name: str, counts: tuple[int, ...], seed: int) -> Iterator[tuple[str, Scene]]:
    """Scenes of so many subjects each, whose instances have seeds from `seed` on. Classes with few features have few
    combinations that are held out: of those only within a scene none comes twice."""
    for k, count in enumerate(counts):
        rng = random.Random(f"{name}-{k}")
        instances: list[Instance] = []
        for cls in _classes(count, k % TWINS_EVERY == TWINS_EVERY - 1, rng):
            seen = {i.key for i in instances}
            while not held_out_instance(i := Instance.from_seed(seed, cls)) or i.key in seen:
                seed += 1
            seed += 1
            instances.append(i)
        yield f"{name}{k:02d}", _uncovered(tuple(instances), rng)


def _classes(count: int, twins: bool, rng: random.Random) -> list[str]:
    """Different classes; twins are the first two, of a class with many combinations of features."""
    if not twins:
        return rng.sample(list(CLASS_ODDS), count)
    first = rng.choice(TWIN_CLASSES)
    return [first, first, *rng.sample([cls for cls in CLASS_ODDS if cls != first], count - 2)]


def _uncovered(instances: tuple[Instance, ...], rng: random.Random) -> Scene:
    """A plain scene of them in which each can be seen whole."""
    edits = []
    for _ in instances:
        plain = {name: values[0] for name, values in EDITS.items()}
        plain["hair_color"] = rng.choice(EDITS["hair_color"])
        edits.append(plain)
    background = rng.choice(TRAINING_BACKGROUNDS)
    while True:
        scene = Scene(instances, tuple(edits), background, seed=rng.randrange(10**9))
        drawn = draw_scene(scene)
        if all(shown_share(scene, drawn, k) >= VISIBLE for k in range(len(instances))):
            return scene


def write_folder(folder: Path) -> Path:
    """Draw the scenes of the table with their masks, and `concepts.toml`, the list of them; its path."""
    return _write(folder, report_scenes(), "Unseen scenes of the drawn world.")


def write_choosing_folder(folder: Path) -> Path:
    """The same of the scenes that settings are chosen on."""
    return _write(folder, choosing_scenes(), "Unseen scenes of the drawn world, on which settings are chosen.")


def _write(folder: Path, scenes: Iterator[tuple[str, Scene]], title: str) -> Path:
    lines = [f"# {title}"]
    for name, scene in scenes:
        drawn = draw_scene(scene)
        masks = {f"{name}_{k}_mask.png": mask.whole for k, mask in enumerate(drawn.masks)}
        for file, image in {f"{name}.png": drawn.image, **masks}.items():
            write_atomically(folder / file, lambda target, image=image: image.save(target, "PNG"))  # type: ignore[misc]
        words = [instance.cls for instance in scene.instances]
        lines += ["", "[[job]]", f'name = "{name}"', f'image = "{name}.png"']
        lines += [f"mask = {_listed(masks)}", f"class_word = {_listed(words)}"]
    write_text(folder / "concepts.toml", "\n".join(lines) + "\n")
    return folder / "concepts.toml"


def _listed(texts: object) -> str:
    return "[" + ", ".join(f'"{text}"' for text in texts) + "]"  # type: ignore[attr-defined]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m testbed.scenes_instances", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="folder for pictures, masks and concepts.toml")
    parser.add_argument("--choosing", action="store_true", help="the scenes that settings are chosen on")
    args = parser.parse_args()
    print(write_choosing_folder(args.out) if args.choosing else write_folder(args.out))
