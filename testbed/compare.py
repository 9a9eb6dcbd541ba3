"""What the judge reads in the pictures of an evaluation on mini-sd: was the subject kept, was the prompt obeyed.

    python -m singleinsert.evaluate ablation --preset mini+plain --protocol testbed/protocol.toml
    python -m testbed.compare output/evaluation/table2
    python -m testbed.compare output/evaluation/table2 --rows stage1-baseline stage1-fg-bg

Two rows are added: `drawn`, the judge on true drawings of what each prompt asks for, the most that can be had; and
`class word`, the base model asked for any such subject, with nothing learnt: what chance keeps, and how well it obeys.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from singleinsert.data.prompts import fill
from singleinsert.errors import InputError
from singleinsert.evaluate.cache import Cache
from singleinsert.evaluate.prompt_lists import EditPrompt, load_prompts
from singleinsert.evaluate.results import Results
from singleinsert.inference.pipeline import ConceptPipeline, Picture
from singleinsert.models.bundled import MINI_SD, place_of_model
from singleinsert.models.loading import load_base_model

from .docs import IMAGES, RESEARCH, fill_block, save_picture
from .instances import asked, expectations, ideal, subjects
from .judge import Judge
from .world.scene import Instance, Scene, contact_sheet, draw

PROMPTS = "mini"
DRAWN, CLASS_WORD = "drawn", "class word"
GALLERY = 99
MEASURES = ("identity", "top1", "kept", "background", "edits", "style", "view", "obeyed")
SHEET = ("face0", "face1", "cat0", "cup0")

Pictures = dict[str, list[tuple[EditPrompt, Image.Image]]]
"""Concept -> its pictures with what each was asked for."""
Means = dict[str, float]


def pictures_of(folder: Path, results: Results, rows: Sequence[str] = ()) -> dict[str, Pictures]:
    """Row's label -> the pictures of an evaluation's folder; all rows without `rows`.

    Raises:
        InputError: a row that they do not have, or prompts that are not this world's.
    """
    labels = {m["name"]: f"{m['group']} {m['label']}".strip() for m in results.methods}
    if unknown := set(rows) - labels.keys():
        raise InputError(f"{folder} has no rows {', '.join(sorted(unknown))}; it has {', '.join(labels)}")
    texts = {c["name"]: [p["text"] for p in c["prompts"]] for c in results.concepts}
    known = {c["name"]: {p.text: p for p in load_prompts(PROMPTS).for_class(c["class_word"])} for c in results.concepts}
    cache = Cache(folder / results.facts["cache"])
    out: dict[str, Pictures] = {labels[name]: defaultdict(list) for name in rows or labels}
    for sample in results.samples:
        if rows and sample.method not in rows:
            continue
        text = texts[sample.concept][sample.prompt]
        if text not in known[sample.concept]:
            raise InputError(f"{folder}: {text!r} is no prompt of the list {PROMPTS}")
        made = cache.load_picture(sample.picture)
        out[labels[sample.method]][sample.concept].append((known[sample.concept][text], made))
    return out


def true_drawings(scene: Scene, prompts: Sequence[EditPrompt]) -> list[Image.Image]:
    """What each prompt asks for; where one is there several times, in as many layouts."""
    scenes = [replace(s, seed=s.seed + n) for n, s in enumerate(ideal(scene, p) for p in prompts)]
    return [draw(s, masks=False).image for s in scenes]


def of_the_class(
    cls: str, prompts: Sequence[EditPrompt], guidance: float, steps: int, model: str | Path = MINI_SD
) -> list[Image.Image]:
    """Pictures of the prompts with the class word alone, seeds counting up."""
    wanted = [Picture(with_article(p.text, cls), 1000 + n, "", steps, guidance, 64, 64) for n, p in enumerate(prompts)]
    return list(ConceptPipeline(load_base_model(model)).render(wanted, batch_size=20))


def with_article(text: str, cls: str) -> str:
    """The prompt without a concept: '{concept} in the snow' -> 'a cat in the snow'."""
    plain = fill(text, "", cls)
    starts = ("a ", "left ", "right ", "pixel ")
    return plain.replace(f"of {cls}", f"of a {cls}") if plain.startswith(starts) else f"a {plain}"


def score(judge: Judge, scene: Scene, others: Tensor, pictures: Sequence[tuple[EditPrompt, Image.Image]]) -> Means:
    """Means over the pictures of one instance; each measure over the pictures whose prompt asks for it. ``others`` is
    its :func:`gallery`.

    identity: cosine of the judge's embeddings of the picture and of the true drawing. top1: whether it is nearer than
    `GALLERY` other instances of the class. kept: share of the instance's features that are still there; "kept hair" and
    others, that one. The others: share of the pictures that have what was asked for, `obeyed` all of it at once.
    """
    cls = scene.instances[0].cls
    images = [image for _, image in pictures]
    readings = judge.read(images, classes=[cls] * len(images))
    own = judge.embed([draw(scene, masks=False).image])[0]
    marks: dict[str, list[float]] = defaultdict(list)
    for (prompt, _), reading, z in zip(pictures, readings, judge.embed(images), strict=True):
        changed, kept = expectations(scene, prompt)
        right = {k: reading[k].value == v for k, v in (changed | kept).items()}
        if "style" not in asked(prompt):
            marks["identity"].append(float(z @ own))
            marks["top1"].append(float(z @ own > (others @ z).max()))
        marks["kept"].append(statistics.mean(right[k] for k in kept))
        for name in kept:
            marks[f"kept {name}"].append(right[name])
        for name in ("background", "style", "view"):
            if name in changed:
                marks[name].append(right[name])
        edits = [right[k] for k in changed if k not in ("background", "style", "view")]
        if edits:
            marks["edits"].append(all(edits))
        if changed:
            marks["obeyed"].append(all(right[k] for k in changed))
    return {k: statistics.mean(v) for k, v in marks.items()}


def gallery(judge: Judge, scene: Scene) -> Tensor:
    """Embeddings (`GALLERY`, d) of drawn pictures, like the training picture, of other instances of its class."""
    cls = scene.instances[0].cls
    others = (Instance.from_seed(5_000_000_000 + k, cls) for k in range(GALLERY))
    return judge.embed([draw(replace(scene, instances=(i,)), masks=False).image for i in others])


def with_references(
    rows: dict[str, Pictures], scenes: Mapping[str, Scene], sampling: Mapping[str, Any], model: str | Path = MINI_SD
) -> None:
    """Add `DRAWN` and `CLASS_WORD` to the rows, with as many pictures of each prompt as the first row has."""
    first = next(iter(rows.values()))
    base: dict[str, list[Image.Image]] = {}
    for name in (DRAWN, CLASS_WORD):
        rows[name] = {}
        for concept, pictures in first.items():
            prompts, cls = [p for p, _ in pictures], scenes[concept].instances[0].cls
            if name == CLASS_WORD and cls not in base:
                base[cls] = of_the_class(cls, prompts, sampling["guidance_scale"], sampling["steps"], model)
            made = base[cls] if name == CLASS_WORD else true_drawings(scenes[concept], prompts)
            rows[name][concept] = list(zip(prompts, made, strict=True))


def summary(results: Mapping[str, Mapping[str, Means]]) -> dict[str, dict[str, Any]]:
    """Row -> measure -> (mean, standard error) over instances, for all of them and for faces alone."""
    out: dict[str, dict[str, Any]] = {}
    for row, by_concept in results.items():
        for group in ("all", "faces"):
            means = [m for name, m in by_concept.items() if group == "all" or name.startswith("face")]
            cells = {}
            for measure in MEASURES:
                values = [m[measure] for m in means if measure in m]
                if values:
                    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
                    cells[measure] = [round(statistics.mean(values), 4), round(error, 4)]
            out.setdefault(group, {})[row] = {"instances": len(means), **cells}
    return out


def table(summed: dict[str, dict[str, Any]]) -> str:
    """Markdown; every measure with its standard error over the instances."""
    lines = []
    for group, rows in summed.items():
        lines += [
            f"**{group}**",
            "",
            "| | instances | " + " | ".join(MEASURES) + " |",
            "|---" * (len(MEASURES) + 2) + "|",
        ]
        for row, cells in rows.items():
            shown = [f"{cells[m][0]:.3f} ± {cells[m][1]:.3f}" if m in cells else "" for m in MEASURES]
            lines.append(f"| {row} | {cells['instances']} | " + " | ".join(shown) + " |")
        lines.append("")
    return "\n".join(lines)


def sheet(rows: Mapping[str, Pictures], scenes: Mapping[str, Scene], concepts: Sequence[str]) -> Image.Image:
    """For each concept a line per row: the training picture, then one picture of each prompt."""
    images: list[Image.Image] = []
    for concept in concepts:
        for pictures in rows.values():
            one_each = {prompt.text: image for prompt, image in reversed(pictures[concept])}
            images += [draw(scenes[concept], masks=False).image, *reversed(one_each.values())]
    return contact_sheet(images, len(images) // (len(concepts) * len(rows)))


def main() -> int:
    p = argparse.ArgumentParser(prog="python -m testbed.compare", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    p.add_argument("folder", type=Path, help="an evaluation's results")
    p.add_argument("--rows", nargs="*", default=[], help="names of methods; all without")
    p.add_argument("--docs", metavar="PAGE:BLOCK", help="write the table into docs/research/PAGE.md")
    p.add_argument("--picture", action="store_true", help="and the sheet into docs/images/PAGE-BLOCK.png")
    args = p.parse_args()
    scenes, judge, results = dict(subjects()), Judge.load(), Results.load(args.folder)
    rows = pictures_of(args.folder, results, args.rows)
    with_references(rows, scenes, results.facts["sampling"], place_of_model(results.facts["base_model"]))
    others = {c: gallery(judge, scenes[c]) for c in next(iter(rows.values()))}
    scores = {
        row: {c: score(judge, scenes[c], others[c], found) for c, found in pictures.items()}
        for row, pictures in rows.items()
    }
    summed = summary(scores)
    (args.folder / "compare.json").write_text(json.dumps({"summary": summed, "results": scores}, indent=1))
    print(table(summed))
    shown = [c for c in SHEET if c in next(iter(rows.values()))]
    made = sheet(rows, scenes, shown)
    made.save(args.folder / "compare.png")
    if args.docs:
        page, _, block = args.docs.partition(":")
        fill_block(RESEARCH / f"{page}.md", block, table(summed))
        if args.picture:
            save_picture(made, IMAGES / f"{page}-{block}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
