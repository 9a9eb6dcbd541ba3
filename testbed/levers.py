"""Measure the levers of singleinsert/evaluate/methods/levers.toml on mini-sd, row by row, and write their table.

    python -m testbed.levers run                  every row that is not there yet, in the set's order; resumable
    python -m testbed.levers run --rows v-fresh,values
    python -m testbed.levers run --on report --rows default,v-fresh
    python -m testbed.levers table                what is there so far, into docs/research/levers.md

Rows are compared on the six instances of `testbed.instances.subjects_to_choose_by`, ten prompts with two seeds each,
paired by instance with the first row; intervals are bootstrapped over the instances. What was chosen by them is
reported on twenty others, which chose nothing, and on another base model. Everything is kept in output/levers: trained
concepts and pictures in cache/, so that nothing is done twice.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from singleinsert.atomic import write_text
from singleinsert.config import SampleSettings, load_settings
from singleinsert.evaluate.bootstrap import Interval, bootstrap, paired
from singleinsert.evaluate.methods import load_methods
from singleinsert.evaluate.prompt_lists import EditPrompt, load_prompts
from singleinsert.evaluate.results import NAME, Results
from singleinsert.inference.pipeline import ConceptPipeline, Picture
from singleinsert.models.bundled import place_of_model
from singleinsert.models.loading import load_base_model

from .compare import MEASURES, PROMPTS, Means, Pictures, gallery, pictures_of, score, with_references
from .docs import RESEARCH, ROOT, fill_block
from .instances import asked, ideal, subjects_to_choose_by, subjects_to_report_by
from .judge import Judge
from .world.captions import BACKGROUND_WORDS, full_caption
from .world.features import INSTANCE
from .world.scene import Scene

METHODS, PRESET = "levers", "mini+plain"
DRAWINGS = "drawings"
"""The row that learns from twelve true drawings of each instance."""
ALL_WORDS = "the base model, asked with all of the instance's words"
FOLDER = ROOT / "output" / "levers"
SEEDS = 2
PROTOCOL = ROOT / "testbed" / "levers.protocol.toml"
FROM_DRAWINGS = "python:testbed.instances:write_drawings_to_choose_by"
SHOWN = ("identity", "kept", "background", "edits", "obeyed")
Scores = dict[str, dict[str, Means]]
"""Row -> instance -> means."""


@dataclass(frozen=True)
class Trial:
    """Instances and the base model that learns them.

    Attributes:
        name: of its block in the page and its folder; "levers" for those that settings are chosen by.
        scenes: the instances. concepts: who writes them down, for the evaluation's command.
    """

    name: str
    scenes: Callable[[], Iterable[tuple[str, Scene]]]
    concepts: str
    model: str = "mini-sd"

    @property
    def folder(self) -> Path:
        return FOLDER if self.name == METHODS else FOLDER / self.name

    def row(self, name: str) -> Path:
        return self.folder / "rows" / name


_REPORTED = (subjects_to_report_by, "python:testbed.instances:write_folder_to_report_by")
CHOOSING = Trial(METHODS, subjects_to_choose_by, "python:testbed.instances:write_folder_to_choose_by")
TRIALS = {
    "choose": CHOOSING,
    "choose-sdxl": Trial("choose-sdxl", subjects_to_choose_by, CHOOSING.concepts, "mini-sdxl"),
    "report": Trial("report", *_REPORTED),
    "report-sdxl": Trial("report-sdxl", *_REPORTED, "mini-sdxl"),
}


def missing_rows(wanted: Sequence[str], trial: Trial = CHOOSING) -> list[str]:
    """Names of rows without results, in the set's order; of `wanted` alone, if given."""
    names = [method.name for method in load_methods(METHODS).only(wanted or all_rows()).methods]
    return [name for name in names if not is_whole(trial.row(name), trial)]


def is_whole(folder: Path, trial: Trial) -> bool:
    """Has a row's folder results of every instance? One that was interrupted has some."""
    if not (folder / NAME).is_file():
        return False
    return len({sample.concept for sample in Results.load(folder).samples}) == len(list(trial.scenes()))


def all_rows() -> list[str]:
    return [method.name for method in load_methods(METHODS).methods]


def labels() -> dict[str, str]:
    """Name of a row -> what tables call it."""
    return {method.name: method.full_label for method in load_methods(METHODS).methods}


def run_row(name: str, trial: Trial = CHOOSING) -> bool:
    """Train, draw and keep one row, in a process of its own; whether it went well."""
    done = subprocess.run(
        [sys.executable, "-m", "singleinsert.evaluate", "run", "--methods", METHODS, "--rows", name,
         "--preset", PRESET, "--protocol", str(PROTOCOL), "--cache", str(FOLDER / "cache"), "--keep_stages",
         "--pretrained_model_name_or_path", trial.model, "--output_dir", str(trial.row(name)),
         "--concepts", FROM_DRAWINGS if name == DRAWINGS else trial.concepts], cwd=ROOT,
    )  # fmt: skip
    return done.returncode == 0


def scores_of(rows: Sequence[str], trial: Trial = CHOOSING) -> Scores:
    """What the judge reads in the rows' pictures, and in those that need no training; kept beside the rows."""
    reader = Reader(trial)
    kept = trial.folder / "references.json"
    if not kept.is_file():
        write_text(kept, json.dumps({row: reader.read(found) for row, found in reference_pictures(reader).items()}))
    found = {name: _scores_of_row(trial.row(name), reader) for name in rows}
    return found | json.loads(kept.read_text())


class Reader:
    """The judge on the instances of a trial."""

    def __init__(self, trial: Trial) -> None:
        self.judge, self.scenes = Judge.load(), dict(trial.scenes())
        self.model = place_of_model(trial.model)
        self._others = {name: gallery(self.judge, scene) for name, scene in self.scenes.items()}

    def read(self, pictures: Pictures) -> dict[str, Means]:
        """Instance -> means, of one row."""
        return {c: score(self.judge, self.scenes[c], self._others[c], found) for c, found in pictures.items()}


def _scores_of_row(folder: Path, reader: Reader) -> dict[str, Means]:
    kept = folder / "judged.json"
    if not kept.is_file() or kept.stat().st_mtime < (folder / NAME).stat().st_mtime:
        (pictures,) = pictures_of(folder, Results.load(folder)).values()
        write_text(kept, json.dumps(reader.read(pictures)))
    return json.loads(kept.read_text())


def reference_pictures(reader: Reader) -> dict[str, Pictures]:
    """Row -> pictures of what needs no training: true drawings, the class word, all words."""
    blank = Image.new("RGB", (1, 1))
    asked_for: Pictures = {
        name: [(p, blank) for p in load_prompts(PROMPTS).for_class(scene.instances[0].cls) for _ in range(SEEDS)]
        for name, scene in reader.scenes.items()
    }
    sample = load_settings(PRESET).sample
    rows = {"": asked_for}
    sampling = {"guidance_scale": sample.guidance_scale, "steps": sample.num_inference_steps}
    with_references(rows, reader.scenes, sampling, reader.model)
    rows[ALL_WORDS] = asked_in_full(asked_for, reader.scenes, sample, reader.model)
    return {row: found for row, found in rows.items() if row}


def asked_in_full(like: Pictures, scenes: Mapping[str, Scene], sample: SampleSettings, model: str | Path) -> Pictures:
    """Pictures of the prompts of ``like`` with the instance described by every word that there is for it, and nothing
    learnt: the most that a text can do."""
    pipeline, out = ConceptPipeline(load_base_model(model)), dict[str, list[tuple[EditPrompt, Image.Image]]]()
    for concept, found in like.items():
        prompts = [prompt for prompt, _ in found]
        wanted = [
            Picture(in_full(scenes[concept], prompt), sample.seed + n % SEEDS, "", sample.num_inference_steps,
                    sample.guidance_scale)
            for n, prompt in enumerate(prompts)
        ]  # fmt: skip
        out[concept] = list(zip(prompts, pipeline.render(wanted, batch_size=len(wanted)), strict=True))
    return out


def in_full(scene: Scene, prompt: EditPrompt) -> str:
    """What the prompt asks for as a caption that names all of the instance; no place where the prompt names none."""
    wanted = ideal(scene, prompt)
    text = full_caption(wanted, list(INSTANCE[scene.instances[0].cls]))
    return text if "background" in asked(prompt) else text.removesuffix(f" {BACKGROUND_WORDS[wanted.background][0]}")


def compared(scores: Scores, first: str) -> dict[str, dict[str, tuple[Interval, Interval | None]]]:
    """Row -> measure -> (its mean, its paired difference from the row `first`), over the instances that both have."""
    out: dict[str, dict[str, tuple[Interval, Interval | None]]] = {}
    for row, by_concept in scores.items():
        cells = {}
        for measure in MEASURES:
            values = {c: means[measure] for c, means in by_concept.items() if measure in means}
            base = {c: means[measure] for c, means in scores.get(first, {}).items() if measure in means}
            shared = [c for c in values if c in base]
            if values:
                difference = paired([values[c] for c in shared], [base[c] for c in shared]) if shared else None
                cells[measure] = bootstrap([*values.values()]), None if row == first else difference
        out[row] = cells
    return out


def table(scores: Scores, first: str) -> str:
    """Markdown: each row's means, and below each its difference from the first row with the 95 percent interval, bold
    where that leaves 0 out; where there is none, the mean's own interval."""
    known = labels()
    lines = ["| | instances | " + " | ".join(SHOWN) + " |", "|---" * (len(SHOWN) + 2) + "|"]
    for row, cells in compared(scores, first).items():
        shown = [_cell(*cells[measure]) if measure in cells else "" for measure in SHOWN]
        lines.append(f"| {known.get(row, row)} | {len(scores[row])} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def table_of_features(scores: Scores) -> str:
    """Markdown: how often each feature is kept, over the instances that it is asked of, row by row."""
    known = labels()
    names = sorted({name for row in scores.values() for means in row.values() for name in means if " " in name})
    lines = ["| kept | instances | " + " | ".join(known.get(row, row) for row in scores) + " |",
             "|---" * (len(scores) + 2) + "|"]  # fmt: skip
    for name in names:
        found = [[means[name] for means in row.values() if name in means] for row in scores.values()]
        cells = [str(len(found[0])), *(f"{statistics.mean(values):.2f}" for values in found)]
        lines.append(f"| {name.removeprefix('kept ').replace('_', ' ')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(mean: Interval, difference: Interval | None) -> str:
    if difference is None:
        return f"{mean.mean:.3f}<br><sub>{mean.low:.3f} to {mean.high:.3f}</sub>"
    text = f"{difference.mean:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})"
    beyond = difference.low > 0 or difference.high < 0
    return f"{mean.mean:.3f}<br><sub>{f'**{text}**' if beyond else text}</sub>"


def fill_table(trial: Trial) -> None:
    """Write the table of all of a trial's rows that are there into docs/research/levers.md."""
    rows, left = all_rows(), missing_rows([], trial)
    scores = scores_of([name for name in rows if name not in left], trial)
    text = table(scores, rows[0])
    if left and trial is CHOOSING:
        text += f"\n\nNot measured yet: {', '.join(left)}."
    fill_block(RESEARCH / "levers.md", trial.name, text)
    print(text)
    if trial.name.startswith("report"):
        fill_block(RESEARCH / "levers.md", f"{trial.name}-features", table_of_features(scores))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m testbed.levers", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train, draw and keep the rows that are not there yet")
    run.add_argument("--rows", default="", metavar="NAME,...", help="only these")
    shown = commands.add_parser("table", help="write the table of what is there")
    for command in (run, shown):
        command.add_argument(
            "--on", choices=TRIALS, default="choose", help="instances and base model (default: %(default)s)"
        )
    args = parser.parse_args()
    trial = TRIALS[args.on]
    if args.command != "run":
        fill_table(trial)
        return 0
    failed = [name for name in missing_rows([n for n in args.rows.split(",") if n], trial) if not run_row(name, trial)]
    print(f"failed: {', '.join(failed)}" if failed else "all rows are there")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
