"""Trains and measures the judge (`python -m testbed.judge`)."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor
from tqdm import tqdm

from .common import HalfTrainer, device, run, to_tensor
from .dataset import HELD_OUT_START
from .judge import ASSET, Judge, Network
from .labels import HEADS, labels
from .world.features import CLASSES
from .world.scene import Instance, Scene, draw, held_out

ROOT = Path(__file__).resolve().parent.parent
INSTANCES, SCENES, PAIRS = 9000, 6, 4000
"""Training set: instances, scenes of each, and pictures of two subjects."""
FIRST_INSTANCE, FIRST_PAIR = 2_000_000_000, 2_000_000
BATCH_INSTANCES, BATCH_SCENES, BATCH_PAIRS = 24, 3, 8
TEMPERATURE = 0.1
Job = tuple[int | None, int]
"""(instance's seed, or None for the scene's own subjects; scene's seed)."""


def scene_of(job: Job) -> Scene:
    instance, seed = job
    return Scene.from_seed(seed, None if instance is None else Instance.from_seed(instance))


def instance_jobs(instance: int, count: int) -> list[Job]:
    """The first `count` scenes of one instance.

    Combinations that are held out from mini-sd are among them: a judge that had never seen one would read in it what it
    has seen instead (a round red tree as orange), and they are what the gate asks for.
    """
    return [(instance, s) for s in range(instance * 40, instance * 40 + count)]


def training_jobs(instances: int, scenes: int, pairs: int) -> list[Job]:
    """First the scenes of each instance, `scenes` after another; then the pictures of two subjects."""
    jobs: list[Job] = []
    seed = FIRST_INSTANCE
    while len(jobs) < instances * scenes:
        jobs += instance_jobs(seed, scenes)
        seed += 1
    seed = FIRST_PAIR
    while len(jobs) < instances * scenes + pairs:
        scene = Scene.from_seed(seed)
        if len(scene.instances) == 2:
            jobs.append((None, seed))
        seed += 1
    return jobs


def describe(scene: Scene) -> list[int]:
    """Label of every head (-1: does not show), then 0 or 1 for each class that is present."""
    seen = labels(scene)
    classes = {i.cls for i in scene.instances}
    return [seen.get(h, -1) for h in HEADS] + [int(c in classes) for c in CLASSES]


def draw_jobs(jobs: list[Job]) -> np.ndarray:
    return np.stack([np.asarray(draw(scene_of(j), masks=False).image) for j in jobs])


def dataset(cache: Path, workers: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures uint8 (n, 64, 64, 3), labels int8 (n, heads + classes), instance int64 (n,), -1 for pairs."""
    jobs = training_jobs(INSTANCES, SCENES, PAIRS)
    file = cache / f"judge-{len(jobs)}.npy"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        chunks = [jobs[i : i + 500] for i in range(0, len(jobs), 500)]
        with ProcessPoolExecutor(workers) as pool:
            drawn = list(tqdm(pool.map(draw_jobs, chunks), total=len(chunks), desc="drawing"))
        np.save(file.with_suffix(".part.npy"), np.concatenate(drawn))
        file.with_suffix(".part.npy").rename(file)
    said = np.asarray([describe(scene_of(j)) for j in tqdm(jobs, desc="labels")], np.int8)
    owner = np.asarray([k // SCENES if j[0] is not None else -1 for k, j in enumerate(jobs)])
    return np.load(file, mmap_mode="r"), said, owner


@torch.no_grad()
def round_trips(vae: AutoencoderKL, pictures: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The pictures `rows` after a pass through mini-sd's autoencoder with slightly noisy latents, uint8."""
    dev = device()
    half: Any = vae
    half = half.to(dev, torch.bfloat16).eval()
    generator = torch.Generator().manual_seed(21)
    out = []
    for i in tqdm(range(0, len(rows), 64), desc="round trips"):
        mean = half.encode(to_tensor(pictures[rows[i : i + 64]]).to(dev, torch.bfloat16)).latent_dist.mean.float()
        level = 0.12 * torch.rand(len(mean), 1, 1, 1, generator=generator) / half.config.scaling_factor
        noisy = mean + (level * torch.randn(mean.shape, generator=generator)).to(dev)
        x = half.decode(noisy.bfloat16()).sample.float().cpu()
        out.append(((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
    return np.concatenate(out)


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Slight blur, noise and intensity changes, each on some of the pictures (b, 3, h, w)."""

    def per_picture(low: float, high: float, share: float, channels: int = 1) -> Tensor:
        size = (len(x), channels, 1, 1)
        on = torch.rand(len(x), 1, 1, 1, generator=generator) < share
        return torch.where(on, low + (high - low) * torch.rand(size, generator=generator), torch.zeros(size))

    kernel = torch.tensor([1.0, 2.0, 1.0])
    kernel = (kernel[:, None] * kernel / 16).expand(3, 1, 3, 3)
    blurred = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
    x = x.lerp(blurred, per_picture(0.2, 1.0, 0.3))
    x = x * (1 + per_picture(-0.06, 0.06, 0.5)) + per_picture(-0.05, 0.05, 0.5, 3)
    x = x + per_picture(0.0, 0.06, 0.3) * torch.randn(x.shape, generator=generator)
    return x.contiguous(memory_format=torch.channels_last)


def contrastive(embedding: Tensor, owner: Tensor) -> Tensor:
    """Supervised contrastive loss (Khosla et al. 2020, eq. 2) of embeddings (b, d) whose owners are (b,)."""
    z = F.normalize(embedding, dim=-1)
    own = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.T / TEMPERATURE).masked_fill(own, -1e4)
    positive = (owner[:, None] == owner) & ~own
    log_share = logits - logits.logsumexp(1, keepdim=True)
    return -(log_share * positive).sum(1).div(positive.sum(1)).mean()


def loss_terms(network: Network, x: Tensor, said: Tensor, owner: Tensor) -> dict[str, Tensor]:
    """Cross-entropy over every label that shows, presence of the classes, and identity."""
    heads, present, embedding = network(x)
    shown = said[:, : len(HEADS)] >= 0
    total = x.new_zeros((), dtype=torch.float32)
    for k, logits in enumerate(heads):
        total = total + F.cross_entropy(logits.float(), said[:, k], ignore_index=-1, reduction="sum")
    seen = F.binary_cross_entropy_with_logits(present.float(), said[:, len(HEADS) :].float())
    single = owner >= 0
    return {
        "labels": total / shown.sum() * 4,
        "present": seen,
        "identity": 0.5 * contrastive(embedding.float()[single], owner[single]),
    }


def batch_rows(rng: np.random.Generator, by_class: list[np.ndarray]) -> np.ndarray:
    """Rows of `BATCH_INSTANCES` instances, half of them of one class, some scenes of each, and some pairs."""
    everything = np.concatenate(by_class)
    share = np.sqrt([len(c) for c in by_class])
    same = by_class[int(rng.choice(len(by_class), p=share / share.sum()))]
    chosen = np.unique(
        np.concatenate(
            [
                rng.choice(same, BATCH_INSTANCES // 2, replace=False),
                rng.choice(everything, BATCH_INSTANCES // 2),
            ]
        )
    )
    scenes = np.stack([rng.permutation(SCENES)[:BATCH_SCENES] for _ in chosen])
    pairs = INSTANCES * SCENES + rng.integers(0, PAIRS, BATCH_PAIRS)
    return np.concatenate([(chosen[:, None] * SCENES + scenes).ravel(), pairs])


def train(runs: Path, steps: int, vae: AutoencoderKL | None, workers: int, start: Judge | None = None) -> Judge:
    """Averaged weights after `steps` steps; three in ten pictures come through `vae` where there is one;
    `start`, a judge to go on from."""
    pictures, said, owner = dataset(runs, workers)
    file = runs / f"judge-round-trips-{len(pictures)}.npy"
    rows = np.arange(0, len(pictures), 2)
    if not file.exists() and vae is not None:
        np.save(file, round_trips(vae, pictures, rows))
    passed = np.load(file, mmap_mode="r") if file.exists() else None
    classes = said[: INSTANCES * SCENES : SCENES, list(HEADS).index("class")]
    by_class = [np.flatnonzero(classes == k) for k in range(len(CLASSES))]
    dev = device()
    torch.manual_seed(22)
    network = (start.network.requires_grad_(True) if start else Network()).to(dev).train()
    trainer = HalfTrainer([network], lr=1e-3 if start else 2e-3, ema=0.998)

    def loss_of_step(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([step, 5])
        chosen = batch_rows(rng, by_class)
        images = pictures[chosen]
        if passed is not None:
            through = (chosen % 2 == 0) & (rng.random(len(chosen)) < 0.6)
            images[through] = passed[chosen[through] // 2]
        x = augment(to_tensor(images), torch.Generator().manual_seed(step))
        target = torch.from_numpy(said[chosen].astype(np.int64)).to(dev)
        return loss_terms(network, x.to(dev, torch.bfloat16), target, torch.from_numpy(owner[chosen]).to(dev))

    run("judge", runs, trainer, loss_of_step, steps, report_every=50)
    trainer.finish()
    return Judge(network)


# ------------------------------------------------------------------------------------------------ measuring
def held_out_jobs(start: int = HELD_OUT_START) -> Iterator[Job]:
    """Unseen scenes of one subject, half of them held out in combination or in their instance."""
    for k in range(10**9):
        scene = Scene.from_seed(start + k)
        if len(scene.instances) == 1 and (held_out(scene) or k % 5 == 0):
            yield None, start + k


def pictures_of(jobs: list[Job]) -> Tensor:
    return to_tensor(draw_jobs(jobs))


def measure_heads(judge: Judge, count: int = 12_000) -> dict[str, dict[str, float]]:
    """:func:`head_accuracies` on held-out drawn pictures."""
    jobs = list(islice(held_out_jobs(), count))
    return head_accuracies(judge, [scene_of(j) for j in jobs], pictures_of(jobs))


def head_accuracies(judge: Judge, scenes: list[Scene], pictures: Tensor) -> dict[str, dict[str, float]]:
    """Head -> share of the pictures that show the label and are read right, and how many show it.

    `head|pencil sketch` and `head|pixel art` have the same for one style.
    """
    heads = judge.outputs(pictures)[0]
    right: dict[str, list[bool]] = {}
    for k, scene in enumerate(scenes):
        for head, value in labels(scene).items():
            ok = int(heads[list(HEADS).index(head)][k].argmax()) == value
            for key in (head, f"{head}|{scene.style}"):
                right.setdefault(key, []).append(ok)
    return {h: {"accuracy": float(np.mean(v)), "pictures": len(v)} for h, v in sorted(right.items())}


def measure_identity(
    judge: Judge, instances: int = 100, scenes: int = 5, style: str | None = None
) -> dict[str, dict[str, float]]:
    """Per class, among unseen instances of that class: area under the ROC curve of same-or-not by cosine, and
    top-1 retrieval of a picture's instance from one other picture of each."""
    out = {}
    for cls in CLASSES:
        jobs = identity_scenes(cls, instances, scenes, style)
        pictures = to_tensor(np.stack([np.asarray(draw(s, masks=False).image) for s in jobs]))
        z = judge.embed(pictures).view(instances, scenes, -1)
        owner = torch.arange(instances).repeat_interleave(scenes)
        flat = z.flatten(0, 1)
        cosine = flat @ flat.T
        same, self_pair = owner[:, None] == owner, torch.eye(len(flat), dtype=torch.bool)
        gallery, queries = z[:, 0], z[:, 1:].flatten(0, 1)
        found = (queries @ gallery.T).argmax(1) == torch.arange(instances).repeat_interleave(scenes - 1)
        out[cls] = {
            "auc": auc(cosine[same & ~self_pair], cosine[~same]),
            "top1": float(found.float().mean()),
            "cosine_same": float(cosine[same & ~self_pair].mean()),
            "cosine_other": float(cosine[~same].mean()),
        }
    return out


def identity_scenes(cls: str, instances: int, scenes: int, style: str | None) -> list[Scene]:
    """`scenes` scenes of each of `instances` unseen instances of a class; of one `style`, if given."""
    out: list[Scene] = []
    for k in range(instances):
        instance = Instance.from_seed(3_000_000_000 + k, cls)
        seeds = (HELD_OUT_START * 2 + k * 1000 + n for n in range(1000))
        wanted = (Scene.from_seed(s, instance) for s in seeds)
        out += islice((s for s in wanted if style in (None, s.style)), scenes)
    return out


def auc(positive: Tensor, negative: Tensor) -> float:
    """Probability that a random positive is above a random negative (ties count half)."""
    ranks = torch.sort(negative).values
    below = torch.searchsorted(ranks, positive.contiguous()) + torch.searchsorted(
        ranks, positive.contiguous(), right=True
    )
    return float(below.double().mean() / 2 / len(negative))


def report(judge: Judge, file: Path) -> None:
    """Measure, write JSON, print what falls short of 97 percent."""
    heads = measure_heads(judge)
    identity = {"photo": measure_identity(judge, style="photo"), "any style": measure_identity(judge)}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"heads": heads, "identity": identity}, indent=1))
    for name, m in heads.items():
        short = "" if m["accuracy"] >= 0.97 else "  SHORT"
        print(f"{name:32s} {m['accuracy']:.4f}  of {m['pictures']:5.0f}{short}", flush=True)
    for kind, table in identity.items():
        for cls, values in table.items():
            print(
                f"identity ({kind}) {cls:5s} " + "  ".join(f"{k} {v:.4f}" for k, v in values.items()),
                flush=True,
            )


def find_vae(runs: Path) -> AutoencoderKL | None:
    """mini-sd's autoencoder: the finished model's, or that of the snapshot while it is being trained."""
    for folder in (ROOT / "singleinsert" / "assets" / "mini-sd", runs / "snapshot"):
        if (folder / "vae").is_dir():
            return AutoencoderKL.from_pretrained(folder / "vae")
    return None


def main() -> None:
    p = argparse.ArgumentParser(prog="python -m testbed.judge", description="Train or measure the judge.")
    p.add_argument("--steps", type=int, default=7000)
    p.add_argument("--workers", type=int, default=1, help="processes that draw")
    p.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    p.add_argument("--runs", type=Path, default=ROOT / "testbed" / "runs")
    p.add_argument("--out", type=Path, default=ASSET)
    p.add_argument("--start", type=Path, help="a judge to go on from, such as the committed one")
    p.add_argument("--evaluate", action="store_true", help="measure the judge at --out, train nothing")
    args = p.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if not args.evaluate:
        start = Judge.load(args.start) if args.start else None
        train(args.runs, args.steps, find_vae(args.runs), args.workers, start).save(args.out)
    report(Judge.load(args.out), args.runs / "judge.json")
