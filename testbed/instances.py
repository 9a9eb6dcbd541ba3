"""Unseen instances to learn from one picture, and prompts that ask to keep them and to change something.

python -m testbed.instances --out FOLDER       their pictures and masks, as `python -m singleinsert.evaluate` and
                                               `python -m singleinsert.batch FOLDER/concepts.toml` take them
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from singleinsert.files import write_atomically, write_text

from .dataset import HELD_OUT_START
from .labels import ACCESSORIES, visible
from .world.features import EDITS, INSTANCE
from .world.scene import Instance, Scene, draw, held_out

FIRST_SUBJECT = 4_000_000_000
COUNTS = {"face": 10, "cat": 3, "dog": 3, "cup": 2, "car": 2}
TRAINING_BACKGROUNDS = ("pink fabric", "wooden floor", "water", "city")
"""Where the training pictures are; no prompt below asks for one of these."""


@dataclass(frozen=True)
class Prompt:
    """A prompt, and what it changes against the training picture."""

    text: str
    background: str | None = None
    edits: dict[str, str] = field(default_factory=dict)
    style: str = "photo"
    view: str = "front"


SHARED = (
    Prompt("{concept}"),
    Prompt("{concept} in the snow", "snow"),
    Prompt("{concept} on the beach", "beach"),
    Prompt("a pencil sketch of {concept}", style="pencil sketch"),
    Prompt("pixel art of {concept} in the desert", "desert", style="pixel art"),
)
HATS = (
    Prompt("{concept} wearing a red top hat in the jungle", "jungle", {"hat": "top hat", "hat_color": "red"}),
    Prompt("{concept} wearing sunglasses in the desert", "desert", {"glasses": "sunglasses"}),
    Prompt("{concept} wearing a blue scarf in the snow", "snow", {"scarf": "blue"}),
)
PROMPTS: dict[str, tuple[Prompt, ...]] = {
    "face": (
        *SHARED,
        *HATS,
        Prompt("a smiling {concept} on the beach", "beach", {"expression": "smiling"}),
        Prompt("{concept} with blue hair in the jungle", "jungle", {"hair_color": "blue"}),
    ),
    "cat": (*SHARED, *HATS, Prompt("left side view of {concept} on the beach", "beach", view="left")),
    "dog": (*SHARED, *HATS, Prompt("left side view of {concept} on the beach", "beach", view="left")),
    "cup": (
        *SHARED,
        Prompt("a steaming {concept} in the snow", "snow", {"steam": "steaming"}),
        Prompt("{concept} wearing a red cap in the jungle", "jungle", {"hat": "cap", "hat_color": "red"}),
        Prompt("left side view of {concept} on the beach", "beach", view="left"),
    ),
    "car": (
        *SHARED,
        Prompt("{concept} in the jungle", "jungle"),
        Prompt("{concept} in the night sky", "night sky"),
        Prompt("left side view of {concept} on the beach", "beach", view="left"),
    ),
}
"""The prompts of a class; `{concept}` stands for the placeholder and the class word."""


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


def ideal(training: Scene, prompt: Prompt) -> Scene:
    """The scene that the prompt asks for: the training picture's subject with the prompt's changes."""
    edits = training.edits[0] | prompt.edits
    seed = training.seed + sum(map(ord, prompt.text))
    return Scene(
        training.instances, (edits,), prompt.background or training.background, prompt.style, prompt.view, seed
    )


def expectations(training: Scene, prompt: Prompt) -> tuple[dict[str, str], dict[str, str]]:
    """(what the prompt changes, what it must keep), attribute -> value, of what shows in such a picture."""
    shown = visible(ideal(training, prompt))
    edited = set(prompt.edits) | {f"{name}_color" for name in ACCESSORIES if name in prompt.edits}
    edited |= {"background"} if prompt.background else set()
    edited |= {"style"} if prompt.style != "photo" else set()
    edited |= {"view"} if prompt.view != "front" else set()
    cls = training.instances[0].cls
    kept = {"class", *INSTANCE[cls]} | ({"hair_color"} if cls == "face" else set())
    return (
        {k: v for k, v in shown.items() if k in edited},
        {k: v for k, v in shown.items() if k in kept - edited},
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m testbed.instances", description="Draw the unseen instances.")
    parser.add_argument("--out", type=Path, required=True, help="folder for pictures, masks and concepts.toml")
    print(write_folder(parser.parse_args().out))
