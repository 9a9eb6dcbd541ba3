"""Count what a run costs, without a GPU: the trainer's own steps on fake tensors of the true shapes. Minutes on a CPU.

    python benchmarks/cost.py                       SD 1.5 at 512 px: FLOPs, and the peak of every way to save memory
    python benchmarks/cost.py --json cost.json      seven figures, for machines
    python benchmarks/cost.py --preset face         what the presets for photos cost instead of the paper's settings
    python benchmarks/cost.py --family sd2 --resolution 768

Peaks are bytes of tensors on the card, in GB (1e9): add 0.6 to 1.0 for the CUDA context and cuDNN's workspaces.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import torch  # noqa: E402
from account import KINDS, PASSES, Account  # noqa: E402
from shapes import CARD, build_loop, encode_once, fake_tensors, place  # noqa: E402
from torch import nn  # noqa: E402

from singleinsert.cli import low_vram  # noqa: E402
from singleinsert.config import Settings, load_settings  # noqa: E402
from singleinsert.training.prompting import Variation  # noqa: E402

STAGES = ("stage1", "stage2")

# the authors' formulation and a lean restatement of it, computed once in the same way (see docs/research/cost.md)
AUTHORS_TFLOP = {"stage1": 4914, "stage2": 2257, "run": 7171}
LEAN_TFLOP = {"stage1": 2023, "stage2": 1753, "run": 3776}
AUTHORS_PEAK = {"float32": (75.4, 26.8), "fp16": (51.0, 21.1)}

# bf16 FLOPs a second of large matrix products: the H200's measured, the others' from their makers' figures
CARDS = {"H200": 790e12, "A100": 290e12, "V100": 115e12, "RTX 4070": 74e12, "RTX 3060": 37e12}


@dataclass(frozen=True)
class Cost:
    """Of one optimiser step. ``flops``: {(component, pass): FLOPs}. ``peak``: {kind: bytes on the card}. ``operators``:
    {(component, pass): how many}, the optimiser's under "optimiser"."""

    flops: Mapping[tuple[str, str], int]
    peak: Mapping[str, int]
    operators: Mapping[tuple[str, str], int]

    @property
    def launches(self) -> int:
        """Operators without the optimiser's."""
        return sum(count for (component, _), count in self.operators.items() if component != "optimiser")

    @property
    def total_flops(self) -> int:
        return sum(self.flops.values())

    @property
    def peak_gb(self) -> float:
        return sum(self.peak.values()) / 1e9


def measure_step(settings: Settings, name: str, family: str = "sd1") -> Cost:
    """One optimiser step of the trainer's loop in the midst of stage ``name``: the optimiser has its state already.

    Where the frozen model predicts for several steps at once, their mean, and the highest peak among them: of a stage
    without templates, whose steps are alike but for the first, the first and the second are counted, and the first
    alone of one that draws from the bank.
    """
    with fake_tensors():
        loop, stage = build_loop(settings, name, family)
        model, trainables = loop.run.model, loop.trainables(stage)
        encoders = nn.ModuleList(model.text_encoders.values())
        account = Account(
            CARD, {"denoiser": model.denoiser, "text encoder": encoders, "image encoder": loop.run.concepts}
        )
        account.name_weights("LoRA", dict(loop.adapters.named_parameters()).values())
        account.hold([*model.denoiser.parameters(), *encoders.parameters()], "frozen weights")
        account.hold(trainables.values(), "trainables")
        for parameter in trainables.values():
            parameter.grad = torch.zeros_like(parameter)
        with account:
            loop.optimizer.step()
            loop.optimizer.zero_grad(set_to_none=True)
        moments = [value for state in loop.optimizer.state.values() for value in state.values()]
        account.hold([moment for moment in moments if isinstance(moment, torch.Tensor)], "optimiser")
        for parameter in trainables.values():
            parameter.register_post_accumulate_grad_hook(lambda p: account.hold([p.grad], "gradients"))
        account.start()
        with account, mock.patch.object(loop, "_apply_gradients", account.within("optimiser", loop._apply_gradients)):
            steps, flops, operators = loop.source.steps_ahead, [], []
            first, _ = loop.source.share(stage, 0)
            different = 1 if loop.source.bank_of(stage, first) else 2
            for _ in range(steps if Variation.of_stage(stage.settings).templates else min(steps, different)):
                loop._optimiser_step(stage)
                loop.step += 1
                flops.append(dict(account.flops))
                operators.append(dict(account.operators))
    return Cost(_mean(flops, steps), dict(account.peak), _mean(operators, steps))


def _mean(sums: Sequence[Mapping[tuple[str, str], int]], steps: int) -> dict[tuple[str, str], int]:
    """Of ``steps`` steps, from the sums after each; those that were not counted are as the last that was."""
    before, last = (sums[-2] if len(sums) > 1 else {}), sums[-1]
    left = steps - len(sums)
    return {key: round((count + left * (count - before.get(key, 0))) / steps) for key, count in last.items()}


def measure_setup(settings: Settings, family: str = "sd1") -> Cost:
    """What is encoded once, before the first step."""
    with fake_tensors():
        loop, _ = build_loop(settings, "stage1", family)
        model = loop.run.model
        place(model.autoencoder, CARD, torch.float32)
        encoders = nn.ModuleList(model.text_encoders.values())
        parts = {"denoiser": model.denoiser, "text encoder": encoders, "VAE": model.autoencoder}
        account = Account(CARD, parts)
        for part in parts.values():
            account.hold(part.parameters(), "frozen weights")
        account.start()
        with account:
            encode_once(settings, loop.run)
    return Cost(dict(account.flops), dict(account.peak), dict(account.operators))


def on_a_card(preset: str | None = None, **run: Any) -> Settings:
    """Settings as they are on a card: weights in bfloat16; ``run`` are keys of that section of the settings."""
    values = {"run.mixed_precision": "bf16"} | {f"run.{key}": value for key, value in run.items()}
    return load_settings(preset, None, values)


PRESETS = {"flux2-klein-4b": "klein", "z-image": "zimage"}
"""Of families whose layers and stages are not those of the defaults."""


def two_micro_batches(settings: Settings) -> Settings:
    """Steps of two micro-batches, whose peak is that of any number of them; FLOPs per sample do not depend on it."""
    size = settings.run.micro_batch_size
    stages = {
        name: replace(getattr(settings, name), batch_size=min(2 * size or 10**6, getattr(settings, name).batch_size))
        for name in STAGES
    }
    return replace(settings, **stages)


def run_flops(settings: Settings, family: str = "sd1") -> dict[str, Cost]:
    """``{"setup", "stage1", "stage2"}``: the costs of one step of each stage in whole batches."""
    costs = {name: measure_step(settings, name, family) for name in STAGES}
    return {"setup": measure_setup(settings, family), **costs}


def run_tflop(settings: Settings, costs: Mapping[str, Cost]) -> dict[str, float]:
    """TFLOP of the stages and of the run; pictures drawn to look at are not in it."""
    stages = {name: costs[name].total_flops * getattr(settings, name).steps / 1e12 for name in STAGES}
    return {**stages, "run": sum(stages.values()) + costs["setup"].total_flops / 1e12}


def stage_tflop(settings: Settings, name: str, batch: int, cost: Cost) -> float:
    """TFLOP of a stage, from one step of ``batch`` samples: the denoiser sees each sample, the encoders one a step."""
    section = getattr(settings, name)
    unet = sum(value for (component, _), value in cost.flops.items() if component == "denoiser")
    return (unet * section.batch_size / batch + cost.total_flops - unet) * section.steps / 1e12


LOW_MEMORY = {"micro_batch_size": 1}
LOW_VRAM = {key.removeprefix("run."): value for key, value in low_vram().items()} | {"use_8bit_adam": True}


def figures(family: str = "sd1") -> dict[str, float]:
    """The figures of ``--json``: paper settings; the least memory without extra FLOPs; ``--low_vram``."""
    whole = on_a_card(PRESETS.get(family))
    costs = run_flops(whole, family)
    found = {"run_tflop": run_tflop(whole, costs)["run"]}
    found |= {f"{name}_operators": costs[name].launches for name in STAGES}
    for prefix, switches in (("", LOW_MEMORY), ("low_vram_", LOW_VRAM)):
        for name in STAGES:
            settings = two_micro_batches(on_a_card(PRESETS.get(family), **switches))
            found[f"{prefix}{name}_peak_gb"] = measure_step(settings, name, family).peak_gb
    return {name: round(value, 4) for name, value in found.items()}


ROWS: tuple[tuple[str, dict[str, Any], tuple[float, float] | None], ...] = (
    ("whole batches", {}, (15.5, 9.9)),
    ("whole batches, checkpointing", {"gradient_checkpointing": True}, (6.9, 5.1)),
    ("micro-batch 4", {"micro_batch_size": 4}, (6.3, 6.6)),
    ("micro-batch 2", {"micro_batch_size": 2}, (4.8, 4.9)),
    ("micro-batch 1", LOW_MEMORY, (4.0, 4.1)),
    ("micro-batch 1, 8-bit Adam", {"micro_batch_size": 1, "use_8bit_adam": True}, (3.5, 3.6)),
    ("micro-batch 1, 8-bit Adam, checkpointing", {**LOW_VRAM, "offload": False}, (2.9, 3.0)),
    ("micro-batch 1, encoders in main memory", {"micro_batch_size": 1, "offload": True}, (2.5, 2.6)),
    ("micro-batch 2, encoders in main memory", {"micro_batch_size": 2, "offload": True}, None),
    ("--low_vram", LOW_VRAM, (1.95, 1.96)),
    ("micro-batch 1, 8-bit Adam, checkpointing, nf4", {**LOW_VRAM, "offload": False, "quantize": "nf4"}, None),
    ("micro-batch 1, 8-bit Adam, checkpointing, int8", {**LOW_VRAM, "offload": False, "quantize": "int8"}, None),
    (
        "the same, text encoders swapped",
        {**LOW_VRAM, "offload": False, "quantize": "int8", "swap_text_encoders": True},
        None,
    ),
    ("--low_vram, nf4", {**LOW_VRAM, "quantize": "nf4"}, None),
    ("--low_vram, 12 blocks in main memory", {**LOW_VRAM, "blocks_to_swap": 12}, None),
    ("micro-batch 1, float32 weights", {"micro_batch_size": 1, "mixed_precision": "no"}, None),
)
"""What is told of it, keys of [run], and the peaks of the lean restatement in GB."""


def print_flops(settings: Settings, costs: Mapping[str, Cost]) -> None:
    """GFLOP per sample by component, and TFLOP of stages and run beside the authors' and the lean formulation."""
    print(f"GFLOP per step  {'':24}" + "".join(f"{name:>12}" for name in PASSES))
    for name in ("setup", *STAGES):
        batch = 1 if name == "setup" else getattr(settings, name).batch_size
        print(f"{name}, batch {batch}")
        for component in dict.fromkeys(component for component, _ in costs[name].flops):
            row = [costs[name].flops.get((component, direction), 0) / 1e9 for direction in PASSES]
            print(f"  {component:38}" + "".join(f"{value:12,.1f}" for value in row))
    print("operators per step, without views")
    for name in STAGES:
        parts = {part: 0 for part, _ in costs[name].operators}
        for (part, _), count in costs[name].operators.items():
            parts[part] += count
        shares = ", ".join(f"{part} {count:,}" for part, count in parts.items())
        print(f"  {name}: {costs[name].launches:,} and the optimiser's: {shares}")
    totals = run_tflop(settings, costs)
    print(f"\nTFLOP {'':18}{'authors':>12}{'lean':>12}{'this':>12}")
    for name, total in totals.items():
        print(f"  {name:22}{AUTHORS_TFLOP[name]:12,}{LEAN_TFLOP[name]:12,}{total:12,.0f}")
    seconds = ", ".join(f"{card} {totals['run'] * 1e12 / speed:.1f} s" for card, speed in CARDS.items())
    print(f"  no card can be faster: {seconds}")


def print_peaks(family: str, resolution: int, preset: str | None) -> None:
    """TFLOP of each stage, and GB by kind at its peak, for every row of ROWS."""
    print(f"\n{'peak GB':42}{'':9}{'TFLOP':>7}{'all':>7}{'lean':>7}  " + "".join(f"{kind:>16}" for kind in KINDS))
    for precision, peaks in AUTHORS_PEAK.items():
        for i, (name, peak) in enumerate(zip(STAGES, peaks, strict=True)):
            label = "" if i else f"authors, {precision}"
            print(f"  {label:42}{name:9}{AUTHORS_TFLOP[name]:7,}{peak:7.1f}")
    for label, switches, lean in ROWS:
        for i, name in enumerate(STAGES):
            whole = at(on_a_card(preset, **switches), resolution)
            settings = two_micro_batches(whole)
            cost = measure_step(settings, name, family)
            tflop = stage_tflop(whole, name, getattr(settings, name).batch_size, cost)
            known = f"{lean[i]:7.1f}" if lean else f"{'-':>7}"
            kinds = "".join(f"{cost.peak[kind] / 1e9:16.2f}" for kind in KINDS)
            print(f"  {'' if i else label:42}{name:9}{tflop:7,.0f}{cost.peak_gb:7.2f}{known}  {kinds}", flush=True)


def at(settings: Settings, resolution: int) -> Settings:
    return replace(settings, data=replace(settings.data, resolution=resolution))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, and nothing else")
    parser.add_argument("--family", choices=("sd1", "sd2", "sdxl", *PRESETS), default="sd1", help="default sd1")
    parser.add_argument("--preset", default="", metavar="NAME", help="settings; default: the paper's")
    parser.add_argument("--resolution", type=int, default=512, metavar="PIXELS", help="default 512")
    args = parser.parse_args(argv)
    if args.json:
        args.json.write_text(json.dumps(figures(args.family), indent=2) + "\n")
        return 0
    preset = "+".join(name for name in (args.preset, PRESETS.get(args.family)) if name) or None
    settings = at(on_a_card(preset), args.resolution)
    print_flops(settings, run_flops(settings, args.family))
    print_peaks(args.family, args.resolution, preset)
    return 0


if __name__ == "__main__":
    sys.exit(main())
