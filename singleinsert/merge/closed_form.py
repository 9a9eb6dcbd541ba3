"""Custom Diffusion's merge (Kumari et al. 2023, section 3.3) as a regularised least-squares problem.

The cross-attention layers' keys and values are linear maps of text features. Concept i changes one by dW_i. Wanted is
one change D that does to the features t of each concept what its own change did, and nothing to other words r:

    min_D  sum_i E_i |D t - dW_i t|^2 + lambda E |D r|^2 + mu |D|^2
    D = sum_i dW_i G_i S^-1,   S = sum_j G_j + lambda G_0 + mu I,   G = E[t t^T]

The paper asks for equality on the few tokens of a concept's name, which is the limit lambda -> 0; over many texts it is
least squares. With dW_i = up_i down_i the result is ``D = sum_i up_i (down_i G_i S^-1)``: a LoRA again, whose rank is
the sum of the ranks. Of one concept alone it is that concept's LoRA, gated: it leaves other words alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from singleinsert.adapters.naming import UNET
from singleinsert.adapters.weights import LoraWeights, WeightUpdate
from singleinsert.artifact import Artifact
from singleinsert.errors import InputError
from singleinsert.merge import contexts
from singleinsert.models.family import Family

GENERAL_WEIGHT = 0.1
"""lambda: what other words count beside the concepts."""
RIDGE = 1e-3
"""mu as a share of the mean of S's diagonal: features of near-equal texts leave S near-singular."""
TEXT_LAYERS = (".attn2.to_k", ".attn2.to_v")
"""The layers that read the text, and it alone."""


@dataclass(frozen=True)
class Kept:
    """How well a merge does what was asked, on texts that it has not seen.

    Attributes:
        concepts: by name, |D t - dW t| / |dW t| over the concept's features; 0 is perfect.
        others: |D r| / |sum dW r| over other words: what is left of the change that plain adding makes there.
    """

    concepts: Mapping[str, float]
    others: float


def merge_concepts(
    model: Family, artifacts: Sequence[Artifact], name: str, weights: Sequence[float] | None = None, *,
    general_weight: float = GENERAL_WEIGHT, ridge: float = RIDGE,
) -> tuple[Artifact, Kept]:  # fmt: skip
    """One artifact called ``name`` with all concepts of ``artifacts``, and one LoRA that stands for all of theirs.

    Args:
        model: what they were trained on; its text encoders read the texts.
        weights: of each artifact's LoRA, 1 by default.

    Raises:
        InputError: fewer than one LoRA, one that changes other layers, or two concepts of one name; one line.
    """
    check_mergeable(artifacts)
    scales = [1.0] * len(artifacts) if weights is None else list(weights)
    updates = [text_layers(artifact, scale) for artifact, scale in zip(artifacts, scales, strict=True)]
    solving, measuring = contexts.split_templates()
    words = [concept.class_word for artifact in artifacts for concept in artifact.concepts]

    def moments(texts: Sequence[str]) -> tuple[list[Tensor], Tensor]:
        own = [contexts.of_concepts(model, artifact, texts) for artifact in artifacts]
        return own, contexts.of_other_words(model, words, texts)

    seen, unseen = moments(solving), moments(measuring)
    kept = _measure([a.name for a in artifacts], updates, merged_layers(updates, *seen, general_weight, ridge), *unseen)
    layers = merged_layers(updates, *moments(contexts.TEMPLATES), general_weight, ridge)
    return _joined(artifacts, name, layers, scales), kept


def reads_text(path: str) -> bool:
    """Is it, by its path or the end of it, a layer that can be merged: keys or values of cross-attention?"""
    return f".{path}".endswith(TEXT_LAYERS)


def check_mergeable(artifacts: Sequence[Artifact]) -> None:
    """InputError where the artifacts cannot become one; see :func:`merge_concepts`."""
    names = [artifact.trigger(concept).lower() for artifact in artifacts for concept in artifact.concepts]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise InputError(
            f"two concepts are called {double}: give one another name by python -m singleinsert.export --output_name"
        )
    if not any(artifact.lora for artifact in artifacts):
        raise InputError("none of the concepts has a LoRA: there is nothing to join, name them all by --concept")
    for artifact in artifacts:
        others = [
            f"{part}.{path}" for part, layers in artifact.lora.items() for path in layers
            if part != UNET or not reads_text(path)
        ]  # fmt: skip
        if others:
            raise InputError(
                f"the LoRA of {artifact.name} changes {len(others)} layers besides the keys and values of "
                f"cross-attention ({others[0]}), for which there is no closed form: train it with --set adapter.type=kv"
            )


def text_layers(artifact: Artifact, scale: float) -> dict[str, LoraWeights]:
    """The artifact's layers with alpha and ``scale`` multiplied into ``up``."""
    found = {path: weights.baked() for path, weights in artifact.lora.get(UNET, {}).items()}
    return {path: replace(weights, up=weights.up * scale) for path, weights in found.items()}


def merged_layers(
    updates: Sequence[Mapping[str, LoraWeights]], own: Sequence[Tensor], general: Tensor, general_weight: float,
    ridge: float,
) -> dict[str, LoraWeights]:  # fmt: skip
    """The one change of every layer that any of ``updates`` has.

    Args:
        updates: of each artifact, path -> weights of (out, d) layers. own: G_i (d, d), in their order. general: G_0.
    """
    gates = gate_matrices(own, general, general_weight, ridge)
    merged = {}
    for path in dict.fromkeys(path for update in updates for path in update):
        parts = [(update[path], gate) for update, gate in zip(updates, gates, strict=True) if path in update]
        down = torch.cat([(weights.down.double() @ gate).float() for weights, gate in parts])  # (sum of ranks, d)
        merged[path] = LoraWeights(down, torch.cat([weights.up for weights, _ in parts], dim=1), float(len(down)))
    return merged


def gate_matrices(own: Sequence[Tensor], general: Tensor, general_weight: float, ridge: float) -> list[Tensor]:
    """P_i = G_i S^-1 (d, d) float64: what a down matrix is multiplied with, so that it acts on its own words."""
    total = torch.stack(list(own)).sum(dim=0) + general_weight * general
    total = total + ridge * total.diagonal().mean() * torch.eye(len(total), dtype=total.dtype)
    return [torch.linalg.solve(total, moment).T for moment in own]  # both are symmetric: (S^-1 G)^T = G S^-1


def _measure(
    names: Sequence[str], updates: Sequence[Mapping[str, LoraWeights]], merged: Mapping[str, LoraWeights],
    own: Sequence[Tensor], general: Tensor,
) -> Kept:  # fmt: skip
    changes = [{path: _matrix(weights) for path, weights in update.items()} for update in updates]
    ours = {path: _matrix(weights) for path, weights in merged.items()}
    concepts = {}
    for name, change, moment in zip(names, changes, own, strict=True):
        missed = sum(_energy(ours[path] - change.get(path, torch.zeros(())), moment) for path in ours)
        wanted = sum(_energy(matrix, moment) for matrix in change.values())
        if wanted:
            concepts[name] = (missed / wanted) ** 0.5
    added = {path: sum((c[path] for c in changes if path in c), torch.zeros(())) for path in ours}
    left = sum(_energy(matrix, general) for matrix in ours.values())
    return Kept(concepts, (left / sum(_energy(matrix, general) for matrix in added.values())) ** 0.5)


def _matrix(weights: LoraWeights) -> Tensor:
    return (weights.up @ weights.down).double()


def _energy(change: Tensor, moment: Tensor) -> float:
    """E |A t|^2 = tr(A G A^T)."""
    return float(((change @ moment) * change).sum())


def _joined(
    artifacts: Sequence[Artifact], name: str, layers: Mapping[str, LoraWeights], scales: Sequence[float]
) -> Artifact:
    first = artifacts[0]
    parts = [(artifact, concept) for artifact in artifacts for concept in artifact.concepts]
    names = [concept.name.lower() for _, concept in parts]
    concepts = tuple(
        replace(c, name=c.name if names.count(c.name.lower()) == 1 else a.trigger(c), trigger=a.trigger(c))
        for a, c in parts
    )
    if len(concepts) == 1:  # called by the artifact's name, as every single concept
        concepts = (replace(concepts[0], name=name, trigger=""),)
    metadata: dict[str, Any] = {
        "merged": [[artifact.name, scale] for artifact, scale in zip(artifacts, scales, strict=True)]
    }
    for key in ("created", "resolution"):
        if known := [artifact.metadata[key] for artifact in artifacts if key in artifact.metadata]:
            metadata[key] = max(known)
    return Artifact(name, concepts, WeightUpdate("lora", {UNET: layers}), first.base, metadata)
