"""Several photos of one concept on mini-sd, against one, with and without descriptions beside them; judged.

    python -m testbed.photos                      ten unseen instances, resumable; about an hour of one CPU core
    python -m testbed.photos --docs several-photos:photos   and the table into docs/research/several-photos.md

Each instance is drawn on three grounds; the first is the picture of `testbed.instances`. Rows: that one alone, all
three, all three with a description of the ground, and of one photo with its description.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from singleinsert.atomic import write_text
from singleinsert.batch.worker import KeptModel
from singleinsert.config import Settings, load_settings
from singleinsert.evaluate.prompt_lists import EditPrompt, load_prompts
from singleinsert.inference.pipeline import ConceptPipeline, Picture
from singleinsert.training.run import train
from singleinsert.training.watch import SilentWatch

from .compare import PROMPTS, gallery, score, summary, table
from .docs import RESEARCH, ROOT, fill_block
from .instances import TRAINING_BACKGROUNDS, subjects, write_training_picture
from .judge import Judge
from .world.captions import full_caption
from .world.scene import Scene

COUNTS = {"face": 4, "cat": 2, "dog": 2, "cup": 1, "car": 1}
ROWS = {
    "one photo": (1, False),
    "one photo, described": (1, True),
    "three photos": (3, False),
    "three photos, described": (3, True),
}
SEEDS = 2


def photos_of(scene: Scene, count: int) -> list[Scene]:
    """The training scene, and the same subject on other grounds and in other layouts."""
    grounds = [g for g in TRAINING_BACKGROUNDS if g != scene.background]
    others = [replace(scene, background=g, seed=scene.seed + 7919 * (k + 1)) for k, g in enumerate(grounds)]
    return [scene, *others][:count]


def settings_of(name: str, scene: Scene, row: str, folder: Path) -> Settings:
    """Draw the row's photos, masks and descriptions, and say how they are trained."""
    count, described = ROWS[row]
    cls, images, masks = scene.instances[0].cls, [], []
    for k, shown in enumerate(photos_of(scene, count)):
        picture, mask = write_training_picture(shown, folder, f"{name}_{k}")
        if described:
            write_text(picture.with_suffix(".txt"), full_caption(shown, []).replace(f"a {cls}", "{concept}", 1) + "\n")
        images.append(str(picture))
        masks.append(str(mask))
    return load_settings("mini", None, {
        "data.image": images, "data.mask": masks, "data.class_word": cls, "run.output_name": f"{name}xy",
        "sample.prompts": [],
    })  # fmt: skip


def draw_prompts(pipeline: ConceptPipeline, prompts: Sequence[EditPrompt]) -> list[tuple[EditPrompt, Image.Image]]:
    """``SEEDS`` pictures of every prompt."""
    asked = [prompt for prompt in prompts for _ in range(SEEDS)]
    wanted = [Picture(p.text, 100 + n % SEEDS, "", 20, 3.0, 64, 64) for n, p in enumerate(asked)]
    return list(zip(asked, pipeline.render(wanted, batch_size=20), strict=True))


def measure(name: str, scene: Scene, row: str, judge: Judge, kept: KeptModel, folder: Path) -> dict[str, float]:
    """Train, draw and judge one row of one instance."""
    settings = settings_of(name, scene, row, folder / "pictures" / row.replace(" ", "_").replace(",", ""))
    trained = train(settings, folder=folder / "run" / f"{row}-{name}", load=kept, watch=SilentWatch())
    model = kept._model
    model.autoencoder.to(model.device)
    pipeline = ConceptPipeline(model, [trained.artifact])
    try:
        pictures = draw_prompts(pipeline, load_prompts(PROMPTS).for_class(scene.instances[0].cls))
    finally:
        pipeline.close()
    return score(judge, scene, gallery(judge, scene), pictures)


def main() -> None:
    p = argparse.ArgumentParser(prog="python -m testbed.photos", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    p.add_argument("--out", type=Path, default=ROOT / "testbed" / "runs" / "photos")
    p.add_argument("--docs", metavar="PAGE:BLOCK", help="write the table into docs/research/PAGE.md")
    args = p.parse_args()
    judge, kept = Judge.load(), KeptModel()
    results: dict[str, dict[str, Any]] = {row: {} for row in ROWS}
    for name, scene in subjects(COUNTS):
        for row in ROWS:
            path = args.out / "scores" / f"{row}-{name}.json"
            if not path.is_file():
                write_text(path, json.dumps(measure(name, scene, row, judge, kept, args.out)))
            results[row][name] = json.loads(path.read_text())
            print(row, name, results[row][name], flush=True)
    shown = table(summary(results))
    print(shown)
    if args.docs:
        page, _, block = args.docs.partition(":")
        fill_block(RESEARCH / f"{page}.md", block, shown)


if __name__ == "__main__":
    main()
