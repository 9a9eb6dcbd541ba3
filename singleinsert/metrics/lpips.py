"""LPIPS (Zhang et al. 2018) by its own definition, over AlexNet, VGG16, or the miniature world's small network.

The published package has had no release since 2021; it and torchmetrics both take AlexNet and VGG16 from torchvision,
which this project must live without (CONTRIBUTING.md). Both networks are a dozen convolutions in a row, so they are
built here and read torchvision's own files; the published linear weights, a thousand numbers each, are bundled.
tests/test_backbones.py holds it to torchmetrics' implementation.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from singleinsert.atomic import write_atomically
from singleinsert.errors import InputError, ModelError, first_line

ASSETS = Path(__file__).resolve().parent.parent / "assets"
MINI = ASSETS / "mini-eval" / "lpips"
WEIGHTS = "model.safetensors"
BATCH = 32

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's statistics for pixels in [-1, 1], as the published package rounds them."""

TORCHVISION_FILES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}
DOWNLOADS = "https://download.pytorch.org/models/"

Layers = tuple[nn.Sequential, tuple[int, ...]]
"""A network, and the numbers of its layers whose outputs are compared."""


def alexnet() -> Layers:
    """`torchvision.models.alexnet().features`: Krizhevsky's "one weird trick" AlexNet, taken after each ReLU."""
    conv, relu, pool = nn.Conv2d, nn.ReLU, nn.MaxPool2d
    return nn.Sequential(
        conv(3, 64, 11, 4, 2), relu(), pool(3, 2), conv(64, 192, 5, padding=2), relu(), pool(3, 2),
        conv(192, 384, 3, padding=1), relu(), conv(384, 256, 3, padding=1), relu(),
        conv(256, 256, 3, padding=1), relu(),
    ), (1, 4, 7, 9, 11)  # fmt: skip


def vgg16() -> Layers:
    """`torchvision.models.vgg16().features`, taken after the last ReLU of each of its five blocks."""
    layers: list[nn.Module] = []
    taps, inputs = [], 3
    for block, (outputs, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
        layers += [nn.MaxPool2d(2, 2)] if block else []
        for _ in range(count):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
            inputs = outputs
        taps.append(len(layers) - 1)
    return nn.Sequential(*layers), tuple(taps)


def mini_network() -> Layers:
    """Five convolutions for 64 x 64 pictures, 0.12 million weights, trained by `python -m testbed.backbones`."""
    shapes = ((3, 32, 5, 2), (32, 48, 3, 2), (48, 64, 3, 1), (64, 64, 3, 2), (64, 64, 3, 1))
    layers = [m for i, o, k, s in shapes for m in (nn.Conv2d(i, o, k, s, k // 2), nn.ReLU())]
    return nn.Sequential(*layers), (1, 3, 5, 7, 9)


NETWORKS = {"alex": alexnet, "vgg": vgg16, "mini": mini_network}


class Lpips(nn.Module):
    """LPIPS' equation 1: sum over layers of the mean over places of |w_l * (f_l(a) - f_l(b))|^2, where the features
    f_l of a place are divided by their length over the channels, and w_l^2 are the learnt weights (all 1 where none
    were learnt, Zhang et al.'s uncalibrated variant)."""

    def __init__(self, network: str = "alex") -> None:
        super().__init__()
        self.network = network
        self.features, self.taps = NETWORKS[network]()
        widths = [m.out_channels for m in self.features if isinstance(m, nn.Conv2d)]
        convolutions = [k for k, m in enumerate(self.features) if isinstance(m, nn.Conv2d)]
        self.linear = nn.ParameterList(torch.ones(widths[convolutions.index(tap - 1)]) for tap in self.taps)
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None], persistent=False)

    def outputs(self, x: Tensor) -> list[Tensor]:
        """(b, 3, h, w) in [-1, 1] -> the compared layers (b, c, h', w'), not normalised."""
        x, out = (x - self.get_buffer("shift").to(x)) / self.get_buffer("scale").to(x), []
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in self.taps:
                out.append(x)
        return out

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Two batches (n, 3, h, w) in [-1, 1] -> distances (n,)."""
        total = a.new_zeros(len(a))
        for weight, f, g in zip(self.linear, self.outputs(a), self.outputs(b), strict=True):
            difference = (unit(f) - unit(g)).square() * weight[:, None, None]
            total = total + difference.sum(1).mean((1, 2))
        return total

    def save(self, folder: Path) -> None:
        """Float16 weights, whole or not at all."""
        weights = {k: v.detach().half().contiguous() for k, v in self.state_dict().items()}
        write_atomically(folder / WEIGHTS, partial(save_file, weights))


class LpipsDistance:
    """:class:`Lpips` for pictures."""

    def __init__(self, model: Lpips) -> None:
        self._model, self.name = model.eval().requires_grad_(False), f"LPIPS {model.network}"

    @torch.no_grad()
    def __call__(self, a: Sequence[Image.Image], b: Sequence[Image.Image]) -> Tensor:
        """Pairs of pictures, each of one size -> distances (n,) float32 on the CPU; at least 0.

        Raises:
            InputError: lists of different lengths, or a pair of different sizes, or a picture too small.
        """
        if len(a) != len(b):
            raise InputError(f"LPIPS compares pairs: {len(a)} pictures against {len(b)}")
        out, where = torch.zeros(len(a)), self._model.linear[0].device
        for size, rows in _by_size(a, b).items():
            for k in range(0, len(rows), BATCH):
                part = rows[k : k + BATCH]
                pair = [torch.stack([pixels(side[i]) for i in part]).to(where) for side in (a, b)]
                try:
                    out[part] = self._model(*pair).float().cpu()
                except RuntimeError as problem:
                    if "too small" not in str(problem):
                        raise
                    raise InputError(f"{self.name} needs larger pictures than {size[0]}x{size[1]}") from problem
        return out


def _by_size(a: Sequence[Image.Image], b: Sequence[Image.Image]) -> dict[tuple[int, int], list[int]]:
    rows: dict[tuple[int, int], list[int]] = {}
    for number, (first, second) in enumerate(zip(a, b, strict=True)):
        if first.size != second.size:
            raise InputError(f"LPIPS compares pictures of one size: {first.size} against {second.size}")
        rows.setdefault(first.size, []).append(number)
    return rows


def unit(features: Tensor, eps: float = 1e-8) -> Tensor:
    """(b, c, h, w) divided by its length over the channels, as LPIPS has it: eps under the root."""
    return features / (features.square().sum(1, keepdim=True) + eps).sqrt()


def pixels(picture: Image.Image) -> Tensor:
    """RGB picture -> (3, h, w) float32 in [-1, 1], at its own size."""
    return torch.from_numpy(np.array(picture.convert("RGB"), np.float32) / 127.5 - 1).permute(2, 0, 1)


def load(name: str, device: torch.device | str = "cpu") -> LpipsDistance:
    """ "mini", "alex", "vgg", or a folder with torchvision's file of AlexNet or VGG16, or with a network like mini's.

    Raises:
        ModelError: one line that says which file is needed and where.
    """
    mini = MINI if name == "mini" else Path(name)
    if name == "mini" and not mini.is_dir():
        raise ModelError(f"{mini} is missing: in a checkout, python -m testbed.backbones makes it")
    if name == "mini" or (mini / WEIGHTS).is_file():
        model = Lpips("mini")
        _fill(model, _read(mini / WEIGHTS), mini)
        return LpipsDistance(model.to(device))
    network, file = _trunk_file(name)
    model = Lpips(network)
    trunk = {k: v for k, v in _read(file).items() if k.startswith("features.")}
    linear = {f"linear.{k}": v for k, v in _read(ASSETS / "lpips" / f"{network}.safetensors").items()}
    _fill(model, trunk | linear, file)
    return LpipsDistance(model.to(device))


def _trunk_file(name: str) -> tuple[str, Path]:
    """(network, its weights' file) for "alex", "vgg" or a folder that holds one of them."""
    folder = Path(name)
    hub = Path(torch.hub.get_dir()) / "checkpoints"
    places = [(network, hub) for network in TORCHVISION_FILES if network == name] or [
        (network, folder) for network in TORCHVISION_FILES
    ]
    for network, place in places:
        wanted = TORCHVISION_FILES[network]
        for file in (place / wanted, place / Path(wanted).with_suffix(".safetensors")):
            if file.is_file():
                return network, file
    if name in TORCHVISION_FILES:
        wanted = TORCHVISION_FILES[name]
        raise ModelError(f"LPIPS {name} needs {DOWNLOADS}{wanted}: put it into {hub}, or give its folder")
    files = " or ".join(TORCHVISION_FILES.values())
    raise ModelError(f"LPIPS {name!r}: mini, alex, vgg, or a folder that holds {files}")


def _read(file: Path) -> dict[str, Tensor]:
    """A file of tensors; the .pth files are read as plain weights, code in a pickle is refused, never run."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as problem:  # each reader has errors of its own
        if isinstance(problem, FileNotFoundError | SafetensorError):
            raise ModelError(f"{file} is missing or damaged") from problem
        raise ModelError(f"{file} cannot be loaded as plain weights: {first_line(problem)}") from problem


def _fill(model: Lpips, weights: dict[str, Tensor], file: Path) -> None:
    try:
        model.load_state_dict({k: v.float() for k, v in weights.items()})
    except RuntimeError as problem:
        raise ModelError(f"{file} does not hold the weights of LPIPS {model.network}") from problem
