"""The page: everything in one file, so that it can be sent and opened anywhere, without a network."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from singleinsert.data.opening import open_picture
from singleinsert.drawing.dataurl import data_url
from singleinsert.evaluate.columns import COLUMNS
from singleinsert.evaluate.report.figure import Figure
from singleinsert.evaluate.report.scenes import prompts_shown, scene_sections
from singleinsert.evaluate.results import Results
from singleinsert.evaluate.table import Summary, agreement, best, check_claims, full_label, is_like_the_papers

HERE = Path(__file__).resolve().parent
TILE = 224
"""Largest side of a picture in the page."""
QUALITY = 85

Load = Callable[[str], Image.Image]
"""A picture by its key."""


def page(results: Results, summary: Summary, plot: Figure | None, folder: Path, load: Load) -> str:
    """The HTML. ``folder``: where the files are that ``results`` name."""
    sections = [
        f"<header><h1>{escape(results.title)}</h1><p>{escape(_line(results))}</p></header>",
        f"<section><h2>Table</h2>{_table(results, summary)}{_legend(results)}</section>",
        scene_sections(results),
        _claims(results),
        _published(results),
        f'<section><h2>Identity against text</h2><div class="plot">{plot.svg()}</div></section>' if plot else "",
        _browser(results),
        _heats(results, folder),
        f"<section><h2>Settings</h2>{_settings(results)}</section>",
    ]
    data, styles = _samples(results, folder, load)
    parts = {
        "title": escape(results.title),
        "style": (HERE / "page.css").read_text(encoding="utf-8") + styles,
        "body": "\n".join(section for section in sections if section),
        # "</script" in a text of ours would end the script, and "<!--<script>" hides its end: no "<" at all
        "data": json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"),
        "script": (HERE / "page.js").read_text(encoding="utf-8"),
    }
    html = (HERE / "page.html").read_text(encoding="utf-8")
    return re.sub("@@([a-z]+)@@", lambda place: parts[place[1]], html)  # in one go: a text of ours may hold @@data@@


def _line(results: Results) -> str:
    facts, seeds = results.facts, len({sample.seed for sample in results.samples})
    classes = len({concept["class_word"] for concept in results.concepts})
    what = "scenes" if results.of_scenes else f"concepts of {classes} classes"
    return (
        f"{len(results.methods)} methods, {len(results.concepts)} {what}, {seeds} pictures per "
        f"prompt, {len(results.samples)} pictures; {facts.get('base_model', '')}, preset {facts.get('preset', '')}"
    )


def _table(results: Results, summary: Summary) -> str:
    winners = {column: best(summary, column) for column in results.columns}
    papers = is_like_the_papers(results)
    head = "".join(
        f'<th title="{escape(COLUMNS[c].says)}">{c} <span>{COLUMNS[c].arrow}</span></th>' for c in results.columns
    )
    rows, group = [], None
    for method in results.methods:
        if method["group"] != group and method["group"]:
            span = len(results.columns) + 1
            rows.append(f'<tr class="group"><th colspan="{span}">{escape(method["group"])}</th></tr>')
        group = method["group"]
        cells = [
            _cell(
                summary[method["name"]].get(c), winners[c] == method["name"], method["paper"].get(c) if papers else None
            )
            for c in results.columns
        ]
        note = f' title="{escape(method["note"])}"' if method["note"] else ""
        rows.append(f"<tr><th{note}>{escape(method['label'])}</th>{''.join(cells)}</tr>")
    body = "".join(rows)
    return _wide(f'<table class="scores"><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>')


def _wide(table: str) -> str:
    """A table that scrolls sideways where the page is narrow."""
    return f'<div class="wide">{table}</div>'


def _cell(cell: Any, is_best: bool, paper: float | None) -> str:
    if cell is None:
        return "<td></td>"
    small = f"<small>{cell.ends}</small>" if cell.ends else ""
    small += f'<small class="paper">paper {paper:.3f}</small>' if paper is not None else ""
    return f'<td class="{"best" if is_best else ""}">{cell.mean:.3f}{small}</td>'


def _legend(results: Results) -> str:
    what = "scenes" if results.of_scenes else "concepts"
    says = "".join(f"<dt>{c} {COLUMNS[c].arrow}</dt><dd>{escape(COLUMNS[c].says)}</dd>" for c in results.columns)
    return (
        f"<p>Means over {what}; below them, from three {what} on, the interval that holds 95 % of the means of as many "
        f"{what} drawn again with repetition. The best of a column is marked.</p><dl>{says}</dl>"
    )


def _claims(results: Results) -> str:
    rows = []
    for claim in check_claims(results):
        found = claim["found"]
        shown = "" if found is None else found.signed
        arrow = "\u2191" if claim["direction"] == "up" else "\u2193"
        state = "yes" if claim["verdict"] == "holds" else "no" if claim["verdict"] == "does not hold" else "open"
        rows.append(
            f"<tr><td>{escape(claim['says'])}</td><td>{claim['column']} {arrow}</td><td>{shown}</td>"
            f'<td class="{state}">{escape(claim["verdict"])}</td></tr>'
        )
    order = []
    for column in results.columns:
        found = agreement(results, column)
        if found:
            right, total, wrong = found
            text = "; ".join(f"{a} below {b}" for a, b in wrong) or "none"
            order.append(f"<tr><td>{column}</td><td>{right} of {total}</td><td>{escape(text)}</td></tr>")
    out = ""
    if rows:
        head = "<tr><th>claim</th><th>column</th><th>difference here</th><th></th></tr>"
        table = _wide(f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>")
        out += f"<h3>What the paper says of the rows</h3>{table}"
    if order:
        out += (
            '<h3>Order of the rows</h3><div class="wide"><table><thead><tr><th>column</th><th>pairs in the paper\'s '
            f"order</th><th>the other way, beyond chance</th></tr></thead><tbody>{''.join(order)}</tbody></table></div>"
        )
    return f"<section><h2>Against the paper</h2>{out}</section>" if out else ""


def _published(results: Results) -> str:
    if not results.published:
        return ""
    rows = "".join(
        f"<tr><th>{escape(row['label'])}</th><td>"
        + escape(", ".join(f"{column} {value:.3f}" for column, value in row["paper"].items()))
        + f"</td><td>{escape(row['why'])}</td></tr>"
        for row in results.published
    )
    table = _wide(
        f"<table><thead><tr><th></th><th>the paper's</th><th>why</th></tr></thead><tbody>{rows}</tbody></table>"
    )
    return f"<section><h2>Not run</h2>{table}</section>"


def _browser(results: Results) -> str:
    concepts = "".join(f'<option value="{i}">{escape(c["name"])}</option>' for i, c in enumerate(results.concepts))
    return (
        "<section><h2>Samples</h2><p><label>Concept <select id=concept>" + concepts + "</select></label> "
        "<label>Picture of each prompt <select id=seed></select></label> Click a picture for its numbers.</p>"
        '<div class="wide"><div id=grid></div></div></section>'
    )


def _heats(results: Results, folder: Path) -> str:
    if not results.heats:
        return ""
    labels = {method["name"]: full_label(method) for method in results.methods}
    texts = {concept["name"]: [p["text"] for p in concept["prompts"]] for concept in results.concepts}
    blocks: dict[tuple[str, int], list[str]] = {}
    for heat in results.heats:
        files = {"": heat["picture"], **heat["maps"]}
        shown = "".join(
            f'<figure><img src="{data_url(_open(folder / file), optimize=True)}" alt="">'
            f"<figcaption>{escape(word)}</figcaption></figure>"
            for word, file in files.items()
        )
        row = f"<tr><th>{escape(labels[heat['method']])}</th><td>{shown}</td></tr>"
        blocks.setdefault((heat["concept"], heat["prompt"]), []).append(row)
    tables = "".join(
        f"<div><h3>{escape(concept)}: {escape(texts[concept][number])}</h3>"
        f"<table class=heats>{''.join(rows)}</table></div>"
        for (concept, number), rows in blocks.items()
    )
    return (
        "<section><h2>Where the words act</h2><p>Cross-attention of the concept's vector and of its class word, the "
        "mean over layers, heads and steps; yellow is each map's own highest value, violet its lowest.</p>"
        f"<div class=blocks>{tables}</div></section>"
    )


def _settings(results: Results) -> str:
    methods = {full_label(method): method["settings"] for method in results.methods}
    text = json.dumps(results.facts, indent=1, ensure_ascii=False)
    names = sorted({key for settings in methods.values() for key in settings})
    differing = [n for n in names if len({json.dumps(settings.get(n)) for settings in methods.values()}) > 1]
    head = "".join(f"<th>{escape(name)}</th>" for name in differing)
    rows = "".join(
        f"<tr><th>{escape(label)}</th>"
        + "".join(f"<td>{escape(_said(settings.get(name)))}</td>" for name in differing)
        + "</tr>"
        for label, settings in methods.items()
    )
    return (
        "<h3>What the methods differ in</h3>"
        + _wide(f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>")
        + f"<details><summary>Everything else</summary><pre>{escape(text)}</pre></details>"
    )


def _said(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _samples(results: Results, folder: Path, load: Load) -> tuple[dict[str, Any], str]:
    """What the script shows, and a style per method and concept whose background is all of its pictures."""
    numbers = {method["name"]: i for i, method in enumerate(results.methods)}
    places = {concept["name"]: i for i, concept in enumerate(results.concepts)}
    groups: dict[tuple[int, int], list[Any]] = {}
    wanted = {concept["name"]: prompts_shown(concept) for concept in results.concepts}
    for sample in results.samples:
        if sample.prompt not in wanted[sample.concept]:
            continue
        groups.setdefault((places[sample.concept], numbers[sample.method]), []).append(sample)
    styles, tile, shown = [], 1, []
    for (c, m), samples in sorted(groups.items()):
        pictures = [load(sample.picture) for sample in samples]
        side = min(TILE, max(pictures[0].size))
        tile = max(tile, side)
        styles.append(f".s{c}-{m}{{background-image:url({data_url(_strip(pictures, side), 'WEBP', quality=QUALITY)})}}")
        for place, sample in enumerate(samples):
            values = [_rounded(sample.values.get(column)) for column in results.columns]
            number = wanted[sample.concept].index(sample.prompt)
            shown.append([c, m, number, sample.seed, place, values, [int(t) for t in sample.targets]])
    data = {
        "columns": results.columns,
        "methods": [full_label(method) for method in results.methods],
        "concepts": [
            {"name": c["name"], "class": c["class_word"], "prompts": [c["prompts"][n] for n in wanted[c["name"]]],
             "picture": data_url(_open(folder / c["picture"]).resize((tile, tile)), optimize=True)}
            for c in results.concepts
        ],
        "counts": {f"{c}-{m}": len(samples) for (c, m), samples in groups.items()},
        "samples": shown,
    }  # fmt: skip
    return data, "\n".join(styles)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


STRIP_COLUMNS = 10


def _strip(pictures: Sequence[Image.Image], side: int) -> Image.Image:
    """Pictures in rows of ten on one sheet."""
    rows = -(-len(pictures) // STRIP_COLUMNS)
    sheet = Image.new("RGB", (STRIP_COLUMNS * side, rows * side))
    for i, picture in enumerate(pictures):
        sheet.paste(
            picture.resize((side, side), Image.Resampling.LANCZOS),
            (i % STRIP_COLUMNS * side, i // STRIP_COLUMNS * side),
        )
    return sheet


def _open(path: Path) -> Image.Image:
    return open_picture(path).convert("RGB")
