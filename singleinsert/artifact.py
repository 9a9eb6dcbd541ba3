"""A trained concept: the one object that training hands out, and the one file in which it is kept.

``NAME_artifact.safetensors`` holds tensors (``embedding``, and ``lora.<component>.<path>.down``,
``.up``, ``.alpha``) and one JSON text in its header. Saving and loading lose nothing; the files for the
clients are made from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from singleinsert.adapters.naming import COMPONENTS
from singleinsert.adapters.weights import LoraWeights
from singleinsert.atomic import FORBIDDEN_IN_NAMES, write_atomically
from singleinsert.errors import InputError, ModelError

SUFFIX = "_artifact.safetensors"
HEADER_KEY = "singleinsert"
FORMAT_VERSION = 1
FAMILIES = ("sd1", "sd2")
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")

Lora = dict[str, dict[str, LoraWeights]]


@dataclass(frozen=True)
class BaseInfo:
    """The base model that a concept was trained on.

    Attributes:
        family: "sd1" or "sd2".
        name: the short name that clients show ("stable-diffusion-v1-5", "mini-sd").
        prediction_type: "epsilon", "v_prediction" or "sample".
        source: what ``load_base_model`` was given (folder, hub id, file); "" where unknown.
    """

    family: str
    name: str
    prediction_type: str = "epsilon"
    source: str = ""


@dataclass(frozen=True)
class Artifact:
    """A trained concept.

    Attributes:
        name: file stem of everything exported, and the trigger word in WebUIs.
        placeholder: the token that stood for the concept in training ("*").
        class_word: what the concept is one of ("face"); "" where unknown.
        embedding: (n, d) float32, n vectors of the text encoder's input width.
        lora: {"unet": {module path: weights}, "text_encoder": {...}}; a component may be left out.
        base: the model it was trained on.
        metadata: anything JSON holds. Read on export: "created" (unix time), "resolution", "seed", "steps"
            ({stage: steps}), "settings" (the run's TOML), "learning_rate", "mask_share", "losses".
        lora_file: stem of the file that the LoRA was read from, where it is not ``NAME_lora``; not saved.
    """

    name: str
    placeholder: str
    class_word: str
    embedding: Tensor
    lora: Lora
    base: BaseInfo
    metadata: dict[str, Any] = field(default_factory=dict)
    lora_file: str = ""

    @property
    def num_vectors(self) -> int:
        return self.embedding.shape[0]

    @property
    def width(self) -> int:
        """Input width of the text encoder that the embedding is for: 768 for SD 1.x, 1024 for SD 2.x."""
        return self.embedding.shape[1]

    def rounded(self, dtype: torch.dtype) -> Artifact:
        """The concept as a file of precision ``dtype`` holds it, in float32. Alphas are never rounded."""

        def through(tensor: Tensor) -> Tensor:
            return tensor.to(dtype).to(torch.float32)

        lora = {
            component: {path: LoraWeights(through(w.down), through(w.up), w.alpha) for path, w in layers.items()}
            for component, layers in self.lora.items()
        }
        return replace(self, embedding=through(self.embedding), lora=lora)

    def save(self, path: Path) -> None:
        """Write the one file, whole or not at all. Raises ModelError where the artifact is not valid."""
        from safetensors.torch import save_file

        check(self, str(path))
        header = {
            "version": FORMAT_VERSION, "name": self.name, "placeholder": self.placeholder,
            "class_word": self.class_word, "base": asdict(self.base), "metadata": self.metadata,
        }  # fmt: skip
        tensors = {"embedding": self.embedding}
        for component, layers in self.lora.items():
            for module, weights in layers.items():
                stem = f"lora.{component}.{module}"
                tensors[f"{stem}.down"] = weights.down
                tensors[f"{stem}.up"] = weights.up
                tensors[f"{stem}.alpha"] = torch.tensor(weights.alpha, dtype=torch.float64)  # a python float, whole
        # copies: safetensors takes no tensors that are views or share memory
        tensors = {
            key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for key, tensor in tensors.items()
        }
        text = json.dumps(header, ensure_ascii=False)
        write_atomically(path, lambda target: save_file(tensors, target, metadata={HEADER_KEY: text}))

    @classmethod
    def load(cls, path: Path) -> Artifact:
        """Read what ``save`` wrote. Raises InputError (no such file) or ModelError (no artifact, damaged)."""
        tensors, header = read_safetensors(path)
        if HEADER_KEY not in header or "embedding" not in tensors:
            raise ModelError(f"{path} is not an artifact of this project (its name ends in {SUFFIX})")
        try:
            content = json.loads(header[HEADER_KEY])
            if content["version"] > FORMAT_VERSION:
                raise ModelError(
                    f"{path} was written by a newer version (format {content['version']}): update to read it"
                )
            artifact = cls(
                name=content["name"], placeholder=content["placeholder"], class_word=content["class_word"],
                embedding=tensors.pop("embedding"), lora=_lora_of(tensors), base=BaseInfo(**content["base"]),
                metadata=content["metadata"],
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"{path} is damaged: {error!r} in what describes the artifact; export or train it again"
            ) from error
        check(artifact, str(path))
        return artifact


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, header texts) of a safetensors file. Raises InputError or ModelError, one line each."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(f"no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path} is not a readable safetensors file ({error}): it may be cut short") from error


def check(artifact: Artifact, where: str) -> None:
    """Raise ModelError, naming ``where``, if a name, a shape or a number of ``artifact`` cannot be right."""
    if not artifact.name.strip() or set(artifact.name) & FORBIDDEN_IN_NAMES:
        raise ModelError(
            f"{where}: '{artifact.name}' cannot be a concept's name: none of {' '.join(sorted(FORBIDDEN_IN_NAMES))}"
        )
    if artifact.base.family not in FAMILIES or artifact.base.prediction_type not in PREDICTION_TYPES:
        family, prediction = artifact.base.family, artifact.base.prediction_type
        raise ModelError(f"{where}: base model '{family}' with prediction type '{prediction}' is not supported")
    _check_tensor(artifact.embedding, 2, f"{where}: embedding")
    for component, layers in artifact.lora.items():
        if component not in COMPONENTS:
            raise ModelError(f"{where}: LoRA on '{component}', which is none of {', '.join(COMPONENTS)}")
        for path, weights in layers.items():
            layer = f"{where}: LoRA of {component}.{path}"
            ndim = 4 if weights.down.ndim == 4 else 2
            _check_tensor(weights.down, ndim, layer)
            _check_tensor(weights.up, ndim, layer)
            if weights.up.shape[1] != weights.rank:
                raise ModelError(f"{layer}: ranks differ, down has {weights.rank}, up has {weights.up.shape[1]}")


def _check_tensor(tensor: Tensor, ndim: int, what: str) -> None:
    if tensor.ndim != ndim or 0 in tensor.shape or tensor.dtype != torch.float32:
        shape = tuple(tensor.shape)
        raise ModelError(f"{what} has shape {shape}, {tensor.dtype}; {ndim} dimensions of float32 are wanted")
    if not bool(torch.isfinite(tensor).all()):
        raise ModelError(f"{what} holds NaN or infinity: the training diverged, or the file is damaged")


def _lora_of(tensors: Mapping[str, Tensor]) -> Lora:
    """``lora.<component>.<module path>.<part>`` -> nested weights. KeyError or ValueError if one misses."""
    lora: Lora = {}
    for key in tensors:
        stem, _, part = key.rpartition(".")
        kind, component, path = stem.split(".", 2)
        if kind != "lora" or part not in ("down", "up", "alpha"):
            raise KeyError(key)
        if part == "down":
            alpha = float(tensors[f"{stem}.alpha"])
            lora.setdefault(component, {})[path] = LoraWeights(tensors[key], tensors[f"{stem}.up"], alpha)
    return lora
