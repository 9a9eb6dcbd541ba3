"""Trains the miniature world's backbones of the evaluation: in CLIP's, in DINO's and in AlexNet's place.

    python -m testbed.backbones               draw, train all three (resumable), write the assets, measure
    python -m testbed.backbones --evaluate    measure the committed ones

They learn from drawn pictures alone, whole ones and ones of which only the subject or only the background is left,
as the metrics mask them. About a quarter of an hour of one CPU core.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, ViTConfig, ViTModel

from singleinsert.metrics.lpips import Lpips
from singleinsert.metrics.regions import FILL
from singleinsert.models.bundled import ASSETS, MINI_SD

from .common import HalfTrainer, device, run, to_tensor
from .judge_training import Job, augment, contrastive, describe, scene_of, training_jobs
from .labels import HEADS
from .text import ATTRIBUTES
from .text import labels as said_labels
from .world.captions import BACKGROUND_WORDS, STYLE_WORDS, caption_and_said, subject_phrase
from .world.scene import Scene, draw

ROOT = Path(__file__).resolve().parent.parent
OUT = ASSETS / "mini-eval"
INSTANCES, SCENES, PAIRS = 6000, 4, 2000
CAPTIONS = 3
WHOLE, FOREGROUND, BACKGROUND, NOISE = range(4)
REGION_ODDS = (0.52, 0.3, 0.15, 0.03)
"""What is left of a training picture. Noise is there so that it lies far from every picture, not just anywhere."""

CLIP_BATCH, VIT_INSTANCES, VIT_SCENES, NET_BATCH = 128, 40, 3, 64
STEPS = {"lpips": 600, "vit": 1300, "clip": 2200}
SIZES = [len(values) for values in HEADS.values()]
BACKGROUND_HEADS = [list(HEADS).index(name) for name in ("background", "style")]


@dataclass(frozen=True)
class World:
    """Drawn pictures and what is known of each.

    Attributes:
        images: uint8 (n, 64, 64, 3). masks: bool (n, 64, 64), the subjects.
        labels: int64 (n, heads), -1 where a label does not show. owner: int64 (n,), -1 for pictures of two.
        ids: int64 (n, CAPTIONS + 3, 48), token ids of captions: whole, of subject, of background, of nothing.
        said: int64, the same first two axes, what each of them says.
    """

    images: np.ndarray
    masks: np.ndarray
    labels: np.ndarray
    owner: np.ndarray
    ids: np.ndarray
    said: np.ndarray


def draw_chunk(jobs: Sequence[Job]) -> tuple[np.ndarray, np.ndarray]:
    images, masks = [], []
    for job in jobs:
        drawn = draw(scene_of(job))
        found = [np.asarray(drawn.masks[name]) >= 128 for name in ("subject", "second") if name in drawn.masks]
        images.append(np.asarray(drawn.image))
        masks.append(np.logical_or.reduce(found))
    return np.stack(images), np.stack(masks)


def captions(scene: Scene) -> list[tuple[str, list[int]]]:
    """(text, what it says) of `CAPTIONS` captions of the scene, of its subject alone, of its background, of nothing."""
    out: list[tuple[str, list[int]]] = []
    seed = 0
    while len(out) < CAPTIONS:
        text, said = caption_and_said(scene, seed)
        seed += 1
        if text:
            out.append((text, said_labels(said)))
    full, said = out[0][0], caption_and_said(scene, 0)[1]
    place = next((w for w in BACKGROUND_WORDS[scene.background] if full.endswith(w)), "")
    alone = full.removesuffix(place).rstrip(" ,") if place else full
    only = {key: value for key, value in said.items() if key != (0, "background")}
    if not alone:
        alone = " and ".join(subject_phrase(i, e, [], []) for i, e in zip(scene.instances, scene.edits, strict=True))
    words = f"{STYLE_WORDS[scene.style][-1].removesuffix(' of')} " if scene.style != "photo" else ""
    empty = {(0, "background"): scene.background} | ({(0, "style"): scene.style} if words else {})
    behind = f"{words}{BACKGROUND_WORDS[scene.background][0]}"
    return [*out, (alone, said_labels(only)), (behind, said_labels(empty)), ("", said_labels({}))]


def world(cache: Path, workers: int) -> World:
    """The training set; drawn once, then read from `cache`."""
    file = cache / f"world-{INSTANCES}-{SCENES}-{PAIRS}.npz"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        jobs = training_jobs(INSTANCES, SCENES, PAIRS)
        chunks = [jobs[i : i + 500] for i in range(0, len(jobs), 500)]
        with ProcessPoolExecutor(workers) as pool:
            drawn = list(tqdm(pool.map(draw_chunk, chunks), total=len(chunks), desc="drawing"))
        tokenizer = CLIPTokenizer.from_pretrained(MINI_SD / "tokenizer")
        words, said, labels = [], [], []
        for job in tqdm(jobs, desc="captions"):
            scene = scene_of(job)
            texts = captions(scene)
            labels.append(describe(scene)[: len(HEADS)])
            words += [text for text, _ in texts]
            said.append([what for _, what in texts])
        ids = np.asarray(tokenizer(words, padding="max_length", truncation=True).input_ids, np.int16)
        images, masks = (np.concatenate(each) for each in zip(*drawn, strict=True))
        owner = [k // SCENES if job[0] is not None else -1 for k, job in enumerate(jobs)]
        part = file.with_suffix(".part.npz")
        np.savez(part, images=images, masks=masks, owner=owner, labels=np.asarray(labels, np.int8),
                 ids=ids.reshape(len(jobs), CAPTIONS + 3, -1), said=np.asarray(said, np.int8))  # fmt: skip
        part.rename(file)
    return World(**dict(np.load(file)))


def masked(data: World, rows: np.ndarray, regions: np.ndarray, generator: torch.Generator) -> Tensor:
    """Pictures (b, 3, 64, 64), slightly changed, of which only each one's region is left, as in the metrics."""
    images = augment(to_tensor(data.images[rows]), generator).contiguous()
    masks = torch.from_numpy(data.masks[rows])
    region = torch.from_numpy(regions)[:, None, None]
    away = ((region == FOREGROUND) & ~masks) | ((region == BACKGROUND) & masks)
    images = torch.where(away[:, None], torch.tensor(FILL / 127.5 - 1), images)
    for row in np.flatnonzero(regions == NOISE):
        side = (64, 32, 16)[int(torch.randint(3, (), generator=generator))]
        static = 2 * torch.rand(1, 3, side, side, generator=generator) - 1
        images[row] = F.interpolate(static, (64, 64), mode="nearest")[0]
    return images


def shown_labels(data: World, rows: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """(b, heads): what each region shows, -1 for the rest."""
    out = data.labels[rows].astype(np.int64)
    out[np.ix_(regions == FOREGROUND, BACKGROUND_HEADS[:1])] = -1
    out[regions == NOISE] = -1
    rest = [k for k in range(len(HEADS)) if k not in BACKGROUND_HEADS]
    out[np.ix_(regions == BACKGROUND, rest)] = -1
    return out


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the labels that show. logits (b, sum of SIZES), labels (b, heads)."""
    parts = logits.float().split(SIZES, dim=1)
    total = [F.cross_entropy(p, labels[:, k], ignore_index=-1, reduction="sum") for k, p in enumerate(parts)]
    return torch.stack(total).sum() / (labels >= 0).sum()


# ------------------------------------------------------------------------------------------------- in CLIP's place
def build_clip(tokenizer: Any) -> CLIPModel:
    torch.manual_seed(41)
    vision = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4,
              "image_size": 64, "patch_size": 8}  # fmt: skip
    text = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
            "vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length,
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id}  # fmt: skip
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64))


def contrast(images: Tensor, texts: Tensor, scale: Tensor, said: Tensor) -> Tensor:
    """CLIP's loss (Radford et al. 2021, figure 3); captions that say the same are all right. (b, d), (b, d)."""
    images, texts = F.normalize(images.float(), dim=-1), F.normalize(texts.float(), dim=-1)
    logits = scale.float().exp().clamp(max=60) * images @ texts.T
    same = (said[:, None] == said[None]).all(-1).float()
    target = same / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def nearness(images: Tensor, regions: np.ndarray) -> Tensor:
    """How far above 0 the cosine of noise and of what shows something is, on average; images (b, d), not normalised.

    Contrast with captions alone leaves noise anywhere, and a cut-out subject on grey is nearer to it than to a photo.
    """
    z, static = F.normalize(images.float(), dim=-1), torch.from_numpy(regions == NOISE)
    if static.all() or not static.any():
        return z.new_zeros(())
    return (z[static] @ z[~static].T).relu().mean()


def train_clip(data: World, runs: Path, steps: int) -> CLIPModel:
    """Contrast, and two helpers that are dropped afterwards: what shows and what is said can be read linearly."""
    dev, tokenizer = device(), CLIPTokenizer.from_pretrained(MINI_SD / "tokenizer")
    model: Any = build_clip(tokenizer).to(dev).train()
    model.set_attn_implementation("eager")  # the fused attention's backward is slow on a CPU
    see = nn.Linear(64, sum(SIZES)).to(dev)
    said_sizes = [len(v) + 1 for v in ATTRIBUTES.values()]
    read = nn.Linear(64, sum(said_sizes)).to(dev)
    trainer = HalfTrainer([model, see, read], lr=1.5e-3, ema=0.995)

    def loss_of_step(step: int) -> dict[str, Tensor]:
        rng, generator = np.random.default_rng([step, 41]), torch.Generator().manual_seed(step)
        rows = rng.integers(0, len(data.images), CLIP_BATCH)
        regions = rng.choice(4, CLIP_BATCH, p=REGION_ODDS)
        which = np.where(regions == WHOLE, rng.integers(0, CAPTIONS, CLIP_BATCH), CAPTIONS - 1 + regions)
        ids = torch.from_numpy(data.ids[rows, which].astype(np.int64)).to(dev)
        said = torch.from_numpy(data.said[rows, which].astype(np.int64)).to(dev)
        x = masked(data, rows, regions, generator).to(dev, torch.bfloat16)
        labels = torch.from_numpy(shown_labels(data, rows, regions)).to(dev)
        images = model.visual_projection(model.vision_model(pixel_values=x).pooler_output)
        ids = ids[:, : int((ids != tokenizer.pad_token_id).sum(1).max()) + 1]
        texts = model.text_projection(model.text_model(input_ids=ids).pooler_output)
        words = read(texts).float().split(said_sizes, dim=1)
        heard = torch.stack([F.cross_entropy(w, said[:, k]) for k, w in enumerate(words)]).mean()
        return {"contrast": contrast(images, texts, model.logit_scale, said), "noise": 3 * nearness(images, regions),
                "see": 0.5 * label_loss(see(images), labels), "read": 3 * heard}  # fmt: skip

    run("clip", runs, trainer, loss_of_step, steps)
    trainer.finish()
    model.set_attn_implementation("sdpa")
    return model.eval()


# ------------------------------------------------------------------------------------------------- in DINO's place
def build_vit() -> ViTModel:
    torch.manual_seed(42)
    config = ViTConfig(hidden_size=96, intermediate_size=192, num_hidden_layers=3, num_attention_heads=4,
                       image_size=64, patch_size=8)  # fmt: skip
    return ViTModel(config, add_pooling_layer=False)


def vit_rows(rng: np.random.Generator, by_class: list[np.ndarray]) -> np.ndarray:
    """Some pictures of each of `VIT_INSTANCES` instances, half of which are of one class."""
    share = np.sqrt([len(c) for c in by_class])
    same = by_class[int(rng.choice(len(by_class), p=share / share.sum()))]
    half = VIT_INSTANCES // 2
    chosen = np.unique([*rng.choice(same, half, replace=False), *rng.choice(np.concatenate(by_class), half)])
    scenes = np.stack([rng.permutation(SCENES)[:VIT_SCENES] for _ in chosen])
    return (chosen[:, None] * SCENES + scenes).ravel()


def train_vit(data: World, runs: Path, steps: int) -> ViTModel:
    """Pictures of one instance lie close, whole or cut out; left-over backgrounds lie close to their like.

    A linear reading of what shows helps, and is dropped afterwards.
    """
    dev = device()
    model: Any = build_vit().to(dev).train()
    model.set_attn_implementation("eager")
    see = nn.Linear(96, sum(SIZES)).to(dev)
    trainer = HalfTrainer([model, see], lr=1.5e-3, ema=0.995)
    classes = data.labels[: INSTANCES * SCENES : SCENES, list(HEADS).index("class")]
    by_class = [np.flatnonzero(classes == k) for k in range(len(HEADS["class"]))]
    background = data.labels[:, BACKGROUND_HEADS].astype(np.int64)

    def loss_of_step(step: int) -> dict[str, Tensor]:
        rng, generator = np.random.default_rng([step, 42]), torch.Generator().manual_seed(step)
        rows = vit_rows(rng, by_class)
        regions = rng.choice(4, len(rows), p=REGION_ODDS)
        owner = np.where(regions == BACKGROUND, INSTANCES + background[rows] @ np.array([3, 1]), data.owner[rows])
        owner[regions == NOISE] = -1  # no picture of two is in these rows
        x = masked(data, rows, regions, generator).to(dev, torch.bfloat16)
        z = model(pixel_values=x).last_hidden_state[:, 0]
        labels = torch.from_numpy(shown_labels(data, rows, regions)).to(dev)
        whose = torch.from_numpy(owner).to(dev)
        paired = (whose[:, None] == whose).sum(1) > 1
        return {"same": contrastive(z.float()[paired], whose[paired]), "see": label_loss(see(z), labels)}

    run("vit", runs, trainer, loss_of_step, steps)
    trainer.finish()
    model.set_attn_implementation("sdpa")
    return model.eval()


# ---------------------------------------------------------------------------------------------- in AlexNet's place
def train_lpips(data: World, runs: Path, steps: int) -> Lpips:
    """A plain network that reads what shows, as AlexNet reads ImageNet's classes; LPIPS' linear weights stay 1."""
    dev = device()
    torch.manual_seed(43)
    model = Lpips("mini").to(dev)
    model.linear.requires_grad_(False)
    see = nn.Linear(64 * 64, sum(SIZES)).to(dev)
    trainer = HalfTrainer([model, see], lr=1e-3, ema=0.99)

    def loss_of_step(step: int) -> dict[str, Tensor]:
        rng, generator = np.random.default_rng([step, 43]), torch.Generator().manual_seed(step)
        rows = rng.integers(0, len(data.images), NET_BATCH)
        x = augment(to_tensor(data.images[rows]), generator).to(dev, torch.bfloat16)
        grid = model.outputs(x.contiguous(memory_format=torch.channels_last))[-1].flatten(1)
        return {"see": label_loss(see(grid), torch.from_numpy(data.labels[rows].astype(np.int64)).to(dev))}

    run("lpips", runs, trainer, loss_of_step, steps)
    trainer.finish()
    return model.float().eval()


def save(model: Any, folder: Path) -> None:
    """A float16 folder as transformers writes it, with how pictures go in."""
    model.half().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # its writer makes it private
    how = {"do_resize": True, "size": {"height": 64, "width": 64}, "resample": 3, "do_center_crop": False,
           "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5] * 3,
           "image_std": [0.5] * 3}  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(how, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluate", action="store_true", help="measure the committed backbones only")
    parser.add_argument("--only", nargs="*", default=list(STEPS), choices=STEPS)
    parser.add_argument("--runs", type=Path, default=ROOT / "testbed" / "runs" / "backbones")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--docs", action="store_true", help="write the numbers into docs/research/backbones.md")
    args = parser.parse_args()
    if not args.evaluate:
        data = world(args.runs, args.workers)
        if "lpips" in args.only:
            train_lpips(data, args.runs, STEPS["lpips"]).save(args.out / "lpips")
        if "vit" in args.only:
            save(train_vit(data, args.runs, STEPS["vit"]), args.out / "vit")
        if "clip" in args.only:
            save(train_clip(data, args.runs, STEPS["clip"]), args.out / "clip")
            for file in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copy(MINI_SD / "tokenizer" / file, args.out / "clip" / file)
    from .backbone_scores import main as measure

    measure(args.out, args.runs, args.only, args.docs)


if __name__ == "__main__":
    main()
