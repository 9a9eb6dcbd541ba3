"""SingleInsert's losses against plain full-image training, on unseen instances of the drawn world.

    python -m testbed.compare                      20 instances, both methods; resumable: start it again
    python -m testbed.compare --model testbed/runs/snapshot --subjects face0 cat0 --methods singleinsert
    python -m testbed.compare --docs               also write the table and the sheet of docs/mini-sd.md

Each instance is drawn once, with its exact mask, and learnt from that picture with the mini preset. The judge
then reads pictures of prompts that change the background, what it wears, the style or the view. `drawn` is the
judge on the true drawing of each prompt, the most that can be had; `class word` is mini-sd asked for any such
subject, with nothing learnt: what chance keeps, and how well the base model obeys.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from singleinsert.artifact import Artifact
from singleinsert.config import load_settings
from singleinsert.data.prompts import fill
from singleinsert.inference.pipeline import ConceptPipeline, Picture
from singleinsert.models.base import MINI_SD, load_base_model
from singleinsert.training.run import train

from .docs import DOCS, IMAGES, fill_block, save_picture
from .instances import PROMPTS, Prompt, expectations, ideal, subjects, write_training_picture
from .judge import Judge
from .world.scene import Instance, Scene, contact_sheet, draw

ROOT = Path(__file__).resolve().parent.parent
DRAWS = {"stage1.timestep_importance": 0.5, "stage1.stratified_timesteps": True}
QUARTER = {"stage1.batch_size": 4}
METHODS: dict[str, dict[str, Any]] = {
    "singleinsert": {},
    "full_image": {"stage1.objective": "full_image", "stage2.objective": "full_image"},
    "singleinsert_stage1": {"stage2.steps": 0},
    "full_image_stage1": {"stage1.objective": "full_image", "stage2.steps": 0},
    "draws": DRAWS,
    "quarter": QUARTER,
    "quarter_draws": QUARTER | DRAWS,
}
"""Overrides of the mini preset. `draws` has stage I's timesteps of least variance (docs/cost.md), `quarter` a quarter
of its samples in as many steps; each is to be seen beside `singleinsert`, `quarter_draws` beside `quarter`."""
REFERENCES = ("drawn", "class word")
PER_PROMPT, STEPS, GUIDANCE = 2, 25, 5.0
GALLERY = 99
MEASURES = ("identity", "top1", "kept", "background", "edits", "style", "view", "obeyed")


def learn(scene: Scene, folder: Path, model: Path, overrides: dict[str, Any]) -> Artifact:
    """Train on the drawing of `scene` as the mini preset and `overrides` say; what was learnt before is loaded."""
    done = folder / "concept_artifact.safetensors"
    if done.exists():
        return Artifact.load(done)
    picture, mask = write_training_picture(scene, folder)
    settings = load_settings(
        "mini",
        None,
        {
            "model.pretrained_model_name_or_path": str(model),
            "data.image": str(picture),
            "data.mask": str(mask),
            "data.class_word": scene.instances[0].cls,
            "run.output_dir": str(folder),
            "run.output_name": "concept",
            "sample.prompts": ["{concept}"],
        }
        | overrides,
    )
    return train(settings, say=lambda line: None).artifact


def pictures_of(pipeline: ConceptPipeline, texts: Sequence[str], guidance: float) -> list[Image.Image]:
    """`PER_PROMPT` pictures of each prompt, prompt after prompt."""
    wanted = [
        Picture(text, seed=1000 + n, steps=STEPS, guidance_scale=guidance, width=64, height=64)
        for text in texts
        for n in range(PER_PROMPT)
    ]
    return list(pipeline.render(wanted, batch_size=20))


def method_pictures(method: str, scene: Scene, folder: Path, model: Path, guidance: float,
                    extra: dict[str, Any]) -> list[Image.Image]:  # fmt: skip
    """The pictures of every prompt by one method, or by one of the `REFERENCES`."""
    cls = scene.instances[0].cls
    prompts = PROMPTS[cls]
    if method == "drawn":
        scenes = [ideal(scene, p) for p in prompts]
        seeded = [replace(s, seed=s.seed + n) for s in scenes for n in range(PER_PROMPT)]
        return [draw(s, masks=False).image for s in seeded]
    base = load_base_model(model)
    if method == "class word":
        texts = [with_article(p.text, cls) for p in prompts]
        return pictures_of(ConceptPipeline(base), texts, guidance)
    artifact = learn(scene, folder, model, METHODS[method] | extra)
    return pictures_of(ConceptPipeline(base, [artifact]), [p.text for p in prompts], guidance)


def with_article(text: str, cls: str) -> str:
    """The prompt without a concept: '{concept} in the snow' -> 'a cat in the snow'."""
    plain = fill(text, "", cls)
    starts = ("a ", "left ", "right ", "pixel ")
    return plain.replace(f"of {cls}", f"of a {cls}") if plain.startswith(starts) else f"a {plain}"


def score(judge: Judge, scene: Scene, images: Sequence[Image.Image]) -> dict[str, Any]:
    """Means over the pictures of one instance; each measure over the prompts that ask for it."""
    cls = scene.instances[0].cls
    asked = [p for p in PROMPTS[cls] for _ in range(PER_PROMPT)]
    readings = judge.read(images, classes=[cls] * len(images))
    own = judge.embed([draw(scene, masks=False).image])[0]
    others = judge.embed(gallery(scene))
    embedded = judge.embed(images)
    marks: dict[str, list[float]] = defaultdict(list)
    wrong = []
    for prompt, reading, z in zip(asked, readings, embedded, strict=True):
        changed, kept = expectations(scene, prompt)
        right = {k: reading[k].value == v for k, v in (changed | kept).items()}
        if prompt.style == "photo":
            marks["identity"].append(float(z @ own))
            marks["top1"].append(float(z @ own > (others @ z).max()))
        marks["kept"].append(statistics.mean(right[k] for k in kept))
        for name in ("background", "style", "view"):
            if name in changed:
                marks[name].append(right[name])
        edits = [right[k] for k in changed if k not in ("background", "style", "view")]
        if edits:
            marks["edits"].append(all(edits))
        if changed:
            marks["obeyed"].append(all(right[k] for k in changed))
        wrong.append([prompt.text, {k: reading[k].value for k, ok in right.items() if not ok}])
    return {"means": {k: statistics.mean(v) for k, v in marks.items()}, "wrong": wrong}


def gallery(scene: Scene) -> list[Image.Image]:
    """Drawn pictures, like the training picture, of other instances of its class."""
    cls = scene.instances[0].cls
    others = (Instance.from_seed(5_000_000_000 + k, cls) for k in range(GALLERY))
    return [draw(replace(scene, instances=(i,)), masks=False).image for i in others]


def summary(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Method -> measure -> (mean, standard error) over instances, for all of them and for faces alone."""
    out: dict[str, dict[str, Any]] = {}
    for method, by_subject in results.items():
        for group in ("all", "faces"):
            rows = [r["means"] for name, r in by_subject.items() if group == "all" or name.startswith("face")]
            cells = {}
            for measure in MEASURES:
                values = [r[measure] for r in rows if measure in r]
                if values:
                    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
                    cells[measure] = [round(statistics.mean(values), 4), round(error, 4)]
            out.setdefault(group, {})[method] = {"instances": len(rows), **cells}
    return out


def table(summed: dict[str, dict[str, Any]]) -> str:
    """Markdown; every measure with its standard error over the instances."""
    lines = []
    for group, methods in summed.items():
        lines += [
            f"**{group}**",
            "",
            "| | instances | " + " | ".join(MEASURES) + " |",
            "|---" * (len(MEASURES) + 2) + "|",
        ]
        for method, cells in methods.items():
            shown = [f"{cells[m][0]:.3f} ± {cells[m][1]:.3f}" if m in cells else "" for m in MEASURES]
            lines.append(f"| {method} | {cells['instances']} | " + " | ".join(shown) + " |")
        lines.append("")
    return "\n".join(lines)


def make_sheet(out: Path, names: Sequence[str], methods: Sequence[str]) -> Image.Image:
    """For each instance a row per method: the training picture, then one picture of each prompt."""
    images, columns = [], 1 + max(len(p) for p in PROMPTS.values())
    for name, scene in subjects():
        if name not in names:
            continue
        first = draw(scene, masks=False).image
        for method in methods:
            files = [
                out / method / name / "pictures" / f"{k:02d}.png"
                for k in range(0, PER_PROMPT * (columns - 1), PER_PROMPT)
            ]
            row = [Image.open(f).convert("RGB") for f in files if f.exists()]
            images += [first, *row, *[Image.new("RGB", (64, 64), "white")] * (columns - 1 - len(row))]
    return contact_sheet(images, columns, scale=1)


def run(args: argparse.Namespace, say: Callable[[str], None] = print) -> dict[str, dict[str, Any]]:
    """Everything that is not there yet: pictures of each method and instance, then their scores."""
    judge = Judge.load()
    extra = {k: json.loads(v) for k, v in (pair.split("=", 1) for pair in args.set)}
    results: dict[str, dict[str, Any]] = {m: {} for m in (*REFERENCES, *args.methods)}
    for name, scene in subjects():
        if args.subjects and name not in args.subjects:
            continue
        for method in results:
            folder = args.out / method.replace(" ", "_") / name
            prompts: Sequence[Prompt] = PROMPTS[scene.instances[0].cls]
            files = [folder / "pictures" / f"{k:02d}.png" for k in range(PER_PROMPT * len(prompts))]
            if not all(f.exists() for f in files):
                (folder / "pictures").mkdir(parents=True, exist_ok=True)
                made = method_pictures(method, scene, folder / "run", args.model, args.guidance_scale, extra)
                for image, file in zip(made, files, strict=True):
                    image.save(file)
            results[method][name] = score(judge, scene, [Image.open(f).convert("RGB") for f in files])
            say(f"{name} {method}: " + "  ".join(f"{k} {v:.2f}" for k, v in results[method][name]["means"].items()))
    return results


def main() -> int:
    p = argparse.ArgumentParser(prog="python -m testbed.compare", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    p.add_argument("--model", type=Path, default=MINI_SD)
    p.add_argument("--methods", nargs="*", default=["singleinsert", "full_image"], choices=METHODS)
    p.add_argument("--subjects", nargs="*", default=[], help="names such as face0; all without")
    p.add_argument("--guidance_scale", type=float, default=GUIDANCE)
    p.add_argument("--set", nargs="*", default=[], metavar="KEY=JSON", help="overrides of every method's settings")
    p.add_argument("--out", type=Path, default=ROOT / "testbed" / "runs" / "compare")
    p.add_argument("--docs", action="store_true", help=f"write the result into {DOCS.name}")
    args = p.parse_args()
    torch.manual_seed(0)
    results = run(args)
    summed = summary(results)
    (args.out / "compare.json").write_text(json.dumps({"summary": summed, "results": results}, indent=1))
    print(table(summed))
    names = [n for n in next(iter(results.values()))]
    make_sheet(args.out, names, [m.replace(" ", "_") for m in results]).save(args.out / "sheet.png")
    if args.docs:
        fill_block(DOCS, "compare", table(summed))
        few = [n for n in ("face0", "face1", "cat0", "cup0") if n in names]
        save_picture(make_sheet(args.out, few, [m.replace(" ", "_") for m in results]), IMAGES / "mini-sd-compare.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
