"""Unseen instances to learn from one picture, and prompts that ask to keep them and to change something.

python -m testbed.instances --out FOLDER       their pictures and masks, as `python -m singleinsert.evaluate` and
                                               `python -m singleinsert.batch FOLDER/concepts.toml` take them
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from singleinsert.atomic import write_atomically, write_text
from singleinsert.evaluate.prompt_lists import EditPrompt, load_prompts

from .dataset import HELD_OUT_START
from .labels import ACCESSORIES, visible
from .world.captions import BACKGROUND_WORDS, VIEW_WORDS, subject_phrase
from .world.features import EDITS, INSTANCE
from .world.scene import Instance, Scene, draw, held_out

FIRST_SUBJECT = 4_000_000_000
COUNTS = {"face": 10, "cat": 3, "dog": 3, "cup": 2, "car": 2}
FIRST_TO_CHOOSE_BY = 4_600_000_000
COUNTS_TO_CHOOSE_BY = {"face": 3, "cat": 1, "dog": 1, "cup": 1}
"""Settings are chosen by these instances; they are reported on others, so that no choice fits the report."""
FIRST_TO_REPORT_BY = 5_300_000_000
COUNTS_TO_REPORT_BY = {"face": 11, "cat": 4, "cup": 4, "car": 1}
"""Of dogs and cars the world holds four and three instances out, and the others have them all but one car."""
DRAWINGS, OTHER_SCENES = 11, 700_000_000
TRAINING_BACKGROUNDS = ("pink fabric", "wooden floor", "water", "city")
"""Where the training pictures are; no prompt of the list `mini` asks for one of these."""


def subjects(
    counts: dict[str, int] | None = None, first: int = FIRST_SUBJECT, taken: Collection[tuple[str, ...]] = ()
) -> Iterator[tuple[str, Scene]]:
    """(name, scene of the training picture) of unseen instances, whose features in this combination training never
    saw either: a photo from the front, no accessories, a neutral face.

    Args:
        first: seed that instances are sought from. taken: keys of instances that must not be among them.
    """
    for cls, count in (counts or COUNTS).items():
        seed, keys = first, {*taken}
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


def subjects_to_choose_by() -> Iterator[tuple[str, Scene]]:
    """Six more, none of them like one of `subjects`, to choose settings by."""
    taken = {scene.instances[0].key for _, scene in subjects()}
    return subjects(COUNTS_TO_CHOOSE_BY, FIRST_TO_CHOOSE_BY, taken)


def subjects_to_report_by() -> Iterator[tuple[str, Scene]]:
    """Twenty more, none of them like one of the others: nothing was ever chosen by them."""
    taken = {scene.instances[0].key for found in (subjects(), subjects_to_choose_by()) for _, scene in found}
    return subjects(COUNTS_TO_REPORT_BY, FIRST_TO_REPORT_BY, taken)


def write_folder(folder: Path) -> Path:
    """Draw all `subjects` with their masks, and `concepts.toml`, the list of them; its path."""
    return write_list(folder, subjects())


def write_folder_to_choose_by(folder: Path) -> Path:
    """The same of `subjects_to_choose_by`."""
    return write_list(folder, subjects_to_choose_by())


def write_folder_to_report_by(folder: Path) -> Path:
    """The same of `subjects_to_report_by`."""
    return write_list(folder, subjects_to_report_by())


def write_drawings_to_choose_by(folder: Path) -> Path:
    """`subjects_to_choose_by`, each in `DRAWINGS` more true drawings: other scenes of the very instance, with captions
    beside them. What could be learnt if there were twelve good pictures and not one."""
    lines = ["# True drawings of unseen instances, the first of each in the scene of its training picture."]
    for name, scene in subjects_to_choose_by():
        pictures = []
        for k, other in enumerate([scene, *other_scenes(scene, DRAWINGS)]):
            picture, _ = write_training_picture(other, folder, f"{name}-{k}")
            write_text(picture.with_suffix(".txt"), description(other) + "\n")
            pictures.append(f'"{picture.name}"')
        lines += ["", "[[job]]", f'name = "{name}"', f"image = [{', '.join(pictures)}]"]
        lines.append(f'class_word = "{scene.instances[0].cls}"')
    write_text(folder / "concepts.toml", "\n".join(lines) + "\n")
    return folder / "concepts.toml"


def other_scenes(scene: Scene, count: int) -> list[Scene]:
    """Random scenes of a scene's instance, photos, its hair in its own colour; in none is all that a prompt of the list
    `mini` asks for, so that what is asked then has not been seen."""
    cls, found = scene.instances[0].cls, list[Scene]()
    wanted = [{k: v for k, v in asked(p).items() if k != "style"} for p in load_prompts("mini").for_class(cls)]
    seed = OTHER_SCENES + scene.seed * 1000
    while len(found) < count:
        drawn, seed = Scene.from_seed(seed, scene.instances[0]), seed + 1
        edits = drawn.edits[0] | {"hair_color": scene.edits[0]["hair_color"]}
        new = replace(drawn, edits=(edits,), style="photo")
        shown = visible(new)
        if not any(all(shown.get(k) == v for k, v in each.items()) for each in wanted if each):
            found.append(new)
    return found


def description(scene: Scene) -> str:
    """All that a picture shows besides what the instance is, "{concept}" in the subject's place."""
    edits = scene.edits[0]
    said = subject_phrase(scene.instances[0], edits, (), [k for k in edits if k != "hair_color"], "{concept}")
    view = VIEW_WORDS.get(scene.view, "")
    return f"{view} {said} {BACKGROUND_WORDS[scene.background][0]}".strip()


def write_list(folder: Path, scenes: Iterable[tuple[str, Scene]]) -> Path:
    """Draw scenes with their masks, and `concepts.toml`, the list of them; its path."""
    lines = ["# Unseen instances of the drawn world, in combinations of features that mini-sd never saw."]
    for name, scene in scenes:
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
