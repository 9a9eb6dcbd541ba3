"""Time a run in its parts, with peak memory, against the released code's formulation. For a GPU; runs on a CPU too.

Random weights of SD 1.5's shapes cost what the true ones do:
    python benchmarks/speed.py
    python benchmarks/speed.py --low_vram
    python benchmarks/speed.py --family sd2 --resolution 768
Every row of the table in docs/research/cost.md for a GPU, each in a process of its own:
    python benchmarks/speed.py --rows h200.json
With another model, here the miniature on a CPU, and few steps:
    python benchmarks/speed.py --preset mini --stage1_steps 2 --stage2_steps 2
Where the time goes within steps, by operator (look at it before changing anything):
    python benchmarks/speed.py --profile

It takes the flags of train_singleinsert.py, too. Times are wall-clock, after the device has finished.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
os.environ.setdefault("TQDM_DISABLE", "1")

import torch  # noqa: E402
from authors import Authors  # noqa: E402
from shapes import PADDED_AS, meta_part  # noqa: E402

from singleinsert.cli import Parser, add_flags, overrides_from_args, run_script  # noqa: E402
from singleinsert.config import Settings, load_settings  # noqa: E402
from singleinsert.data.pictures import image_to_tensor  # noqa: E402
from singleinsert.export import export  # noqa: E402
from singleinsert.models.bundled import ASSETS  # noqa: E402
from singleinsert.models.families import FAMILIES  # noqa: E402
from singleinsert.models.vocabulary import clip_tokenizer  # noqa: E402
from singleinsert.training import run as training  # noqa: E402
from singleinsert.training.accelerator import build_accelerator  # noqa: E402
from singleinsert.training.files import RunFiles  # noqa: E402
from singleinsert.training.loop import Loop  # noqa: E402
from singleinsert.training.samples import Sampler  # noqa: E402
from singleinsert.training.stages import adapter_options, stages_of  # noqa: E402
from singleinsert.training.watch import ConsoleWatch, SilentWatch  # noqa: E402


class Clock:
    """Seconds and peak GB of a run's parts. Attributes: rows, {part: {"seconds": ..., "peak_gb": ...}}."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rows: dict[str, dict[str, float]] = {}
        self.start()

    def start(self) -> None:
        self._finish()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self._started = time.perf_counter()

    def lap(self, part: str) -> None:
        """What happened since the last look was ``part``."""
        self._finish()
        row = {"seconds": time.perf_counter() - self._started}
        if self.device.type == "cuda":
            row["peak_gb"] = torch.cuda.max_memory_allocated(self.device) / 1e9
        self.rows[part] = row
        memory = f"{row['peak_gb']:9.2f} GB" if "peak_gb" in row else ""
        print(f"  {part:24}{row['seconds']:9.2f} s{memory}", flush=True)
        self.start()

    def _finish(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def write_random_model(folder: Path, family: str) -> Path:
    """A diffusers folder of random float16 weights of a family's shapes, scaled to keep all numbers finite."""
    from diffusers import DDIMScheduler

    source, device = ASSETS / family, "cuda" if torch.cuda.is_available() else "cpu"
    index = json.loads((source / "model_index.json").read_text())
    kind = next(kind for kind in FAMILIES if kind.pipeline_class == index["_class_name"])
    parts: dict[str, Any] = {part: meta_part(source, index, part) for part in kind.weight_parts}
    for part in parts.values():
        part.half().to_empty(device=device)
        for name, parameter in part.named_parameters():
            if parameter.ndim == 1:
                parameter.data.fill_(float("norm" in name and name.endswith("weight")))
            else:
                std = 0.02 if "embedding" in name else 0.5 / math.sqrt(parameter[0].numel())
                parameter.data.normal_(0, std)
    parts["scheduler"] = DDIMScheduler.from_pretrained(source / "scheduler")
    for name, padded_as in zip(kind.tokenizer_folders, PADDED_AS[family], strict=True):
        parts[name] = clip_tokenizer(padded_as)
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    (folder / "model_index.json").write_text((source / "model_index.json").read_text())
    return folder


def time_ours(settings: Settings, profiled: bool = False) -> dict[str, dict[str, float]]:
    """A run of the trainer: load, encode, each stage, drawing the sample pictures, export."""
    accelerator = build_accelerator(settings, RunFiles(settings.output_dir, settings.name))
    clock = Clock(accelerator.device)
    material = training.find_material(settings, print)
    clock.lap("picture and mask")
    model = training.load_model(settings, accelerator)
    clock.lap("load")
    files, stages = RunFiles(settings.output_dir, settings.name), stages_of(settings)
    run = training.assemble(settings, accelerator, files, stages, model, material, ConsoleWatch())
    clock.lap("encode once")
    ends = {(stage.name, stage.steps) for stage in stages}

    def sample(stage: str, step: int, first_only: bool = False) -> None:
        """Nothing is drawn; the end of a stage is a lap."""
        if (stage, step) in ends:
            clock.lap(stage)

    loop = Loop(run, sample=sample, on_first_step=lambda: clock.lap("first step"))
    with profile() if profiled else contextlib.nullcontext():
        loop.train()
    first, stage = clock.rows["first step"], clock.rows[stages[0].name]
    stage["seconds"] += first["seconds"]  # told apart, since it waits for kernels to be chosen or compiled
    if "peak_gb" in first:
        stage["peak_gb"] = max(stage["peak_gb"], first["peak_gb"])
    sampler = Sampler(run, material.handles)
    sampler._draw(sampler.prompts)
    clock.lap("pictures")
    artifact = training.build_artifact(run, loop, material)
    artifact.save(files.artifact)
    export(artifact, settings.output_dir, formats=settings.save.formats, overwrite=True)
    clock.lap("export")
    return clock.rows


def time_authors(settings: Settings, steps: int) -> dict[str, dict[str, float]]:
    """``steps`` steps of each stage in the released code's formulation, after one to warm up, scaled to all of them."""
    accelerator = build_accelerator(settings, RunFiles(settings.output_dir, settings.name))
    device = accelerator.device
    clock = Clock(device)
    authors = build_authors(settings, accelerator)
    clock.lap("load and encode")
    for stage in stages_of(settings):
        authors.begin(stage.name)
        authors.step(stage.name, stage.settings.batch_size)
        clock.start()
        for _ in range(steps):
            authors.step(stage.name, stage.settings.batch_size)
        clock.lap(stage.name)
        clock.rows[stage.name]["seconds"] *= stage.steps / steps
    return clock.rows


def build_authors(settings: Settings, accelerator: Any) -> Authors:
    from singleinsert.adapters.lora import LoraAdapters

    material = training.find_material(settings, lambda line: None)
    model, files = training.load_model(settings, accelerator), RunFiles(settings.output_dir, settings.name)
    run = training.assemble(settings, accelerator, files, [], model, material, SilentWatch())
    model.autoencoder.to(accelerator.device)
    unet_copy = copy.deepcopy(model.denoiser)
    adapters = LoraAdapters.inject(model.adapted_parts, adapter_options(settings, model), torch.Generator())
    pixels = image_to_tensor(material.pictures[0].image, settings.data.resolution).to(accelerator.device)
    return Authors(run, unet_copy, adapters, pixels)


@contextlib.contextmanager
def profile() -> Iterator[None]:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    with profiler(activities=activities) as found:
        yield
    order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    print(found.key_averages().table(sort_by=order, row_limit=40))


def report(settings: Settings, ours: dict[str, Any], authors: dict[str, Any]) -> dict[str, Any]:
    """What was measured, on what, and the two formulations beside each other."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    stages = [stage.name for stage in stages_of(settings)]
    found: dict[str, Any] = {
        "device": device, "torch": torch.__version__, "python": platform.python_version(),
        "resolution": settings.data.resolution, "ours": ours, "authors": authors,
        "training_seconds": sum(ours[name]["seconds"] for name in stages),
    }  # fmt: skip
    print(f"\n{device}, torch {torch.__version__}: training {found['training_seconds']:.1f} s", end="")
    if authors:
        found["times_faster"] = sum(authors[name]["seconds"] for name in stages) / found["training_seconds"]
        print(f", the released code's formulation {found['times_faster']:.1f} times that", end="")
    print()
    return found


def share_of_floor(settings: Settings, family: str, seconds: float, flops_per_second: float) -> float | None:
    """Of the time a run took, how much a card would need that did nothing but the run's FLOPs at that speed; None where
    the run has other steps or samples than those that are counted."""
    from cost import at, on_a_card, run_flops, run_tflop

    preset = "sdxl" if family == "sdxl" else None
    counted = at(on_a_card(preset, teacher_bank=settings.run.teacher_bank), settings.data.resolution)
    sizes = [{name: (s.steps, s.batch_size) for name, s in each.stages.items()} for each in (settings, counted)]
    if sizes[0] != sizes[1]:
        return None
    return run_tflop(counted, run_flops(counted, family))["run"] * 1e12 / flops_per_second / seconds


def measured_flops_per_second(device: torch.device) -> float:
    """Of a large bf16 matrix product: what the device gives at best."""
    a = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    for _ in range(3):
        a @ a
    torch.cuda.synchronize(device)
    started = time.perf_counter()
    for _ in range(20):
        a @ a
    torch.cuda.synchronize(device)
    return 20 * 2 * 8192**3 / (time.perf_counter() - started)


ALONE = ("--authors_steps", "0")
ROWS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "SD 1.5, 512 px": ((), {}),
    "SD 1.5, CUDA graphs, TF32": (("--set", "run.cuda_graphs=true", "--set", "run.allow_tf32=true"), {}),
    "SD 1.5, CUDA graphs": (("--set", "run.cuda_graphs=true"), {}),
    "SD 1.5, TF32": (("--set", "run.allow_tf32=true"), {}),
    "SD 1.5, compiled blocks": (("--set", "run.compile=true", *ALONE), {}),
    "SD 1.5, compiled blocks, CUDA graphs": (("--set", "run.compile=true", *ALONE), {"TORCHINDUCTOR_CUDAGRAPHS": "1"}),
    "SDXL, 1024 px": (("--family", "sdxl", "--preset", "sdxl", *ALONE), {}),
    "SD 1.5, 4 GB settings": (("--low_vram", *ALONE), {}),
    "SD 1.5, 6 GB settings": (("--micro_batch_size", "1", *ALONE), {}),
    "SD 1.5, channels last": (("--set", "run.channels_last=true", *ALONE), {}),
    "SD 2.1, 768 px": (("--family", "sd2", "--resolution", "768", *ALONE), {}),
}
"""Flags and environment of each row, those first that tell most: time on a card can be short. The released formulation
is one of SD 1.x and 2.x."""


def run_rows(words: list[str], path: Path) -> None:
    """Every row of :data:`ROWS` with ``words`` as further flags; one that fails is said, and the others go on."""
    found: dict[str, Any] = {}
    for label, (flags, environment) in ROWS.items():
        print(f"\n== {label}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            result = Path(folder) / "row.json"
            command = [sys.executable, __file__, *words, *flags, "--json", str(result)]
            code = subprocess.run(command, env={**os.environ, **environment}).returncode
            found[label] = json.loads(result.read_text()) if result.is_file() else {"failed": code}
        path.write_text(json.dumps(found, indent=2) + "\n")
    for label, row in found.items():
        seconds = f"{row['training_seconds']:.1f} s" if "training_seconds" in row else "failed"
        faster = f", {row['times_faster']:.1f} times the released formulation" if "times_faster" in row else ""
        share = f", {row['share_of_floor']:.0%} of the floor" if "share_of_floor" in row else ""
        print(f"| {label} | {row.get('device', '')} | {seconds}{faster}{share} |")


def without_rows(words: list[str]) -> list[str]:
    """The command's words but for ``--rows FILE``."""
    place = next(i for i, word in enumerate(words) if word.split("=")[0] == "--rows")
    return words[:place] + words[place + (1 if "=" in words[place] else 2) :]


def speed_parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser)
    parser.add_argument("--family", choices=tuple(PADDED_AS), default="sd1", help="shapes of the random model")
    parser.add_argument("--authors_steps", type=int, default=3, help="steps of each stage to time; 0: leave them out")
    parser.add_argument("--profile", action="store_true", help="print where the training's time goes")
    parser.add_argument(
        "--rows", type=Path, metavar="FILE", help="run every row for a GPU, and write all of them there"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured there")
    return parser


def run(args: argparse.Namespace) -> None:
    if args.rows:
        return run_rows(without_rows(args.words), args.rows)
    overrides = overrides_from_args(args)
    with tempfile.TemporaryDirectory() as folder:
        overrides.setdefault("data.image", str(ROOT / "examples/face.png"))
        overrides.setdefault("data.mask", str(ROOT / "examples/face_mask.png"))
        overrides |= {"run.output_dir": str(Path(folder) / "out"), "run.output_name": "benchmark-run"}
        is_random = args.preset != "mini" and "model.pretrained_model_name_or_path" not in overrides
        if is_random:
            model = write_random_model(Path(folder) / "model", args.family)
            overrides["model.pretrained_model_name_or_path"] = str(model)
        overrides.setdefault("data.class_word", "face")
        settings = load_settings(args.preset, args.config_file, overrides)
        print("this project")
        ours = time_ours(settings, args.profile)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        print("the released code's formulation")
        authors = time_authors(settings, args.authors_steps) if args.authors_steps else {}
        found = report(settings, ours, authors)
        if is_random and torch.cuda.is_available():
            speed = measured_flops_per_second(torch.device("cuda"))
            share = share_of_floor(settings, args.family, found["training_seconds"], speed)
            found["flops_per_second"] = speed
            if share is not None:
                found["share_of_floor"] = share
                print(f"{share:.0%} of the compute floor, at {speed / 1e12:.0f} TFLOP/s of large bf16 products")
        if args.json:
            args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(run_script(speed_parser(), run))
