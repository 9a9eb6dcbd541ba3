"""The segmenter of scenes: mini-sd's, trained on at 96 x 96, and how the subjects of one word are told apart.

    python -m testbed.scenes_segmenter               train (resumable), measure, write it into mini-scenes' folder
    python -m testbed.scenes_segmenter --evaluate    measure the committed one

The network gives one mask for a word; its pieces are the word's subjects, and a piece that falls into two large ones
when its edge is taken off is two that touch. A quarter of the training pictures have been through the autoencoder, and
in a third of them two subjects are of one class.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from singleinsert.masks.mini import CONFIG, SegmenterNet, load_segmenter, save_segmenter
from singleinsert.masks.pieces import pieces

from .common import HalfTrainer, device, run, to_tensor
from .judge_training import augment
from .scenes_data import held_out_groups, training_scene_seeds
from .scenes_judge import half_vae, through
from .segmenter import PARTS, WORDS, choose_words, iou, loss
from .world.features import CLASSES
from .world.scene import Scene, held_out
from .world.scenes import COUNTS, SCENE_SIZE, DrawnScene, draw_scene, scene_from_seed

FOLDER = Path(__file__).resolve().parent.parent / "singleinsert" / "assets" / "mini-scenes" / "segmenter"
RUNS = Path(__file__).resolve().parent / "runs"
PICTURES, PAIRS, STEPS, BATCH, LR = 5_000, 2_000, 1_400, 20, 1e-3
SURE = 0.6
"""The least score of a subject, where no judge looks at it afterwards."""


@dataclass(frozen=True)
class Found:
    """One subject of a word: its boolean mask (h, w) and how sure the network is of the pixels, 0 to 1."""

    mask: np.ndarray
    score: float


def exact_masks(scene: Scene, drawn: DrawnScene) -> dict[str, np.ndarray]:
    """Word -> boolean (96, 96): all that shows of the class or worn thing, in all subjects."""
    out = {word: np.zeros((SCENE_SIZE, SCENE_SIZE), bool) for word in WORDS}
    for instance, masks in zip(scene.instances, drawn.masks, strict=True):
        out[instance.cls] |= np.asarray(masks.whole) >= 128
        for part in PARTS:
            out[part] |= np.asarray(masks.parts[part]) >= 128
    return out


def pair_seeds(count: int) -> list[int]:
    """Seeds of scenes that training may see with two subjects of one class."""
    scenes = ((seed, scene_from_seed(seed)) for seed in range(10**9))
    seeds = (
        s for s, scene in scenes if len({i.cls for i in scene.instances}) < len(scene.instances) and not held_out(scene)
    )
    return [seed for seed, _ in zip(seeds, range(count), strict=False)]


def training_set(cache: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 (n, 96, 96, 3), masks as one bit a word uint16 (n, 96, 96)."""
    file = cache / f"scenes-segmenter-{PICTURES + PAIRS}.npz"
    if not file.exists():
        vae = half_vae(cache)
        images, bits = [], []
        for seed in tqdm(training_scene_seeds(PICTURES) + pair_seeds(PAIRS), desc="drawing", mininterval=10):
            scene = scene_from_seed(seed)
            drawn = draw_scene(scene)
            masks = exact_masks(scene, drawn)
            images.append(drawn.image)
            bits.append(sum(np.uint16(1 << k) * masks[w].astype(np.uint16) for k, w in enumerate(WORDS)))
        for k in tqdm(range(0, len(images) - 199, 200), desc="autoencoder", mininterval=10):
            images[k : k + 50] = through(vae, images[k : k + 50], seed=k)
        np.savez(file, images=np.stack([np.asarray(i) for i in images]), bits=np.stack(bits))
    data = np.load(file)
    return data["images"], data["bits"]


def train(cache: Path, steps: int) -> SegmenterNet:
    """mini-sd's segmenter, trained on."""
    images, bits = training_set(cache)
    net = load_segmenter().requires_grad_(True).to(device()).train()
    trainer = HalfTrainer([net], LR, ema=0.998)
    known = np.full(BATCH, (1 << len(WORDS)) - 1, np.uint16)

    def loss_of_step(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([step, 9])
        rows = rng.integers(0, len(images), BATCH)
        words = choose_words(bits[rows], known, rng)
        target = torch.from_numpy((bits[rows] >> words[:, None, None].astype(np.uint16) & 1).astype(np.float32))
        x = to_tensor(images[rows]).contiguous()
        if step % 2:
            x, target = x.flip(-1), target.flip(-1)
        x = augment(x, torch.Generator().manual_seed(step)).to(device(), torch.bfloat16)
        return loss(net(x, torch.from_numpy(words).to(device())), target[:, None].to(device()))

    run("scenes-segmenter", cache, trainer, loss_of_step, steps)
    trainer.finish()
    return net.eval()


def save(net: SegmenterNet, folder: Path) -> None:
    """As mini-sd's; the config says the side of its pictures, and that a word may have several subjects."""
    save_segmenter(net, folder)
    file = folder / CONFIG
    file.write_text(json.dumps({**json.loads(file.read_text()), "size": SCENE_SIZE, "several": True}, indent=1) + "\n")


class SceneSegmenter:
    """Finds the subjects of a word in pictures of 96 x 96."""

    def __init__(self, folder: Path = FOLDER, threshold: float = SURE) -> None:
        self.net, self.threshold = load_segmenter(folder), threshold

    @torch.no_grad()
    def probabilities(self, image: Image.Image, word: str) -> np.ndarray:
        """(96, 96) how probable it is of each pixel that it belongs to what `word` names."""
        x = to_tensor(np.array(image.convert("RGB"))[None])
        return self.net(x, torch.tensor([self.net.words.index(word)])).sigmoid()[0, 0].numpy()

    def find(self, image: Image.Image, word: str) -> list[Found]:
        """Every subject of the word, the largest first."""
        probability = self.probabilities(image, word)
        found = [Found(m, float((2 * probability[m] - 1).mean())) for m in pieces(probability > 0.5)]
        return [f for f in found if f.score >= self.threshold]


def evaluate(segmenter: SceneSegmenter, each: int = 100) -> dict[str, Any]:
    """Held-out scenes of each number of subjects: mean IoU of the subjects, how often the word's pieces are as many as
    its subjects, how often an absent class was found; and the same of scenes of two of one class."""
    out: dict[str, Any] = {}
    for subjects in COUNTS:
        scenes = list(held_out_groups(each, subjects))
        out[f"{subjects}"] = _scores(segmenter, scenes)
    twins = (scene_from_seed(seed, 2) for seed in range(20_000_000, 30_000_000))
    same = (s for s in twins if s.instances[0].cls == s.instances[1].cls)
    out["2 of one class"] = _scores(segmenter, [s for s, _ in zip(same, range(each), strict=False)])
    return out


def _scores(segmenter: SceneSegmenter, scenes: list[Scene]) -> dict[str, float]:
    overlaps, counted, false, absent = [], [], 0, 0
    for scene in scenes:
        drawn = draw_scene(scene)
        for cls in CLASSES:
            exact = [
                np.asarray(m.whole) >= 128 for i, m in zip(scene.instances, drawn.masks, strict=True) if i.cls == cls
            ]
            found = segmenter.find(drawn.image, cls)
            if not exact:
                false, absent = false + bool(found), absent + 1
                continue
            counted.append(len(found) == len(exact))
            overlaps += [max((iou(e, f.mask) for f in found), default=0.0) for e in exact]
    return {
        "iou": round(float(np.mean(overlaps)), 4),
        "iou_under_0.7": round(float(np.mean(np.asarray(overlaps) < 0.7)), 4),
        "counted_right": round(float(np.mean(counted)), 4),
        "found_though_absent": round(false / max(absent, 1), 4),
    }


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--steps", type=int, default=STEPS)
    p.add_argument("--runs", type=Path, default=RUNS)
    p.add_argument("--out", type=Path, default=FOLDER)
    p.add_argument("--evaluate", action="store_true", help="measure the one at --out, train nothing")
    args = p.parse_args()
    torch.set_num_threads(1)
    if not args.evaluate:
        save(train(args.runs, args.steps), args.out)
    result = evaluate(SceneSegmenter(args.out))
    args.runs.mkdir(parents=True, exist_ok=True)
    (args.runs / "scenes-segmenter.json").write_text(json.dumps(result, indent=1))
    for name, row in result.items():
        print(name, row)


if __name__ == "__main__":
    main()
