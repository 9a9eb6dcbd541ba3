"""The gate of mini-sd and mini-sdxl: does it draw what captions of held-out combinations ask for?

    python -m testbed.gate                500 pictures of the bundled model; exit code 1 if it fails
    python -m testbed.gate --model testbed/runs/snapshot --count 100 --guidance_scale 5
    python -m testbed.gate --skip 500 --count 2000         on other captions than the gate's
    python -m testbed.gate --model singleinsert/assets/mini-sdxl --told second     by mini-sdxl's second encoder alone
    python -m testbed.gate --docs         also write the table and the samples into docs/research/mini-sd.md; of another
                                          bundled model into its own page

The judge reads every picture; an attribute counts where the caption named it and the style lets it show.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import textwrap
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from PIL import Image, ImageDraw
from tqdm import tqdm

from singleinsert.models.loading import check_folder

from .common import device
from .dataset import HELD_OUT_START, held_out_scenes
from .docs import IMAGES, RESEARCH, fill_block, save_picture
from .judge import Judge
from .labels import visible
from .world.captions import full_caption
from .world.features import INSTANCE
from .world.scene import Scene

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "singleinsert" / "assets" / "mini-sd"
GATE_START = HELD_OUT_START + 5_000_000
BATCH = 50
GATES = {"class": 0.95, "background": 0.90}
EVERY_OTHER = 0.80


@dataclass(frozen=True)
class Question:
    """A caption, and the attributes that it names and that show in such a picture."""

    scene: Scene
    caption: str
    named: dict[str, str]
    unnamed: dict[str, str]
    """Accessories that the caption does not mention: they had better be absent."""


def question(scene: Scene) -> Question:
    """The full caption of a scene; half of the time it names some of the instance's features too."""
    rng = random.Random(f"gate-{scene.seed}")
    cls = scene.instances[0].cls
    names = list(INSTANCE[cls])
    features = rng.sample(names, rng.randint(1, min(5, len(names)))) if rng.random() < 0.5 else []
    shown = visible(scene)
    silent = {k for k, v in shown.items() if v in ("none", "neutral")} | (set(names) - set(features))
    if scene.view == "front":
        silent.add("view")
    return Question(
        scene,
        full_caption(scene, features),
        {k: v for k, v in shown.items() if k not in silent},
        {k: v for k, v in shown.items() if v == "none"},
    )


def is_flow(pipe: Any) -> bool:
    return isinstance(pipe.scheduler, FlowMatchEulerDiscreteScheduler)


def load_pipeline(model: Path) -> Any:
    """A diffusers folder in float32 with DDIM, a flow model's with its own sampler; on the GPU where there is one."""
    family = check_folder(model)
    pipe: Any = getattr(diffusers, family.pipeline_class).from_pretrained(model, **family.pipeline_options)
    if not is_flow(pipe):
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device(), torch.float32)


def generate(pipe: Any, prompts: Sequence[str], guidance: float, steps: int = 25, seed: int = 0,
             size: int = 64, told: str = "") -> list[Image.Image]:  # fmt: skip
    """One picture of `size` x `size` for each prompt; picture k depends on `seed + k` alone.

    `told`: of SDXL's text encoders, "first" or "second", which alone gets the prompt.
    """
    images: list[Image.Image] = []
    length = {"max_sequence_length": pipe.tokenizer.model_max_length} if is_flow(pipe) else {}
    for i in tqdm(range(0, len(prompts), BATCH), desc="generating"):
        part = list(prompts[i : i + BATCH])
        empty = [""] * len(part)
        words = {"first": {"prompt": part, "prompt_2": empty}, "second": {"prompt": empty, "prompt_2": part}}
        generators = [torch.Generator().manual_seed(seed + i + k) for k in range(len(part))]
        with torch.no_grad():
            images += pipe(
                **words.get(told, {"prompt": part}),
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=generators,
                height=size,
                width=size,
                **length,
            ).images
    return images


def score(judge: Judge, questions: Sequence[Question], images: Sequence[Image.Image]) -> dict[str, Any]:
    """Per attribute: share of the pictures that obey, of those whose caption named it; details by class."""
    readings = judge.read(images, classes=[q.scene.instances[0].cls for q in questions])
    marks: dict[str, list[bool]] = defaultdict(list)
    detail: dict[str, list[bool]] = defaultdict(list)
    absent: dict[str, list[bool]] = defaultdict(list)
    pictures = []
    for q, r in zip(questions, readings, strict=True):
        got = {name: r[name].value for name in q.named}
        pictures.append({"caption": q.caption, "seed": q.scene.seed, "wrong": {
            k: [v, got[k]] for k, v in q.named.items() if got[k] != v}})  # fmt: skip
        for name, value in q.named.items():
            marks[name].append(got[name] == value)
            detail[f"{q.scene.instances[0].cls}: {name} = {value}"].append(got[name] == value)
        for name in q.unnamed:
            absent[name].append(r[name].value == "none")
    return {
        "attributes": {k: _row(v, GATES.get(k, EVERY_OTHER)) for k, v in sorted(marks.items())},
        "unnamed_and_absent": {k: _row(v) for k, v in sorted(absent.items())},
        "detail": {k: _row(v) for k, v in sorted(detail.items())},
        "pictures": pictures,
    }


def _row(marks: list[bool], gate: float | None = None) -> dict[str, Any]:
    share = sum(marks) / len(marks)
    out: dict[str, Any] = {"share": round(share, 4), "pictures": len(marks)}
    return out if gate is None else out | {"gate": gate, "passed": share >= gate}


def passed(result: dict[str, Any]) -> bool:
    return all(row["passed"] for row in result["attributes"].values())


def captioned_sheet(
    images: Sequence[Image.Image], captions: Sequence[str], columns: int = 6, scale: int = 2
) -> Image.Image:
    """Pictures in rows with their captions under them."""
    width, gap, lines = images[0].width * scale, 6, 6
    height = width + 11 * lines
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), "white")
    pen = ImageDraw.Draw(sheet)
    for k, (im, text) in enumerate(zip(images, captions, strict=True)):
        x, y = gap + (k % columns) * (width + gap), gap + (k // columns) * (height + gap)
        sheet.paste(im.resize((width, width), Image.Resampling.NEAREST), (x, y))
        wrapped = textwrap.wrap(text, 23 * width // 128, max_lines=lines)
        pen.multiline_text((x, y + width + 1), "\n".join(wrapped), fill="black", spacing=0, font_size=9)
    return sheet


def table(result: dict[str, Any]) -> str:
    """The result in Markdown."""
    head = (
        f"{result['count']} pictures, {result['steps']} steps, guidance {result['guidance_scale']:g}: "
        f"the gate is **{'passed' if passed(result) else 'not passed'}**.\n\n"
        "| attribute | obeyed | of pictures | gate | |\n|---|---|---|---|---|\n"
    )
    rows = []
    for name, r in result["attributes"].items():
        short = "" if r["passed"] else "short"
        rows.append(f"| {name} | {100 * r['share']:.1f} % | {r['pictures']} | {100 * r['gate']:.0f} % | {short} |")
    rest = ", ".join(f"{k} {100 * r['share']:.1f} %" for k, r in result["unnamed_and_absent"].items())
    return head + "\n".join(rows) + f"\n\nNot asked for, and absent: {rest}."


def main() -> int:
    p = argparse.ArgumentParser(prog="python -m testbed.gate", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    p.add_argument("--model", type=Path, default=MODEL)
    p.add_argument("--count", type=int, default=500)
    p.add_argument("--skip", type=int, default=0, help="captions to leave out first: 500 gives others than the gate's")
    p.add_argument("--guidance_scale", type=float, default=3.0)
    p.add_argument("--steps", type=int, default=25)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--told", choices=("first", "second"), default="", help="SDXL: the text encoder that alone gets the "
                   "captions")  # fmt: skip
    p.add_argument("--out", type=Path, default=ROOT / "testbed" / "runs" / "gate")
    p.add_argument("--docs", action="store_true", help="write the result into the model's page of docs/research")
    args = p.parse_args()
    questions = [question(s) for s in islice(held_out_scenes(args.skip + args.count, GATE_START), args.skip, None)]
    captions = [q.caption for q in questions]
    images = generate(load_pipeline(args.model), captions, args.guidance_scale, args.steps, args.seed, told=args.told)
    result = {
        "count": args.count,
        "skip": args.skip,
        "steps": args.steps,
        "guidance_scale": args.guidance_scale,
        "seed": args.seed,
    }
    result |= score(Judge.load(), questions, images)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "gate.json").write_text(json.dumps(result, indent=1))
    sheet = captioned_sheet(images[:48], captions[:48], columns=8)
    sheet.save(args.out / "sheet.png")
    print(table(result))
    if args.docs:
        page = RESEARCH / f"{args.model.resolve().name}.md"
        fill_block(page, f"gate-{args.told}" if args.told else "gate", table(result))
        if not args.told:
            save_picture(captioned_sheet(images[:24], captions[:24]), IMAGES / f"{page.stem}-samples.png")
    return 0 if passed(result) else 1


if __name__ == "__main__":
    sys.exit(main())
