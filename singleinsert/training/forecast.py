"""A look at a run before it begins: picture, mask, base model, memory and time, names, and all that is wrong."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from singleinsert.config import Settings
from singleinsert.errors import SingleInsertError, first_line
from singleinsert.masks.verdict import verdict_of
from singleinsert.models.presence import check_source, is_to_fetch, megabytes_to_fetch
from singleinsert.models.trigger import common_word_note
from singleinsert.terms import BUNDLED_MODELS, preset_of_base
from singleinsert.training.events import read_events
from singleinsert.training.files import check_early
from singleinsert.training.progress import duration
from singleinsert.training.stages import stages_of, step_cost

LEAST_GB = {
    (False, False, False): 3.9, (True, False, False): 3.4, (False, True, False): 3.6, (True, True, False): 2.9,
    (False, False, True): 2.6, (True, False, True): 2.6, (False, True, True): 2.6, (True, True, True): 2.0,
}  # fmt: skip
"""(8-bit AdamW, gradient checkpointing, offload) -> GB of a GPU for one sample at a time, of SD 1.5 at 512 pixels in
half precision: docs/cost.md's table; where that has no line, the next larger one's."""
MOST_GB = 15.3
"""Whole batches, likewise."""
SD_PIXELS = 512
RECENT = 50
"""So many runs beside this one are looked at for how long a step takes here."""


@dataclass(frozen=True)
class MaskSeen:
    """A mask that the run would train with: where from, its share of the picture, and what that means."""

    picture: str
    class_word: str
    source: str
    share: float
    level: str
    verdict: str
    notes: tuple[str, ...]


@dataclass
class Forecast:
    """What can be said of a run before it begins.

    Attributes:
        pictures: {file, width, height, learns}: what each training square shows.
        base_model: {source, state}: "bundled", "here" or "to fetch", and then its megabytes, if the hub says them.
        gpu_gb: [least, most] that the settings may take of a GPU; None where it was not counted.
        seconds: of training, at the speed of the runs beside it; None where none is like it.
        problems: why it would not begin; empty: it would. notes: what its user should know.
    """

    name: str = ""
    output_dir: str = ""
    class_words: tuple[str, ...] = ()
    pictures: list[dict[str, Any]] = field(default_factory=list)
    masks: list[MaskSeen] = field(default_factory=list)
    base_model: dict[str, Any] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    gpu_gb: tuple[float, float] | None = None
    seconds: float | None = None
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """For the terminal."""
        base = self.base_model
        size = f", about {base['megabytes']:,} MB" if base.get("megabytes") else ""
        found = [f"name: {self.name}, into {self.output_dir}", f"base model: {base['source']}, {base['state']}{size}"]
        found += [f"picture: {p['file']}, {p['width']}x{p['height']} pixels" for p in self.pictures]
        found += [
            f"mask of {m.class_word}: from {m.source}, {m.share:.1%} of the picture: {m.verdict}" for m in self.masks
        ]
        found.append("steps: " + ", ".join(f"{stage} {steps}" for stage, steps in self.steps.items()))
        if self.gpu_gb:
            found.append(
                f"memory on a GPU: {self.gpu_gb[0]} GB at the least, up to {self.gpu_gb[1]} GB if there is that"
            )
        left = (
            f"about {duration(self.seconds)}, as the runs beside it took"
            if self.seconds
            else "not known: no run like it is here"
        )
        return [*found, f"time: {left}", *(f"note: {note}" for note in self.notes)]


def forecast_run(settings: Settings, check_place: bool = True) -> Forecast:
    """See everything that can be seen without loading the base model; the mask is found as the run would find it.

    Args:
        check_place: a run of that name that is there already is a problem.
    """
    forecast = Forecast(class_words=settings.data.class_word)
    source = settings.model.pretrained_model_name_or_path

    def name() -> None:
        forecast.name, forecast.output_dir = settings.name, str(settings.output_dir)
        if check_place:
            check_early(settings)
        if len(settings.data.class_word) == 1 and (note := common_word_note(forecast.name)):
            forecast.notes.append(note)

    def base() -> None:
        state = "bundled" if source in BUNDLED_MODELS else "to fetch" if is_to_fetch(source) else "here"
        forecast.base_model = {"source": source, "state": state}
        if state == "to fetch":
            forecast.base_model["megabytes"] = megabytes_to_fetch(source, settings.model.variant or None)
        check_source(source, settings.model.variant or None)

    def effort() -> None:
        forecast.steps = {stage.name: stage.steps for stage in stages_of(settings)}
        forecast.gpu_gb, forecast.seconds = expected_gpu_gb(settings), expected_seconds(settings)

    for part in (name, base, effort, lambda: _see_pictures(settings, forecast)):
        try:
            part()
        except SingleInsertError as problem:
            forecast.problems.append(first_line(problem))
    return forecast


def _see_pictures(settings: Settings, forecast: Forecast) -> None:
    from singleinsert.training.prepare import find_material

    # a model that describes the picture is not asked: that takes as long as a run
    settings = replace(settings, caption=replace(settings.caption, describe=""))
    material = find_material(settings, lambda line: None)
    words = [handle.class_word for handle in material.handles]
    for place, found in enumerate(material.found):
        path, (width, height) = str(found.picture.path), found.picture.image.size
        if path not in [picture["file"] for picture in forecast.pictures]:
            forecast.pictures.append({"file": path, "width": width, "height": height})
        level, text = verdict_of(found.mask)
        word = words[place % len(words)]
        forecast.masks.append(MaskSeen(path, word, found.source, round(found.share, 5), level, text, found.notes))


def expected_gpu_gb(settings: Settings) -> tuple[float, float] | None:
    """(least, most) of a GPU's memory; None for what was not counted: other resolutions and families, float32."""
    run, source = settings.run, settings.model.pretrained_model_name_or_path
    uncounted = source in BUNDLED_MODELS or settings.data.resolution != SD_PIXELS or run.mixed_precision == "no"
    if uncounted or preset_of_base(source):
        return None
    least = LEAST_GB[run.use_8bit_adam, run.gradient_checkpointing, run.offload]
    return least, least if run.micro_batch_size == 1 else MOST_GB


def expected_seconds(settings: Settings) -> float | None:
    """Of a run's steps, from the timed steps of earlier runs of its base model and resolution in the folders beside its
    own; None where there are none."""
    likeness = likeness_of(settings)
    try:
        logs = [p for p in settings.output_dir.resolve().parent.glob("*/logs/*") if (p / "events.jsonl").is_file()]
    except (OSError, SingleInsertError):
        return None
    for folder in sorted(logs, key=lambda path: path.stat().st_mtime, reverse=True)[:RECENT]:
        events = read_events(folder)
        begun = next((e for e in reversed(events) if e["event"] == "begun"), {})
        if begun.get("like") != likeness:
            continue
        costs = begun.get("costs", {})
        timed = [(e["seconds"], costs.get(e["stage"], 1.0)) for e in events if e["event"] == "step" and "seconds" in e]
        if timed:
            rate = sum(seconds for seconds, _ in timed) / sum(cost for _, cost in timed)
            return rate * sum(stage.steps * step_cost(stage) for stage in stages_of(settings))
    return None


def likeness_of(settings: Settings) -> str:
    """What a step's time depends on most, besides the machine."""
    return f"{settings.model.pretrained_model_name_or_path} at {settings.data.resolution}"
