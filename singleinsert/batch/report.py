"""What came of a batch: index.html to look at, results.csv to count with. Written anew after every job."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from singleinsert.batch.jobs import Job
from singleinsert.batch.progress import counts, duration
from singleinsert.batch.store import Store
from singleinsert.work.queue import DONE, FAILED, RUNNING, Queue, State

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
{refresh}<title>{title}</title><style>
:root {{ color-scheme: light dark; --line: #8884; --soft: light-dark(#6b6b70, #a0a0a6); }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1500px; margin: 0 auto; padding: 24px; }}
h1 {{ font-size: 24px; margin: 0; }} h2 {{ font-size: 18px; margin: 0; overflow-wrap: anywhere; }}
.soft {{ color: var(--soft); }} a {{ color: inherit; }}
.grid {{ display: grid; gap: 20px; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(460px, 100%), 1fr)); }}
article {{ border: 1px solid var(--line); border-radius: 10px; padding: 16px; min-width: 0; }}
.shown {{ display: grid; grid-template-columns: repeat(4, 1fr); gap: 8px; margin: 10px 0; }}
figure {{ margin: 0; min-width: 0; }} figcaption {{ font-size: 12px; line-height: 1.3; overflow-wrap: anywhere; }}
figure img {{ width: 100%; aspect-ratio: 1; object-fit: cover; border-radius: 6px; display: block; }}
.again {{ border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px; margin: 0 0 20px; }}
code {{ font-size: 13px; overflow-wrap: anywhere; }}
@media (max-width: 500px) {{
  body {{ padding: 12px; }} .shown {{ grid-template-columns: repeat(2, 1fr); }} article ul {{ columns: 1; }}
}}
.state {{ float: right; border-radius: 99px; padding: 0 10px; font-size: 13px; border: 1px solid var(--line); }}
.failed .state {{ background: #b3261e; color: #fff; border: 0; }}
.done .state {{ background: #1e7a3c; color: #fff; border: 0; }}
.reason {{ overflow-wrap: anywhere; }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: 2px 14px; margin: 8px 0; }}
dt {{ color: var(--soft); }} dd {{ margin: 0; overflow-wrap: anywhere; }}
svg {{ width: 100%; height: 48px; display: block; }} polyline {{ fill: none; stroke: #3b82f6; stroke-width: 1.5; }}
ul {{ columns: 2; padding-left: 18px; margin: 6px 0 0; font-size: 13px; overflow-wrap: anywhere; }}
</style></head><body>
<h1>{title}</h1><p class="soft">{summary} · <a href="results.csv">results.csv</a></p>
{again}<div class="grid">
{cards}
</div></body></html>
"""
FIRST_COLUMNS = (
    "name", "class_word", "preset", "image", "state", "reason", "attempts", "seconds", "mask_share", "low_memory",
    "host",
)  # fmt: skip


REFRESH = '<meta http-equiv="refresh" content="15">'


class Report:
    """The page and the table of a batch, in its store.

    Attributes:
        again: what to type to try failed jobs again. at_work: the page changes yet, and looks for that by itself.
        records: what is finished, by name; read once.
    """

    def __init__(self, title: str, jobs: Sequence[Job], queue: Queue, store: Store, again: str = "") -> None:
        self.title, self.jobs, self.queue, self.store, self.again = title, jobs, queue, store, again
        self.at_work = True
        self.records: dict[str, dict[str, Any]] = {}

    def write(self) -> None:
        """Write both as things stand now."""
        states = self.queue.states()
        for name in [name for name, state in states.items() if state.state == DONE and name not in self.records]:
            record = self.store.record(name)
            self.records |= {name: record} if record else {}
        self.store.put_text("results.csv", results_csv(self.jobs, states, self.records))
        at_work = self.at_work or any(state.state == RUNNING for state in states.values())  # another process's
        text = page(self.title, self.jobs, states, self.records, self.again, REFRESH if at_work else "")
        self.store.put_text("index.html", text)


def results_csv(jobs: Sequence[Job], states: Mapping[str, State], records: Mapping[str, dict[str, Any]]) -> str:
    """A row per job; the last losses of each stage as ``stage1.foreground`` and so on."""
    rows = []
    for job in jobs:
        state, record = states[job.name], records.get(job.name, {})
        row = {
            "name": job.name, "class_word": ", ".join(job.settings.data.class_word), "preset": job.preset,
            "image": ", ".join(job.settings.data.image), "state": state.state, "attempts": state.attempt,
            "reason": state.reason if state.state == FAILED else "",
        }  # fmt: skip
        row |= {key: record.get(key, "") for key in ("seconds", "mask_share", "low_memory", "host")}
        row |= {f"{s}.{term}": value for s, terms in record.get("losses", {}).items() for term, value in terms.items()}
        rows.append(row)
    columns = list(dict.fromkeys([*FIRST_COLUMNS, *(key for row in rows for key in row)]))
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def page(
    title: str, jobs: Sequence[Job], states: Mapping[str, State], records: Mapping[str, dict[str, Any]],
    again: str = "", refresh: str = "",
) -> str:  # fmt: skip
    """The whole page; failed jobs first, then what is at work, the others in their order.

    Args:
        again: what to type to try failed jobs again. refresh: a tag for the head.
    """
    number = counts(states)
    took = sum(record["seconds"] for record in records.values())
    summary = ", ".join(f"{n} {kind}" for kind, n in number.items() if n)
    summary += f" · {duration(took)} of training" if took else ""
    first = {FAILED: 0, RUNNING: 1}
    ordered = sorted(jobs, key=lambda job: first.get(states[job.name].state, 2))
    cards = "\n".join(_card(job, states[job.name], records.get(job.name)) for job in ordered)
    mend = ""
    if again and number[FAILED]:
        mend = (
            f'<p class="again">To try the failed ones again, mended or as they are: <code>{escape(again)}</code></p>\n'
        )
    return PAGE.format(title=escape(title), summary=escape(summary), cards=cards, again=mend, refresh=refresh)


def _card(job: Job, state: State, record: dict[str, Any] | None) -> str:
    kind, name = escape(state.state), escape(job.name)
    head = f'<article class="{kind}"><span class="state">{kind}</span><h2>{name}</h2>'
    data = job.settings.data
    head += f'<div class="soft">{escape(", ".join(data.class_word))}, preset {escape(job.preset or "none")}</div>'
    if state.state == FAILED:
        head += f'<p class="reason">{escape(state.reason)}</p>'
    if state.state == FAILED or record is None:
        return f'{head}<div class="soft">{escape(", ".join(data.image))}</div></article>'
    memory = ", in the low-memory settings" if record["low_memory"] else ""
    facts = [("mask", f"{record['mask_share']:.1%} of the picture")]
    facts += [(f"{stage} loss", _losses(terms)) for stage, terms in record["losses"].items()]
    facts += [("trained", f"in {duration(record['seconds'])} on {record['host']}{memory}, {record['base']}")]
    table = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts)
    files = "".join(
        f'<li><a href="{_link(job.name, file)}">{escape(file)}</a> <span class="soft">{_size(size)}</span></li>'
        for file, size in record["files"].items()
    )
    return f"{head}{_pictures(job.name, record)}<dl>{table}</dl>{_curve(record['curve'])}<ul>{files}</ul></article>"


def _pictures(name: str, record: Mapping[str, Any]) -> str:
    """The source and results under their prompts, which lead to the sheet; the sheet itself of an older record."""
    shown, sheet = record.get("shown"), _link(name, f"{name}_sheet.png")
    if not isinstance(shown, dict):
        return f'<a href="{sheet}"><img src="{sheet}" alt="sheet of {escape(name)}" loading="lazy" width="100%"></a>'
    pairs = [("source", shown["source"]), *((each["prompt"], each["file"]) for each in shown["results"])]
    figures = "".join(
        f'<figure><a href="{sheet}" title="the whole sheet"><img src="{_link(name, file)}" alt="" loading="lazy"></a>'
        f'<figcaption class="soft">{escape(text)}</figcaption></figure>'
        for text, file in pairs
    )
    return f'<div class="shown">{figures}</div>'


def _losses(terms: Mapping[str, float]) -> str:
    """The terms of the stage's last step, the sum first."""
    shown = [f"{terms['loss']:.3g}"] if "loss" in terms else []
    rest = [f"{key} {value:.3g}" for key, value in terms.items() if key not in ("loss", "learning_rate")]
    return ", ".join(shown) + (f" ({', '.join(rest)})" if rest else "")


def _curve(losses: Sequence[float]) -> str:
    """The losses of all steps as a line, the largest at the top."""
    if len(losses) < 2:
        return ""
    top, step = max(losses) or 1.0, 400 / (len(losses) - 1)
    points = " ".join(f"{i * step:.1f},{46 - 44 * value / top:.1f}" for i, value in enumerate(losses))
    drawing = f'<polyline points="{points}"/>'
    return f'<svg viewBox="0 0 400 48" preserveAspectRatio="none" role="img" aria-label="loss">{drawing}</svg>'


def _link(name: str, file: str) -> str:
    return quote(f"{name}/{file}")


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{max(1, round(size / 1e3))} kB"
