"""SID's study of six biases on the drawn world: parts that are evaluations of their own, one command for all of them.

    python -m singleinsert.evaluate biases --dry_run                          what is to be done, and what it costs
    python -m singleinsert.evaluate biases --parts modes --biases tied,pose,expression --set choose --max_minutes 60

The world is the checkout's (testbed/biases): it writes the references, their descriptions and probes, and measures what
comes of them. The same command again goes on; parts share the cache, so that nothing is trained twice.
"""

from __future__ import annotations

import argparse
import importlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from singleinsert.cli import path_argument
from singleinsert.errors import ConfigError, InputError
from singleinsert.reading import user_path

if TYPE_CHECKING:
    from singleinsert.evaluate.plan import Plan

WORLD = "testbed.biases.study"
PARTS = {
    "modes": "biases-modes", "cases": "biases-cases", "qualities": "biases-qualities", "doses": "biases-doses",
    "methods": "sid",
}  # fmt: skip
"""Part -> its set of methods."""
SETS = ("choose", "report")


class World(Protocol):
    """What the module of :data:`WORLD` offers.

    Attributes:
        BIASES: their names. SCENES: one more, by another base model. MOST: references of each bias in a set.
        PROTOCOL: how they are evaluated.
    """

    BIASES: Sequence[str]
    SCENES: str
    MOST: int
    PROTOCOL: Path

    def write_references(self, folder: Path, kind: str, numbers: range, biases: Sequence[str]) -> Path:
        """Write pictures, masks, descriptions and probes; the path of the list of them."""

    def measured(self, folder: Path) -> str:
        """Measure what an evaluation has drawn, and keep that in its folder; the tables as text."""


@dataclass(frozen=True)
class Left:
    """What a part still has to do: training runs and pictures, of how many runs in all, and seconds of a processor."""

    runs: int
    all_runs: int
    pictures: int
    seconds: float


def add_arguments(command: argparse.ArgumentParser, output: Path) -> None:
    """The flags of ``biases``. ``output``: folder of all evaluations."""
    add = command.add_argument
    add("--parts", default="modes", metavar="NAME,...", help=f"of {', '.join(PARTS)} (default: modes)")
    add("--biases", default="", metavar="NAME,...",
        help="only these biases; default: all six. scenes: nearby objects by mini-scenes, alone")  # fmt: skip
    add("--rows", default="", metavar="NAME,...", help="only these methods")
    add("--set", dest="instances_set", choices=SETS, default="report",
        help="choose: the instances by which defaults are chosen; report: the others (default)")  # fmt: skip
    add("--instances", default="10", metavar="N",
        help="the first N of each bias, at most 10; 5-10: the fifth to the tenth")  # fmt: skip
    add("--seeds", type=int, metavar="N", help="pictures of each probe (default 4)")
    add("--max_minutes", type=float, metavar="N", help="begin nothing more after so long; the same command goes on")
    add("--dry_run", action="store_true", help="say how many runs there are, and about how long they take; do none")
    add("--preset", default="mini+plain", help="settings of every training (default: %(default)s)")
    add("--config_file", type=path_argument, metavar="FILE", help="TOML of settings over the preset")
    add("--cache", type=path_argument, default=output / "cache", metavar="DIR", help="concepts and pictures")
    add("--output_dir", type=path_argument, default=output / "biases", metavar="DIR", help="of all parts")


def study_biases(args: argparse.Namespace) -> None:
    """Do the parts that are asked for, one after the other, and measure each.

    Raises:
        ConfigError, InputError: one line.
    """
    from singleinsert.evaluate.work import carry_out, make_runner

    world = _world()
    parts = _chosen(args.parts, tuple(PARTS), "part")
    biases = _chosen(args.biases, (*world.BIASES, world.SCENES), "bias") or world.BIASES
    if world.SCENES in biases and len(biases) > 1:
        raise ConfigError(f"{world.SCENES} is of another base model: do it alone, with an --output_dir of its own")
    numbers = _numbers(args.instances, world.MOST)
    until = None if args.max_minutes is None else time.perf_counter() + 60 * args.max_minutes
    output = user_path(args.output_dir)
    kind = args.instances_set
    concepts = world.write_references(output / f"references-{kind}", kind, numbers, biases)
    total = 0.0
    for part in parts:
        folder = output / f"{part}-{kind}"
        plan = _plan(world, part, args, folder, concepts)
        if args.dry_run:
            left = _left(plan, folder, args.cache)
            total += left.seconds
            print(f"{part}: {left.runs} of {left.all_runs} runs to train, {left.pictures} pictures, "
                  f"about {left.seconds / 3600:.1f} hours of one processor")  # fmt: skip
            continue
        if not carry_out(make_runner(plan, folder, args.cache, until=until)):
            print(f"{part}: the time is over, the same command goes on")
        print(world.measured(folder))
        if until is not None and time.perf_counter() >= until:
            break
    if args.dry_run and len(parts) > 1:
        print(f"together at most {total / 3600:.1f} hours: what parts have in common is done once")


def _plan(world: World, part: str, args: argparse.Namespace, folder: Path, concepts: Path) -> Plan:
    from singleinsert.evaluate.methods import load_methods
    from singleinsert.evaluate.plan import make_plan
    from singleinsert.evaluate.protocol import load_protocol

    methods = load_methods(PARTS[part])
    if args.rows:
        methods = methods.only([name.strip() for name in args.rows.split(",")])
    protocol = load_protocol(args.preset, world.PROTOCOL, seeds=args.seeds, concepts=str(concepts))
    return make_plan(methods, protocol, args.preset, args.config_file, {}, folder)


def _left(plan: Plan, folder: Path, cache: Path) -> Left:
    """What is not in the cache, and what it takes by a moment's timing. A picture of what is still to train cannot be
    there."""
    from singleinsert.artifact import Artifact
    from singleinsert.evaluate.cache import concept_key
    from singleinsert.evaluate.estimate import measure
    from singleinsert.evaluate.work import make_runner

    runner = make_runner(plan, folder, cache)
    studio, first = runner.studio, plan.concepts[0].any_settings
    timing, todo, pictures, seconds = measure(studio.model(first), first), set[str](), 0, 0.0
    for concept in plan.concepts:
        for method, settings in concept.settings.items():
            asked = [picture for _, picture in concept.asked(method)]
            key = concept_key(settings, runner.model)
            file = studio.cache.concept(key)
            if file.is_file():
                keys = studio.keys(settings, [Artifact.load(file)], asked)
                missing = sum(not studio.cache.picture(each).is_file() for each in keys)
            else:
                missing = 0 if key in todo else len(asked)
            if not file.is_file() and key not in todo:
                todo.add(key)
                seconds += timing.trained(settings)
            pictures += missing
            seconds += timing.drawn(settings, missing)
    return Left(len(todo), plan.units, pictures, seconds)


def _world() -> World:
    try:
        return cast(World, importlib.import_module(WORLD))
    except ImportError as problem:
        raise InputError(f"{problem}: the drawn world is in a checkout, run from its folder") from problem


def _numbers(text: str, most: int) -> range:
    """4 or 5-10, counted from 1, as a range counted from 0."""
    first, dash, last = text.partition("-")
    found = re.fullmatch(r"\d+(-\d+)?", text)
    start, stop = (int(first) - 1, int(last)) if found and dash else (0, int(first) if found else 0)
    if not 0 <= start < stop <= most:
        raise ConfigError(f"--instances {text}: there are 1 to {most} of each bias; 4, or 5-10")
    return range(start, stop)


def _chosen(text: str, known: Sequence[str], what: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise ConfigError(f"unknown {what} {name!r}: there are {', '.join(known)}")
    return names
