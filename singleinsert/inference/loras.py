"""Concepts' LoRAs into a base model, each as a peft adapter of its own, so that their weights add up.

Concepts that were learnt together share one LoRA: it is loaded once, and its weight is one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from singleinsert.adapters.lora import make_lean
from singleinsert.adapters.naming import COMPONENTS
from singleinsert.adapters.ranks import RankGate
from singleinsert.adapters.weights import WeightUpdate
from singleinsert.artifact import UNKNOWN, Artifact
from singleinsert.errors import InputError, ModelError
from singleinsert.models.family import Family
from singleinsert.specs import LARGEST_WEIGHT


def adapter_name(index: int) -> str:
    """Of the LoRA ``index``; peft takes no dots in a name, so that the concept's own will not do."""
    return f"concept{index}"


def shared_updates(concepts: Sequence[Artifact]) -> dict[str, WeightUpdate]:
    """{key: update} of the concepts' LoRAs, each once.

    Raises:
        InputError: two files say that they hold one LoRA, and their weights differ.
    """
    found: dict[str, WeightUpdate] = {}
    owner: dict[str, Artifact] = {}
    for concept in concepts:
        if concept.update is None or not concept.lora:
            continue
        key = concept.update.key
        if found.setdefault(key, concept.update) is not concept.update and not found[key].is_near(concept.update):
            raise InputError(
                f"{owner[key].name} and {concept.name} were learnt with one LoRA, and its weights in their files "
                "differ: one of the files was changed since; export both again"
            )
        owner.setdefault(key, concept)
    return found


def load_loras(pipeline: Any, model: Family, concepts: Sequence[Artifact]) -> list[Callable[[], None]]:
    """Put the concepts' LoRAs into the pipeline's UNet and text encoders, by diffusers' own loader.

    Returns:
        what is to be called when the LoRAs are taken out: it ends what looks at the noise level.

    Raises:
        ModelError: a concept is for another kind of base model. InputError: see :func:`shared_updates`.
    """
    for concept in concepts:
        check_fits(concept, model)
    ends: list[Callable[[], None]] = []
    for index, update in enumerate(shared_updates(concepts).values()):
        for component in COMPONENTS:
            layers = update.lora.get(component)
            if not layers:
                continue
            tensors, config = _peft_form(component, layers, model.dtype)
            with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several adapters are meant
                model.load_lora(pipeline, component, tensors, config, adapter_name(index))
        if update.ranks is not None:  # at each noise level the components that it was trained with there
            gate = RankGate(update.ranks, model.schedule.time_span)
            ends.append(_gate(model, adapter_name(index), gate))
    return ends


def _gate(model: Family, name: str, gate: RankGate) -> Callable[[], None]:
    """Put ``gate`` into the layers of a LoRA of the denoiser; returns what ends its looks at the noise level.

    Raises:
        InputError: a model whose time runs from noise to picture.
    """
    if gate.time_span <= 0:
        raise InputError(
            f"{model.model_name} counts time from noise to picture: its LoRAs cannot follow the noise level"
        )
    for layer in _lora_layers(model.denoiser):
        if name in layer.lora_A:
            layer.lora_A[name].register_forward_hook(lambda module, given, components: gate.apply(components))
    return gate.watch(model.denoiser)


def set_weights(model: Family, concepts: Sequence[Artifact], weights: Sequence[float]) -> None:
    """Scale each LoRA. A layer's update is the sum of ``weight * alpha / rank * up @ down``.

    Raises:
        InputError: a weight that no picture survives, or two weights for one LoRA.
    """
    scales = _weight_of_each(concepts, weights)
    updates = list(shared_updates(concepts).items())
    for component in COMPONENTS:
        active = {adapter_name(i): scales[key] for i, (key, u) in enumerate(updates) if u.lora.get(component)}
        for layer in _lora_layers(model.parts.get(component)):
            layer.set_adapter([name for name in active if name in layer.lora_A])
            for name, weight in active.items():
                layer.set_scale(name, weight)


def _weight_of_each(concepts: Sequence[Artifact], weights: Sequence[float]) -> dict[str, float]:
    """{key of a LoRA: its weight}."""
    found: dict[str, float] = {}
    first: dict[str, str] = {}
    for concept, weight in zip(concepts, weights, strict=True):
        if not abs(weight) <= LARGEST_WEIGHT:  # NaN too
            raise InputError(f"{concept.name}:{weight:g}: a LoRA's weight is at most {LARGEST_WEIGHT:g}; 1 is usual")
        if concept.update is None:
            continue
        key = concept.update.key
        if found.setdefault(key, weight) != weight:
            raise InputError(
                f"{first[key]} has the weight {found[key]:g} and {concept.name} {weight:g}, but they share one LoRA: "
                "give both the same weight"
            )
        first.setdefault(key, concept.name)
    return found


def check_fits(concept: Artifact, model: Family) -> None:
    """ModelError, in one line, where the concept's vectors or LoRA are for another kind of model."""
    wanted = dict(model.embedding_widths)
    if concept.widths != wanted:
        ours, theirs = (" and ".join(str(width) for width in widths.values()) for widths in (concept.widths, wanted))
        raise ModelError(
            f"{concept.name} was trained for {concept.base.name} (vectors of width {ours}), and {model.model_name} "
            f"takes {theirs}: give its own model as --pretrained_model_name_or_path"
        )
    if concept.base.family != model.name and concept.base.name != UNKNOWN:
        raise ModelError(
            f"{concept.name} was trained for a {concept.base.family}, and {model.model_name} is a {model.name}: give "
            "its own model as --pretrained_model_name_or_path"
        )
    for component in COMPONENTS:
        part = model.adapted_parts.get(component)
        modules = {} if part is None else dict(part.named_modules())
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


def make_loras_lean(model: Family) -> None:
    """Let the LoRA layers of ``model`` compute in fewer operators; not where their weights come only when they are
    called."""
    for component in COMPONENTS:
        for layer in _lora_layers(model.parts.get(component)):
            make_lean(layer)


def _lora_layers(module: nn.Module | None) -> list[Any]:
    from peft.tuners.lora import LoraLayer

    return [] if module is None else [layer for layer in module.modules() if isinstance(layer, LoraLayer)]


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
