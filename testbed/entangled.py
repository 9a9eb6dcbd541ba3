"""Does the look after training say what the judge finds? Concepts trained well and badly, on mini-sd.

    python -m testbed.entangled --out FOLDER            trains and draws, resumable; eight minutes of one core
    python -m testbed.entangled --out FOLDER --docs     tables and picture into docs/research/entanglement.md

Every scene has a place, a side and mostly a hat that may be entangled; of each instance two concepts are trained, with
the mask and without, with a careless one, and with a description. The look sees pictures of seeds of its own; the judge
reads others, drawn with the same plain prompt, and the same number by the class word.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from singleinsert.artifact import Artifact
from singleinsert.batch.worker import KeptModel
from singleinsert.check import drawing_of
from singleinsert.config import Settings, load_settings
from singleinsert.data.pictures import image_to_tensor, mask_to_tensor
from singleinsert.inference.pipeline import ConceptPipeline
from singleinsert.models.bundled import MINI_SD
from singleinsert.models.family import Family
from singleinsert.models.loading import load_base_model
from singleinsert.training.entanglement import Reference
from singleinsert.training.look import FIRST_SEED
from singleinsert.training.run import train
from singleinsert.training.watch import SilentWatch

from .instances import held_out_instance, write_training_picture
from .judge import Judge
from .world.captions import full_caption
from .world.features import BACKGROUNDS, CLOTH, EDITS
from .world.scene import Instance, Scene, draw

FIRST_SUBJECT, FIRST_LAYOUT = 6_000_000_000, 77_000_000
CLASSES = ("face", "cat", "dog")
"""Those whose front, left and right views differ, and that wear hats."""
VIEWS, HATS = ("left", "right", "front"), ("top hat", "none", "cap", "beanie")
SETS = {"choose": 4, "report": 6}
"""Instances by what they are for: thresholds are chosen on some, and tried on others."""
LOOKED, JUDGED, GUIDANCE = 8, 8, 4.0
"""Pictures of each concept that the look and the judge see."""

Changes = dict[str, str | int]
FULL: Changes = {f"{stage}.{key}": value for stage in ("stage1", "stage2")
                 for key, value in (("objective", "full_image"), ("loss_space", "epsilon"))}  # fmt: skip
FEW: Changes = {"stage1.steps": 25, "stage2.steps": 30}
SHORT: Changes = {"stage1.steps": 30, "stage2.steps": 20, "stage1.batch_size": 2, "stage2.batch_size": 2}
SETTINGS: dict[str, Changes] = {
    "mask": {}, "no mask": FULL, "no mask, few steps": FULL | FEW,
    "mask, short": SHORT, "no mask, short": FULL | SHORT, "described, short": FULL | SHORT, "box, short": SHORT,
}  # fmt: skip
"""What is changed of preset mini. Described: without a mask, with the scene's description. Box: a careless mask."""
PAIRS = (("mask", "no mask, few steps"), ("no mask", "described, short"), ("mask, short", "no mask, short"),
         ("described, short", "box, short"))  # fmt: skip
TURNS = {"choose": (0, 1, 2, 3), "report": (2, 3)}
"""Which of the pairs the instances of a set take, by turns."""


@dataclass(frozen=True)
class TrainedRun:
    """One training: what it is called, what it is for, how it is trained, and of what picture."""

    name: str
    purpose: str
    how: str
    scene: Scene


def runs() -> Iterator[TrainedRun]:
    """Every run. Those that report come first, so that the table fills while it works."""
    for purpose, count in reversed(SETS.items()):
        for k in range(count):
            scene = biased_scene(k + (0 if purpose == "choose" else 100))
            for how in PAIRS[TURNS[purpose][k % len(TURNS[purpose])]]:
                yield TrainedRun(f"{purpose}{k:02d}-{how.replace(', ', '-').replace(' ', '-')}", purpose, how, scene)


def biased_scene(number: int) -> Scene:
    """An unseen instance somewhere, seen from some side, mostly with a hat."""
    cls, seed = CLASSES[number // 2 % len(CLASSES)], FIRST_SUBJECT + 1000 * number
    while not held_out_instance(Instance.from_seed(seed, cls)):
        seed += 1
    rng = random.Random(f"entangled-{seed}")
    edits = {name: values[0] for name, values in EDITS.items()}
    edits |= {"hat": rng.choice(HATS), "hat_color": rng.choice(CLOTH), "hair_color": rng.choice(EDITS["hair_color"])}
    background, view = rng.choice(BACKGROUNDS), rng.choice(VIEWS)
    return Scene((Instance.from_seed(seed, cls),), (edits,), background, "photo", view, FIRST_LAYOUT + number)


def description(scene: Scene) -> str:
    """All but the subject, which is {concept}: "a photo of left side view of a {concept} wearing a red cap on ..."."""
    edits = scene.edits[0] | {"hair_color": "none"}
    text = full_caption(replace(scene, edits=(edits,)))
    cls = scene.instances[0].cls
    return text.replace(" with none hair", "").replace(f" {cls}", " {concept}", 1)


def loose(mask: Image.Image) -> Image.Image:
    """A mask as a careless user paints it: a box around the subject, with a margin of an eighth of the picture."""
    left, top, right, bottom = mask.getbbox() or (0, 0, *mask.size)
    margin = mask.width // 8
    box = Image.new("L", mask.size, 0)
    box.paste(255, (max(0, left - margin), max(0, top - margin), right + margin, bottom + margin))
    return box


def settings_of(run: TrainedRun, folder: Path) -> Settings:
    """Draw the run's picture and mask, and say how it is trained."""
    picture, mask = write_training_picture(run.scene, folder / "pictures", run.name)
    if run.how.startswith("box"):
        loose(Image.open(mask).convert("L")).save(mask)
    values: dict[str, object] = {
        "data.image": str(picture), "data.mask": str(mask), "data.class_word": run.scene.instances[0].cls,
        "run.output_name": "zorxy", "run.check": "off", "sample.prompts": [],
    }  # fmt: skip
    if run.how.startswith("described"):
        values["data.description"] = description(run.scene)
    return load_settings("mini+plain", None, values | SETTINGS[run.how])


def concept_of(run: TrainedRun, folder: Path, kept: KeptModel) -> Artifact:
    """Train, or load what was trained."""
    file = folder / "concepts" / f"{run.name}.safetensors"
    if not file.is_file():
        train(settings_of(run, folder), folder=folder / "work" / run.name, load=kept, watch=SilentWatch())
        Artifact.load(folder / "work" / run.name / "zorxy_artifact.safetensors").save(file)
    return Artifact.load(file)


def collect(run: TrainedRun, folder: Path, model: Family, kept: KeptModel) -> dict[str, Tensor]:
    """The look's and the judge's latents of one concept and of its class word, and the training picture's; once.

    Keys: "drawn", "plain", "judged", "judged_plain" (n, 4, h, w), and those of :class:`Reference`.
    """
    file = folder / "latents" / f"{run.name}.safetensors"
    if file.is_file():
        return load_file(file)
    word, looked = run.scene.instances[0].cls, range(FIRST_SEED, FIRST_SEED + LOOKED)
    judged = range(FIRST_SEED + 1000, FIRST_SEED + 1000 + JUDGED)
    plain = folder / "latents" / f"class-{word}.safetensors"
    concept = concept_of(run, folder, kept)
    pipeline = ConceptPipeline(model, [concept])
    try:
        sample = drawing_of(pipeline, GUIDANCE, 64, {})
        if not plain.is_file():
            plain.parent.mkdir(parents=True, exist_ok=True)
            prompt = f"a photo of {word}"
            save_file({"plain": sample(prompt, False, looked), "judged_plain": sample(prompt, False, judged)}, plain)
        prompt = f"a photo of * {word}"
        found = {"drawn": sample(prompt, True, looked), "judged": sample(prompt, True, judged)} | load_file(plain)
    finally:
        pipeline.close()
    shown = draw(run.scene)
    mask = loose(shown.masks["subject"]) if run.how.startswith("box") else shown.masks["subject"]
    pixels = image_to_tensor(shown.image, 64)
    latents = model.encode_picture(pixels).mean
    found |= vars(Reference.of(pixels, mask_to_tensor(mask, 64), latents, lambda x: model.encode_picture(x).mean))
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, file)
    return found


def main() -> int:
    p = argparse.ArgumentParser(prog="python -m testbed.entangled", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    p.add_argument("--out", type=Path, required=True, help="folder of the concepts and of what was drawn with them")
    p.add_argument("--docs", action="store_true", help="write what is there into docs/research/entanglement.md")
    args = p.parse_args()
    model, kept = load_base_model(MINI_SD), KeptModel()
    if not args.docs:
        for run in runs():
            collect(run, args.out, model, kept)
            print(run.name, flush=True)
        return 0
    from .entangled_docs import write_page

    with torch.no_grad():
        there = [run for run in runs() if (args.out / "latents" / f"{run.name}.safetensors").is_file()]
        write_page([(run, collect(run, args.out, model, kept)) for run in there], model, Judge.load())
    return 0


if __name__ == "__main__":
    sys.exit(main())
