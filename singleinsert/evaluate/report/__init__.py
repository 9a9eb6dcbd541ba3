"""The report: one page that needs nothing else, and its figures as PNG files."""

from __future__ import annotations

from pathlib import Path

from singleinsert.atomic import write_atomically, write_text
from singleinsert.evaluate.report.figure import Figure
from singleinsert.evaluate.report.page import Load, page
from singleinsert.evaluate.report.plots import scatter
from singleinsert.evaluate.report.sheets import heat_sheet, sample_sheet, table_sheet
from singleinsert.evaluate.results import Results
from singleinsert.evaluate.table import summarise, summary_csv

__all__ = ["Figure", "write_report"]

FOLDER, PAGE = "report", "index.html"


def write_report(results: Results, folder: Path, load: Load) -> Path:
    """Write ``folder/report/index.html``, its PNGs and ``folder/summary.csv``; the page's path.

    Args:
        folder: where ``results`` were saved. load: gives a picture by its key.
    """
    summary, out = summarise(results), folder / FOLDER
    write_text(folder / "summary.csv", summary_csv(results, summary))
    figures = {"table": table_sheet(results, summary)}
    plot = scatter(results, summary)
    if plot is not None:
        figures["scatter"] = plot.png(2)
    for concept in results.concepts:
        figures[f"samples-{concept['name']}"] = sample_sheet(results, concept, folder, load)
        heats = heat_sheet(results, concept, folder)
        if heats is not None:
            figures[f"attention-{concept['name']}"] = heats
    for name, picture in figures.items():
        write_atomically(out / f"{name}.png", lambda target, p=picture: p.save(target, "PNG", optimize=True))  # type: ignore[misc]
    write_text(out / PAGE, page(results, summary, plot, folder, load))
    return out / PAGE
