"""python -m singleinsert.evaluate study: rate and compare serve a page, report counts the answers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from singleinsert.cli import path_argument
from singleinsert.errors import ConfigError
from singleinsert.evaluate.study.questions import COMPARISON, RATING

REPORT = "report"
FOLDER = "study"
"""In an evaluation's folder: everybody's answers, and the report of them."""

EPILOG = """\
rate     all methods' pictures of a prompt on one screen, each rated from 1 to 5 (Break-A-Scene)
compare  two methods' pictures beside the reference, four questions, or "cannot say" (SID)
report   the tables and tests of what was answered, also as study/report.md

Each person gives a name of their own with --rater. Answers are kept one by one in study/rate-NAME.csv and
study/compare-NAME.csv; the same command goes on where it was left.
"""


def add_command(commands: Any) -> None:
    """Put ``study`` beside the other commands of an evaluation."""
    command = commands.add_parser(
        "study", help="people judge its pictures", description="People judge an evaluation's pictures.", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = command.add_argument
    add("action", choices=(RATING, COMPARISON, REPORT))
    add("--results", type=path_argument, required=True, metavar="DIR", help="an evaluation's --output_dir")
    add("--methods", default="", metavar="NAME,...", help="only these methods; default: all")
    add("--count", type=int, default=0, metavar="N", help="screens, spread over the concepts; default: all there are")
    add("--rater", default="me", metavar="NAME", help="who answers (default me)")
    add("--seed", default="study", metavar="NAME", help="of all orders, with the rater's name (default study)")
    add("--port", type=int, default=0, metavar="N", help="of the page on this machine; default: any that is free")
    add("--open", action="store_true", help="open the page in the browser")
    add("--published", default="", metavar="NAME,...", help="report: with a paper's numbers, break-a-scene or sid")


def run_study(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C, or print and write the report."""
    from singleinsert.evaluate.results import Results

    results, folder = Results.load(args.results), args.results / FOLDER
    if args.action == REPORT:
        write_report(results, folder, _names(args.published))
        return
    if args.published:
        raise ConfigError("--published is for the report: a person who answers should not see a paper's numbers")
    if args.count < 0:
        raise ConfigError(f"--count {args.count}: 0 is all")
    serve(results, folder, args)


def write_report(results: Any, folder: Path, published: list[str]) -> None:
    from singleinsert.atomic import write_text
    from singleinsert.evaluate.study.report import study_report

    text = study_report(results, folder, published)
    write_text(folder / "report.md", text)
    print(text)
    print(folder / "report.md")


def serve(results: Any, folder: Path, args: argparse.Namespace) -> None:
    from singleinsert.evaluate.cache import Cache
    from singleinsert.evaluate.study.answers import AnswerFile
    from singleinsert.evaluate.study.page import Study
    from singleinsert.evaluate.study.questions import make_items
    from singleinsert.loopback import LoopbackServer

    items = make_items(
        results, args.action, methods=_names(args.methods), seed=args.seed, rater=args.rater, count=args.count
    )
    file = AnswerFile(folder, args.action, args.rater)
    study = Study(args.action, items, file, args.results, Cache(args.results / results.facts["cache"]).load_picture)
    study.check_pictures()
    print(f"{len(items)} screens for {args.rater}, {study.answered} answered; answers go to {file.path}")
    LoopbackServer(study, args.port).serve(args.open)
    print(f"{study.answered} of {len(items)} screens are answered; count them: "
          f"python -m singleinsert.evaluate study report --results {args.results}")  # fmt: skip


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
