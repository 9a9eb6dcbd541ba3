"""Concepts' LoRAs into a base model, each as a peft adapter of its own, so that their weights add up per concept."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from singleinsert.adapters.naming import COMPONENTS
from singleinsert.artifact import Artifact
from singleinsert.errors import ModelError
from singleinsert.models.family import Family


def adapter_name(index: int) -> str:
    """The adapter of concept ``index``; peft takes no dots in a name, so that the concept's own will not do."""
    return f"concept{index}"


def load_loras(pipeline: Any, model: Family, concepts: Sequence[Artifact]) -> None:
    """Put every concept's LoRA into the pipeline's UNet and text encoder, by diffusers' own loader.

    Raises:
        ModelError: a concept is for another kind of base model.
    """
    for concept in concepts:
        check_fits(concept, model)
    for index, concept in enumerate(concepts):
        for component in COMPONENTS:
            layers = concept.lora.get(component)
            if not layers:
                continue
            tensors, config = _peft_form(component, layers, model.dtype)
            with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several adapters are meant
                model.load_lora(pipeline, component, tensors, config, adapter_name(index))


def set_weights(model: Family, concepts: Sequence[Artifact], weights: Sequence[float]) -> None:
    """Scale each concept's LoRA. A layer's update is the sum of ``weight * alpha / rank * up @ down``."""
    for component in COMPONENTS:
        active = {adapter_name(i): w for i, w in enumerate(weights) if concepts[i].lora.get(component)}
        for layer in _lora_layers(model.parts[component]):
            layer.set_adapter([name for name in active if name in layer.lora_A])
            for name, weight in active.items():
                layer.set_scale(name, weight)


def check_fits(concept: Artifact, model: Family) -> None:
    """ModelError, in one line, where the concept's vectors or LoRA are for another kind of model."""
    width = next(iter(model.embedding_widths.values()))
    if concept.width != width:
        raise ModelError(
            f"{concept.name} was trained for {concept.base.name} (vectors of width {concept.width}), and "
            f"{model.model_name} takes {width}: give its own model as --pretrained_model_name_or_path"
        )
    for component in COMPONENTS:
        modules = dict(model.parts[component].named_modules())
        for path, weights in concept.lora.get(component, {}).items():
            module = modules.get(path)
            if not isinstance(module, nn.Linear | nn.Conv2d) or module.weight.shape[:2] != (
                weights.up.shape[0],
                weights.down.shape[1],
            ):
                raise ModelError(
                    f"the LoRA of {concept.name} does not fit {model.model_name}: {component}.{path} is missing there "
                    "or of another size: give the model it was trained on as --pretrained_model_name_or_path"
                )


def _lora_layers(module: nn.Module) -> list[Any]:
    from peft.tuners.lora import LoraLayer

    return [layer for layer in module.modules() if isinstance(layer, LoraLayer)]


def _peft_form(component: str, layers: Any, dtype: torch.dtype) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors under peft's names, and a LoraConfig that gives each layer its own rank and alpha."""
    tensors: dict[str, Any] = {}
    for path, weights in layers.items():
        tensors[f"{component}.{path}.lora_A.weight"] = weights.down.to(dtype)
        tensors[f"{component}.{path}.lora_B.weight"] = weights.up.to(dtype)
    first = next(iter(layers.values()))
    config = {
        "r": first.rank,
        "lora_alpha": first.alpha,
        "rank_pattern": {path: weights.rank for path, weights in layers.items()},
        "alpha_pattern": {path: weights.alpha for path, weights in layers.items()},
        "target_modules": list(layers),
    }
    return tensors, {f"{component}.{key}": value for key, value in config.items()}
