"""Measures the miniature backbones on drawn pictures that training never saw (`python -m testbed.backbones`).

CLIP: the right caption of 100 by cosine, and the right picture of 100 captions. The ViT: whether two pictures show one
instance (area under the ROC curve) and top-1 of 100, whole, subject alone and background alone (one background or not).
LPIPS: distances of a picture to changed ones, in steps that grow.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from singleinsert.metrics import backbones, lpips
from singleinsert.metrics.regions import mask_array, only

from .backbones import captions
from .dataset import held_out_scenes
from .docs import RESEARCH, fill_block
from .judge_training import auc, identity_scenes
from .world.features import CLASSES
from .world.scene import Drawn, Scene, draw

DOCS = RESEARCH / "backbones.md"
AMONG, GROUPS = 100, 10
INSTANCES, SCENES = 100, 3


def region(drawn: Drawn, which: str) -> Image.Image:
    """The picture, whole or cut to a region by its exact mask."""
    if which == "whole":
        return drawn.image
    mask = np.round(mask_array(drawn.masks["subject"]))
    return only(drawn.image, mask, "foreground" if which == "foreground" else "background")


def top1(scores: Tensor, same: Tensor) -> float:
    """Share of rows whose best column is a right one. (n, m) scores, (n, m) bool."""
    return float(same[torch.arange(len(scores)), scores.argmax(1)].float().mean())


def measure_clip(clip: backbones.TextImageEncoder) -> dict[str, Any]:
    """Top-1 among 100 over `GROUPS` hundreds of held-out scenes; captions that say the same are all right."""
    out: dict[str, list[float]] = {}
    scenes = list(held_out_scenes(AMONG * GROUPS))
    for start in range(0, len(scenes), AMONG):
        group = scenes[start : start + AMONG]
        drawn, said = [draw(scene) for scene in group], [captions(scene) for scene in group]
        for which, column in (("whole", 0), ("foreground", -3), ("background", -2)):
            texts = [each[column] for each in said]
            cosine = clip.images([region(d, which) for d in drawn]) @ clip.texts([text for text, _ in texts]).T
            meaning = torch.tensor([what for _, what in texts])
            same = (meaning[:, None] == meaning[None]).all(-1)
            out.setdefault(f"{which}: caption of picture", []).append(top1(cosine, same))
            out.setdefault(f"{which}: picture of caption", []).append(top1(cosine.T, same))
    return {name: float(np.mean(values)) for name, values in out.items()}


def measure_vit(dino: backbones.ImageEncoder) -> dict[str, Any]:
    """Per class, photos of unseen instances; and over all classes whether two backgrounds are of one kind."""
    out: dict[str, Any] = {}
    behind: list[Tensor] = []
    kinds: list[str] = []
    for cls in CLASSES:
        scenes = identity_scenes(cls, INSTANCES, SCENES, "photo")
        drawn = [draw(scene) for scene in scenes]
        out[cls] = {which: instances(dino.images([region(d, which) for d in drawn])) for which in
                    ("whole", "foreground")}  # fmt: skip
        behind.append(dino.images([region(d, "background") for d in drawn[::SCENES]]))
        kinds += [scene.background for scene in scenes[::SCENES]]
    cosine, other = torch.cat(behind) @ torch.cat(behind).T, ~torch.eye(len(kinds), dtype=torch.bool)
    same = torch.tensor([[a == b for b in kinds] for a in kinds])
    out["background"] = {"auc": auc(cosine[same & other], cosine[~same])}
    return out


def instances(z: Tensor) -> dict[str, float]:
    """AUC of same instance or not, top-1 of 100 from one other picture each. z (INSTANCES * SCENES, d)."""
    owner = torch.arange(INSTANCES).repeat_interleave(SCENES)
    cosine, same = z @ z.T, owner[:, None] == owner
    apart = ~torch.eye(len(z), dtype=torch.bool)
    first = torch.arange(0, len(z), SCENES)
    queries = torch.tensor([k for k in range(len(z)) if k % SCENES])
    found = cosine[queries][:, first].argmax(1) == owner[queries]
    return {"auc": auc(cosine[same & apart], cosine[~same]), "top1": float(found.float().mean()),
            "cosine_same": float(cosine[same & apart].mean()), "cosine_other": float(cosine[~same].mean())}  # fmt: skip


def changes() -> dict[str, Callable[[Scene, Image.Image], Image.Image]]:
    """Ways to make another picture of a drawn one, from near to far."""

    def noisy(scene: Scene, image: Image.Image) -> Image.Image:
        rng = np.random.default_rng(scene.seed)
        values = np.asarray(image, float) + rng.normal(0, 12, (64, 64, 3))
        return Image.fromarray(values.clip(0, 255).astype(np.uint8))

    def scene_with(**kwargs: Any) -> Callable[[Scene, Image.Image], Image.Image]:
        from dataclasses import replace

        return lambda scene, _: draw(replace(scene, **{k: v(scene) for k, v in kwargs.items()}), masks=False).image

    def noise(scene: Scene, _: Image.Image) -> Image.Image:
        return Image.fromarray(np.random.default_rng(scene.seed).integers(0, 256, (64, 64, 3), dtype=np.uint8))

    return {
        "slight noise (12 of 255)": noisy,
        "blur of one pixel": lambda _, image: image.filter(ImageFilter.GaussianBlur(1)),
        "the same scene, laid out anew": scene_with(seed=lambda s: s.seed + 1),
        "another background": scene_with(background=lambda s: "water" if s.background != "water" else "city"),
        "another scene": lambda s, _: draw(Scene.from_seed(s.seed + 10**6), masks=False).image,
        "pure noise": noise,
    }


def measure_lpips(distance: backbones.PerceptualDistance, count: int = 200) -> dict[str, float]:
    """Mean distance of held-out pictures to changed ones."""
    scenes = list(held_out_scenes(count))
    images = [draw(scene, masks=False).image for scene in scenes]
    return {
        name: float(distance(images, [change(s, i) for s, i in zip(scenes, images, strict=True)]).mean())
        for name, change in changes().items()
    }


def table(found: dict[str, Any]) -> str:
    """Markdown of all of it."""
    lines = ["| CLIP, top-1 of 100 | caption of picture | picture of caption |", "|---|---|---|"]
    for which in ("whole", "foreground", "background"):
        a, b = (found["clip"][f"{which}: {what}"] for what in ("caption of picture", "picture of caption"))
        lines.append(f"| {which} | {100 * a:.1f} % | {100 * b:.1f} % |")
    lines += ["", "| ViT | AUC, whole | top-1 of 100, whole | AUC, foreground | top-1 of 100, foreground |",
              "|---|---|---|---|---|"]  # fmt: skip
    for cls in CLASSES:
        w, f = found["vit"][cls]["whole"], found["vit"][cls]["foreground"]
        lines.append(f"| {cls} | {w['auc']:.4f} | {100 * w['top1']:.1f} % | {f['auc']:.4f} | {100 * f['top1']:.1f} % |")
    lines += ["", f"Backgrounds alone, of one kind or not: AUC {found['vit']['background']['auc']:.4f}.", "",
              "| LPIPS of a picture and | mean |", "|---|---|"]  # fmt: skip
    return "\n".join([*lines, *(f"| {name} | {value:.4f} |" for name, value in found["lpips"].items())])


def main(assets: Path, runs: Path, only_these: Sequence[str] = ("clip", "vit", "lpips"), docs: bool = False) -> None:
    """Measure the backbones of a folder, print and keep the numbers; with `docs`, write them into the page."""
    backbones.MINI, lpips.MINI = assets, assets / "lpips"
    measures: dict[str, Callable[[], Any]] = {
        "clip": lambda: measure_clip(backbones.load_clip("mini")),
        "vit": lambda: measure_vit(backbones.load_dino("mini")),
        "lpips": lambda: measure_lpips(backbones.load_lpips("mini")),
    }
    file = runs / "scores.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    found |= {name: measures[name]() for name in only_these}
    runs.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=1))
    print(json.dumps(found, indent=1))
    if docs:
        fill_block(DOCS, "backbones", table(found))
