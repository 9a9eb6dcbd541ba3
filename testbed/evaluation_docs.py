"""Writes what `python -m singleinsert.evaluate` has measured into docs/research/ablation.md, pictures too.

python -m testbed.evaluation_docs output/evaluation/table2         any number of results' folders, into the blocks of
                                                                   their names
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from PIL import Image

from singleinsert.evaluate.columns import PAPER
from singleinsert.evaluate.report import FOLDER
from singleinsert.evaluate.results import Results
from singleinsert.evaluate.table import agreement, check_claims, markdown, paper_markdown, summarise

from .docs import IMAGES, RESEARCH, fill_block, save_picture

DOCS = RESEARCH / "ablation.md"
SHOWN = (("scatter", "Identity against text alignment"), ("samples-{}", "Samples by method and prompt"),
         ("attention-{}", "Cross-attention of the concept and of its class word"))  # fmt: skip


def conditions(results: Results) -> str:
    """What was measured, in a sentence."""
    facts, sampling = results.facts, results.facts["sampling"]
    classes: dict[str, int] = {}
    for concept in results.concepts:
        classes[concept["class_word"]] = classes.get(concept["class_word"], 0) + 1
    prompts = {len(concept["prompts"]) for concept in results.concepts}
    of_class = ", ".join(f"{count} {word}" for word, count in classes.items())
    return (
        f"{len(results.concepts)} concepts ({of_class}), {'/'.join(map(str, sorted(prompts)))} prompts, "
        f"{facts['protocol']['seeds']} pictures of each, {sampling['steps']} DDIM steps, guidance "
        f"{sampling['guidance_scale']:g}; {facts['base_model']} with weights {facts['model_digest'][:8]}, preset "
        f"{facts['preset']}. Below each mean, its 95 % interval over concepts."
    )


def claims(results: Results) -> str:
    """What the paper says of the rows, and what was found."""
    lines = ["| the paper's | column | of | against | difference here | |", "|---|---|---|---|---|---|"]
    labels = {m["name"]: f"{m['group']} {m['label']}".strip() for m in results.methods}
    for claim in check_claims(results):
        found, arrow = claim["found"], "\u2191" if claim["direction"] == "up" else "\u2193"
        shown = "" if found is None else f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
        rows = f"{labels[claim['of']]} | {labels[claim['against']]}"
        lines.append(f"| {claim['says']} | {claim['column']} {arrow} | {rows} | {shown} | {claim['verdict']} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def order(results: Results) -> str:
    """Column by column, whether the rows stand in the paper's order."""
    lines = ["| column | pairs of rows in the paper's order | the other way, beyond chance |", "|---|---|---|"]
    for column in PAPER:
        found = agreement(results, column)
        if found:
            right, total, wrong = found
            lines.append(f"| {column} | {right} of {total} | {'; '.join(f'{a} below {b}' for a, b in wrong)} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def block(results: Results, name: str, folder: Path) -> str:
    """The whole block of one set of methods; copies its pictures."""
    parts = [conditions(results), markdown(results, summarise(results), (*PAPER, "found"))]
    for heading, text in (
        ("**The paper's**", paper_markdown(results, PAPER)), ("**Its claims**", claims(results)),
        ("**Order**", order(results)),
    ):  # fmt: skip
        parts += [heading, text] if text else []
    first = results.concepts[0]["name"]
    for stem, caption in SHOWN:
        source = folder / FOLDER / f"{stem.format(first)}.png"
        if source.is_file():
            target = IMAGES / f"ablation-{name}-{stem.partition('-')[0]}.png"
            with Image.open(source) as image:
                save_picture(image.convert("RGB"), target)
            parts.append(f"![{caption}](../images/{target.name})")
    return "\n\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m testbed.evaluation_docs", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("folders", nargs="+", type=Path, help="the --output_dir of an evaluation")
    for folder in parser.parse_args().folders:
        results = Results.load(folder)
        name = folder.resolve().name
        fill_block(DOCS, name, block(results, name, folder))
        print(f"{DOCS}: {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
