"""The judge of the drawn world: reads from a picture what it shows, and whose picture it is.

    python -m testbed.judge                train it, resumable; three quarters of an hour of one CPU core
    python -m testbed.judge --evaluate     measure the committed judge on held-out drawn pictures

It is trained on drawn pictures alone, never on generated ones (`judge_training`), so what it finds in a
generated picture is what the world's drawing rules mean by the words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .labels import HEADS, attributes_of, head_of
from .world.features import CLASSES

ASSET = Path(__file__).resolve().parent / "assets" / "judge.safetensors"
SIZE, WIDTH, GRID, EMBEDDING, LOOKS = 64, 192, 8, 128, 6
BATCH = 128


def convolution(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False), nn.GroupNorm(8, outputs), nn.SiLU()
    )


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = convolution(channels, channels), convolution(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x))


class Network(nn.Module):
    """One trunk to an 8 x 8 map; every head looks at the map with its own attention, then is linear.

    `trunk`, where it is not pictures that are read: a module to (b, `WIDTH`, 8, 8).
    """

    def __init__(self, trunk: nn.Module | None = None) -> None:
        super().__init__()
        self.trunk = trunk or nn.Sequential(
            convolution(3, 32, 5, 2), Residual(32), convolution(32, 64, 3, 2), Residual(64),
            convolution(64, 128, 3, 2), Residual(128), convolution(128, WIDTH), nn.GroupNorm(8, WIDTH),
        )  # fmt: skip
        sizes = [len(v) for v in HEADS.values()] + [len(CLASSES)]  # the last one: which classes are present
        self.sizes = sizes
        self.queries = nn.Parameter(torch.randn(len(sizes) + LOOKS, WIDTH) * 0.02)
        self.places = nn.Parameter(torch.zeros(len(sizes) + LOOKS, GRID * GRID))
        self.weight = nn.Parameter(torch.randn(sum(sizes), WIDTH) * WIDTH**-0.5)
        self.bias = nn.Parameter(torch.zeros(sum(sizes)))
        self.embed = nn.Linear(LOOKS * WIDTH, EMBEDDING)
        owner = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        self.register_buffer("owner", owner, persistent=False)

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """(b, 3, 64, 64) in [-1, 1] -> logits (b, values) of each head, presence logits (b, classes), and
        the identity embedding (b, d), not normalised."""
        grid = self.trunk(x).flatten(2)  # b, c, 64
        look = (self.queries @ grid + self.places).softmax(-1) @ grid.transpose(1, 2)
        owner = self.get_buffer("owner")
        logits = (look[:, owner] * self.weight).sum(-1) + self.bias
        *heads, present = logits.split(self.sizes, dim=1)
        return heads, present, self.embed(look[:, len(self.sizes) :].flatten(1))


@dataclass(frozen=True)
class Answer:
    """What the judge reads for one attribute, and how probable it finds it."""

    value: str
    probability: float


@dataclass(frozen=True)
class Reading:
    """Attribute -> answer, for a subject of class `cls`; and the probability that each class is present."""

    cls: str
    answers: dict[str, Answer]
    present: dict[str, float]

    def __getitem__(self, attribute: str) -> Answer:
        return self.answers[attribute]

    def __contains__(self, attribute: str) -> bool:
        return attribute in self.answers


Pictures = Sequence[Image.Image] | Tensor


def to_batch(images: Pictures) -> Tensor:
    """PIL pictures, or a tensor (n, 3, h, w) in [-1, 1], of any size -> float32 (n, 3, 64, 64) in [-1, 1]."""
    if isinstance(images, Tensor):
        x = images.float()
        if x.shape[-2:] == (SIZE, SIZE):
            return x
        return F.interpolate(x, (SIZE, SIZE), mode="bilinear", antialias=True).clamp(-1, 1)
    small = [im.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS) for im in images]
    stacked = np.stack([np.asarray(im) for im in small])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 127.5 - 1


class Judge:
    """Reads pictures; on the CPU and in float32 unless it is moved by `to`."""

    def __init__(self, network: Network) -> None:
        self.network = network.eval().requires_grad_(False)

    @staticmethod
    def load(path: Path = ASSET) -> Judge:
        """The committed judge, or another `judge.safetensors`."""
        network = Network()
        network.load_state_dict({k: v.float() for k, v in load_file(path).items()})
        return Judge(network)

    def save(self, path: Path) -> None:
        """Weights in float16."""
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({k: v.half().contiguous() for k, v in self.network.state_dict().items()}, path)

    def to(self, device: torch.device | str) -> Judge:
        self.network.to(device)
        return self

    @torch.no_grad()
    def outputs(self, images: Pictures) -> tuple[list[Tensor], Tensor, Tensor]:
        """Probabilities (n, values) per head of `HEADS`, presence (n, classes), unit embeddings (n, d)."""
        where = self.network.queries.device
        parts = [self.network(x.to(where)) for x in to_batch(images).split(BATCH)]
        heads = [torch.cat([p[0][k] for p in parts]).softmax(-1).cpu() for k in range(len(HEADS))]
        present = torch.cat([p[1] for p in parts]).sigmoid().cpu()
        return heads, present, F.normalize(torch.cat([p[2] for p in parts]), dim=-1).cpu()

    def read(self, images: Pictures, classes: Sequence[str] | None = None) -> list[Reading]:
        """What each picture shows. The attributes are those of the class that the judge sees, or of
        `classes[k]`, one for each picture: a picture of a car asked for a face's nose gets an answer too."""
        heads, present, _ = self.outputs(images)
        by_name = dict(zip(HEADS, heads, strict=True))
        out = []
        for k in range(len(present)):
            cls = classes[k] if classes is not None else CLASSES[int(by_name["class"][k].argmax())]
            answers = {}
            for name in attributes_of(cls):
                head = head_of(cls, name)
                assert head is not None
                best = int(by_name[head][k].argmax())
                answers[name] = Answer(HEADS[head][best], float(by_name[head][k, best]))
            seen = {c: float(p) for c, p in zip(CLASSES, present[k], strict=True)}
            out.append(Reading(cls, answers, seen))
        return out

    def embed(self, images: Pictures) -> Tensor:
        """Unit vectors (n, d): pictures of one instance lie close, whatever it wears and wherever it is."""
        return self.outputs(images)[2]

    def identity(self, images: Pictures, reference: Image.Image | Tensor) -> Tensor:
        """Cosine (n,) of each picture's embedding with that of `reference` (PIL, or (1, 3, h, w))."""
        whose = self.embed([reference] if isinstance(reference, Image.Image) else reference)
        return self.embed(images) @ whose[0]


if __name__ == "__main__":
    from .judge_training import main

    main()
