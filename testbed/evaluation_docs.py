"""Keeps what `python -m singleinsert.evaluate` has measured, and writes all that is kept of it into the research pages,
pictures too.

python -m testbed.evaluation_docs output/evaluation/table2         any number of results' folders, into the blocks of
                                                                   their names
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from PIL import Image

from singleinsert.errors import InputError
from singleinsert.evaluate.columns import PAPER, RATED
from singleinsert.evaluate.report import FOLDER
from singleinsert.evaluate.report.plots import scatter
from singleinsert.evaluate.results import Results
from singleinsert.evaluate.table import (
    RELATIONS,
    agreement,
    check_claims,
    full_label,
    markdown,
    mixing_matrix,
    on_the_front,
    paper_markdown,
    sizes,
    summarise,
)

from .docs import IMAGES, RESEARCH, fill_block, save_picture
from .kept import FOLDER as KEPT
from .kept import keep

PAGES = (RESEARCH / "ablation.md", RESEARCH / "scenes.md")
OF_SCENES = ("prompt", "identity", "looks", "margin", "mixing", "count", "leak", "found", "ESR")
SCATTER = "Identity against text alignment"
SHOWN = (("samples", "Samples by method and prompt"),
         ("attention", "Cross-attention of the concept and of its class word"))  # fmt: skip


def conditions(results: Results) -> str:
    """What was measured, in a sentence."""
    facts = results.facts
    classes: dict[str, int] = {}
    for concept in results.concepts:
        classes[concept["class_word"]] = classes.get(concept["class_word"], 0) + 1
    prompts = {len(concept["prompts"]) for concept in results.concepts}
    of_class = ", ".join(f"{count} {word}" for word, count in classes.items())
    if results.of_scenes:
        numbers = [len(concept["handles"]) for concept in results.concepts]
        of_class = ", ".join(f"{numbers.count(n)} of {n} concepts" for n in sorted({*numbers}))
        each = {len(c["prompts"]) // (2 ** len(c["handles"]) - 1) for c in results.concepts}
        pictures = len(results.samples) // len({sample.method for sample in results.samples})
        return (
            f"{len(results.concepts)} scenes ({of_class}), {'/'.join(map(str, sorted(each)))} prompts with every "
            f"subset, {facts['protocol']['seeds']} pictures of each, {pictures} a row; {_drawn(results)} Below each "
            "mean, its 95 % interval over scenes."
        )
    return (
        f"{len(results.concepts)} concepts ({of_class}), {'/'.join(map(str, sorted(prompts)))} prompts, "
        f"{facts['protocol']['seeds']} pictures of each, {_drawn(results)} Below each mean, its 95 % interval over "
        "concepts."
    )


def _drawn(results: Results) -> str:
    facts, sampling = results.facts, results.facts["sampling"]
    return (
        f"{sampling['steps']} DDIM steps, guidance {sampling['guidance_scale']:g}; {facts['base_model']} with weights "
        f"{facts['model_digest'][:8]}, preset {facts['preset']}."
    )


def scene_parts(results: Results) -> list[str]:
    """What only scenes have: tables by the number of concepts, whose looks, the Pareto front."""
    parts = []
    for size, part in sizes(results).items():
        asked = "One concept" if size == 1 else f"{size} concepts"
        parts += [f"**{asked} asked for**", markdown(part, summarise(part), OF_SCENES)]
    labels, matrix = {m["name"]: full_label(m) for m in results.methods}, mixing_matrix(results)
    lines = ["| similarity of a concept's cut-out to | " + " | ".join(RELATIONS) + " |", "|---|---|---|---|"]
    for name, cells in matrix.items():
        shown = [f"{cells[kind].mean:.3f}" if kind in cells else "" for kind in RELATIONS]
        lines.append(f"| {labels[name]} | {' | '.join(shown)} |")
    front = ", ".join(labels[name] for name in on_the_front(results, summarise(results)))
    parts += ["**Whose looks**", "\n".join(lines)]
    return [*parts, f"**Pareto front** of prompt and identity: {front}."] if front else parts


def claims(results: Results) -> str:
    """What the paper says of the rows, and what was found."""
    lines = ["| the paper's | column | of | against | difference here | |", "|---|---|---|---|---|---|"]
    labels = {m["name"]: f"{m['group']} {m['label']}".strip() for m in results.methods}
    for claim in check_claims(results):
        found, arrow = claim["found"], "\u2191" if claim["direction"] == "up" else "\u2193"
        shown = "" if found is None else found.signed
        rows = f"{labels[claim['of']]} | {labels[claim['against']]}"
        lines.append(f"| {claim['says']} | {claim['column']} {arrow} | {rows} | {shown} | {claim['verdict']} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def order(results: Results) -> str:
    """Column by column, whether the rows stand in the paper's order."""
    lines = ["| column | pairs of rows in the paper's order | the other way, beyond chance |", "|---|---|---|"]
    for column in (*PAPER, *RATED):
        found = agreement(results, column)
        if found:
            right, total, wrong = found
            lines.append(f"| {column} | {right} of {total} | {'; '.join(f'{a} below {b}' for a, b in wrong)} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def block(results: Results, name: str, folder: Path, own: list[str]) -> str:
    """The whole block of one set of methods; copies the pictures of the folder, which has the rows ``own``."""
    columns = OF_SCENES if results.of_scenes else (*PAPER, "found")
    parts = [conditions(results), markdown(results, summarise(results), columns)]
    parts += scene_parts(results) if results.of_scenes else []
    for heading, text in (
        ("**The paper's**", paper_markdown(results, (*PAPER, *RATED.values()))), ("**Its claims**", claims(results)),
        ("**Order**", order(results)),
    ):  # fmt: skip
        parts += [heading, text] if text else []
    if plot := scatter(results, summarise(results)):
        target = IMAGES / f"ablation-{name}-scatter.png"
        save_picture(plot.png(2), target)
        parts.append(f"![{SCATTER}](../images/{target.name})")
    part = "" if len(own) == len(results.methods) else f"-{own[0]}"  # of rows that were measured at another time
    for kind, caption in SHOWN:
        source = folder / FOLDER / f"{kind}-{results.concepts[0]['name']}.png"
        for old in () if part else IMAGES.glob(f"ablation-{name}-{kind}-*.png"):  # this run's has all rows
            old.unlink()
        if source.is_file():
            with Image.open(source) as image:
                save_picture(image.convert("RGB"), IMAGES / f"ablation-{name}-{kind}{part}.png")
        shown = sorted(IMAGES.glob(f"ablation-{name}-{kind}*.png"))
        parts += [f"![{caption}](../images/{picture.name})" for picture in shown]
    return "\n\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m testbed.evaluation_docs", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("folders", nargs="+", type=Path, help="the --output_dir of an evaluation")
    for folder in parser.parse_args().folders:
        results = Results.load(folder)
        name, own = folder.resolve().name, [method["name"] for method in results.methods]
        page = next((page for page in PAGES if f"<!-- {name} -->" in page.read_text()), None)
        if page is None:
            print(f"no page has a block {name}: call the folder as its block is called", file=sys.stderr)
            return 2
        try:
            results = keep(results, KEPT / f"{name}.json.xz")
        except InputError as problem:
            print(f"error: {problem}", file=sys.stderr)
            return 2
        fill_block(page, name, block(results, name, folder, own))
        print(f"{page}: {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
