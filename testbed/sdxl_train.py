"""Makes mini-sdxl: mini-sd's weights in a true SDXL (:mod:`testbed.sdxl`), trained for what is new in it.

    python -m testbed.sdxl_train --compile      resumable: start it again after an interruption
    python -m testbed.gate --model testbed/runs/sdxl-snapshot   the gate, which is mini-sd's, of the weights so far

The autoencoder, the first tokenizer and the first text encoder are mini-sd's own. The second text encoder is trained
from random weights, then the UNet, on pictures that are cropped or were small, with the time ids that say so; in many
samples one of what it is told must do without the others (:func:`told`). The number of steps may be changed while it
runs: write it to `testbed/runs/sdxl-unet.steps`; the last quarter cools down. The result goes to
`singleinsert/assets/mini-sdxl`, an average of the weights so far to `testbed/runs/sdxl-snapshot` every few minutes.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from singleinsert.models.bundled import MINI_SD
from singleinsert.models.loading import load_base_model

from . import reader, text, unet, vae
from .common import HalfTrainer, device, hold, run, schedule
from .dataset import pictures
from .judge import Network
from .sdxl import GAIN, transplant, transplant_unet
from .sdxl_data import SIDE, Framed, Texts, encode_first, encode_texts, framed_pictures
from .sdxl_text import encode_second, train_second

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "singleinsert" / "assets" / "mini-sdxl"
FRAMED_SHARE = 0.35
"""How often a sample is a crop, or was small."""
FIRST_BLANK, SECOND_BLANK, BOTH_BLANK, NOTHING = 0.30, 0.08, 0.08, 0.04
"""How often the first encoder's states, the second's, or both are those of the empty prompt while the pooled vector
says what the caption says; and how often all is zeros, as diffusers' pipeline has it without a negative prompt."""


def parse() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--pictures", type=int, default=20_000, help="pictures drawn for training")
    p.add_argument("--reader_steps", type=int, default=1500)
    p.add_argument("--text_steps", type=int, default=2000)
    p.add_argument("--steps", type=int, default=8000)
    p.add_argument("--batch_size", type=int, default=unet.BATCH, help="of the UNet")
    p.add_argument("--rate", type=float, default=4e-4, help="learning rate of the UNet")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--compile", action="store_true", help="compile the UNet: quicker on a CPU after some minutes")
    p.add_argument("--runs", type=Path, default=ROOT / "testbed" / "runs")
    p.add_argument("--out", type=Path, default=OUT)
    return p.parse_args()


@dataclass(frozen=True)
class Told:
    """What the UNet is told of b samples: states (b, L, 256 + 224), the first part divided by ``GAIN``, and pooled
    vectors (b, 288)."""

    states: Tensor
    pooled: Tensor

    def to(self, device: torch.device) -> Told:
        return Told(self.states.to(device), self.pooled.to(device))


def told(texts: Texts, rows: Tensor, empty: Told, rng: np.random.Generator) -> Told:
    """Captions of `rows`, now and then without one of what the encoders say; `empty` is the empty prompt's (1, ..)."""
    first, second, pooled = (part[rows].float() for part in (texts.first, texts.second, texts.pooled))
    limits = np.cumsum([NOTHING, BOTH_BLANK, FIRST_BLANK, SECOND_BLANK])
    case = torch.from_numpy(np.searchsorted(limits, rng.random(len(rows)), side="right")).to(rows.device)
    blank_first, blank_second = (((case == 1) | (case == k)).view(-1, 1, 1) for k in (2, 3))
    width, anything = first.shape[-1], case > 0
    first = torch.where(blank_first, empty.states[:, :, :width], first)
    second = torch.where(blank_second, empty.states[:, :, width:], second)
    states = torch.cat([first, second], dim=-1) * anything.view(-1, 1, 1)
    return Told(states, pooled * anything.unsqueeze(1))


@torch.no_grad()
def said_of_nothing(pipe: Any) -> Told:
    """What the encoders say of the empty prompt."""
    ids = torch.tensor([pipe.tokenizer("", padding="max_length").input_ids])
    states, pooled = encode_second(pipe.text_encoder_2, ids, [])
    return Told(torch.cat([encode_first(pipe.text_encoder, ids, []), states], dim=-1), pooled)


def divide_first_columns(model: UNet2DConditionModel, width: int) -> UNet2DConditionModel:
    """For true states in place of those divided by ``GAIN``: training sees both encoders' at about the same size."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
                weight[:, :width] /= GAIN
    return model


def save(pipe: StableDiffusionXLPipeline, model: UNet2DConditionModel, folder: Path) -> None:
    """mini-sdxl in float16, with mini-sd's autoencoder byte for byte; `model` is used up."""
    half: Any = divide_first_columns(model, pipe.text_encoder.config.hidden_size)
    pipe.register_modules(unet=half.half())
    for part in (pipe.text_encoder, pipe.text_encoder_2):
        encoder: Any = part
        encoder.half()
    pipe.save_pretrained(folder)
    for part in (pipe.text_encoder, pipe.text_encoder_2):
        encoder = part
        encoder.float()
    shutil.copytree(MINI_SD / "vae", folder / "vae", dirs_exist_ok=True)


@dataclass(frozen=True)
class Data:
    """Latents float16 (n, 4, 16, 16) and covers uint8 (n, 16, 16) of whole pictures, framed views of them, captions,
    one a picture, that name some or much of what is seen, and what each names (n, heads)."""

    latents: Tensor
    covers: Tensor
    framed: Framed
    plain: Texts
    plain_named: Tensor
    dense: Texts
    dense_named: Tensor

    def draw(self, rng: np.random.Generator, count: int, much: bool, empty: Told) -> tuple[Any, ...]:
        """Latents float32, covers, time ids, what is told, and what is named, of `count` samples."""
        dev = self.latents.device
        rows = torch.from_numpy(rng.integers(0, len(self.latents), count)).to(dev)
        framed = torch.from_numpy(rng.random(count) < FRAMED_SHARE).to(dev)
        shape = framed.view(-1, 1, 1)
        latents = torch.where(shape.unsqueeze(-1), self.framed.latents[rows], self.latents[rows]).float()
        covers = torch.where(shape, self.framed.covers[rows], self.covers[rows])
        whole = torch.tensor([SIDE, SIDE, 0, 0, SIDE, SIDE], device=dev)
        ids = torch.where(framed.unsqueeze(1), self.framed.time_ids[rows].long(), whole)
        texts, named = (self.dense, self.dense_named) if much else (self.plain, self.plain_named)
        named = named[rows].long().masked_fill(framed.unsqueeze(1), -1)  # a part of a picture need not show it
        return latents, covers, ids, told(texts, rows, empty, rng), named


def train_unet(
    model: UNet2DConditionModel, data: Data, scaling: float, empty: Told, network: Network, args: argparse.Namespace,
    snapshot: Callable[[HalfTrainer], None],
) -> UNet2DConditionModel:  # fmt: skip
    """mini-sd's training (:func:`testbed.unet.train_unet`) from its weights, with all that SDXL is told."""
    dev = device()
    model = model.to(dev, memory_format=torch.channels_last).train()
    if dev.type == "cpu":
        model.set_attn_processor(AttnProcessor())
    trainer = HalfTrainer([model], lr=args.rate, ema=0.999)
    if args.compile:
        # within one graph, its last bias and the time embedding's have the one gradient, and PyTorch 2.13's compiler
        # declares that twice in its C++
        model.add_embedding.forward = torch.compiler.disable(model.add_embedding.forward)
    predict: Any = torch.compile(model) if args.compile else model
    unread_of: Any = torch.compile(reader.unread) if args.compile else reader.unread
    abar = unet.build_scheduler().alphas_cumprod.to(dev)
    nothing = empty.to(dev)

    def loss_of_step(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([step, 4])
        much = schedule(step, args.steps) > 0.4 and rng.random() < unet.DENSE_SHARE
        latents, covers, ids, said, named = data.draw(rng, args.batch_size, much, nothing)
        x0 = latents * scaling
        generator = torch.Generator().manual_seed(step)
        learning = step < unet.LEARNING * args.steps
        noised = unet.add_noise(x0, abar, generator, unet.towards_noise if learning else None)
        more = {"text_embeds": said.pooled.bfloat16(), "time_ids": ids}
        states = said.states.bfloat16()
        out = predict(noised.noisy, noised.t, states, added_cond_kwargs=more).sample.float()
        guess = reader.disturb(noised.guess(out), generator).bfloat16().contiguous(memory_format=torch.channels_last)
        missing = unread_of(network, guess, named)
        return {
            "mse": unet.error_of(out, noised, covers),
            "unread": unet.UNREAD_WEIGHT * (missing * unet.urgency(noised.snr)).mean(),
        }

    run("sdxl-unet", args.runs, trainer, loss_of_step, args.steps, lambda _: snapshot(trainer), report_every=50)
    trainer.finish()
    model.set_default_attn_processor()
    return model.eval()


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    mini: Any = load_base_model(MINI_SD)
    pipe = transplant(mini)
    seeds, drawn, covers = pictures(args.pictures, args.runs, args.threads)
    rounded: Any = load_base_model(MINI_SD)  # a copy, whose autoencoder encode_all gives back rounded
    latents, _ = vae.encode_all(rounded.vae, drawn, args.runs)
    scaling = float(mini.vae.config.scaling_factor)
    framed = framed_pictures(mini.vae, drawn, covers, args.runs)
    shown = reader.shown_labels(seeds, args.runs)
    network = reader.train_reader(latents, scaling, shown, args.runs, args.reader_steps)
    ids, said = text.caption_table(mini.tokenizer, seeds, 1, args.runs)
    dense_ids, dense_said = text.caption_table(mini.tokenizer, seeds, 1, args.runs, dense=True)
    both = np.concatenate([ids, dense_ids]), np.concatenate([said, dense_said])
    train_second(pipe.text_encoder_2, *both, args.runs, args.text_steps)
    plain, dense = (
        encode_texts(pipe.text_encoder, pipe.text_encoder_2, rows, args.runs, name)
        for name, rows in (("plain", ids), ("dense", dense_ids))
    )
    named, dense_named = (reader.named_labels(shown, table) for table in (said, dense_said))
    data = Data(hold(latents), hold(covers), framed, plain, hold(named), dense, hold(dense_named))

    def snapshot(trainer: HalfTrainer) -> None:
        copy = transplant_unet(mini.unet)
        for p, a in zip(copy.parameters(), trainer.average, strict=True):
            p.data.copy_(a)
        save(pipe, copy, args.runs / "sdxl-snapshot")

    start = transplant_unet(mini.unet)
    model = train_unet(start, data, scaling, said_of_nothing(pipe), network, args, snapshot)
    save(pipe, model, args.out)
    print(f"written: {args.out}", flush=True)


if __name__ == "__main__":
    main()
