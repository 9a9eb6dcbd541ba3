"""The judge for scenes: it reads each subject from its cut-out, and background, style and classes from the whole.

    python -m testbed.scenes_judge                train it from mini-sd's judge, resumable; a quarter of an hour
    python -m testbed.scenes_judge --evaluate     measure the committed one on held-out drawn scenes

A cut-out is what a mask covers, on grey, its longer side 58 of 64 px. Network and heads are those of `judge.py`,
trained on with cut-outs (masks slightly wrong now and then, pictures through the autoencoder) and whole scenes.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from tqdm import tqdm

from .common import HalfTrainer, device, run, to_tensor
from .judge import ASSET, SIZE, Judge
from .judge_training import auc, augment, find_vae, loss_terms
from .labels import HEADS, labels
from .scenes_data import held_out_groups
from .world.features import CLASSES
from .world.scene import Instance, Scene
from .world.scenes import COUNTS, DrawnScene, alone, draw_scene, scene_with

SCENES_ASSET = ASSET.with_name("scenes-judge.safetensors")
RUNS = Path(__file__).resolve().parent / "runs"
LONGER_SIDE = 58
GREY = (128, 128, 128)
SHOWN_LEAST = 0.9
"""Of a subject that others cover more than this leaves, only the class is asked."""
GROUPS, SCENES = 1600, 6
FIRST_GROUP, UNSEEN_GROUP = 0, 1_000_000
BATCH_INSTANCES, BATCH_CUTS, BATCH_WHOLE = 20, 3, 16
WHOLE_HEADS, CUT_SKIPS = ("background", "style"), ("background",)


def cut_out(image: Image.Image, mask: Image.Image) -> Image.Image:
    """What `mask` (L, of the picture's size) covers, on grey, centred, 64 x 64; a grey picture for an empty mask."""
    box = mask.point(lambda v: 255 if v >= 128 else 0).getbbox()
    if box is None:
        return Image.new("RGB", (SIZE, SIZE), GREY)
    only = Image.composite(image.convert("RGB"), Image.new("RGB", image.size, GREY), mask)
    half = SIZE / LONGER_SIDE * max(box[2] - box[0], box[3] - box[1]) / 2
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    room = int(half) + 2  # grey around, where the square leaves the picture
    wide = Image.new("RGB", (image.width + 2 * room, image.height + 2 * room), GREY)
    wide.paste(only, (room, room))
    square = (x - half + room, y - half + room, x + half + room, y + half + room)
    return wide.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=square)


def careless(mask: Image.Image, rng: random.Random) -> Image.Image:
    """A mask as a segmenter may give it: often hard, and a pixel too large or too small now and then."""
    if rng.random() < 0.6:
        mask = mask.point(lambda v: 255 if v >= 128 else 0)
        kind = rng.random()
        if kind < 0.25:
            mask = mask.filter(ImageFilter.MaxFilter(3))
        elif kind < 0.4:
            mask = mask.filter(ImageFilter.MinFilter(3))
    return mask


def shown_share(scene: Scene, drawn: DrawnScene, nth: int) -> float:
    """How much of subject `nth` the later ones leave uncovered."""
    whole = draw_scene(alone(scene, nth), places=[drawn.places[nth]]).masks[0].whole
    return float(np.asarray(drawn.masks[nth].whole, np.float32).sum() / np.asarray(whole, np.float32).sum())


def cut_labels(scene: Scene, drawn: DrawnScene, nth: int) -> list[int]:
    """Label of every head (-1: does not show, or is not asked) of a subject's cut-out, then its class as the one that
    is present."""
    seen = labels(alone(scene, nth))
    if shown_share(scene, drawn, nth) < SHOWN_LEAST:
        seen = {"class": seen["class"]}
    cls = scene.instances[nth].cls
    return [-1 if h in CUT_SKIPS else seen.get(h, -1) for h in HEADS] + [int(c == cls) for c in CLASSES]


def whole_labels(scene: Scene) -> list[int]:
    """The same of the whole picture, of which background, style and classes are asked."""
    seen = labels(alone(scene, 0))
    there = {i.cls for i in scene.instances}
    return [seen[h] if h in WHOLE_HEADS else -1 for h in HEADS] + [int(c in there) for c in CLASSES]


def group_scenes(group: int, count: int = SCENES) -> list[tuple[Scene, list[int]]]:
    """`count` scenes of some of four instances each, and which of the four they show."""
    rng = random.Random(f"scenes-judge-{group}")
    classes = [rng.choice(CLASSES) for _ in range(4)]
    pool = [Instance.from_seed(rng.randrange(10**9), c) for c in classes]
    out = []
    for k in range(count):
        who = rng.sample(range(4), rng.choices(list(COUNTS), list(COUNTS.values()))[0])
        out.append((scene_with([pool[w] for w in who], 5_000_000_000 + group * 100 + k), who))
    return out


@dataclass(frozen=True)
class Cuts:
    """Cut-outs uint8 (n, 64, 64, 3), labels int8 (n, heads + classes), whose they are int64 (n,), -1 for whole
    pictures."""

    images: np.ndarray
    said: np.ndarray
    owner: np.ndarray


def dataset(cache: Path, vae: Any) -> Cuts:
    """Drawn once; the pictures of every other group have been through the autoencoder."""
    file = cache / f"scenes-judge-{GROUPS}.npz"
    if not file.exists():
        images, said, owner = [], [], []
        for group in tqdm(range(FIRST_GROUP, FIRST_GROUP + GROUPS), desc="cut-outs", mininterval=10):
            scenes = group_scenes(group)
            drawn = [draw_scene(s) for s, _ in scenes]
            pictures = [d.image for d in drawn]
            if group % 2:
                pictures = through(vae, pictures, seed=group)
            rng = random.Random(group)
            for (scene, who), d, picture in zip(scenes, drawn, pictures, strict=True):
                images.append(np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS)))
                said.append(whole_labels(scene))
                owner.append(-1)
                for nth, w in enumerate(who):
                    images.append(np.asarray(cut_out(picture, careless(d.masks[nth].whole, rng))))
                    said.append(cut_labels(scene, d, nth))
                    owner.append(4 * group + w)
        np.savez(file, images=np.stack(images), said=np.asarray(said, np.int8), owner=np.asarray(owner))
    data = np.load(file)
    return Cuts(data["images"], data["said"], data["owner"])


def half_vae(runs: Path) -> Any:
    """mini-sd's autoencoder, bfloat16."""
    vae: Any = find_vae(runs)
    return vae.to(torch.bfloat16).eval()


@torch.no_grad()
def through(vae: Any, pictures: Sequence[Image.Image], seed: int | None = None) -> list[Image.Image]:
    """Pictures after the autoencoder, which is bfloat16; with `seed`, with slight noise on the latents."""
    x = to_tensor(np.stack([np.asarray(p) for p in pictures]))
    mean = vae.encode(x.bfloat16()).latent_dist.mean.float()
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        level = 0.12 * torch.rand(len(mean), 1, 1, 1, generator=generator) / vae.config.scaling_factor
        mean = mean + level * torch.randn(mean.shape, generator=generator)
    out = vae.decode(mean.bfloat16()).sample.float().clamp(-1, 1)
    arrays = ((out + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(a) for a in arrays]


def train(runs: Path, steps: int) -> Judge:
    """mini-sd's judge, trained on with cut-outs and whole scenes."""
    cuts = dataset(runs, half_vae(runs))
    whole = np.flatnonzero(cuts.owner < 0)
    rows_of = {int(o): np.flatnonzero(cuts.owner == o) for o in np.unique(cuts.owner) if o >= 0}
    rows_of = {o: rows for o, rows in rows_of.items() if len(rows) >= 2}
    by_class: list[list[int]] = [[] for _ in CLASSES]
    for o, rows in rows_of.items():
        by_class[int(cuts.said[rows[0], len(HEADS) :].argmax())].append(o)
    everyone = list(rows_of)
    network = Judge.load().network.requires_grad_(True).to(device()).train()
    trainer = HalfTrainer([network], lr=1e-3, ema=0.998)

    def loss_of_step(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([step, 8])
        same = by_class[int(rng.integers(0, len(CLASSES)))]
        chosen = {*rng.choice(same, BATCH_INSTANCES // 2), *rng.choice(everyone, BATCH_INSTANCES // 2)}
        picked = [rng.permutation(rows_of[int(o)])[:BATCH_CUTS] for o in sorted(chosen)]
        rows = np.concatenate([*picked, rng.choice(whole, BATCH_WHOLE)])
        x = augment(to_tensor(cuts.images[rows]), torch.Generator().manual_seed(step)).to(device(), torch.bfloat16)
        target = torch.from_numpy(cuts.said[rows].astype(np.int64)).to(device())
        return loss_terms(network, x, target, torch.from_numpy(cuts.owner[rows]).to(device()))

    run("scenes-judge", runs, trainer, loss_of_step, steps, report_every=50)
    trainer.finish()
    return Judge(network)


# ------------------------------------------------------------------------------------------------ measuring
def measure(judge: Judge, vae: Any, each: int = 250) -> dict[str, dict[str, float]]:
    """Head -> share of held-out drawn cut-outs that show the label and are read right, and how many show it; `present`:
    whether the classes of the whole picture are all told rightly. With `vae`, of pictures that went through it."""
    images: list[Image.Image] = []
    said: list[list[int]] = []
    for subjects in COUNTS:
        scenes = list(held_out_groups(each, subjects))
        drawn = [draw_scene(s) for s in scenes]
        pictures = [d.image for d in drawn]
        if vae is not None:
            pictures = [p for k in range(0, each, 50) for p in through(vae, pictures[k : k + 50])]
        for scene, d, picture in zip(scenes, drawn, pictures, strict=True):
            images.append(picture)
            said.append(whole_labels(scene))
            for nth, masks in enumerate(d.masks):
                images.append(cut_out(picture, masks.whole))
                said.append(cut_labels(scene, d, nth))
    heads, present, _ = judge.outputs(images)
    target = np.asarray(said)
    out = {}
    for k, head in enumerate(HEADS):
        there = target[:, k] >= 0
        right = heads[k].argmax(-1).numpy()[there] == target[there, k]
        out[head] = {"accuracy": float(right.mean()), "pictures": int(there.sum())}
    background = list(HEADS).index("background")
    whole = target[:, background] >= 0
    right = ((present.numpy() > 0.5) == (target[:, len(HEADS) :] > 0))[whole].all(1)
    return out | {"present": {"accuracy": float(right.mean()), "pictures": int(whole.sum())}}


def measure_identity(judge: Judge, groups: int = 300) -> dict[str, dict[str, float]]:
    """Per class, among unseen instances: area under the ROC curve of same-or-not by the cosine of two cut-outs from
    different scenes, and how often, of 100 instances, the nearest other cut-out is of the same one."""
    cuts: dict[str, list[tuple[int, Image.Image]]] = {c: [] for c in CLASSES}
    for group in range(UNSEEN_GROUP, UNSEEN_GROUP + groups):
        for scene, who in group_scenes(group):
            drawn = draw_scene(scene)
            for nth, w in enumerate(who):
                cuts[scene.instances[nth].cls].append((4 * group + w, cut_out(drawn.image, drawn.masks[nth].whole)))
    out = {}
    for cls, found in cuts.items():
        several = [o for o in dict.fromkeys(o for o, _ in found) if sum(o == p for p, _ in found) > 1][:100]
        kept = [(o, c) for o, c in found if o in several]
        owner = torch.tensor([o for o, _ in kept])
        z = judge.embed([c for _, c in kept])
        cosine, same = z @ z.T, owner[:, None] == owner
        own = torch.eye(len(owner), dtype=torch.bool)
        nearest = cosine.masked_fill(own, -2).argmax(1)
        out[cls] = {"auc": auc(cosine[same & ~own], cosine[~same]), "instances": len(several),
                    "top1": float((owner[nearest] == owner).float().mean())}  # fmt: skip
    return out


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--steps", type=int, default=1500)
    p.add_argument("--runs", type=Path, default=RUNS)
    p.add_argument("--out", type=Path, default=SCENES_ASSET)
    p.add_argument("--evaluate", action="store_true", help="measure the judge at --out, train nothing")
    args = p.parse_args()
    torch.set_num_threads(1)
    if not args.evaluate:
        train(args.runs, args.steps).save(args.out)
    judge, vae = Judge.load(args.out), half_vae(args.runs)
    result = {"heads": measure(judge, None), "decoded": measure(judge, vae), "identity": measure_identity(judge)}
    args.runs.mkdir(parents=True, exist_ok=True)
    (args.runs / "scenes-judge.json").write_text(json.dumps(result, indent=1))
    for name, m in result["heads"].items():
        after = result["decoded"][name]["accuracy"]
        print(f"{name:20s} {m['accuracy']:.4f}  decoded {after:.4f}  of {m['pictures']}")
    for cls, m in result["identity"].items():
        print(f"identity {cls}: " + "  ".join(f"{k} {v:.4f}" for k, v in m.items()))


if __name__ == "__main__":
    main()
