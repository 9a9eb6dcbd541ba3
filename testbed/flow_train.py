"""Makes mini-flow: a miniature FLUX.2 klein that learns mini-sd's predictions, told by a tiny Qwen3.

    python -m testbed.flow_train --compile      resumable: start it again after an interruption

First the language model, on the world's captions inside its chat template, tokenised in pieces as a concept's prompts
are; then the transformer, on the velocities that mini-sd says (:class:`testbed.flow.Teacher`), and on the pictures
themselves where mini-sd knows nothing. The number of steps may be changed while it runs: write it to
`testbed/runs/flow-transformer.steps`. The result goes to `testbed/runs/mini-flow`: a folder of diffusers.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from singleinsert.models.bundled import MINI_SD
from singleinsert.models.chat import ChatTemplate, tokenize_in_chat
from singleinsert.models.families.flux2 import TAPS, velocity
from singleinsert.models.loading import load_base_model

from . import text, vae
from .common import HalfTrainer, device, hold, run
from .dataset import pictures
from .flow import (
    LENGTH,
    WIDTH,
    Teacher,
    build_pipeline,
    build_text_encoder,
    build_tokenizer,
    build_transformer,
    flow_autoencoder,
    pack,
)
from .sdxl_text import Sums, summed_in
from .world.captions import caption_and_said
from .world.scene import Scene

ROOT = Path(__file__).resolve().parent.parent
TEXT_BATCH = 64
MERGED = 0.2
"""How often a span of two to five words of a caption is one slot, as a concept's word will be."""
DATA_SHARE = 0.1
"""Samples that see the picture itself instead of mini-sd, where mini-sd could be asked too."""
DENSE_SHARE = 0.5
"""Steps whose captions name most of what their pictures show; those of the others name little."""
SHIFT = 1.6
"""Of the noise levels in training: the median is then that of mini-sd's."""


def parse() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--pictures", type=int, default=20_000, help="pictures drawn for training")
    p.add_argument("--text_steps", type=int, default=3000)
    p.add_argument("--steps", type=int, default=15_000)
    p.add_argument("--batch_size", type=int, default=32, help="of the transformer")
    p.add_argument("--rate", type=float, default=6e-4, help="learning rate of the transformer")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--compile", action="store_true", help="compile both networks: quicker on a CPU after some minutes")
    p.add_argument("--runs", type=Path, default=ROOT / "testbed" / "runs")
    p.add_argument("--out", type=Path, default=ROOT / "testbed" / "runs" / "mini-flow")
    return p.parse_args()


@dataclass(frozen=True)
class Prompts:
    """Token ids int16 (n, L) inside the template, and what the slot of a merged span sums: row -> (slot, ids)."""

    ids: np.ndarray
    sums: dict[int, tuple[int, tuple[int, ...]]]

    def merged(self, rows: Iterable[int]) -> Sums:
        """Of these rows, for :func:`testbed.sdxl_text.summed_in`."""
        found = ((place, self.sums.get(int(row))) for place, row in enumerate(rows))
        return [(place, slot[0], torch.tensor(slot[1])) for place, slot in found if slot is not None]


def prompts_of(tokenizer: Any, captions: Sequence[str], share: float = MERGED) -> Prompts:
    """Captions tokenised as a user's prompts; in a `share` of them a span of words is a slot, as a concept would be."""
    template = ChatTemplate.of(tokenizer, enable_thinking=False)
    ids = np.zeros((len(captions), LENGTH), np.int16)
    sums: dict[int, tuple[int, tuple[int, ...]]] = {}
    for row, caption in enumerate(captions):
        rng, said = np.random.default_rng([row, 10]), caption.split(" ")
        merge = len(said) > 4 and rng.random() < share
        if merge:
            length = int(rng.integers(2, 6))
            first = int(rng.integers(0, max(1, len(said) - length)))
            span = " " + " ".join(said[first : first + length])
            caption = " ".join([*said[:first], "*", *said[first + length :]])
        found = tokenize_in_chat(tokenizer, template, caption, {"*": 1} if merge else {}, LENGTH)
        ids[row] = found.input_ids[0].numpy()
        if merge:
            sums[row] = (found.slots[0].position, tuple(tokenizer(span, add_special_tokens=False)["input_ids"]))
    return Prompts(ids, sums)


def joined(first: Prompts, second: Prompts) -> Prompts:
    """One after the other."""
    count = len(first.ids)
    return Prompts(np.concatenate([first.ids, second.ids]), first.sums | {n + count: s for n, s in second.sums.items()})


def states_of(encoder: Any, ids: Tensor, sums: Sums, pad: int) -> Tensor:
    """What klein's transformer is told of token ids (b, L): (b, L, 3 d)."""
    with summed_in(encoder, sums):
        out = encoder.model(
            input_ids=ids, attention_mask=(ids != pad).long(), output_hidden_states=True, use_cache=False
        )
    return torch.cat([out.hidden_states[tap] for tap in TAPS], dim=-1)


def train_text(encoder: Any, prompts: Prompts, said: np.ndarray, folder: Path, steps: int) -> Any:
    """Cross-entropy of every attribute that captions name, read from the states. A causal model says of a word what
    came before it alone: the template's end must carry the rest."""
    dev = device()
    encoder.to(dev).train()
    torch.manual_seed(22)
    readout = text.Readout(len(TAPS) * WIDTH).to(dev)
    trainer = HalfTrainer([encoder, readout], lr=6e-4, ema=0.998)
    pad = encoder.config.pad_token_id

    def loss_of_step(step: int) -> dict[str, Tensor]:
        rows = np.sort(np.random.default_rng([step, 11]).integers(0, len(prompts.ids), TEXT_BATCH))
        ids = prompts.ids[rows]
        ids = ids[:, : int((ids != pad).sum(1).max()) + 1]  # one position of padding, which is read too
        states = states_of(encoder, torch.from_numpy(ids.astype(np.int64)).to(dev), prompts.merged(rows), pad)
        target = torch.from_numpy(said[rows].astype(np.int64)).to(dev)
        losses = [F.cross_entropy(o.float(), target[:, k]) for k, o in enumerate(readout(states))]
        return {"read": 10 * torch.stack(losses).mean()}

    run("flow-text", folder, trainer, loss_of_step, steps)
    trainer.finish(average=False)
    return encoder.eval().requires_grad_(False)


def tell(encoder: Any, teachers: Any, prompts: Prompts, ids: np.ndarray, cache: Path) -> Told:
    """What the language model says of prompts, and mini-sd's text encoder of the same captions' token ids."""
    cache.mkdir(exist_ok=True)
    said = text.encode_captions(teachers, ids, cache, merge_share=0.0)
    return Told(hold(encode_prompts(encoder, prompts, cache)), hold(said))


@torch.no_grad()
def encode_prompts(encoder: Any, prompts: Prompts, cache: Path) -> np.ndarray:
    """States float16 (n, L, 3 d), memory-mapped; computed once."""
    file = cache / f"states-{len(prompts.ids)}.npy"
    if not file.exists():
        part = file.with_suffix(".part.npy")
        out = np.lib.format.open_memmap(part, "w+", np.float16, (*prompts.ids.shape, len(TAPS) * WIDTH))
        for i in tqdm(range(0, len(out), 128), desc="states", mininterval=10):
            rows = range(i, min(i + 128, len(out)))
            ids = torch.from_numpy(prompts.ids[i : i + 128].astype(np.int64)).to(encoder.device)
            states = states_of(encoder, ids, prompts.merged(rows), encoder.config.pad_token_id)
            out[i : i + 128] = states.float().cpu().numpy()
        out.flush()
        part.rename(file)
    return np.load(file, mmap_mode="c")


@dataclass(frozen=True)
class Told:
    """What n captions tell the student (n, L, 3 d) and mini-sd (n, L, 256), float16."""

    student: Tensor
    teacher: Tensor


@dataclass(frozen=True)
class Data:
    """Latents float16 (n, 4, 16, 16) unscaled, and of each picture captions that name some or much of what it shows."""

    latents: Tensor
    plain: Told
    dense: Told


def velocities(
    x0: Tensor, said: Tensor, teacher: Teacher, generator: torch.Generator, data_share: float = DATA_SHARE
) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy latents x_s (b, c, h, w), noise levels s (b,), and the velocities that are to be learnt there.

    Args:
        x0: (b, c, h, w) clean packed latents. said: mini-sd's states (b, L, 256).
    """
    count, dev = len(x0), x0.device
    u = (torch.arange(count) + torch.rand(count, generator=generator)).to(dev) / count
    s = SHIFT * u / (1 + (SHIFT - 1) * u)
    noise = torch.randn(x0.shape, generator=generator).to(dev)
    asked = teacher.knows(s) & (torch.rand(count, generator=generator) >= data_share).to(dev)
    rows = teacher.row(s)
    s = torch.where(asked, teacher.levels_of(rows), s.clamp(max=0.999))
    spread = s.view(-1, 1, 1, 1)
    x_s = (1 - spread) * x0 + spread * noise
    target = torch.where(asked.view(-1, 1, 1, 1), teacher.velocity(x_s, rows, said), noise - x0)
    return x_s, s, target


def train_transformer(
    model: Any, data: Data, teacher: Teacher, scale: float, args: argparse.Namespace, save: Any
) -> Any:
    """Squared error of the velocity, x0's own weight in it: s^2, but 0.05 at least."""
    dev = device()
    model.to(dev).train()
    trainer = HalfTrainer([model], lr=args.rate, ema=0.999)
    predict: Any = torch.compile(model) if args.compile else model

    def loss_of_step(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([step, 12])
        rows = torch.from_numpy(rng.integers(0, len(data.latents), args.batch_size)).to(dev)
        told = data.dense if rng.random() < DENSE_SHARE else data.plain
        x0 = pack(data.latents[rows].float() * scale) - teacher.mean
        x_s, s, target = velocities(x0, told.teacher[rows].float(), teacher, torch.Generator().manual_seed(step))
        out = velocity(predict, x_s.bfloat16(), s.bfloat16(), told.student[rows].bfloat16()).float()
        weight = s.square().clamp(min=0.05).view(-1, 1, 1, 1)
        return {"velocity": ((out - target).square() * weight).mean()}

    run("flow-transformer", args.runs, trainer, loss_of_step, args.steps, lambda _: save(trainer), report_every=50)
    trainer.finish()
    return model.eval()


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    mini: Any = load_base_model(MINI_SD)
    scale = float(mini.vae.config.scaling_factor)
    seeds, drawn, _ = pictures(args.pictures, args.runs, args.threads)
    rounded: Any = load_base_model(MINI_SD)
    latents, _ = vae.encode_all(rounded.vae, drawn, args.runs)
    autoencoder = flow_autoencoder(mini.vae, latents)
    tokenizer = build_tokenizer(args.runs / "flow-tokenizer")
    tables = [text.caption_table(mini.tokenizer, seeds, 1, args.runs, dense=dense) for dense in (False, True)]
    prompts = [
        prompts_of(tokenizer, [caption_and_said(Scene.from_seed(seed), 0, dense)[0] for seed in seeds])
        for dense in (False, True)
    ]
    labels = np.concatenate([said for _, said in tables])
    encoder = train_text(build_text_encoder(tokenizer), joined(*prompts), labels, args.runs, args.text_steps)
    told = [
        tell(encoder, rounded.text_encoder, each, ids, args.runs / name)
        for each, (ids, _), name in zip(prompts, tables, ("flow-plain", "flow-dense"), strict=True)
    ]
    data = Data(hold(latents), *told)
    encoder.cpu()
    unet = mini.unet.to(device(), torch.bfloat16)
    teacher = Teacher(unet, mini.schedule, autoencoder, scale)

    def save(model: nn.Module, folder: Path) -> None:
        half: Any = model
        build_pipeline(autoencoder, half.half(), encoder, tokenizer).save_pretrained(folder)

    def snapshot(trainer: HalfTrainer) -> None:
        copy = build_transformer(autoencoder.bn.num_features)
        for p, a in zip(copy.parameters(), trainer.average, strict=True):
            p.data.copy_(a)
        save(copy, args.runs / "flow-snapshot")

    model = train_transformer(build_transformer(autoencoder.bn.num_features), data, teacher, scale, args, snapshot)
    save(model, args.out)
    print(f"written: {args.out}", flush=True)


if __name__ == "__main__":
    main()
