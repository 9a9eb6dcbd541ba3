"""Unseen instances to learn from one picture, and prompts that ask to keep them and to change something.

python -m testbed.instances --out FOLDER       their pictures and masks, as `python -m singleinsert.evaluate` and
                                               `python -m singleinsert.batch FOLDER/concepts.toml` take them
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

from singleinsert.atomic import write_atomically, write_text
from singleinsert.evaluate.prompt_lists import EditPrompt

from .dataset import HELD_OUT_START
from .labels import ACCESSORIES, visible
from .world.features import EDITS, INSTANCE
from .world.scene import Instance, Scene, draw, held_out

FIRST_SUBJECT = 4_000_000_000
COUNTS = {"face": 10, "cat": 3, "dog": 3, "cup": 2, "car": 2}
TRAINING_BACKGROUNDS = ("pink fabric", "wooden floor", "water", "city")
"""Where the training pictures are; no prompt of the list `mini` asks for one of these."""


def subjects(counts: dict[str, int] | None = None) -> Iterator[tuple[str, Scene]]:
    """(name, scene of the training picture) of unseen instances, whose features in this combination training never
    saw either: a photo from the front, no accessories, a neutral face."""
    for cls, count in (counts or COUNTS).items():
        seed, keys = FIRST_SUBJECT, set()
        for k in range(count):
            while not held_out_instance(i := Instance.from_seed(seed, cls)) or i.key in keys:
                seed += 1
            keys.add(i.key)
            rng = random.Random(f"subject-{cls}-{seed}")
            edits = {name: values[0] for name, values in EDITS.items()}
            edits["hair_color"] = rng.choice([c for c in EDITS["hair_color"] if c != "blue"])
            background = rng.choice(TRAINING_BACKGROUNDS)
            yield (
                f"{cls}{k}",
                Scene((Instance.from_seed(seed, cls),), (edits,), background, seed=HELD_OUT_START * 3 + k),
            )
            seed += 1


def held_out_instance(instance: Instance) -> bool:
    """Whether an instance's discrete features as a whole are held out: then any scene of it is."""
    plain = {name: values[0] for name, values in EDITS.items()}
    return all(held_out(Scene((instance,), (plain,), b)) for b in ("beach", "snow", "city", "water"))


def write_training_picture(scene: Scene, folder: Path, name: str = "") -> tuple[Path, Path]:
    """Draw the scene and its exact mask as picture.png and mask.png, or NAME.png and NAME_mask.png; (picture, mask)."""
    drawn = draw(scene)
    picture, mask = folder / f"{name or 'picture'}.png", folder / f"{name + '_' if name else ''}mask.png"
    for path, image in ((picture, drawn.image), (mask, drawn.masks["subject"])):
        write_atomically(path, lambda target, image=image: image.save(target))  # type: ignore[misc]
    return picture, mask


def write_folder(folder: Path) -> Path:
    """Draw all `subjects` with their masks, and `concepts.toml`, the list of them; its path."""
    lines = ["# Unseen instances of the drawn world, in combinations of features that mini-sd never saw."]
    for name, scene in subjects():
        picture, mask = write_training_picture(scene, folder, name)
        lines += ["", "[[job]]", f'name = "{name}"', f'image = "{picture.name}"', f'mask = "{mask.name}"']
        lines.append(f'class_word = "{scene.instances[0].cls}"')
    write_text(folder / "concepts.toml", "\n".join(lines) + "\n")
    return folder / "concepts.toml"


def asked(prompt: EditPrompt) -> dict[str, str]:
    """Attribute -> value of all that a prompt asks for."""
    return {attribute: value for target in prompt.targets for attribute, value in target.label.items()}


def ideal(training: Scene, prompt: EditPrompt) -> Scene:
    """The scene that the prompt asks for: the training picture's subject with the prompt's changes."""
    new = asked(prompt)
    edits = training.edits[0] | {k: v for k, v in new.items() if k in EDITS}
    edits |= {name: new[f"{name}_color"] for name in ACCESSORIES if name in new}
    background, style = new.get("background", training.background), new.get("style", "photo")
    seed = training.seed + sum(map(ord, prompt.text))
    return Scene(training.instances, (edits,), background, style, new.get("view", "front"), seed)


def expectations(training: Scene, prompt: EditPrompt) -> tuple[dict[str, str], dict[str, str]]:
    """(what the prompt changes, what it must keep), attribute -> value, of what shows in such a picture."""
    shown, new = visible(ideal(training, prompt)), asked(prompt)
    cls = training.instances[0].cls
    kept = {"class", *INSTANCE[cls]} | ({"hair_color"} if cls == "face" else set())
    return (
        {k: v for k, v in shown.items() if k in new},
        {k: v for k, v in shown.items() if k in kept - new.keys()},
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m testbed.instances", description="Draw the unseen instances.")
    parser.add_argument("--out", type=Path, required=True, help="folder for pictures, masks and concepts.toml")
    print(write_folder(parser.parse_args().out))
