"""What a run has learnt: the one object that training hands out, and the one file in which it is kept.

``NAME_artifact.safetensors`` holds tensors and one JSON text in its header. Format 1, for one concept with one text
encoder: ``embedding``, and ``lora.<component>.<path>.down``, ``.up``, ``.alpha``. Format 2, for everything else:
``embedding.<text encoder>.<concept>``, and the same LoRA once. Saving and loading lose nothing; the files for the
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

from singleinsert.adapters.naming import KOHYA_PREFIXES, TEXT_ENCODER, TEXT_ENCODERS
from singleinsert.adapters.ranks import RankByNoise
from singleinsert.adapters.weights import Lora, LoraWeights, WeightUpdate
from singleinsert.errors import InputError, ModelError
from singleinsert.models.families import FILE_FACTS
from singleinsert.names import problem_with_name
from singleinsert.placeholders import concept_words
from singleinsert.tensorfile import read_safetensors, write_safetensors
from singleinsert.terms import PREDICTION_TYPES

SUFFIX = "_artifact.safetensors"
HEADER_KEY = "singleinsert"
FORMAT_VERSION = 2
LARGEST_CHANGE = 1e6
"""No weight of a model is near it: what changes one by more is damage, and every picture with it would be black."""


UNKNOWN = "unknown"
"""Name of a base model of which a file says nothing."""


@dataclass(frozen=True)
class BaseInfo:
    """The base model that a concept was trained on.

    Attributes:
        family: one of a family's ``names``: "sd1", "sd2", "sdxl", "flux2-klein-4b", "z-image".
        name: the short name that clients show ("stable-diffusion-v1-5", "mini-sd").
        prediction_type: "epsilon", "v_prediction", "sample" or "flow".
        source: what ``load_base_model`` was given (folder, hub id, file); "" where unknown.
    """

    family: str
    name: str
    prediction_type: str = "epsilon"
    source: str = ""


@dataclass(frozen=True)
class TrainedConcept:
    """One learnt concept.

    Attributes:
        name: what prompts of this project call it ("cat").
        placeholder: the token that stood for it in training ("*").
        class_word: what it is one of ("face"); "" where unknown.
        embeddings: {text encoder: (n, d) float32}, n vectors of that text encoder's input width.
        trigger: what clients call it, where that is not what :meth:`Artifact.trigger` makes of the names.
        metadata: anything JSON holds: "mask_share", "background" (true for what the other concepts leave), "alone"
            (true where it was trained without its class word, so that prompts name it without).
    """

    name: str
    placeholder: str
    class_word: str
    embeddings: Mapping[str, Tensor]
    trigger: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def num_vectors(self) -> int:
        return next(iter(self.embeddings.values())).shape[0]

    @property
    def alone(self) -> bool:
        return bool(self.metadata.get("alone"))

    def words(self, called: str) -> str:
        """What names it in a prompt where its vectors are called ``called``."""
        return concept_words(called, self.class_word, self.alone)


@dataclass(frozen=True)
class Artifact:
    """What a run has learnt: one concept or several, and one update of the weights that they share.

    Attributes:
        name: file stem of everything exported. The trigger word of a single concept in WebUIs.
        concepts: their names differ, also when case is overlooked.
        update: None where only embeddings were learnt.
        base: the model it was trained on.
        metadata: anything JSON holds. Read on export: "created" (unix time), "resolution", "seed", "steps"
            ({stage: steps}), "settings" (the run's TOML), "learning_rate", "losses".
        lora_file: stem of the file that holds the update, where it is not ``NAME_lora``; not saved.
    """

    name: str
    concepts: tuple[TrainedConcept, ...]
    update: WeightUpdate | None
    base: BaseInfo
    metadata: dict[str, Any] = field(default_factory=dict)
    lora_file: str = ""

    @classmethod
    def of_one_concept(
        cls, name: str, placeholder: str, class_word: str, embeddings: Tensor | Mapping[str, Tensor], lora: Lora,
        base: BaseInfo, metadata: dict[str, Any] | None = None, lora_file: str = "",
    ) -> Artifact:  # fmt: skip
        """An artifact of a single concept of its name; a plain tensor is the one text encoder's embedding."""
        if isinstance(embeddings, Tensor):
            embeddings = {TEXT_ENCODER: embeddings}
        concept = TrainedConcept(name, placeholder, class_word, embeddings)
        return cls(name, (concept,), WeightUpdate("lora", lora) if lora else None, base, metadata or {}, lora_file)

    # of a single concept

    @property
    def concept(self) -> TrainedConcept:
        """The only one. ModelError where there are several."""
        if len(self.concepts) != 1:
            names = ", ".join(concept.name for concept in self.concepts) or "none"
            raise ModelError(f"{self.name} holds {len(self.concepts)} concepts ({names}), and one is wanted: name it")
        return self.concepts[0]

    @property
    def embedding(self) -> Tensor:
        """(n, d) of the only concept for the first text encoder."""
        return self.concept.embeddings[TEXT_ENCODER]

    @property
    def placeholder(self) -> str:
        return self.concept.placeholder

    @property
    def class_word(self) -> str:
        return self.concept.class_word

    @property
    def num_vectors(self) -> int:
        return self.concept.num_vectors

    # of one or several

    @property
    def lora(self) -> Lora:
        """The update's low-rank layers, {} where there are none."""
        return self.update.lora if self.update is not None else {}

    @property
    def widths(self) -> dict[str, int]:
        """Input width of each text encoder that the embeddings are for: {"text_encoder": 768} for SD 1.x."""
        return {name: tensor.shape[1] for name, tensor in self.concepts[0].embeddings.items()}

    @property
    def lora_stem(self) -> str:
        """Stem of the file that holds the LoRA, which is its name in ``<lora:...>``; "" where there is none."""
        return (self.lora_file or f"{self.name}_lora") if self.lora else ""

    def trigger(self, concept: TrainedConcept) -> str:
        """What clients call ``concept``, and the stem of its file: the artifact's name, of several with its own."""
        return concept.trigger or (self.name if len(self.concepts) == 1 else self.name + concept.name)

    def part(self, name: str) -> Artifact:
        """The concept called ``name`` alone, with the same update in the same file. InputError for any other name."""
        for concept in self.concepts:
            if name.lower() in (concept.name.lower(), self.trigger(concept).lower()):
                return self._part(concept)
        raise InputError(f"{self.name} holds no concept {name!r}: {', '.join(c.name for c in self.concepts)}")

    def parts(self) -> tuple[Artifact, ...]:
        """Each concept alone, as :meth:`part` gives it."""
        return tuple(self._part(concept) for concept in self.concepts)

    def _part(self, concept: TrainedConcept) -> Artifact:
        if len(self.concepts) == 1:
            return self
        return replace(self, name=self.trigger(concept), concepts=(concept,), lora_file=self.lora_stem)

    def rounded(self, dtype: torch.dtype) -> Artifact:
        """The artifact as files of precision ``dtype`` hold it, in float32. Alphas are never rounded."""

        def through(tensor: Tensor) -> Tensor:
            return tensor.to(dtype).to(torch.float32)

        lora = {
            component: {path: LoraWeights(through(w.down), through(w.up), w.alpha) for path, w in layers.items()}
            for component, layers in self.lora.items()
        }
        concepts = tuple(
            replace(concept, embeddings={name: through(tensor) for name, tensor in concept.embeddings.items()})
            for concept in self.concepts
        )
        update = None if self.update is None else replace(self.update, lora=lora, origin=self.update.key)
        return replace(self, concepts=concepts, update=update)

    def save(self, path: Path) -> None:
        """Write the one file, whole or not at all. Raises ModelError where the artifact is not valid."""
        check(self, str(path))
        header, tensors = self._content()
        for component, layers in self.lora.items():
            for module, weights in layers.items():
                stem = f"lora.{component}.{module}"
                tensors[f"{stem}.down"] = weights.down
                tensors[f"{stem}.up"] = weights.up
                tensors[f"{stem}.alpha"] = torch.tensor(weights.alpha, dtype=torch.float64)  # a python float, whole
        write_safetensors(path, tensors, {HEADER_KEY: json.dumps(header, ensure_ascii=False)})

    def _content(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What the header says, and the embeddings by key; as format 1 wherever that can hold it."""
        header = {"version": 1, "name": self.name, "base": asdict(self.base), "metadata": self.metadata}
        if self.update is not None:
            update = self.update
            header |= {"update": {
                "kind": update.kind, "digest": update.digest(), "error": update.error, "of": update.origin,
                **({"ranks": asdict(update.ranks)} if update.ranks else {}),
            }}  # fmt: skip
        if len(self.concepts) == 1 and set(self.widths) == {TEXT_ENCODER}:
            only = self.concepts[0]
            header |= {"placeholder": only.placeholder, "class_word": only.class_word}
            header |= {"concept": {"name": only.name, "trigger": only.trigger, "metadata": only.metadata}}
            return header, {"embedding": only.embeddings[TEXT_ENCODER]}
        described = [
            {"name": c.name, "placeholder": c.placeholder, "class_word": c.class_word, "trigger": c.trigger,
             "metadata": c.metadata}
            for c in self.concepts
        ]  # fmt: skip
        tensors = {
            f"embedding.{encoder}.{concept.name}": tensor
            for concept in self.concepts
            for encoder, tensor in concept.embeddings.items()
        }
        return header | {"version": 2, "concepts": described}, tensors

    @classmethod
    def load(cls, path: Path) -> Artifact:
        """Read what ``save`` wrote. Raises InputError (no such file) or ModelError (no artifact, damaged)."""
        tensors, header = read_safetensors(path)
        if HEADER_KEY not in header or not any(key.split(".")[0] == "embedding" for key in tensors):
            raise ModelError(f"{path} is not an artifact of this project (its name ends in {SUFFIX})")
        try:
            content = json.loads(header[HEADER_KEY])
            if content["version"] > FORMAT_VERSION:
                raise ModelError(
                    f"{path} was written by a newer version (format {content['version']}): update to read it"
                )
            concepts = _concepts_of(content, tensors)
            update = _update_of(content.get("update"), tensors)
            artifact = cls(content["name"], concepts, update, BaseInfo(**content["base"]), content["metadata"])
            check(artifact, str(path))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, RecursionError) as error:
            raise ModelError(
                f"{path} is damaged: {error!r:.200} in what describes the artifact; export or train it again"
            ) from error
        return artifact


def check(artifact: Artifact, where: str) -> None:
    """Raise ModelError, naming ``where``, if a name, a shape or a number of ``artifact`` cannot be right."""
    _check_words(artifact, where)
    if artifact.base.family not in FILE_FACTS or artifact.base.prediction_type not in PREDICTION_TYPES:
        family, prediction = artifact.base.family, artifact.base.prediction_type
        raise ModelError(f"{where}: base model '{family}' with prediction type '{prediction}' is not supported")
    for concept in artifact.concepts:
        _check_embeddings(concept, artifact, f"{where}: embedding of {concept.name}")
    for component, layers in artifact.lora.items():
        if component not in KOHYA_PREFIXES[artifact.base.family]:
            known = ", ".join(KOHYA_PREFIXES[artifact.base.family])
            raise ModelError(f"{where}: LoRA on '{component}', which is none of {artifact.base.family}'s {known}")
        for path, weights in layers.items():
            _check_layer(weights, f"{where}: LoRA of {component}.{path}")


def _check_words(artifact: Artifact, where: str) -> None:
    texts = [artifact.name, *vars(artifact.base).values()]
    texts += [text for c in artifact.concepts for text in (c.name, c.placeholder, c.class_word, c.trigger)]
    tables = [artifact.metadata, *(concept.metadata for concept in artifact.concepts)]
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(table, dict) for table in tables):
        raise ModelError(f"{where} is damaged: its names and words are not texts; export or train it again")
    names = [concept.name for concept in artifact.concepts]
    for name in (artifact.name, *names):
        if problem := problem_with_name(name):
            raise ModelError(f"{where}: {name!r:.80} cannot be a concept's name: {problem}")
    if not names or len({name.lower() for name in names}) < len(names):
        raise ModelError(f"{where} holds {', '.join(names) or 'no concept'}: at least one is needed, and names differ")


def _check_embeddings(concept: TrainedConcept, artifact: Artifact, where: str) -> None:
    if TEXT_ENCODER not in concept.embeddings or not set(concept.embeddings) <= set(TEXT_ENCODERS):
        raise ModelError(f"{where} is for {', '.join(concept.embeddings) or 'no text encoder'}, which no model has")
    for encoder, tensor in concept.embeddings.items():
        _check_tensor(tensor, 2, where)
        if artifact.concepts[0].embeddings.keys() != concept.embeddings.keys() or (
            tensor.shape[1] != artifact.widths[encoder] or len(tensor) != concept.num_vectors
        ):
            raise ModelError(f"{where} does not go with the others: numbers and widths of vectors differ")


def _check_layer(weights: LoraWeights, layer: str) -> None:
    ndim = 4 if weights.down.ndim == 4 else 2
    _check_tensor(weights.down, ndim, layer)
    _check_tensor(weights.up, ndim, layer)
    if weights.up.shape[1] != weights.rank:
        raise ModelError(f"{layer}: ranks differ, down has {weights.rank}, up has {weights.up.shape[1]}")
    largest = float(weights.up.abs().max()) * float(weights.down.abs().max()) * weights.alpha
    if not abs(largest) < LARGEST_CHANGE:
        raise ModelError(f"{layer}: alpha is {weights.alpha:g}, which would change weights by up to {largest:g}")


def _check_tensor(tensor: Tensor, ndim: int, what: str) -> None:
    if tensor.ndim != ndim or 0 in tensor.shape or tensor.dtype != torch.float32:
        shape = tuple(tensor.shape)
        raise ModelError(f"{what} has shape {shape}, {tensor.dtype}; {ndim} dimensions of float32 are wanted")
    if not bool(torch.isfinite(tensor).all()):
        raise ModelError(f"{what} holds NaN or infinity: the training diverged, or the file is damaged")


def _concepts_of(content: Mapping[str, Any], tensors: dict[str, Tensor]) -> tuple[TrainedConcept, ...]:
    """The concepts that a header describes; takes their embeddings out of ``tensors``."""
    if content["version"] == 1:
        more = content.get("concept", {"name": content["name"]})  # since format 2
        words = more["name"], content["placeholder"], content["class_word"]
        embeddings = {TEXT_ENCODER: tensors.pop("embedding")}
        return (TrainedConcept(*words, embeddings, more.get("trigger", ""), more.get("metadata", {})),)
    found: dict[str, dict[str, Tensor]] = {}
    for key in [key for key in tensors if key.startswith("embedding.")]:
        _, encoder, name = key.split(".", 2)
        found.setdefault(name, {})[encoder] = tensors.pop(key)
    concepts = tuple(TrainedConcept(**words, embeddings=found.pop(words["name"])) for words in content["concepts"])
    if found:
        raise KeyError(f"embedding of {next(iter(found))}")
    return concepts


def _update_of(described: Mapping[str, Any] | None, tensors: Mapping[str, Tensor]) -> WeightUpdate | None:
    """The update in ``tensors``; its digest must be the one that the header tells, where it does."""
    lora = _lora_of(tensors)
    if not lora and not described:
        return None
    told = described or {"kind": "lora", "error": 0, "of": ""}  # before format 2 nothing was told
    ranks = RankByNoise(**told["ranks"]) if "ranks" in told else None
    update = WeightUpdate(str(told["kind"]), lora, float(told["error"]), str(told["of"]), ranks)
    if described and described["digest"] != update.digest():
        raise ValueError("weights that are not those which were saved")
    return update


def _lora_of(tensors: Mapping[str, Tensor]) -> Lora:
    """``lora.<component>.<module path>.<part>`` -> nested weights. KeyError or ValueError if one misses."""
    lora: dict[str, dict[str, LoraWeights]] = {}
    for key in tensors:
        stem, _, part = key.rpartition(".")
        kind, component, path = stem.split(".", 2)
        if kind != "lora" or part not in ("down", "up", "alpha") or f"{stem}.down" not in tensors:
            raise KeyError(key)
        if part == "down":
            alpha = float(tensors[f"{stem}.alpha"])
            lora.setdefault(component, {})[path] = LoraWeights(tensors[key], tensors[f"{stem}.up"], alpha)
    return lora
