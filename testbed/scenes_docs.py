"""Writes what was measured of mini-scenes into docs/research/mini-scenes.md:

python -m testbed.scenes_docs          the pictures of the world and of the autoencoder, judge's and segmenter's tables
python -m testbed.scenes_gate --docs   the gate's table and samples
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from .docs import IMAGES, fill_block, save_picture
from .scenes_data import held_out_groups
from .scenes_gate import DOCS
from .scenes_judge import RUNS, half_vae, through
from .world.scene import contact_sheet
from .world.scenes import COUNTS, draw_scene, scene_from_seed

COLORS = ((230, 60, 60), (60, 180, 75), (60, 110, 230), (245, 190, 40))
COLUMNS = 10


def world_sheet() -> Image.Image:
    """Rows of scenes of one to four subjects, each above its masks, a colour for each subject."""
    images = []
    for count in COUNTS:
        drawn = [draw_scene(scene_from_seed(seed, count)) for seed in range(40, 40 + COLUMNS)]
        images += [d.image for d in drawn]
        for d in drawn:
            masks = Image.new("RGB", d.image.size, (235, 235, 235))
            for color, m in zip(COLORS, d.masks, strict=False):
                masks.paste(color, mask=m.whole)
            images.append(masks)
    return contact_sheet(images, COLUMNS)


def autoencoder_report(vae: Any, each: int = 100) -> tuple[Image.Image, str]:
    """Sheet of drawn scenes and of what the autoencoder makes of them; text on how near they are."""
    drawn = {n: [draw_scene(s, masks=False).image for s in held_out_groups(each, n)] for n in COUNTS}
    decoded = {n: [p for k in range(0, each, 50) for p in through(vae, d[k : k + 50])] for n, d in drawn.items()}
    noise = [
        np.square(np.asarray(a, np.float64) - np.asarray(b, np.float64)).mean()
        for n in COUNTS
        for a, b in zip(drawn[n], decoded[n], strict=True)
    ]
    signal = float(np.mean(10 * np.log10(255**2 / np.asarray(noise))))
    rows = [p for n in COUNTS for p in drawn[n][:COLUMNS] + decoded[n][:COLUMNS]]
    text = f"Over {len(noise)} unseen scenes the mean signal-to-noise ratio (PSNR) is {signal:.1f} dB."
    return contact_sheet(rows, COLUMNS), text


def judge_table(result: dict[str, Any]) -> str:
    """Markdown of the judge's accuracies on drawn and on decoded cut-outs, and of how it tells instances apart."""
    lines = ["| head | drawn | after the autoencoder | of |", "|---|---|---|---|"]
    for name, m in result["heads"].items():
        after = result["decoded"][name]["accuracy"]
        lines.append(f"| {name} | {100 * m['accuracy']:.1f} % | {100 * after:.1f} % | {m['pictures']} |")
    short = [h for h, m in result["heads"].items() if m["accuracy"] < 0.95]
    lines += ["", f"Short of 95 percent when drawn: {', '.join(short) or 'none'}."]
    lines += ["", "| identity | AUC | nearest of so many instances is the same |", "|---|---|---|"]
    for cls, m in result["identity"].items():
        lines.append(f"| {cls} | {m['auc']:.4f} | {100 * m['top1']:.1f} % of {m['instances']} |")
    return "\n".join(lines)


def segmenter_table(result: dict[str, Any]) -> str:
    """Markdown of how well the segmenter finds the subjects of drawn scenes."""
    lines = [
        "| subjects | IoU | IoU under 0.7 | as many found as there are | absent, but found |",
        "|---|---|---|---|---|",
    ]
    for name, m in result.items():
        lines.append(
            f"| {name} | {m['iou']:.3f} | {100 * m['iou_under_0.7']:.1f} % | {100 * m['counted_right']:.1f} % | "
            f"{100 * m['found_though_absent']:.1f} % |"
        )
    return "\n".join(lines)


def _fill(name: str, file: Path, write: Any) -> None:
    """Fill a block from what a measurement left behind, if it did."""
    if file.exists():
        fill_block(DOCS, name, write(json.loads(file.read_text())))


def main() -> None:
    torch.set_num_threads(1)
    save_picture(world_sheet(), IMAGES / "mini-scenes-world.png")
    sheet, text = autoencoder_report(half_vae(RUNS))
    save_picture(sheet, IMAGES / "mini-scenes-vae.png")
    fill_block(DOCS, "vae", text)
    _fill("judge", RUNS / "scenes-judge.json", judge_table)
    _fill("segmenter", RUNS / "scenes-segmenter.json", segmenter_table)


if __name__ == "__main__":
    main()
