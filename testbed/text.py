"""Trains mini-sd's CLIPTextModel on the world's captions, before the UNet.

Its token outputs must let an attention read every attribute that a caption names (and tell when one is not
named), because that is what the UNet's cross-attention does with them. Spans of adjacent words are now and
then replaced by one slot that holds the sum of their embeddings: CLIP's text encoder has learnt on its scale
that one input vector can mean several words, a small one has to be shown.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .common import HalfTrainer, device, run
from .tokenizer import MAX_LENGTH
from .world.captions import Said, caption_and_said
from .world.features import BACKGROUNDS, CLASSES, EDITS, INSTANCE, STYLES, VIEWS
from .world.scene import Scene

WIDTH = 256
BATCH = 96


def attributes() -> dict[tuple[int, str], tuple[str, ...]]:
    """(subject number, attribute) -> its values over all classes; value index 0 is 'not said'."""
    table: dict[str, list[str]] = {"class": list(CLASSES)}
    for group in (*INSTANCE.values(), EDITS):
        for name, values in group.items():
            table.setdefault(name, []).extend(v for v in values if v not in table.get(name, []))
    out = {(k, n): tuple(v) for k in (0, 1) for n, v in table.items()}
    return out | {(0, "background"): BACKGROUNDS, (0, "style"): STYLES, (0, "view"): VIEWS}


ATTRIBUTES = attributes()


def labels(said: Said) -> list[int]:
    return [1 + values.index(said[key]) if key in said else 0 for key, values in ATTRIBUTES.items()]


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    torch.manual_seed(12)
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=WIDTH * 3,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=MAX_LENGTH,
            hidden_act="quick_gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            projection_dim=WIDTH,
        )
    )


class Readout(nn.Module):
    """One attention query and one linear classifier per attribute: (b, L, d) -> list of (b, values + 1)."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(len(ATTRIBUTES), width) * 0.05)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, 96)
        self.heads = nn.ModuleList(nn.Linear(96, len(v) + 1) for v in ATTRIBUTES.values())

    def forward(self, hidden: Tensor) -> list[Tensor]:
        weight = (self.queries @ self.key(hidden).transpose(1, 2) / hidden.shape[-1] ** 0.5).softmax(-1)
        read = weight @ self.value(hidden)
        return [head(read[:, k]) for k, head in enumerate(self.heads)]


def encode_tokens(model: CLIPTextModel, ids: Tensor, merges: list[tuple[int, int, int]]) -> Tensor:
    """Hidden states (b, L, d); each merge (row, first, last) sums the embeddings of that span into one slot,
    and moves what follows forward."""
    table = model.get_input_embeddings()

    def merged(_module: nn.Module, _args: object, out: Tensor) -> Tensor:
        if not merges:
            return out
        out = out.clone()
        pad = table.weight[-1]
        for row, a, b in merges:
            kept = torch.cat([out[row, :a], out[row, a:b].sum(0, keepdim=True), out[row, b:]])
            out[row] = torch.cat([kept, pad.expand(b - a - 1, -1)])
        return out

    handle = table.register_forward_hook(merged)
    try:
        return model(input_ids=ids).last_hidden_state
    finally:
        handle.remove()


def draw_merges(ids: np.ndarray, eos: int, rng: np.random.Generator, share: float) -> list[tuple[int, int, int]]:
    """Random spans of two to five tokens inside the captions of a `share` of the rows."""
    out = []
    for row in np.flatnonzero(rng.random(len(ids)) < share):
        length = int((ids[row] == eos).argmax())
        if length > 4:
            span = int(rng.integers(2, min(6, length - 1)))
            first = int(rng.integers(1, length - span + 1))
            out.append((int(row), first, first + span))
    return out


def caption_table(
    tokenizer: CLIPTokenizer, seeds: list[int], each: int, cache: Path, dense: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids int16 (n * each, L) and labels int8 (n * each, attributes) of `each` captions a scene."""
    file = cache / f"captions-{len(seeds)}-{each}{'-dense' if dense else ''}.npz"
    if not file.exists():
        texts, said = [], []
        for seed in tqdm(seeds, desc="captions"):
            scene = Scene.from_seed(seed)
            for k in range(each):
                text, what = caption_and_said(scene, k, dense)
                texts.append(text)
                said.append(labels(what))
        ids = np.concatenate(
            [
                np.asarray(tokenizer(texts[i : i + 4096], padding="max_length", truncation=True).input_ids, np.int16)
                for i in range(0, len(texts), 4096)
            ]
        )
        np.savez(file, ids=ids, labels=np.asarray(said, np.int8))
    data = np.load(file)
    return data["ids"], data["labels"]


def train_text(tokenizer: CLIPTokenizer, ids: np.ndarray, said: np.ndarray, folder: Path, steps: int) -> CLIPTextModel:
    """Cross-entropy of every attribute read from the token outputs; returns float32 weights."""
    dev = device()
    model = build_text_encoder(tokenizer).to(dev).train()
    if dev.type == "cpu":  # as for the UNet: the fused attention's backward is slow there
        model.set_attn_implementation("eager")
    torch.manual_seed(13)
    readout = Readout().to(dev)
    trainer = HalfTrainer([model, readout], lr=6e-4, ema=0.998)
    eos = tokenizer.eos_token_id

    def loss_of_step(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([step, 2])
        rows = np.sort(rng.integers(0, len(ids), BATCH))
        batch = torch.from_numpy(ids[rows].astype(np.int64)).to(dev)
        target = torch.from_numpy(said[rows].astype(np.int64)).to(dev)
        out = readout(encode_tokens(model, batch, draw_merges(ids[rows], eos, rng, 0.3)))
        losses = [F.cross_entropy(o.float(), target[:, k]) for k, o in enumerate(out)]
        return {"read": torch.stack(losses).mean() * 10}

    run("text", folder, trainer, loss_of_step, steps)
    trainer.finish(average=False)  # a short run that has cooled down: its average lags
    accuracy: dict[tuple[int, str], float] = {}
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        batch = torch.from_numpy(ids[:2000].astype(np.int64)).to(dev)
        target = torch.from_numpy(said[:2000].astype(np.int64)).to(dev)
        outputs = readout(model.eval()(input_ids=batch).last_hidden_state)
        for k, (key, o) in enumerate(zip(ATTRIBUTES, outputs, strict=True)):
            named = target[:, k] > 0
            if named.any():
                accuracy[key] = float((o.argmax(-1) == target[:, k])[named].float().mean())
    print("text: named attributes read back:", {f"{n}{k}": round(v, 3) for (k, n), v in accuracy.items()}, flush=True)
    return model


@torch.no_grad()
def encode_captions(model: CLIPTextModel, ids: np.ndarray, cache: Path, merge_share: float) -> np.ndarray:
    """float16 (n, L, d) hidden states of every caption, on disk and memory-mapped."""
    file = cache / f"conditions-{len(ids)}.npy"
    if not file.exists():
        dev = device()
        half = model.to(dev, torch.bfloat16).eval()
        eos = model.config.eos_token_id
        part = file.with_suffix(".part.npy")
        out = np.lib.format.open_memmap(part, "w+", np.float16, (len(ids), MAX_LENGTH, WIDTH))
        for i in tqdm(range(0, len(ids), 256), desc="conditions"):
            chunk = ids[i : i + 256]
            merges = draw_merges(chunk, eos, np.random.default_rng([i, 3]), merge_share)
            hidden = encode_tokens(half, torch.from_numpy(chunk.astype(np.int64)).to(dev), merges)
            out[i : i + 256] = hidden.float().cpu().numpy()
        out.flush()
        part.rename(file)
        model.float()
    return np.load(file, mmap_mode="c")
