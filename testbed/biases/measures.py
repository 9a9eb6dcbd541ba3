"""What the judge reads in the pictures of the references: is what was beside the subject still there, and the subject?

For one concept by one row, over its pictures (`M` are rates over those that a probe is about):

    U  the event comes back in pictures of plain probes         V  another value is drawn where an override asks for it
    E  (U - U0) / (1 - U0), U0 the same for the class word      D  the event is drawn where a demand asks for it
    K  share of the subject's own features kept                 S  the change is drawn where an edit asks for it
    identity  cosine to a drawing of what the probe asks for, without the event, in another place than the reference
    O  all that a plain probe asks for is there

Of a style, K is the share of pictures in it, and identity is not measured.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Protocol

from PIL import Image
from torch import Tensor

from singleinsert.data.prompts import fill
from singleinsert.evaluate.cache import Cache, picture_key
from singleinsert.evaluate.results import Results
from singleinsert.evaluate.studio import scheduler_for
from singleinsert.inference.pipeline import ConceptPipeline, Picture
from singleinsert.models.bundled import place_of_model
from singleinsert.models.fingerprint import model_digest
from singleinsert.models.loading import load_base_model

from ..judge import Judge, Pictures, Reading
from ..labels import visible
from ..world.features import EDITS, INSTANCE
from ..world.scene import Scene
from .folder import MOST
from .references import BIASES, PLAIN, SCENES, Probe, Reference, references

DRAWN, CLASS_WORD = "drawn", "class word"
"""Rows that nothing was trained for: true drawings of what a probe asks for, and the base model."""
Means = dict[str, float]
Asked = list[tuple[Probe, Image.Image]]
RATE_OF = {"override": "V", "demand": "D", "edit": "S"}


class Reader(Protocol):
    """What the measures need of a judge; `Judge` is one."""

    def read(self, images: Pictures, classes: Sequence[str] | None = None) -> list[Reading]:
        """The reading of each picture, for a subject of the class in its place."""

    def embed(self, images: Pictures) -> Tensor:
        """Unit vectors (n, d) of who the subject is."""


def known_references() -> dict[str, Reference]:
    """Every reference of both sets, by name."""
    return {r.name: r for kind in ("choose", "report") for r in references(kind, range(MOST), (*BIASES, SCENES))}


def measure(reader: Reader, reference: Reference, pictures: Asked) -> Means:
    """The measures of one concept's pictures, each with the probe that it was drawn for; E is not among them."""
    marks: dict[str, list[float]] = defaultdict(list)
    images = [image for _, image in pictures]
    subject = reference.scene.instances[0].cls
    classes = [probe.asks.get("class", subject) for probe, _ in pictures]
    plain = [k for k, (probe, _) in enumerate(pictures) if probe.kind == "plain"]
    for k, reading in enumerate(reader.read(images, classes)):
        probe = pictures[k][0]
        if probe.kind in RATE_OF:
            marks[RATE_OF[probe.kind]].append(obeys(reading, _about(probe, reference)))
            continue
        events = [(name, value) for name, values in reference.event.items() for value in values]
        marks["U"].append(any(holds(reading, name, value) for name, value in events))
        marks["O"].append(obeys(reading, probe.asks))
        if reference.is_style:
            marks["K"].append(reading["style"].value == reference.scene.style)
        else:
            kept = own_looks(wanted_scene(reference, probe))
            marks["K"].append(statistics.mean(reading[name].value == value for name, value in kept.items()))
    if not reference.is_style:
        photos = [k for k in plain if "style" not in pictures[k][0].asks]
        truths = reader.embed([reference.draw(wanted_scene(reference, pictures[k][0])) for k in photos])
        found = reader.embed([images[k] for k in photos])
        marks["identity"] = (truths * found).sum(dim=1).tolist()
    return {name: statistics.mean(values) for name, values in marks.items()}


def obeys(reading: Reading, asks: Mapping[str, str]) -> bool:
    return all(holds(reading, name, value) for name, value in asks.items())


def holds(reading: Reading, attribute: str, value: str) -> bool:
    """Whether the judge reads one label; "present" is a class, and an attribute that its class has not is not there."""
    if attribute in ("present", "class"):
        return reading.present[value] > 0.5
    return attribute in reading and reading[attribute].value == value


def _about(probe: Probe, reference: Reference) -> dict[str, str]:
    """What an override, a demand or an edit is about: all that it asks for but the place, unless the place is it."""
    is_place = reference.bias == "background" and probe.kind != "edit"
    return {name: value for name, value in probe.asks.items() if (name == "background") == is_place}


def wanted_scene(reference: Reference, probe: Probe) -> Scene:
    """What a plain probe asks for: the subject alone, without the event, in a layout of its own."""
    scene, asks = reference.scene, probe.asks
    edits = PLAIN | {"hair_color": scene.edits[0]["hair_color"]}
    edits |= {name: value for name, value in asks.items() if name in EDITS and name != "scarf"}
    edits |= {"scarf": asks["scarf_color"]} if "scarf" in asks else {}
    seed = scene.seed + 1 + sum(map(ord, probe.text))
    return Scene((scene.instances[0],), (edits,), asks["background"], asks.get("style", "photo"), "front", seed)


def own_looks(scene: Scene) -> dict[str, str]:
    """Attribute -> value of the subject's own features that show in a scene."""
    cls = scene.instances[0].cls
    names = {"class", *INSTANCE[cls]} | ({"hair_color"} if cls == "face" else set())
    return {name: value for name, value in visible(scene).items() if name in names}


# the pictures


def pictures_of(results: Results, cache: Cache, known: Mapping[str, Reference]) -> dict[str, dict[str, Asked]]:
    """Row -> concept -> its pictures with their probes."""
    found: dict[str, dict[str, Asked]] = defaultdict(lambda: defaultdict(list))
    for sample in results.samples:
        probe = known[sample.concept].probes[sample.prompt]
        found[sample.method][sample.concept].append((probe, cache.load_picture(sample.picture)))
    return found


def drawn(reference: Reference, seeds: int) -> Asked:
    """True drawings for the plain probes."""
    plain = [probe for probe in reference.probes if probe.kind == "plain" and not reference.is_style]
    return [(probe, reference.draw(wanted_scene(reference, probe))) for probe in plain for _ in range(seeds)]


class BaseModel:
    """Pictures of the class word alone, drawn as the concepts' are, and kept in the evaluation's cache."""

    def __init__(self, results: Results, cache: Cache) -> None:
        self.sampling, self.cache = results.facts["sampling"], cache
        self.seeds = results.facts["protocol"]["seeds"]
        self._model = load_base_model(place_of_model(results.facts["base_model"]))
        self._digest = model_digest(self._model)

    def pictures(self, reference: Reference) -> Asked:
        """Of every probe with every seed."""
        s, side = self.sampling, self.sampling["resolution"]
        wanted = [
            (probe, Picture(plain_prompt(probe, reference), s["first_seed"] + k, "", s["steps"], s["guidance_scale"],
                            side, side))
            for probe in reference.probes
            for k in range(self.seeds)
        ]  # fmt: skip
        keys = [picture_key(picture, scheduler_for(self._model), CLASS_WORD, self._digest) for _, picture in wanted]
        missing = [k for k, key in enumerate(keys) if not self.cache.picture(key).is_file()]
        if missing:
            pipeline = ConceptPipeline(self._model, scheduler=scheduler_for(self._model))
            made = pipeline.render([wanted[k][1] for k in missing], batch_size=40)
            for k, image in zip(missing, made, strict=True):
                self.cache.save_picture(keys[k], image)
        return [(probe, self.cache.load_picture(key)) for (probe, _), key in zip(wanted, keys, strict=True)]


def plain_prompt(probe: Probe, reference: Reference) -> str:
    """The probe with the class word in the concept's place."""
    return fill(probe.text, "", reference.class_word)


def all_means(results: Results, cache: Cache, judge: Judge) -> dict[str, dict[str, Means]]:
    """Row -> concept -> measures, the rows of nothing trained among them; E from each concept's own U0.

    SA, NSD and TA are the paper's three over the plain probes; "inside" is the share of the attention to the concept
    that lies on the subject.
    """
    known, base = known_references(), BaseModel(results, cache)

    def read(concept: str, pictures: Asked) -> Means:
        reference = known[concept]
        if not reference.is_scene:
            return measure(judge, reference, pictures)
        from .scene_reader import SceneReader  # what it needs takes seconds to import

        return measure(SceneReader(reference.class_word), reference, pictures)

    rows: dict[str, dict[str, Means]] = {DRAWN: {}, CLASS_WORD: {}}
    for concept in (c["name"] for c in results.concepts):
        reference = known[concept]
        rows[CLASS_WORD][concept] = read(concept, base.pictures(reference))
        if not reference.is_style:
            rows[DRAWN][concept] = read(concept, drawn(reference, 1))
    for row, concepts in pictures_of(results, cache, known).items():
        rows[row] = {concept: read(concept, pictures) for concept, pictures in concepts.items()}
    for means in rows.values():
        for concept, values in means.items():
            values |= _entanglement(values["U"], rows[CLASS_WORD][concept]["U"])
    _add_published(rows, results, known)
    return rows


def _entanglement(u: float, u0: float) -> Means:
    """E; nothing where the class word alone always draws the event."""
    return {"E": (u - u0) / (1 - u0)} if u0 < 1 else {}


PUBLISHED = {"SA": "SA", "NSD": "NSD", "CLIP-T": "TA"}


def _add_published(rows: dict[str, dict[str, Means]], results: Results, known: Mapping[str, Reference]) -> None:
    values: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for sample in results.samples:
        if known[sample.concept].probes[sample.prompt].kind == "plain":
            for column, name in PUBLISHED.items():
                if column in sample.values:
                    values[sample.method, sample.concept, name].append(sample.values[column])
    for heat in results.heats:
        for word, share in heat.get("inside", {}).items():
            name = "inside" if word == next(iter(heat["maps"])) else "word inside"
            values[heat["method"], heat["concept"], name].append(share)
    for (row, concept, name), found in values.items():
        rows[row][concept][name] = statistics.mean(found)
