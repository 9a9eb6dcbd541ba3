"""Re-run the papers' tables: methods x concepts x prompts x seeds, measured, with a report.

    python -m singleinsert.evaluate ablation --preset face --concepts photos --judge vlm:MODEL     Table 2
    python -m singleinsert.evaluate run --methods table1 --preset face --concepts photos           another set
    python -m singleinsert.evaluate scenes --concepts scenes                                       Break-A-Scene
    python -m singleinsert.evaluate coco --annotations instances_val2017.json --images val2017     its set of scenes
    accelerate launch -m singleinsert.evaluate ablation --preset face --concepts photos            share one queue
    python -m singleinsert.evaluate report output/evaluation/table2                                the report again
    python -m singleinsert.evaluate study rate --results output/evaluation/table2                  people judge it
In a checkout, on the bundled miniature model, without a GPU; the limits give a first look in a few minutes:
    python -m singleinsert.evaluate ablation --preset mini+plain --protocol testbed/protocol.toml \\
        --concept_limit 2 --prompt_limit 3 --seeds 2
    python -m singleinsert.evaluate scenes --pretrained_model_name_or_path mini-scenes \\
        --protocol testbed/scenes_protocol.toml --dry_run
The same command again continues where it was interrupted. Formats and columns are in docs/evaluation.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from singleinsert.cli import FLAGS, Parser, add_flags, overrides_from_args, path_argument, print_next, run_script
from singleinsert.errors import ConfigError
from singleinsert.evaluate.biases import add_arguments, study_biases
from singleinsert.evaluate.study.command import add_command, run_study
from singleinsert.reading import user_path

if TYPE_CHECKING:
    from singleinsert.evaluate.plan import Plan

OF_ONE_CONCEPT = (
    "image", "mask", "mask_index", "box", "class_word", "output_name", "resume_from_checkpoint", "mask_only",
    "checkpointing_steps",
)  # fmt: skip
ABLATION, SCENES = "table2", "scenes"
SCENE_PRESET = "scene"
OUTPUT = Path("output") / "evaluation"


def evaluate_parser() -> argparse.ArgumentParser:
    """The commands; those that train also take the flags of train_singleinsert.py."""
    parser = Parser(
        prog="python -m singleinsert.evaluate", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, what, default in (
        ("ablation", f"the rows of {ABLATION}", ABLATION), ("run", "any set of methods", None),
        ("scenes", "several concepts of one picture, in every combination", SCENES),
    ):  # fmt: skip
        command = commands.add_parser(name, help=what, description=what)
        _add_own(command.add_argument_group("the evaluation"), default)
        add_flags(command.add_argument_group("settings of every training, under what a method changes"))  # type: ignore[arg-type]
    _add_coco(commands.add_parser("coco", help="build Break-A-Scene's set of scenes from a copy of COCO"))
    what = "SID's six biases on the drawn world of a checkout, exactly judged"
    add_arguments(commands.add_parser("biases", help=what, description=what), OUTPUT)
    report = commands.add_parser("report", help="write the report of an evaluation again")
    report.add_argument("folder", type=path_argument, help="the evaluation's --output_dir")
    add_command(commands)
    return parser


def _add_coco(command: Any) -> None:
    from singleinsert.evaluate.coco import SCENES as COUNT

    command.add_argument(
        "--annotations", required=True, type=path_argument, metavar="FILE", help="instances_val2017.json"
    )
    command.add_argument(
        "--images", required=True, type=path_argument, metavar="DIR", help="the folder of its pictures"
    )
    command.add_argument(
        "--out", type=path_argument, default=Path("coco_scenes"), metavar="DIR", help="where to write (coco_scenes)"
    )
    command.add_argument("--count", type=int, default=COUNT, metavar="N", help=f"scenes at most ({COUNT})")


def _add_own(group: Any, methods: str | None) -> None:
    """``methods``: the set where none is given; None: one must be."""
    from dataclasses import fields

    from singleinsert.evaluate.methods import set_names
    from singleinsert.evaluate.protocol import Protocol

    default = f" (default {methods})" if methods else ""
    group.add_argument(
        "--methods", required=methods is None, default=methods, metavar="SET",
        help=f"{', '.join(set_names())}, or a .toml file{default}",
    )  # fmt: skip
    group.add_argument(
        "--max_minutes", type=float, metavar="N", help="begin nothing more after so long; the same command goes on"
    )
    group.add_argument("--dry_run", action="store_true", help="say what would be done, and about how long it takes")
    group.add_argument("--json", action="store_true", help="with --dry_run: the plan as JSON, inputs checked")
    group.add_argument("--rows", default="", metavar="NAME,...", help="only these methods of the set")
    group.add_argument("--only", default="", metavar="NAME,...", help="only these concepts")
    group.add_argument(
        "--cache", type=path_argument, metavar="DIR", help=f"concepts and pictures (default {OUTPUT / 'cache'})"
    )
    group.add_argument(
        "--keep_stages", action="store_true", help="keep every stage I in the cache, for rows that are added later"
    )
    group.add_argument(
        "--protocol", type=path_argument, metavar="FILE", help="TOML of the flags below; default: the preset's"
    )
    for f in fields(Protocol):
        kind = type(f.default)
        group.add_argument(f"--{f.name}", type=kind, help=f.metadata["help"], metavar="N" if kind is int else "TEXT")


def run(args: argparse.Namespace) -> None:
    """A command line to its command."""
    if args.command == "report":
        from singleinsert.evaluate.work import report

        report(args.folder)
        return
    if args.command == "biases":
        study_biases(args)
        return
    if args.command == "study":
        run_study(args)
        return
    if args.command == "coco":
        coco(args)
        return
    for flag in OF_ONE_CONCEPT:
        if getattr(args, flag) not in (None, False):
            raise ConfigError(f"--{flag} belongs to one concept: write it into the list that --concepts names")
    if args.command == SCENES and not args.preset:
        args.preset = SCENE_PRESET
    if not args.preset:
        raise ConfigError("--preset is missing: mini for the bundled model, face, object, ... with a real one")
    evaluate(args)


def coco(args: argparse.Namespace) -> None:
    """Build the set, and say what to do with it."""
    from singleinsert.evaluate.coco import build_set

    if args.count < 1:
        raise ConfigError(f"--count is {args.count}, but must be at least 1")
    for line in build_set(args.annotations, args.images, args.out, args.count):
        print(line)
    print(f"next: python -m singleinsert.evaluate scenes --concepts {args.out}")


def evaluate(args: argparse.Namespace) -> None:
    """Plan, work, and, once everything is there, the results and their report."""
    from dataclasses import fields

    from singleinsert.evaluate.methods import load_methods
    from singleinsert.evaluate.protocol import Protocol, load_protocol

    methods = load_methods(args.methods)
    methods.check_preset(args.preset)  # of all rows: those that are asked for may all stand on others
    if args.rows:
        methods = methods.only(_names(args.rows))
    goes_with = SCENE_PRESET if args.command == SCENES else args.preset
    protocol = load_protocol(goes_with, args.protocol, **{f.name: getattr(args, f.name) for f in fields(Protocol)})
    from singleinsert.evaluate.plan import left_out, make_plan
    from singleinsert.evaluate.scene_scoring import SceneScorer
    from singleinsert.evaluate.scoring import Scorer
    from singleinsert.evaluate.work import carry_out, make_runner, says

    folder = user_path(args.output_dir or OUTPUT / methods.name)
    flags = {key: value for key, value in overrides_from_args(args).items() if key != FLAGS["output_dir"]}
    plan = make_plan(methods, protocol, args.preset, args.config_file, flags, folder, _names(args.only))
    say = says()
    for line in [] if args.json else left_out(protocol.concepts):
        say(f"note: {line}")
    of_scenes = plan.concepts[0].is_scene
    if of_scenes != (args.command == SCENES):
        raise ConfigError(
            f"{protocol.concepts} holds {'scenes' if of_scenes else 'single concepts'}: the command for them is "
            f"{SCENES if of_scenes else 'run'}"
        )
    if args.json:
        return plan_as_json(plan, folder)
    what = "scenes" if of_scenes else "concepts"
    say(f"{len(plan.concepts)} {what}, {len(plan.methods.methods)} methods, into {folder}")
    until = None if args.max_minutes is None else time.perf_counter() + 60 * args.max_minutes
    scorer, cache = SceneScorer if of_scenes else Scorer, args.cache or OUTPUT / "cache"
    runner = make_runner(plan, folder, cache, scorer, until, keep_stages=args.keep_stages)
    if args.dry_run:
        runner.estimate()
        print_next(("evaluate", *args.words), leave_out="--dry_run")
        return
    if not carry_out(runner):
        say("the time is over, the same command goes on")


def plan_as_json(plan: Plan, folder: Path) -> None:
    """Print what would be trained and drawn. ConfigError where a picture, mask or base model cannot be used."""
    from singleinsert.batch.jobs import Job, a_line_each
    from singleinsert.batch.plan import check_inputs, model_notes

    jobs = [Job(concept.name, concept.any_settings, plan.preset, concept.name) for concept in plan.concepts]
    problems = a_line_each(problem for job in jobs for problem in check_inputs(job))
    methods = [method.name for method in plan.methods.methods]
    concepts = [
        {
            "name": c.name,
            "class_word": list(c.any_settings.data.class_word),
            "prompts": len(c.prompts),
            "seeds": c.seeds,
        }
        for c in plan.concepts
    ]
    pictures = sum(len(concept.asked(method)) for concept in plan.concepts for method in concept.settings)
    facts = {"folder": str(folder), "methods": methods, "concepts": concepts, "trainings": plan.units,
             "pictures": pictures, "notes": model_notes(jobs), "problems": problems}  # fmt: skip
    print(json.dumps(facts, indent=1))
    if problems:
        raise ConfigError("; ".join(problems))


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def main(argv: Sequence[str] | None = None) -> int:
    return run_script(evaluate_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
