"""How noisy the gradient is, per FLOP, by the way in which timesteps and noise are drawn. On mini-sd, on a CPU.

    python benchmarks/variance.py               resumable: start it again
    python benchmarks/variance.py --docs        also write the table into docs/research/cost.md
    python benchmarks/variance.py --batches 64 --instances examples/face cup0

Each instance is trained to the midst of a stage as the mini preset says. There the trainer's own step gives the
gradient of many batches, drawn in each way and never applied; their spread is the trace of the covariance of a batch's
gradient. Every way has the same expectation (tests/test_draws.py) and the same FLOPs, so a way with half the variance
does with half the samples what the uniform one does.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]
os.environ.setdefault("TQDM_DISABLE", "1")

import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from singleinsert.atomic import write_text  # noqa: E402
from singleinsert.config import Settings, load_settings  # noqa: E402
from singleinsert.training import run as training  # noqa: E402
from singleinsert.training.accelerator import build_accelerator  # noqa: E402
from singleinsert.training.draws import Sampling  # noqa: E402
from singleinsert.training.files import RunFiles  # noqa: E402
from singleinsert.training.loop import Loop  # noqa: E402
from singleinsert.training.stages import Stage, stages_of  # noqa: E402
from singleinsert.training.watch import ConsoleWatch  # noqa: E402
from testbed.docs import RESEARCH, fill_block  # noqa: E402
from testbed.instances import subjects, write_training_picture  # noqa: E402

DOCS = RESEARCH / "cost.md"
INSTANCES = ("examples/face", "face0", "examples/cat", "dog0", "examples/cup", "car0")
"""Pictures that come with the project, and drawn ones (testbed/instances.py); mini-sd saw none of either."""

WAYS: dict[str, dict[str, Any]] = {
    "uniform": {},
    "stratified": {"stratified_timesteps": True},
    "importance 0.5": {"timestep_importance": 0.5},
    "importance 1": {"timestep_importance": 1.0},
    "importance 0.5, stratified": {"timestep_importance": 0.5, "stratified_timesteps": True},
    "importance 1, stratified": {"timestep_importance": 1.0, "stratified_timesteps": True},
}
"""Settings of a stage; what each leaves out is as in the paper."""

BEFORE = {"stage1": 25, "stage2": 25}
"""Steps of the stage that have been made where its gradient is looked at."""
FRESH = 100_000
"""Number of the first step whose draws are taken: training never comes to it."""


def settings_of(instance: str, folder: Path, model: str | None) -> Settings:
    """A run of the mini preset on an instance, by the paper's draws; the frozen model is asked in each step, so that
    all draws are new."""
    if instance.startswith("examples/"):
        image, mask = ROOT / f"{instance}.png", ROOT / f"{instance}_mask.png"
        word = Path(instance).name
    else:
        scene = dict(subjects())[instance]
        image, mask = write_training_picture(scene, folder / "input")
        word = scene.instances[0].cls
    values = {
        "data.image": str(image), "data.mask": str(mask), "data.class_word": word, "run.output_dir": str(folder),
        "run.output_name": "variance", "run.teacher_bank": False,
        "stage1.batch_size": 16, "stage1.timestep_importance": 0.0, "stage1.stratified_timesteps": False,
    }  # fmt: skip
    if model:
        values["model.pretrained_model_name_or_path"] = model
    return load_settings("mini+plain", None, values)


def measure(settings: Settings, batches: int) -> dict[str, Any]:
    """``{stage: {way: figures}}`` of one instance, see :func:`spread`; and the FLOPs of a batch."""
    accelerator, stages = build_accelerator(settings, RunFiles(settings.output_dir, "variance")), stages_of(settings)
    material = training.find_material(settings, lambda line: None)
    model = training.load_model(settings, accelerator)
    files = RunFiles(settings.output_dir, settings.name)
    run = training.assemble(settings, accelerator, files, stages, model, material, ConsoleWatch())
    loop = Loop(run, lambda *_: None)
    found: dict[str, Any] = {}
    for index, stage in enumerate(stages):
        loop.stage_index, loop.step = index, 0
        loop._prepare(stage)
        train(loop, stage, BEFORE[stage.name])
        with FlopCounterMode(display=False) as counter:
            loop._accumulate_gradients(stage)
        loop.optimizer.zero_grad(set_to_none=True)
        found[stage.name] = {"flops": counter.get_total_flops(), "steps_before": BEFORE[stage.name]}
        done, own = loop.step, loop.source.sampling[stage.name]
        for way, changes in WAYS.items():
            section = replace(stage.settings, **changes)
            loop.source.sampling[stage.name] = Sampling.of_stage(section, stage.settings.batch_size, model.schedule)
            found[stage.name][way] = spread(loop, stage, batches)
        loop.source.sampling[stage.name], loop.step = own, done
        if stage is not stages[-1]:
            train(loop, stage, stage.steps - done)
    return found


def train(loop: Loop, stage: Stage, steps: int) -> None:
    for _ in range(steps):
        loop._optimiser_step(stage)
        loop.step += 1


def spread(loop: Loop, stage: Stage, batches: int) -> dict[str, dict[str, float]]:
    """For what trains, ``{"concept", "lora"}``: of a batch's gradient g over ``batches`` of them

    - variance: the trace of its covariance, ``sum |g - mean|^2 / (n - 1)``; error: its standard error, by bootstrap;
    - signal: the squared norm of its mean, without what its noise adds, ``|mean|^2 - variance / n``.
    """
    gradients: dict[str, list[Tensor]] = {}
    for number in range(batches):
        loop.step = FRESH + number
        loop._accumulate_gradients(stage)
        parts: dict[str, list[Tensor]] = {}
        for name, parameter in loop.trainables(stage).items():
            part = "concept" if name.startswith("concept.") else "lora"
            if parameter.grad is not None:
                parts.setdefault(part, []).append(parameter.grad.flatten().clone())
        loop.optimizer.zero_grad(set_to_none=True)
        for part, pieces in parts.items():
            gradients.setdefault(part, []).append(torch.cat(pieces))
    return {part: figures(torch.stack(rows)) for part, rows in gradients.items()}


def figures(rows: Tensor) -> dict[str, float]:
    """See :func:`spread`. Args: rows, (n, parameters)."""
    n, mean = len(rows), rows.mean(0)
    squares = (rows - mean).double().square().sum(1) * n / (n - 1)
    resampled = squares[torch.randint(0, n, (1000, n), generator=torch.Generator().manual_seed(0))].mean(1)
    variance = squares.mean().item()
    signal = mean.double().square().sum().item() - variance / n
    return {"variance": variance, "error": resampled.std().item(), "signal": signal, "batches": n}


def ratio(results: dict[str, Any], stage: str, part: str, way: str) -> tuple[float, float]:
    """(variance against uniform draws, factor of its standard error): geometric, over the instances.

    The error is the larger one of what the instances differ by and of what the batches of each leave open.
    """
    cells = [(found[stage][way][part], found[stage]["uniform"][part]) for found in results.values()]
    logs = [math.log(ours["variance"] / uniform["variance"]) for ours, uniform in cells]
    relative = [cell["error"] / cell["variance"] for pair in cells for cell in pair]
    between = statistics.stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else 0.0
    return math.exp(statistics.mean(logs)), math.exp(max(between, math.hypot(*relative) / len(logs)))


COLUMNS = (("stage1", "concept"), ("stage2", "concept"), ("stage2", "lora"))


def table(results: dict[str, Any]) -> str:
    """Markdown: variance against uniform draws, one standard error down and up in brackets."""
    many = "1 instance" if len(results) == 1 else f"{len(results)} instances"
    batches = {found["stage1"]["uniform"]["concept"]["batches"] for found in results.values()}
    lines = [
        f"{many} ({', '.join(results)}), {'/'.join(str(int(n)) for n in sorted(batches))} batches of "
        "each way in the midst of each stage.",
        "",
        "| draws | " + " | ".join(f"{name.replace('stage', 'stage ')}, {part}" for name, part in COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    for way in WAYS:
        cells = []
        for stage, part in COLUMNS:
            value, factor = ratio(results, stage, part, way)
            span = "" if way == "uniform" else f" ({value / factor:.2f} to {value * factor:.2f})"
            cells.append(f"{value:.2f}{span}")
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    noise = [
        statistics.median(
            found[stage]["uniform"][part]["variance"] / max(found[stage]["uniform"][part]["signal"], 1e-30)
            for found in results.values()
        )
        for stage, part in COLUMNS
    ]
    lines.append("| noise to signal, uniform | " + " | ".join(f"{value:.1f}" for value in noise) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", nargs="*", default=INSTANCES, help=f"default {' '.join(INSTANCES)}")
    parser.add_argument("--batches", type=int, default=32, metavar="N", help="of each way (default 32)")
    parser.add_argument("--model", metavar="MODEL", help="default: the bundled mini-sd")
    parser.add_argument("--json", type=Path, default=ROOT / "output" / "variance.json", metavar="FILE",
        help="what is measured is kept there, and not measured again")  # fmt: skip
    parser.add_argument("--docs", action="store_true", help="write the table into docs/research/cost.md")
    args = parser.parse_args(argv)
    results: dict[str, Any] = json.loads(args.json.read_text()) if args.json.exists() else {}
    for instance in args.instances:
        if instance not in results:
            with tempfile.TemporaryDirectory() as folder:
                results[instance] = measure(settings_of(instance, Path(folder), args.model), args.batches)
            args.json.parent.mkdir(parents=True, exist_ok=True)
            write_text(args.json, json.dumps(results, indent=1) + "\n")
            print(f"{instance} is done", flush=True)
    print(table(results))
    if args.docs:
        fill_block(DOCS, "variance", table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
