"""What a run leaves: the artifact, the losses, the sheet."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from singleinsert.artifact import Artifact, BaseInfo, TrainedConcept
from singleinsert.captions.describe import WORDS
from singleinsert.config import Settings, to_toml
from singleinsert.config.load import to_values
from singleinsert.data.subject import BACKGROUND, Handle
from singleinsert.drawing.sheet import SheetRow, make_sheet
from singleinsert.errors import ConfigError
from singleinsert.masks.cleanup import union
from singleinsert.models.split_files import absolute_source
from singleinsert.placeholders import split_at_placeholders
from singleinsert.terms import BEFORE, ROLE_TITLES, STAGE_TITLES
from singleinsert.training.attention import handle_maps
from singleinsert.training.encode import encode_pictures
from singleinsert.training.look import Looked
from singleinsert.training.loop import Loop, Run
from singleinsert.training.prepare import Material
from singleinsert.training.prompting import Shown, UnionSampling
from singleinsert.training.samples import Sampler, save_png
from singleinsert.training.seeds import named_generator
from singleinsert.training.stages import Stage


def build_artifact(run: Run, loop: Loop, material: Material, looked: Looked | None = None) -> Artifact:
    """What was learnt, on the CPU in float32; ``looked``: what seems entangled in it."""
    settings, model = run.settings, run.model
    kept = settings if settings.caption.keep else without_words(settings)
    last = {row["stage"]: {k: v for k, v in row.items() if k not in ("stage", "step")} for row in loop.losses.rows}
    shares = {subject.handle: subject.share for subject in material.given[0].subjects}
    metadata = {
        "created": int(time.time()),
        "resolution": settings.data.resolution,
        "seed": settings.run.seed,
        "steps": {stage.name: stage.steps for stage in run.stages},
        "learning_rate": {stage.name: stage.settings.learning_rate for stage in run.stages},
        "settings": resolved(kept),
        "mask_share": sum(shares.values()) if len(shares) > 1 else next(iter(shares.values())),
        "losses": last,
    }
    if settings.caption.keep and any(described := [picture.description for picture in material.given]):
        metadata["descriptions"] = described
    if looked is not None:
        metadata["entanglement"] = looked.numbers(with_phrases=settings.caption.keep)
    # a relative path means nothing elsewhere, or worse: a hub id
    base = BaseInfo(model.name, model.model_name, model.schedule.prediction_type, absolute_source(model.source))
    update = loop.adapters.state()
    if update is not None and not update.lora:
        run.watch.line("nothing of what has trained is a matrix, so that no LoRA can hold it: it is in no file")
        update = None
    elif update is not None and update.error:
        run.watch.line(
            f"the change of the weights as a LoRA of rank {settings.adapter.network_dim}: {update.error:.1%} of it is "
            "left out; a larger --network_dim leaves less, but for norms and biases, which no LoRA holds"
        )
    if update is not None and update.ranks is not None:
        run.watch.line(
            "a rank that falls with noise can be said in no client's file: there all of the LoRA is on at every noise "
            "level, and pictures differ from those drawn here"
        )
    concepts = tuple(_trained(run, handle, shares.get(handle.name)) for handle in material.handles)
    if len(concepts) == 1:
        concepts = (replace(concepts[0], name=run.files.name),)
    return Artifact(run.files.name, concepts, update, base, metadata)


def _trained(run: Run, handle: Handle, share: float | None) -> TrainedConcept:
    with torch.no_grad():
        vectors = {part: v.float().cpu().clone() for part, v in run.concepts[handle.name].vectors().items()}
    known: dict[str, Any] = {} if share is None else {"mask_share": share}
    if handle.name == BACKGROUND:
        known["background"] = True
    if handle.alone:
        known["alone"] = True
    return TrainedConcept(handle.name, handle.placeholder, handle.class_word, vectors, metadata=known)


def write_results(
    run: Run, loop: Loop, artifact: Artifact, sampler: Sampler, material: Material, looked: Looked | None = None
) -> Image.Image:
    """Write the losses, the artifact and the sheet; returns the preview, the last stage's first sample."""
    rows = [_row_before(run, material, sampler), *(_sheet_row(run, stage, sampler) for stage in run.stages)]
    shown = material.given[0]
    first = rows[-1].pictures[0] if rows[-1].pictures else None
    preview = first or shown.image.resize((run.settings.data.resolution,) * 2)
    if run.accelerator.is_main_process:
        artifact.save(run.files.artifact)
        marked = [subject for subject in shown.subjects if subject.handle != BACKGROUND]
        mask, share = union([subject.mask for subject in marked]), sum(subject.share for subject in marked)
        heats = {as_typed(title, artifact): heat for title, heat in _heats(run, material).items()}
        sheet = make_sheet(
            run.files.name, _subtitle(artifact, material, looked), shown.image, mask,
            f"mask, {share:.1%} of the picture", [as_typed(prompt, artifact) for prompt in sampler.prompts],
            [row for row in rows if any(row.pictures)], heats,
            _made_how(run, artifact),
        )  # fmt: skip
        save_png(sheet, run.files.sheet)
    return preview


def _heats(run: Run, material: Material) -> dict[str, Tensor]:
    """Of several concepts, where each acts on the first picture, under what prompts call it; {} of one."""
    if len(material.handles) == 1:
        return {}
    prompting, pictures = run.prompting, run.pictures
    if isinstance(prompting, UnionSampling) and prompting.pictures[0].whole:  # collages; the sheet shows the photo
        prompting = replace(prompting, pictures=(Shown(material.given[0].handles),))
        photo = replace(material, pictures=material.given[:1])
        pictures = encode_pictures(photo, run.model, run.settings.data.resolution, run.model.device)
    prompt = next(asked for asked in prompting.all_prompts() if asked.picture == 0)  # names all that it shows
    level = run.stages[-1].settings.attention_level
    generator = named_generator(run.settings.run.seed, "heat")
    try:
        maps = handle_maps(run.model, run.book, run.concepts, prompt, pictures[0], level, generator)
    except ConfigError as problem:  # a family whose attention cannot be read
        run.watch.line(f"no heat maps on the sheet: {problem}")
        return {}
    words = {handle.name: handle.words for handle in material.handles}
    return {words[name]: heat for name, heat in maps.items()}


def as_typed(prompt: str, artifact: Artifact) -> str:
    """A prompt as one writes it for the exported files: "mexyz face in the snow", not "* face in the snow"."""
    triggers = {concept.placeholder: artifact.trigger(concept) for concept in artifact.concepts}
    return "".join(
        text if found is None else triggers[found] for text, found in split_at_placeholders(prompt, triggers)
    )


def _subtitle(artifact: Artifact, material: Material, looked: Looked | None) -> str:
    """What was learnt from what, in words."""
    named = ", ".join(concept.words(artifact.trigger(concept)) for concept in artifact.concepts)
    count = len({picture.source for picture in material.given})
    parts = [f"{named}, from {'one picture' if count == 1 else f'{count} pictures'}"]
    if shown := material.given[0].description:
        parts.append(f"described: {shown}")
    if looked is not None:
        parts.append(looked.short)
    return "   \u00b7   ".join(parts)


def _made_how(run: Run, artifact: Artifact) -> str:
    parts = [artifact.base.name, f"seed {run.settings.run.seed}", f"{run.settings.concept.type} concept"]
    if artifact.update is not None:
        parts.append(f"LoRA rank {run.settings.adapter.network_dim}")
    return "   \u00b7   ".join(parts)


def _row_before(run: Run, material: Material, sampler: Sampler) -> SheetRow:
    """The frozen model's pictures of the same prompts and seeds, with the class words alone."""
    words = " and ".join(dict.fromkeys(handle.class_word for handle in material.handles if handle.name != BACKGROUND))
    return SheetRow(f"before: {words}", _samples(run, BEFORE, 0, sampler))


def _sheet_row(run: Run, stage: Stage, sampler: Sampler) -> SheetRow:
    learnt = ", ".join(shown for role, shown in ROLE_TITLES.items() if role in stage.trains)
    caption = f"{STAGE_TITLES[stage.name]}, after {stage.steps} steps: {learnt}"
    return SheetRow(caption, _samples(run, stage.name, stage.steps, sampler))


def _samples(run: Run, stage: str, step: int, sampler: Sampler) -> list[Image.Image | None]:
    """The first sample of each prompt, read back: a run that was resumed has those of the stages before, too."""
    repeats = run.settings.sample.images_per_prompt
    paths = [run.files.sample(stage, step, i * repeats) for i in range(len(sampler.prompts))]
    return [Image.open(path).convert("RGB") if path.is_file() else None for path in paths]


def resolved(settings: Settings) -> str:
    """The settings as TOML that can be fed back: what the run went on from is no part of it."""
    return to_toml(replace(settings, run=replace(settings.run, resume_from_checkpoint="")))


def without_words(settings: Settings) -> Settings:
    """The settings without what the pictures are described by: for a file that is given away."""
    spec = settings.caption.describe
    data, caption = replace(settings.data, description=()), settings.caption
    return replace(settings, data=data, caption=replace(caption, describe="" if spec.startswith(WORDS) else spec))


def flatten(settings: Settings) -> dict[str, Any]:
    """``{"section.key": value}``, tuples as lists, as JSON has them."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in to_values(settings).items()}
