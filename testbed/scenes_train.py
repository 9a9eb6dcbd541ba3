"""Makes mini-scenes: goes on from mini-sd's UNet on scenes of one to four subjects at 96 x 96.

    python -m testbed.scenes_train --compile      resumable: start it again after an interruption

The autoencoder, the text encoder and the tokenizer are mini-sd's own. The number of steps may be changed while it
runs: write it to `testbed/runs/scenes-unet.steps`; the last quarter of the steps cools down. The result goes to
`singleinsert/assets/mini-scenes`, an average of the weights so far to `testbed/runs/scenes-snapshot` every few minutes.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor

from . import unet
from .common import HalfTrainer, device, run, schedule
from .judge import Network
from .labels import HEADS
from .reader import build_reader, disturb, unread
from .scenes_binding import Bindings, Watched, bindings_of, misbound, owners_of
from .scenes_data import Conditions, Pictures, conditions_of, latents_of, pictures, training_scene_seeds
from .world.scenes import SCENE_SIZE

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / "singleinsert" / "assets"
WINDOWS = 2
"""Subjects of each scene that the reader is asked about in a step."""
WINDOW, WINDOW_LATENTS = 70.0, 16
"""Side of a subject's window in pixels at zoom 1, and what it is resampled to in latent pixels: mini-sd's own size."""
HARD = {"class": 4.0, "face.hair": 4.0, "face.head": 3.0, "face.marking": 2.0, "facing": 2.0}
"""What a head of the reader counts, against 1 of the others: first of all every subject has to be there."""


def parse() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--pictures", type=int, default=30_000, help="pictures drawn for training")
    p.add_argument("--captions", type=int, default=2, help="captions for each picture")
    p.add_argument("--reader_steps", type=int, default=3000, help="0: train without a reader of latents")
    p.add_argument("--steps", type=int, default=6000)
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--rate", type=float, default=4e-4, help="learning rate")
    p.add_argument("--unread", type=float, default=0.02, help="weight of what the reader misses; 0: it is not asked")
    p.add_argument("--misbound", type=float, default=0.1, help="weight of attention to other subjects' words; 0: none")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--compile", action="store_true", help="compile the UNet: quicker on a CPU after some minutes")
    p.add_argument("--start", type=Path, default=ASSETS / "mini-sd", help="a folder of mini-sd or mini-scenes")
    p.add_argument("--runs", type=Path, default=ROOT / "testbed" / "runs")
    p.add_argument("--out", type=Path, default=ASSETS / "mini-scenes")
    return p.parse_args()


@dataclass(frozen=True)
class Plan:
    """How to train: steps, samples a step, learning rate, the weights of what the reader misses and of what attention
    takes from other subjects' words, compiled or not."""

    steps: int
    batch: int
    rate: float
    unread: float
    misbound: float = 0.0
    compile: bool = False


def scenes_unet(start: UNet2DConditionModel) -> UNet2DConditionModel:
    """A copy of a UNet of mini-sd's shape for latents of 24 x 24."""
    config = unet.config_of(start) | {"sample_size": SCENE_SIZE // 4}
    model = UNet2DConditionModel.from_config(config)
    model.load_state_dict(start.state_dict())
    return model


def export(model: UNet2DConditionModel, start: Path, folder: Path) -> None:
    """A diffusers folder with this UNet in float16 and everything else of `start`, byte for byte."""
    for name in ("scheduler", "text_encoder", "tokenizer", "vae"):
        shutil.copytree(start / name, folder / name, dirs_exist_ok=True)
    shutil.copy(start / "model_index.json", folder)
    half: Any = model
    half.half().save_pretrained(folder / "unet")


def windows(x: Tensor, places: Tensor) -> Tensor:
    """Latents (b, 4, 24, 24) and places (b, k, 3) as x, y, zoom -> each subject's window (b * k, 4, 16, 16).

    Where there is no subject (zoom 0) a window is of some place or other.
    """
    side = places[..., 2].flatten().clamp(min=0.1) * WINDOW / SCENE_SIZE
    x0, y0 = (2 * places[..., axis].flatten() / SCENE_SIZE - 1 for axis in (0, 1))
    none = torch.zeros_like(side)
    theta = torch.stack([torch.stack([side, none, x0], 1), torch.stack([none, side, y0], 1)], 1)
    count = places.shape[1]
    grid = F.affine_grid(theta, [len(side), x.shape[1], WINDOW_LATENTS, WINDOW_LATENTS], align_corners=False)
    return F.grid_sample(x.repeat_interleave(count, 0), grid, padding_mode="border", align_corners=False)


def amid_noise(place: Tensor) -> Tensor:
    """Where in [0, 1) a timestep lies, of a uniform place: two thirds in [0.4, 0.85), where subjects take their places
    and form. Nearer to the noise a random scene can hardly be guessed, and a subject's colour has nowhere to be."""
    knots, values = (0.0, 0.2, 0.85, 1.0), (0.0, 0.4, 0.85, 1.0)
    return torch.from_numpy(np.interp(place.numpy(), knots, values)).to(place)


def located(snr: Tensor) -> Tensor:
    """(b,) what a subject's attribute that a prediction misses counts: less where its place hardly shows in x_t."""
    return snr / (snr + 0.1)


def choose_subjects(places: np.ndarray, rng: np.random.Generator, count: int = WINDOWS) -> np.ndarray:
    """int (b, count): `count` different subjects of each scene at random, those that are not there last."""
    order = rng.random(places.shape[:2]) + 10 * (places[..., 2] == 0)
    return order.argsort(1)[:, :count]


def train_scene_reader(latents: np.ndarray, scaling: float, data: Pictures, folder: Path, steps: int) -> Network:
    """The reader of :mod:`testbed.reader` for subjects' windows; bfloat16 and frozen."""
    reader = build_reader().to(device()).train()
    trainer = HalfTrainer([reader], lr=2e-3, ema=0.998)
    train = len(latents) * 9 // 10

    def batch(rows: np.ndarray, seed: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([seed, 6])
        chosen = choose_subjects(data.places[rows], rng)
        index = rows[:, None], chosen
        x = torch.from_numpy(latents[rows].astype(np.float32) * scaling)
        x = windows(x, torch.from_numpy(data.places[index]))
        x = disturb(x, torch.Generator().manual_seed(seed)).to(device(), torch.bfloat16)
        target = torch.from_numpy(data.shown[index].astype(np.int64)).flatten(0, 1)
        return x.contiguous(memory_format=torch.channels_last), target.to(device())

    def loss_of_step(step: int) -> dict[str, Tensor]:
        rows = np.sort(np.random.default_rng([step, 5]).integers(0, train, 64))
        return {"read": unread(reader, *batch(rows, step)).mean()}

    run("scenes-reader", folder, trainer, loss_of_step, steps, report_every=100)
    trainer.finish()
    reader = reader.to(torch.bfloat16).eval().requires_grad_(False)
    with torch.no_grad():
        x, target = batch(np.arange(train, min(len(latents), train + 1000)), 0)
        for name, (k, o) in zip(HEADS, enumerate(reader(x)[0]), strict=True):
            there = target[:, k] >= 0
            if there.any():
                right = float((o.argmax(-1) == target[:, k])[there].float().mean())
                print(f"reader: {name} {right:.3f} of {int(there.sum())}", flush=True)
    return reader


@dataclass(frozen=True)
class Bound:
    """Who covers each latent pixel, and whose words are where in the plain and in the dense captions."""

    owners: np.ndarray
    plain: Bindings
    dense: Bindings


def train_scenes(
    start: UNet2DConditionModel, latents: np.ndarray, scaling: float, data: Pictures, plain: Conditions,
    dense: Conditions, bound: Bound | None, reader: Network | None, folder: Path, plan: Plan, save: Any,
) -> UNet2DConditionModel:  # fmt: skip
    """mini-sd's training (:func:`testbed.unet.train_unet`) on scenes. The reader reads windows of two subjects each;
    what it misses counts `plan.unread`; 0: it is not asked."""
    dev = device()
    model = scenes_unet(start).to(dev, memory_format=torch.channels_last).train()
    trainer = HalfTrainer([model], lr=plan.rate, ema=0.998)
    watched = Watched(model)
    predict: Any = torch.compile(watched) if plan.compile else watched
    misbound_of: Any = torch.compile(misbound) if plan.compile else misbound
    unread_of: Any = torch.compile(unread) if plan.compile else unread
    abar = unet.build_scheduler().alphas_cumprod.to(dev)
    each = len(plain.hidden) // len(latents)

    def loss_of_step(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([step, 4])
        learning = step < unet.LEARNING * plan.steps
        rows = rng.integers(0, len(latents), plan.batch)
        x0 = torch.from_numpy(latents[rows].astype(np.float32) * scaling).to(dev)
        chosen = rows * each + rng.integers(0, each, plan.batch)
        hidden, named = plain.hidden[chosen], plain.named[chosen]
        if bound is not None:
            phrases, subjects = bound.plain.phrases[chosen], bound.plain.subjects[chosen]
        if schedule(step, plan.steps) > 0.4:
            much = rng.random(plan.batch) < unet.DENSE_SHARE
            hidden[much], named[much] = dense.hidden[rows[much]], dense.named[rows[much]]
            if bound is not None:
                phrases[much], subjects[much] = bound.dense.phrases[rows[much]], bound.dense.subjects[rows[much]]
        generator = torch.Generator().manual_seed(step)
        noised = unet.add_noise(x0, abar, generator, amid_noise if learning else None)
        out, maps = predict(noised.noisy, noised.t, torch.from_numpy(hidden).to(dev, torch.bfloat16))
        out = out.float()
        terms = {"mse": unet.error_of(out, noised, torch.from_numpy(data.covers[rows]))}
        if reader is not None and plan.unread > 0:
            who = choose_subjects(data.places[rows], rng)
            places = torch.from_numpy(np.take_along_axis(data.places[rows], who[..., None], 1)).to(dev)
            target = torch.from_numpy(np.take_along_axis(named, who[..., None], 1).astype(np.int64)).flatten(0, 1)
            seen = disturb(windows(noised.guess(out), places), generator)
            seen = seen.bfloat16().contiguous(memory_format=torch.channels_last)
            missing = unread_of(reader, seen, target.to(dev), HARD)
            urgent = located(noised.snr).repeat_interleave(WINDOWS)
            terms["unread"] = plan.unread * (missing * urgent).mean()
        if bound is not None and plan.misbound > 0:
            told = (torch.from_numpy(a).to(dev) for a in (bound.owners[rows], phrases, subjects))
            terms["misbound"] = plan.misbound * (misbound_of(maps, *told) * located(noised.snr)).mean()
        return terms

    def snapshot(_: int) -> None:
        copy = scenes_unet(start)
        for p, a in zip(copy.parameters(), trainer.average, strict=True):
            p.data.copy_(a)
        save(copy, folder / "scenes-snapshot")

    run("scenes-unet", folder, trainer, loss_of_step, plan.steps, snapshot, report_every=50)
    trainer.finish()
    model.set_attn_processor(AttnProcessor2_0())
    return model.eval()


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    begin: Any = StableDiffusionPipeline.from_pretrained(args.start, safety_checker=None, requires_safety_checker=False)
    seeds = training_scene_seeds(args.pictures)
    data = pictures(seeds, args.runs)
    latents = latents_of(begin.vae, data.images, args.runs)
    scaling = float(begin.vae.config.scaling_factor)
    plain, dense = (
        conditions_of(begin.text_encoder, begin.tokenizer, seeds, data.shown, args.runs, each, much)
        for each, much in ((args.captions, False), (1, True))
    )
    reader = train_scene_reader(latents, scaling, data, args.runs, args.reader_steps) if args.reader_steps else None

    bound = None
    if args.misbound:
        of_plain, of_dense = (bindings_of(seeds, args.runs, n, much) for n, much in ((args.captions, False), (1, True)))
        bound = Bound(owners_of(seeds, args.runs), of_plain, of_dense)

    def save(model: UNet2DConditionModel, folder: Path) -> None:
        export(model, args.start, folder)

    plan = Plan(args.steps, args.batch, args.rate, args.unread, args.misbound, args.compile)
    model = train_scenes(begin.unet, latents, scaling, data, plain, dense, bound, reader, args.runs, plan, save)
    save(model, args.out)
    print(f"written: {args.out}", flush=True)


if __name__ == "__main__":
    main()
