"""The miniature world's segmenter: a picture and one of its words in, a mask out. 0.4 million weights.

It is trained by `python -m testbed.segmenter` on the drawn world's exact masks, absent subjects included, and lies
in the bundled model's folder, so that the offline demo too starts from a bare picture. It knows drawings only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from singleinsert.atomic import write_atomically, write_text
from singleinsert.errors import InputError, ModelError, first_line
from singleinsert.masks.candidates import GIVE_A_MASK, THRESHOLD, Box, Candidate, Point, bounds
from singleinsert.masks.grabcut import GrabCut
from singleinsert.masks.pieces import pieces

FOLDER = Path(__file__).resolve().parents[1] / "assets" / "mini-sd" / "segmenter"
SCENES = "mini-scenes"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
SIZE = 64
WORD_WIDTH = 32


class Block(nn.Module):
    """Two 3x3 convolutions with a residual; the word scales and shifts the features between them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.norm_in, self.norm_mid = nn.GroupNorm(_groups(inputs), inputs), nn.GroupNorm(_groups(outputs), outputs)
        self.word = nn.Linear(WORD_WIDTH, 2 * outputs)

    def forward(self, x: Tensor, word: Tensor) -> Tensor:
        """x (b, inputs, h, w), word (b, WORD_WIDTH) -> (b, outputs, h, w)."""
        scale, shift = self.word(word)[:, :, None, None].chunk(2, dim=1)
        h = self.first(F.silu(self.norm_in(x)))
        return self.skip(x) + self.second(F.silu(self.norm_mid(h) * (1 + scale) + shift))


def _groups(channels: int) -> int:
    return 8 if channels % 8 == 0 else 1


class SegmenterNet(nn.Module):
    """A U-Net conditioned on a word."""

    def __init__(self, words: Sequence[str], channels: Sequence[int] = (24, 48, 80)) -> None:
        """
        Args:
            words: what it can be asked for; a word's number is its place.
            channels: per level, from 32x32 down, each level half the size of the one before. Four pixels go in as
                one and come out as four: that is a quarter of the work, and the outlines stay exact.
        """
        super().__init__()
        self.words, self.channels = tuple(words), tuple(channels)
        self.size, self.several = SIZE, False
        self.word = nn.Embedding(len(words), WORD_WIDTH)
        self.entry = nn.Conv2d(3 * 4, channels[0], 3, padding=1)
        ins = (channels[0], *channels[:-1])
        self.down = nn.ModuleList(Block(i, o) for i, o in zip(ins, channels, strict=True))
        self.middle = Block(channels[-1], channels[-1])
        outs = (*channels[-2::-1], channels[0])
        self.up = nn.ModuleList(
            Block(i + s, o) for i, s, o in zip((channels[-1], *outs), channels[::-1], outs, strict=False)
        )
        self.exit = nn.Conv2d(channels[0], 4, 3, padding=1)

    def forward(self, pixels: Tensor, word: Tensor) -> Tensor:
        """pixels (b, 3, 64, 64) in [-1, 1], word (b,) int64 -> logits (b, 1, 64, 64)."""
        condition = self.word(word)
        x, skips = self.entry(F.pixel_unshuffle(pixels, 2)), []
        for level, block in enumerate(self.down):
            x = block(F.avg_pool2d(x, 2) if level else x, condition)
            skips.append(x)
        x = self.middle(x, condition)
        for block in self.up:
            skip = skips.pop()
            if x.shape[-1] != skip.shape[-1]:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = block(torch.cat([x, skip], dim=1), condition)
        return F.pixel_shuffle(self.exit(F.silu(x)), 2)


def save_segmenter(net: SegmenterNet, folder: Path) -> None:
    """Writes config and float16 weights, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().half().contiguous() for name, tensor in net.state_dict().items()}
    write_atomically(folder / WEIGHTS, partial(save_file, weights))
    text = json.dumps({"words": net.words, "channels": net.channels}, indent=1) + "\n"
    write_text(folder / CONFIG, text)


def load_segmenter(folder: Path = FOLDER) -> SegmenterNet:
    """The segmenter of a folder, float32, frozen; with the side of its pictures, and whether it finds several.

    Raises:
        ModelError: files missing or not fitting each other.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        net = SegmenterNet(config["words"], config["channels"])
        net.size, net.several = int(config.get("size", SIZE)), bool(config.get("several", False))
        net.load_state_dict(load_file(folder / WEIGHTS))
    except FileNotFoundError as problem:
        raise ModelError(f"no segmenter in {folder} ({problem.filename} is missing); {GIVE_A_MASK}") from problem
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as problem:
        raise ModelError(f"the segmenter in {folder} cannot be loaded: {first_line(problem)}") from problem
    return net.eval().requires_grad_(False)


def segmenter_folder(name: str) -> Path:
    """Of the setting ``mask.segmenter``: "" is mini-sd's, "mini-scenes" that of scenes, else a folder."""
    return FOLDER.parents[1] / SCENES / FOLDER.name if name == SCENES else Path(name) if name else FOLDER


KINDS_OF = {"cap": "hat", "beanie": "hat", "sunglasses": "glasses"}
"""What captions of the drawn world call a thing -> what the segmenter has learnt to call all its kinds."""


class MiniSegmenter:
    """Finds what the drawn world has words for, in drawn pictures."""

    name = "mini segmenter for drawings"

    def __init__(self, folder: Path = FOLDER, *, threshold: float = THRESHOLD) -> None:
        self._net, self.threshold = load_segmenter(folder), threshold

    def find(self, image: Image.Image, prompt: str) -> list[Candidate]:
        """The word's subject, or none where it is not in the picture; where the segmenter is of scenes, every one of
        its subjects, the largest first.

        The score is how far from undecided the taken pixels are: the mean of 2 p - 1.

        Raises:
            InputError: no word of `prompt` is known.
        """
        listed = (KINDS_OF.get(word, word) for word in prompt.lower().replace(".", " ").split())
        known = [word for word in listed if word in self._net.words]
        if not known:
            raise InputError(
                f"the miniature's segmenter has no word for {prompt!r}, only {', '.join(self._net.words)}: "
                f"{GIVE_A_MASK}, or take another mask.backend"
            )
        with torch.no_grad():
            logits = self._net(pixels(image, self._net.size), torch.tensor([self._net.words.index(known[-1])]))
        # Interpolating before the cut keeps the outline smooth on pictures larger than 64.
        large = F.interpolate(logits, size=(image.height, image.width), mode="bilinear", antialias=True)
        probability = large.sigmoid()[0, 0].numpy()
        taken = probability > 0.5
        parts = pieces(taken, self._net.size) if self._net.several else [taken] * bool(taken.any())
        scored = [(part, float((2 * probability[part] - 1).mean())) for part in parts]
        return [
            Candidate(Image.fromarray(part.astype(np.uint8) * 255), bounds(part), score, known[-1])
            for part, score in scored
            if score >= self.threshold
        ]

    def outline(self, image: Image.Image, box: Box | None, points: Sequence[Point]) -> Candidate:
        """GrabCut in the user's box or around the user's points."""
        return GrabCut().outline(image, box, points)

    def close(self) -> None:
        """Nothing that is worth freeing."""


def pixels(image: Image.Image, size: int = SIZE) -> Tensor:
    """RGB picture -> (1, 3, size, size) in [-1, 1]."""
    small = image.convert("RGB").resize((size, size), Image.Resampling.BOX if min(image.size) > size else 2)
    return torch.from_numpy(np.asarray(small, np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
