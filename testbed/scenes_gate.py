"""The gate of mini-scenes: is every asked subject there, with its own features, before the asked background?

    python -m testbed.scenes_gate                 500 pictures of the bundled model; exit code 1 if it fails
    python -m testbed.scenes_gate --model testbed/runs/scenes-snapshot --share 0.2
    python -m testbed.scenes_gate --drawn         the true drawings instead: the most that can be had
    python -m testbed.scenes_gate --docs          also write the table and the samples of docs/research/mini-scenes.md

Captions are of held-out combinations. The segmenter finds each asked class; it is there if the judge reads the class in
the cut-out as well. A feature that a caption names, and that would show, is right if the judge reads it in its own
subject's cut-out; if the subject is not there, it is wrong.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from .dataset import HELD_OUT_START
from .docs import IMAGES, RESEARCH, fill_block, save_picture
from .gate import captioned_sheet, generate, load_pipeline
from .judge import Judge, Reading
from .labels import visible
from .reader import attribute_of
from .scenes_data import held_out_groups
from .scenes_judge import SCENES_ASSET, cut_out, half_vae, through
from .scenes_segmenter import FOLDER as SEGMENTER
from .scenes_segmenter import SceneSegmenter
from .world.features import INSTANCE
from .world.scene import Scene
from .world.scene_captions import full_scene_caption
from .world.scenes import SCENE_SIZE, alone, draw_scene

ROOT = Path(__file__).resolve().parent.parent
DOCS = RESEARCH / "mini-scenes.md"
MODEL = ROOT / "singleinsert" / "assets" / "mini-scenes"
START = HELD_OUT_START + 15_000_000
PICTURES = {1: 60, 2: 200, 3: 140, 4: 100}
"""Captions of the gate, by the number of subjects that they ask for."""
ALL_THERE = {1: 0.95, 2: 0.95, 3: 0.85, 4: 0.70}
BACKGROUND, FEATURE = 0.95, 0.80
NAMED = {1: (1, 3), 2: (0, 2), 3: (0, 1), 4: (0, 1)}
"""Features that a caption names of each subject, beside all that it wears."""
OF_THE_SCENE = ("class", "background", "style")


@dataclass(frozen=True)
class Question:
    """A caption, what it names of each subject that would show, and what each had better not wear."""

    scene: Scene
    caption: str
    named: tuple[dict[str, str], ...]
    unnamed: tuple[tuple[str, ...], ...]


def question(scene: Scene) -> Question:
    """The full caption of a scene with some features of each subject, different ones from scene to scene."""
    rng = random.Random(f"scenes-gate-{scene.seed}")
    low, high = NAMED[len(scene.instances)]
    features = [
        rng.sample(names, rng.randint(low, min(high, len(names))))
        for names in (list(INSTANCE[i.cls]) for i in scene.instances)
    ]
    caption = full_scene_caption(scene, features)
    named, unnamed = [], []
    for k in range(len(scene.instances)):
        shown = {n: v for n, v in visible(alone(scene, k)).items() if n not in OF_THE_SCENE}
        said = {n for n in shown if (0 if n == "view" else k, attribute_of(n)) in caption.said}  # one view for all
        named.append({n: v for n, v in shown.items() if n in said})
        unnamed.append(tuple(n for n, v in shown.items() if v == "none"))
    return Question(scene, caption.text, tuple(named), tuple(unnamed))


def questions(share: float = 1.0, skip: int = 0) -> list[Question]:
    """The gate's captions, or a share of each kind; `skip` of each kind left out first."""
    out = []
    for subjects, count in PICTURES.items():
        count = round(count * share)
        out += [question(s) for s in list(held_out_groups(skip + count, subjects, START))[skip:]]
    return out


@dataclass(frozen=True)
class SceneReading:
    """What is read of one picture: of each asked subject, None where it is not there; background; style; classes."""

    subjects: tuple[Reading | None, ...]
    whole: Reading


def read_scenes(
    judge: Judge, segmenter: SceneSegmenter, images: Sequence[Image.Image], classes: Sequence[Sequence[str]]
) -> list[SceneReading]:
    """Reads each picture of subjects of the given (different) classes."""
    cuts, where, asked = [], [], []
    for k, (image, wanted) in enumerate(zip(images, classes, strict=True)):
        for nth, cls in enumerate(wanted):
            for found in segmenter.find(image, cls)[:2]:
                cuts.append(cut_out(image, Image.fromarray(found.mask.astype(np.uint8) * 255)))
                where.append((k, nth))
                asked.append(cls)
    seen = judge.read(cuts) if cuts else []
    as_asked = judge.read(cuts, classes=asked) if cuts else []
    subjects: list[list[Reading | None]] = [[None] * len(wanted) for wanted in classes]
    for (k, nth), cls, free, reading in zip(where, asked, seen, as_asked, strict=True):
        if free.cls == cls and subjects[k][nth] is None:
            subjects[k][nth] = reading
    whole = judge.read(images)
    return [SceneReading(tuple(s), w) for s, w in zip(subjects, whole, strict=True)]


def score(asked: Sequence[Question], readings: Sequence[SceneReading]) -> dict[str, Any]:
    """Shares of the pictures, and of the features by attribute."""
    marks: dict[str, list[bool]] = defaultdict(list)
    pictures = []
    for q, r in zip(asked, readings, strict=True):
        n = len(q.scene.instances)
        marks[f"all there, {n} subjects"].append(all(s is not None for s in r.subjects))
        marks["background"].append(r.whole["background"].value == q.scene.background)
        marks["style"].append(r.whole["style"].value == q.scene.style)
        wrong: dict[str, Any] = {}
        for k, (i, reading, named) in enumerate(zip(q.scene.instances, r.subjects, q.named, strict=True)):
            marks[f"subject: {i.cls}"].append(reading is not None)
            if reading is None:
                wrong[f"{k} {i.cls}"] = "absent"
            for name, value in named.items():
                right = reading is not None and reading[name].value == value
                for key in (f"feature: {name}", "feature", f"feature, {n} subjects"):
                    marks[key].append(right)
                if reading is not None:
                    marks["feature of a subject that is there"].append(right)
                    if not right:
                        wrong[f"{k} {i.cls}.{name}"] = [value, reading[name].value]
            if reading is not None:
                for name in q.unnamed[k]:
                    marks[f"unnamed: {name}"].append(reading[name].value == "none")
        pictures.append({"caption": q.caption, "seed": q.scene.seed, "wrong": wrong})
    rows = {k: {"share": round(sum(v) / len(v), 4), "of": len(v)} for k, v in sorted(marks.items())}
    return {"rows": rows, "pictures": pictures}


def gates() -> dict[str, float]:
    """Row -> the least share."""
    there = {f"all there, {n} subjects": least for n, least in ALL_THERE.items()}
    return {**there, "background": BACKGROUND, "feature": FEATURE}


def passed(result: dict[str, Any]) -> bool:
    return all(result["rows"][name]["share"] >= least for name, least in gates().items())


def table(result: dict[str, Any]) -> str:
    """The result in Markdown."""
    rows, least = result["rows"], gates()
    lines = [
        f"{result['count']} pictures, {result['from']}: the gate is "
        f"**{'passed' if passed(result) else 'not passed'}**.\n",
        "| | share | of | gate | |",
        "|---|---|---|---|---|",
    ]
    for name, r in rows.items():
        gate = f"{100 * least[name]:.0f} %" if name in least else ""
        short = "short" if name in least and r["share"] < least[name] else ""
        if not name.startswith("unnamed"):
            lines.append(f"| {name} | {100 * r['share']:.1f} % | {r['of']} | {gate} | {short} |")
    absent = (f"{k.split(': ')[1]} {100 * r['share']:.1f} %" for k, r in rows.items() if k.startswith("unnamed"))
    return "\n".join(lines) + f"\n\nNot asked for, and absent: {', '.join(absent)}."


def samples(asked: Sequence[Question], images: Sequence[Image.Image], each: int = 6) -> Image.Image:
    """The first pictures of each number of subjects, with their captions."""
    rows = [k for n in PICTURES for k in [j for j, q in enumerate(asked) if len(q.scene.instances) == n][:each]]
    return captioned_sheet([images[k] for k in rows], [asked[k].caption for k in rows], columns=each, scale=1)


def drawings(asked: Sequence[Question], runs: Path) -> list[Image.Image]:
    """The scenes that the captions are of, after the autoencoder."""
    vae = half_vae(runs)
    drawn = [draw_scene(q.scene, masks=False).image for q in asked]
    return [image for k in range(0, len(drawn), 50) for image in through(vae, drawn[k : k + 50])]


def main() -> int:
    p = argparse.ArgumentParser(prog="python -m testbed.scenes_gate", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    p.add_argument("--model", type=Path, default=MODEL)
    p.add_argument("--judge", type=Path, default=SCENES_ASSET)
    p.add_argument("--segmenter", type=Path, default=SEGMENTER)
    p.add_argument("--share", type=float, default=1.0, help="of the gate's captions")
    p.add_argument("--skip", type=int, default=0, help="captions of each kind to leave out first: other ones")
    p.add_argument("--guidance_scale", type=float, default=3.0)
    p.add_argument("--steps", type=int, default=25)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--drawn", action="store_true", help="judge the true drawings, not a model's pictures")
    p.add_argument("--out", type=Path, default=ROOT / "testbed" / "runs" / "scenes-gate")
    p.add_argument("--docs", action="store_true", help=f"write the result into {DOCS.name}")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    asked = questions(args.share, args.skip)
    captions = [q.caption for q in asked]
    if args.drawn:
        images = drawings(asked, args.out.parent)
    else:
        images = generate(load_pipeline(args.model), captions, args.guidance_scale, args.steps, args.seed, SCENE_SIZE)
    classes = [[i.cls for i in q.scene.instances] for q in asked]
    readings = read_scenes(Judge.load(args.judge), SceneSegmenter(args.segmenter, threshold=0.0), images, classes)
    source = "drawn" if args.drawn else f"{args.steps} DDIM steps, guidance {args.guidance_scale:g}"
    told = {"from": source, "seed": args.seed, "skip": args.skip}
    result = {"count": len(asked), **told, **score(asked, readings)}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "gate.json").write_text(json.dumps(result, indent=1))
    samples(asked, images, 12).save(args.out / "sheet.png")
    print(table(result))
    if args.docs and args.drawn:
        fill_block(DOCS, "drawn", table(result))
    elif args.docs:
        fill_block(DOCS, "gate", table(result))
        save_picture(samples(asked, images), IMAGES / "mini-scenes-samples.png")
    return 0 if passed(result) else 1


if __name__ == "__main__":
    sys.exit(main())
