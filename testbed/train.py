"""Makes the miniature Stable Diffusion, from nothing:

    python -m testbed.train                       everything, resumable: start it again after an interruption
    python -m testbed.train --pictures 2000 --vae_steps 50 --text_steps 50 --reader_steps 50 --unet_steps 50 \\
        --out try-out                             a try-out

    python -m testbed.train --start singleinsert/assets/mini-sd   from its weights instead: as many steps more

State lies in `testbed/runs` (never committed); the result goes to `singleinsert/assets/mini-sd`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from . import reader, text, unet, vae
from .common import HalfTrainer
from .dataset import pictures
from .labels import HEADS
from .tokenizer import build_tokenizer, check
from .world.features import CLASSES

ROOT = Path(__file__).resolve().parent.parent
FACE_SHARE, HAIR_SHARE = 1.5, 4.0
"""How often a picture of a face is drawn in training, and one that shows its hair, against 1 of the others: a face has
most to say, and a hat covers the hair of many."""


def parse() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--pictures", type=int, default=60_000, help="pictures drawn for training")
    p.add_argument("--captions", type=int, default=2, help="captions for each picture")
    p.add_argument("--vae_steps", type=int, default=2500)
    p.add_argument("--text_steps", type=int, default=2500)
    p.add_argument("--reader_steps", type=int, default=3000)
    p.add_argument("--unet_steps", type=int, default=20_000)
    p.add_argument("--start", type=Path, help="a mini-sd folder to go on from: its UNet and autoencoder are trained "
                   "further, its text encoder is taken as it is")  # fmt: skip
    p.add_argument("--compile", action="store_true", help="compile the UNet: a third quicker on a CPU")
    p.add_argument("--runs", type=Path, default=ROOT / "testbed" / "runs")
    p.add_argument("--out", type=Path, default=ROOT / "singleinsert" / "assets" / "mini-sd")
    return p.parse_args()


def main() -> None:
    args = parse()
    workers = len(os.sched_getaffinity(0))
    torch.set_num_threads(workers)
    begin: Any = None
    if args.start:
        begin = StableDiffusionPipeline.from_pretrained(args.start, safety_checker=None, requires_safety_checker=False)
    seeds, drawn, covers = pictures(args.pictures, args.runs, workers)
    tokenizer = build_tokenizer(args.runs / "tokenizer")
    check(tokenizer)
    autoencoder = vae.train_vae(drawn, args.runs, args.vae_steps, begin and begin.vae)
    latents, scaling = vae.encode_all(autoencoder, drawn, args.runs)
    autoencoder.register_to_config(scaling_factor=scaling)
    print(f"scaling factor {scaling}", flush=True)
    shown = reader.shown_labels(seeds, args.runs)
    latent_reader = reader.train_reader(latents, scaling, shown, args.runs, args.reader_steps)
    ids, said = text.caption_table(tokenizer, seeds, args.captions, args.runs)
    encoder = begin.text_encoder if begin else text.train_text(tokenizer, ids, said, args.runs, args.text_steps)
    conditions = text.encode_captions(encoder, ids, args.runs, merge_share=0.15)
    captions = unet.Captions(conditions, reader.named_labels(shown, said))
    dense_ids, dense_said = text.caption_table(tokenizer, seeds, 1, args.runs, dense=True)
    conditions = text.encode_captions(encoder, dense_ids, args.runs, merge_share=0.0)
    dense = unet.Captions(conditions, reader.named_labels(shown, dense_said))
    faces = shown[:, list(HEADS).index("class")] == CLASSES.index("face")
    hair = shown[:, list(HEADS).index("face.hair")] >= 0
    share = np.select([hair, faces], [HAIR_SHARE, FACE_SHARE], 1.0)

    def save(model: UNet2DConditionModel, folder: Path) -> None:
        pipe = StableDiffusionPipeline(
            vae=autoencoder.half(), text_encoder=encoder.half(), tokenizer=tokenizer, unet=model.half(),
            scheduler=unet.build_scheduler(), safety_checker=None, feature_extractor=None,
            requires_safety_checker=False,
        )  # fmt: skip
        pipe.save_pretrained(folder)

    def snapshot(_: UNet2DConditionModel, trainer: HalfTrainer, step: int) -> None:
        copy = unet.build_unet()
        for p, a in zip(copy.parameters(), trainer.average, strict=True):
            p.data.copy_(a)
        save(copy, args.runs / "snapshot")

    model = unet.train_unet(latents, scaling, covers, captions, dense, share / share.sum(), latent_reader, args.runs,
                            args.unet_steps, begin and begin.unet, args.compile, snapshot)  # fmt: skip
    save(model, args.out)
    print(f"written: {args.out}", flush=True)


if __name__ == "__main__":
    main()
