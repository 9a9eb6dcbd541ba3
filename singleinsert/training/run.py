"""A whole run: settings in, trained concepts out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from singleinsert.adapters import adapter_class
from singleinsert.artifact import Artifact
from singleinsert.atomic import write_text
from singleinsert.config import Settings
from singleinsert.config.load import check_name, read_values
from singleinsert.data.pictures import image_to_tensor, mask_to_tensor
from singleinsert.dtypes import DTYPES
from singleinsert.errors import first_line
from singleinsert.masks import write_mask
from singleinsert.models.bundled import place_of_model
from singleinsert.models.family import Family
from singleinsert.models.loading import load_base_model
from singleinsert.models.trigger import common_word_note
from singleinsert.training.accelerator import build_accelerator, start_trackers
from singleinsert.training.checkpoint import digest
from singleinsert.training.class_pictures import make_prior
from singleinsert.training.encode import encode_pictures, make_concepts, make_prompting
from singleinsert.training.events import EventLog
from singleinsert.training.files import RunFiles
from singleinsert.training.forecast import likeness_of
from singleinsert.training.look import look_after
from singleinsert.training.loop import Loop, Run
from singleinsert.training.memory import out_of_memory
from singleinsert.training.prepare import Material, find_material
from singleinsert.training.prompting import Prompting
from singleinsert.training.results import build_artifact, flatten, resolved, write_results
from singleinsert.training.resume import carry_samples, checkpoint_to_resume, read_state
from singleinsert.training.samples import Sampler
from singleinsert.training.signals import Interrupted
from singleinsert.training.stages import Stage, adamw_8bit, adapter_options, stages_of, step_cost
from singleinsert.training.switches import place_frozen_weights, set_switches
from singleinsert.training.texts import PromptBook
from singleinsert.training.watch import ConsoleWatch, SilentWatch, Watch, Watches


@dataclass(frozen=True)
class Trained:
    """What a run gives.

    Attributes:
        preview: a picture for the WebUIs' cards. sheet: where the sheet was written.
        is_main_process: is this the process that writes files?
    """

    artifact: Artifact
    preview: Image.Image
    sheet: Path
    is_main_process: bool


def train(
    settings: Settings,
    *,
    folder: Path | None = None,
    load: Callable[[Settings, Any], Family] | None = None,
    started: float | None = None,
    watch: Watch | None = None,
) -> Trained:
    """Train the concepts of a run as ``settings`` say.

    Everything that can be wrong with the input is found before anything is written. However the run ends, the base
    model is then what it was before, to the last bit, and can train the next concept.

    Args:
        folder: where to write, in place of ``settings.output_dir``.
        load: gives the base model for ``(settings, accelerator)``, in place of :func:`load_model`.
        started: ``time.perf_counter()`` at the program's start, to report the time to the first step.
        watch: is told of everything, on the main process only; prints lines where there is none.

    Raises:
        SingleInsertError: one line; Interrupted where the run was asked to stop.
    """
    started = time.perf_counter() if started is None else started
    with ExitStack() as held:  # the run's name, which is given back however the run ends
        return _train(settings, held, folder, load, started, watch)


def _train(
    settings: Settings, held: ExitStack, folder: Path | None, load: Callable[[Settings, Any], Family] | None,
    started: float, watch: Watch | None,
) -> Trained:  # fmt: skip
    check_name(settings)
    files = RunFiles(folder or settings.output_dir, settings.name)
    stages = stages_of(settings)
    accelerator = build_accelerator(settings, files)
    if settings.run.use_8bit_adam:
        adamw_8bit()  # or says now that it is missing
    watch = (watch or ConsoleWatch()) if accelerator.is_main_process else SilentWatch()
    for note in notes_of_name(settings):  # the name can still be changed now
        watch.line(f"note: {note}")
    settings = described_before(settings, files)
    material = find_material(settings, watch.line)
    settings = with_descriptions(settings, material)
    checkpoint = checkpoint_to_resume(settings, files, watch)
    events = None
    if accelerator.is_main_process:
        held.enter_context(files.claimed(bool(settings.run.resume_from_checkpoint), checkpoint))
        events = EventLog(files.logs)
        watch = Watches(watch, events)
    accelerator.wait_for_everyone()  # before one begins to write there, all have looked
    try:
        return _train_there(settings, accelerator, files, stages, material, checkpoint, load, started, watch, events)
    except BaseException as problem:
        if isinstance(problem, Interrupted):
            # all processes, after the same step; one that leaves with its group open may be aborted
            accelerator.state.destroy_process_group()
        if events is not None:
            _tell_end(events, problem)
        raise


def _tell_end(events: EventLog, problem: BaseException) -> None:
    if isinstance(problem, Interrupted):
        events.interrupted(first_line(problem))
    else:
        events.failed(first_line(problem), out_of_memory(problem))


def _train_there(
    settings: Settings, accelerator: Any, files: RunFiles, stages: list[Stage], material: Material,
    checkpoint: Path | None, load: Callable[[Settings, Any], Family] | None, started: float, watch: Watch,
    events: EventLog | None,
) -> Trained:  # fmt: skip
    """The run in its place, from the model to the results."""
    source = settings.model.pretrained_model_name_or_path
    watch.line(f"loading {source}")
    if events is not None:
        events.loading(source)
    model = (load or load_model)(settings, accelerator)
    model.check_trainable()
    # now, and not when a stage begins
    for stage in stages:
        if stage.objective.needs_attention:
            side = settings.data.resolution
            model.read_probabilities(model.latent_shape(side, side)[1:], stage.objective.attention_level)
    adapter_class(settings.adapter.type).check(model.adapted_parts, adapter_options(settings, model).targets)
    run = assemble(settings, accelerator, files, stages, model, material, watch)
    state = None if checkpoint is None else read_state(checkpoint, run)
    sampler = Sampler(run, material.handles)
    if events is not None:
        _write_beginning(run, material, events)
        costs = {stage.name: step_cost(stage) for stage in stages}
        steps, before = {stage.name: stage.steps for stage in stages}, state["losses"] if state else ()
        events.begin(steps, str(checkpoint or ""), costs, before, likeness_of(settings))
        if checkpoint is not None and state is not None:
            carry_samples(run, checkpoint, stages[state["stage"]].name, state["step"])
    start_trackers(accelerator, settings, files)
    loop = Loop(
        run,
        sampler,
        state,
        lambda: watch.line(f"first step done {time.perf_counter() - started:.1f} s after the start"),
    )
    try:
        loop.train()
        looked = look_after(run, loop, material)
        artifact = build_artifact(run, loop, material, looked)
        preview = write_results(run, loop, artifact, sampler, material, looked)
        if events is not None:
            events.done(files.artifact, loop.finished_early)
    finally:
        loop.adapters.eject()
        for tracker in accelerator.trackers:
            tracker.finish()
    accelerator.state.destroy_process_group()
    return Trained(artifact, preview, files.sheet, accelerator.is_main_process)


def notes_of_name(settings: Settings) -> Iterator[str]:
    """What to tell a user of the name that the run has, or was given."""
    if not settings.run.output_name and settings.name != (stem := Path(settings.data.image[0]).stem):
        yield f"called {settings.name}: a word with {stem!r} in it is none that prompts of every client can hold"
    if len(settings.data.class_word) == 1 and (note := common_word_note(settings.name)):
        yield note


def load_model(settings: Settings, accelerator: Any) -> Family:
    """The base model in the run's precision on the run's device, with the memory switches set."""
    source, run = settings.model, settings.run
    model = load_base_model(
        place_of_model(source.pretrained_model_name_or_path),
        revision=source.revision or None,
        variant=source.variant or None,
        dtype=DTYPES[accelerator.mixed_precision],
        device="cpu" if (late := run.keeps_weights_apart) else accelerator.device,
        prediction_type=source.prediction_type,
    )
    if late:
        place_frozen_weights(model, run, accelerator.device)
    if source.timestep_shift:
        model.schedule = model.schedule.with_shift(source.timestep_shift)
    watch = ConsoleWatch() if accelerator.is_local_main_process else SilentWatch()
    set_switches(model, run, watch.line)
    return model


def assemble(
    settings: Settings, accelerator: Any, files: RunFiles, stages: list[Stage], model: Family, material: Material,
    watch: Watch,
) -> Run:  # fmt: skip
    """Encode once what does not change: the pictures' latents (the autoencoder then leaves the device); check every
    prompt that may come."""
    for handle in material.handles:
        model.check_words(handle.placeholder, handle.class_word)
    concepts = make_concepts(settings, model, material, watch.line).to(model.text_device)
    book = PromptBook(model, concepts, material.class_words)
    prompting = make_prompting(settings, material, watch.line)
    check_prompts(prompting, book)
    pictures = encode_pictures(material, model, settings.data.resolution, accelerator.device)
    prior = make_prior(settings, model, book, accelerator, watch.line)
    identity = identity_of(settings, material) | ({"prior.digest": prior.digest} if prior else {})
    return Run(
        settings=settings, accelerator=accelerator, files=files, stages=stages, model=model, concepts=concepts,
        pictures=pictures, prompting=prompting, book=book, identity=identity, watch=watch, prior=prior,
    )  # fmt: skip


def check_prompts(prompting: Prompting, book: PromptBook) -> None:
    """Every prompt that may come is tokenised now. InputError where one cannot be."""
    for each in prompting.all_prompts():
        for text in (each.prompt, each.frozen_prompt, each.class_prompt):
            book.prompt(text)


def identity_of(settings: Settings, material: Material) -> dict[str, Any]:
    """Everything that the run's numbers depend on: its settings, and what is in its pictures, masks and words."""
    size = settings.data.resolution
    only_seen = [given for given in material.given if not any(given is picture for picture in material.pictures)]
    content = [
        tensor
        for picture in (*material.pictures, *only_seen)
        for tensor in (
            image_to_tensor(picture.image, size), *(mask_to_tensor(s.mask, size) for s in picture.subjects)
        )
    ]  # fmt: skip
    described = [picture.description for picture in material.given]
    return flatten(settings) | {"data.digest": digest(*content), "data.described": described}


def described_before(settings: Settings, files: RunFiles) -> Settings:
    """A run that goes on does not ask a model again: its config holds what the model said."""
    if not (settings.run.resume_from_checkpoint and settings.caption.describe and files.config.is_file()):
        return settings
    text = read_values(files.config).get("data.description", ())
    return replace(settings, data=replace(settings.data, description=tuple(text)))


def with_descriptions(settings: Settings, material: Material) -> Settings:
    """The settings with what a model or the user's words said of the pictures, so that the config can be fed back."""
    if not settings.caption.describe or settings.caption.mode == "off":
        return settings
    said = tuple(picture.description for picture in material.given)
    data = replace(settings.data, description=said)
    return replace(settings, data=data, caption=replace(settings.caption, describe=""))


def _write_beginning(run: Run, material: Material, events: EventLog) -> None:
    """The masks and the resolved settings: what a user may look at while the run goes on."""
    words = [handle.class_word for handle in material.handles]
    squares = {picture.source: picture.square for picture in material.given}
    for place, found in enumerate(material.found):
        name, square = run.files.mask_name(place, len(material.found)), squares.get(str(found.picture.path))
        file, _ = write_mask(found, run.files.folder, name, square=square)
        events.mask(str(file), words[place % len(words)], found.share, found.source, found.notes)
    write_text(run.files.config, resolved(run.settings))
