"""Train many concepts: one after the other on one loaded model, on as many GPUs and machines as there are.

    python -m singleinsert.batch photos --preset face              photos/face/*.jpg, photos/cat/*.png: class by folder
    python -m singleinsert.batch jobs.toml --dry_run               check everything, print the plan, train nothing
    accelerate launch -m singleinsert.batch jobs.csv               every GPU of this machine takes from one queue
    python -m singleinsert.batch work --watch                      stay, and do what appears in work/queue
    python -m singleinsert.batch jobs.toml --ray                   every GPU of a Ray cluster, or of a local one
A machine without a GPU, in a minute or two:
    python -m singleinsert.batch examples --preset mini --class_word face --stage1_steps 2 --stage2_steps 2
The same command again does what is missing or failed. Formats and clusters are in docs/batch.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from singleinsert.cli import (
    FLAGS,
    Parser,
    add_flags,
    overrides_from_args,
    path_argument,
    print_next,
    run_script,
    typed,
)
from singleinsert.errors import ConfigError, InputError, SingleInsertError, first_line
from singleinsert.reading import user_path
from singleinsert.work.launch import stand_alone

if TYPE_CHECKING:
    from singleinsert.batch.jobs import Job
    from singleinsert.batch.store import Store
    from singleinsert.work.queue import Queue

OF_ONE_JOB = ("image", "mask", "mask_index", "box", "output_name", "resume_from_checkpoint", "mask_only")


MASKS_OF_ALL = ", put it beside the picture as NAME_mask.png, or give --mask a folder of masks by the pictures' names"


class BatchFailed(SingleInsertError):
    """Some jobs failed; the others are done."""

    exit_code = 1


def batch_parser() -> argparse.ArgumentParser:
    """The flags of train_singleinsert.py, for every job, and the batch's own."""
    parser = Parser(
        prog="python -m singleinsert.batch", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "jobs",
        type=path_argument,
        metavar="JOBS",
        help="a .toml or .csv file, a folder of pictures, or a folder that holds lists in queue/",
    )
    own = parser.add_argument_group("the batch")
    own.add_argument("--dry_run", action="store_true", help="check everything, print the plan, train nothing")
    own.add_argument("--json", action="store_true", help="with --dry_run: the plan as JSON")
    own.add_argument("--watch", nargs="?", type=float, const=math.inf, metavar="SECONDS",
                     help="stay for jobs that appear; SECONDS: leave after so long without any")  # fmt: skip
    own.add_argument("--no_wait", action="store_true", help="leave when the others have the last jobs (Slurm arrays)")
    own.add_argument("--results", default="", metavar="URL", help="put concepts there (s3://..., by fsspec)")
    own.add_argument("--ray", nargs="?", const="", metavar="ADDRESS", help="on a Ray cluster; no address: a local one")
    own.add_argument("--workers", type=int, default=0, metavar="N", help="Ray workers (default: one per GPU, or one)")
    add_flags(parser.add_argument_group("settings of every job; --output_dir is the batch's"))  # type: ignore[arg-type]
    return parser


def run(args: argparse.Namespace) -> None:
    """Jobs -> checks -> work -> page and table."""
    for flag in OF_ONE_JOB:
        given = getattr(args, flag)
        if given not in (None, False) and not (flag == "mask" and all(Path(mask).is_dir() for mask in given)):
            raise ConfigError(f"--{flag} belongs to one job: write it there" + MASKS_OF_ALL * (flag == "mask"))
    rank, processes = stand_alone()
    os.environ.setdefault("TQDM_DISABLE", "1")  # one bar per stage and job is no overview
    from singleinsert.atomic import check_folder_to_write
    from singleinsert.batch.growing import read_queue
    from singleinsert.batch.jobs import HIDDEN, QUEUE
    from singleinsert.batch.store import open_store
    from singleinsert.work.queue import Queue

    if args.watch is not None and not args.jobs.suffix and not any_pictures(args.jobs):
        (args.jobs / QUEUE).mkdir(parents=True, exist_ok=True)
    own_folder = args.jobs if (args.jobs / QUEUE).is_dir() else Path("output") / args.jobs.resolve().stem
    folder = user_path(args.output_dir or own_folder)
    check_folder_to_write(folder, f"--output_dir {folder}")
    flags = {key: value for key, value in overrides_from_args(args).items() if key != FLAGS["output_dir"]}
    options = {"preset": args.preset or "", "config_file": args.config_file, "flags": flags}
    read = read_queue(args.jobs, folder, options)
    prefix = f"{rank}: " if processes > 1 else ""
    if args.watch is not None:
        watch(args, read, folder, prefix)
        return
    jobs, problems = read()
    store = open_store(folder, args.results)
    queue = Queue(folder / HIDDEN / "state", [job.name for job in jobs])
    problems += look(jobs, queue, store, folder)
    if args.dry_run:
        dry_run(jobs, problems, queue, folder, args, max(processes, args.workers))
        return
    if problems:
        print(*problems, sep="\n", file=sys.stderr)
        raise ConfigError(f"{_count(problems)} with what is asked, nothing was started (--dry_run looks closer)")
    work(args, jobs, queue, store, folder, prefix)


def look(jobs: list[Job], queue: Queue, store: Store, folder: Path) -> list[str]:
    """Compare what is asked with what is finished; what was finished and is no longer there is missing."""
    from singleinsert.batch.plan import conflicts
    from singleinsert.work.queue import DONE

    records = {job.name: store.record(job.name) for job in jobs}
    queue.missing = {n for n, s in queue.states().items() if s.state == DONE and records[n] is None}
    return conflicts(jobs, records, folder)


def dry_run(
    jobs: list[Job], problems: list[str], queue: Queue, folder: Path, args: argparse.Namespace, workers: int
) -> None:
    """Print the plan, then every problem. ConfigError where there is one."""
    from singleinsert.batch.jobs import a_line_each
    from singleinsert.batch.plan import check_disk, check_inputs, mask_notes, model_notes, plan_lines, plan_rows

    states = queue.states()
    problems = problems + a_line_each(problem for job in jobs for problem in check_inputs(job))
    left = [job for job in jobs if states[job.name].state != "done"]
    line, enough = check_disk(left, workers, folder)
    said = [*notes(jobs, left, folder, args.jobs), *model_notes(left), *mask_notes(left)]
    if not enough:
        problems.append(f"{line}: make room, or lower adapter.network_dim")
    if args.json:
        plan = {"folder": str(folder), "jobs": plan_rows(jobs, states), "disk": line, "notes": said,
                "problems": problems}  # fmt: skip
        print(json.dumps(plan, indent=1))
    else:
        print(f"{len(jobs)} jobs into {folder}:", *plan_lines(jobs, states), line, *said, sep="\n")
    if problems:
        if not args.json:
            print(*problems, sep="\n", file=sys.stderr)
        raise ConfigError(f"{_count(problems)} found")
    if not args.json:
        print("no problems found")
        print_next(("batch", *args.words), leave_out="--dry_run")


def any_pictures(folder: Path) -> bool:
    """Does a folder hold photos, itself or in its folders, so that it is a batch of them?"""
    from singleinsert.data.folders import list_folder

    if not folder.is_dir():
        return False
    here = list_folder(folder)
    return bool(here.pictures) or any(list_folder(inner).pictures for inner in here.folders)


def watch(args: argparse.Namespace, read: Callable[[], tuple[list[Job], list[str]]], folder: Path, prefix: str) -> None:
    """Stay for the jobs that appear in the list."""
    if args.ray is not None or args.dry_run or args.no_wait:
        raise ConfigError("--watch does not go with --ray, --dry_run or --no_wait")
    from singleinsert.batch.drawing import Drawing
    from singleinsert.batch.growing import Growing, worker_mark
    from singleinsert.batch.jobs import HIDDEN
    from singleinsert.batch.local import stay
    from singleinsert.batch.report import Report
    from singleinsert.batch.store import open_store
    from singleinsert.work.queue import Queue

    def say(line: str) -> None:
        print(prefix + line, flush=True)

    store = open_store(folder, args.results)
    queue = Queue(folder / HIDDEN / "state", [], again=False)
    growing = Growing(args.jobs, read, queue, store, folder, say)
    report = Report(args.jobs.resolve().name, [], queue, store, typed(("batch", *without_watch(args.words))))

    def write_report(jobs: Sequence[Job]) -> None:
        report.jobs = jobs
        try:
            report.write()
        except Exception as problem:  # such as a network's; no job is worth less for it
            say(f"index.html and results.csv were not written: {first_line(problem)}")

    say(f"watching {args.jobs} into {folder}; Ctrl-C saves the job in hand and ends")
    try:
        with worker_mark(folder):
            stay(growing, queue, store, folder / HIDDEN / "work", idle=args.watch, say=say, report=write_report,
                 between=Drawing(folder, say))  # fmt: skip
    finally:
        report.at_work = False
        write_report(report.jobs)
    say(f"nothing to do for {args.watch:g} s: leaving")


def without_watch(words: Sequence[str]) -> list[str]:
    """A command that ends when everything is done, and tries again what has failed."""
    flag = next((place for place, word in enumerate(words) if word.partition("=")[0] == "--watch"), len(words))
    rest = list(words[flag + 1 :])
    return [*words[:flag], *(rest[1:] if rest and rest[0].replace(".", "", 1).isdigit() else rest)]


def _count(problems: list[str]) -> str:
    return f"{len(problems)} problem{'s' * (len(problems) != 1)}"


def notes(jobs: list[Job], left: list[Job], folder: Path, source: Path) -> list[str]:
    """What a batch may begin with, but its user should know before it does; ``left`` are the jobs to be done."""
    from singleinsert.batch.jobs import left_out
    from singleinsert.batch.plan import of_other_lists
    from singleinsert.models.trigger import common_word_note

    found = [f"note: {line}" for line in left_out(source)]
    if words := [job.name for job in left if common_word_note(job.name)]:
        found.append(f"note: {_some(words)}: words that prompts of WebUIs could then no longer say; set name")
    if others := of_other_lists(jobs, folder):
        found.append(f"note: {folder} also holds {_some(others)} of another list, which index.html will not show")
    return found


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def work(args: argparse.Namespace, jobs: list[Job], queue: Queue, store: Store, folder: Path, prefix: str) -> None:
    """Do the jobs, here or on a cluster. BatchFailed where some did not work."""
    from singleinsert.batch.jobs import HIDDEN
    from singleinsert.batch.local import work_off
    from singleinsert.batch.plan import check_disk
    from singleinsert.batch.progress import counts, progress_line
    from singleinsert.batch.report import Report
    from singleinsert.work.queue import DONE, FAILED

    def say(line: str) -> None:
        print(prefix + line, flush=True)

    report = Report(args.jobs.resolve().name, jobs, queue, store, typed(("batch", *args.words)))
    hidden = folder / HIDDEN / "work"

    def write_report() -> None:
        try:
            report.write()
        except Exception as problem:  # such as a network's; no job is worth less for it
            say(f"index.html and results.csv were not written: {first_line(problem)}")

    common: dict[str, Any] = {"say": say, "report": write_report}
    states = queue.states()
    left = [job for job in jobs if states[job.name].state != DONE]
    line, enough = check_disk(left, 1, folder)
    for text in [*notes(jobs, left, folder, args.jobs), *([f"warning: {line}"] if left and not enough else [])]:
        say(text)
    try:
        report.write()  # a page to look at from the start; and what cannot be written is known before hours of training
    except Exception as problem:
        raise InputError(f"{args.results or folder} cannot be written: {first_line(problem)}") from problem
    say(progress_line(states, 1))
    try:
        if args.ray is None:
            work_off(jobs, queue, store, hidden, wait=not args.no_wait, **common)
        else:
            from singleinsert.batch.cluster import work_off_on_ray

            work_off_on_ray(jobs, queue, store, hidden, url=args.results, address=args.ray, workers=args.workers,
                            **common)  # fmt: skip
    finally:
        report.at_work = False
        write_report()
    states = queue.states()
    say(f"{progress_line(states, 1)}: {args.results or folder}/index.html")
    if failed := counts(states)[FAILED]:
        names = ", ".join(name for name, state in states.items() if state.state == FAILED)
        print_next(("batch", *args.words))
        raise BatchFailed(f"{failed} failed ({names}): reasons in results.csv, logs in {folder / HIDDEN / 'state'}")
    if done := [name for name, state in states.items() if state.state == DONE]:
        print_next(("infer", "--concept", folder / done[0], "--prompt", "{concept} in the snow", "--num_images", 4))


def main(argv: Sequence[str] | None = None) -> int:
    return run_script(batch_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
