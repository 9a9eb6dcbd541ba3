"""A whole run: settings in, a trained concept out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from singleinsert.adapters.lora import layer_paths
from singleinsert.artifact import Artifact, BaseInfo
from singleinsert.atomic import write_text
from singleinsert.concepts import Concept, build_concept
from singleinsert.config import MINI_SD_NAME, Settings, to_toml
from singleinsert.config.load import check_name, to_values
from singleinsert.data.pictures import (
    Square,
    area_resample,
    crop_to_square,
    image_to_tensor,
    load_picture,
    mask_to_tensor,
)
from singleinsert.data.prompts import fill
from singleinsert.drawing.sheet import SheetRow, make_sheet
from singleinsert.errors import ConfigError
from singleinsert.masks import MaskResult, check_mask, find_mask, write_mask
from singleinsert.models.base import MINI_SD, BaseModel, load_base_model
from singleinsert.models.latents import encode_image
from singleinsert.models.text import check_words, encode, tokenize, word_embeddings
from singleinsert.models.trigger import common_word_note
from singleinsert.training.accelerator import build_accelerator, start_trackers
from singleinsert.training.checkpoint import check_same_run, digest, find_checkpoint, load_checkpoint, not_reached
from singleinsert.training.files import RunFiles
from singleinsert.training.loop import Loop, Run
from singleinsert.training.samples import Sampler, save_png
from singleinsert.training.seeds import named_generator
from singleinsert.training.stages import Stage, adamw_8bit, lora_targets, stages_of, wants_bank
from singleinsert.training.step import Subject
from singleinsert.training.switches import set_switches

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


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


def print_line(line: str) -> None:
    """Print above the progress bar, where there is one."""
    from tqdm.auto import tqdm

    tqdm.write(line)


def train(
    settings: Settings,
    *,
    folder: Path | None = None,
    load: Callable[[Settings, Any], BaseModel] | None = None,
    started: float | None = None,
    say: Callable[[str], None] = print_line,
) -> Trained:
    """Train one concept as ``settings`` say.

    Everything that can be wrong with the input is found before anything is written. However the run ends, the base
    model is then what it was before, to the last bit, and can train the next concept.

    Args:
        folder: where to write, in place of ``settings.output_dir``.
        load: gives the base model for ``(settings, accelerator)``, in place of :func:`load_model`.
        started: ``time.perf_counter()`` at the program's start, to report the time to the first step.
        say: gets each line meant for the user, on the main process only.

    Raises:
        SingleInsertError: one line; Interrupted where a signal ended the run.
    """
    started = time.perf_counter() if started is None else started
    check_name(settings)
    files = RunFiles(folder or settings.output_dir, settings.name)
    stages = stages_of(settings)
    accelerator = build_accelerator(settings, files)
    if settings.run.use_8bit_adam:
        adamw_8bit()  # or says now that it is missing
    speak = say if accelerator.is_main_process else _silent
    if note := common_word_note(settings.name):  # the name can still be changed now
        speak(f"note: {note}")
    found, square = find_subject(settings, speak)
    resume = settings.run.resume_from_checkpoint
    checkpoint = find_checkpoint(resume, files.checkpoints) if resume else None
    if resume and checkpoint is None:
        speak(f"no checkpoint in {files.checkpoints} yet: beginning anew")
    files.check_free(bool(resume), checkpoint)
    accelerator.wait_for_everyone()  # before one begins to write there, all have looked

    model = (load or load_model)(settings, accelerator)
    for component, targets in lora_targets(settings).items():  # known now, not when the second stage begins
        layer_paths(getattr(model, component), component, targets)
    run = assemble(settings, accelerator, files, stages, model, square, speak)
    state = None
    if checkpoint is not None:
        state = load_checkpoint(checkpoint)
        check_same_run(checkpoint, run.identity, state["identity"], not_reached(state))
        if wants_bank(settings, stages) and state["bank"] is None:
            raise ConfigError(
                f"checkpoint {checkpoint} has no predictions of the frozen model for {stages[-1].name}, its run had no "
                "use for them: set run.teacher_bank to false, or begin anew"
            )
        speak(f"going on from {checkpoint}")
    sampler = Sampler(settings, accelerator, model, run.concept, files)
    if accelerator.is_main_process:
        write_mask(found, files.folder, files.name)
        write_text(files.config, resolved(settings))
    start_trackers(accelerator, settings, files)
    loop = Loop(
        run, sampler, state, lambda: speak(f"first step done {time.perf_counter() - started:.1f} s after the start")
    )
    try:
        loop.train()
        artifact = build_artifact(run, loop, mask_share(square))
        preview = _finish(run, loop, artifact, sampler, square)
    finally:
        loop.adapters.eject()
        for tracker in accelerator.trackers:
            tracker.finish()
    accelerator.state.destroy_process_group()
    return Trained(artifact, preview, files.sheet, accelerator.is_main_process)


def find_subject(settings: Settings, say: Callable[[str], None]) -> tuple[MaskResult, Square]:
    """The picture with its mask, given or found, and the square of both that trains; says what the mask covers."""
    data = settings.data
    found = find_mask(load_picture(data.image), data.class_word, file=data.mask or None, **vars(settings.mask))
    for line in found.lines():
        say(line)
    square = crop_to_square(found.picture, found.mask, data.crop, data.crop_padding)
    pixels = f"{square.image.width}x{square.image.height} pixels"
    say(f"learning from {pixels} of it, {mask_share(square):.1%} of them subject")
    return found, square


def mask_share(square: Square) -> float:
    """Share of the square that its mask covers. InputError where no training is possible with it."""
    assert square.mask is not None
    return check_mask(square.mask, "the mask, cropped to the training square,")


def load_model(settings: Settings, accelerator: Any) -> BaseModel:
    """The base model in the run's precision on the run's device, with the memory switches set."""
    source = settings.model
    name = source.pretrained_model_name_or_path
    model = load_base_model(
        MINI_SD if name == MINI_SD_NAME else name,
        revision=source.revision or None,
        variant=source.variant or None,
        dtype=DTYPES[accelerator.mixed_precision],
        device=accelerator.device,
        prediction_type=source.prediction_type,
    )
    set_switches(model, settings.run, print_line if accelerator.is_local_main_process else _silent)
    return model


def assemble(
    settings: Settings, accelerator: Any, files: RunFiles, stages: list[Stage], model: BaseModel, square: Square,
    say: Callable[[str], None],
) -> Run:  # fmt: skip
    """Encode once what does not change: the picture's latents (the VAE then leaves the device), the class prompt."""
    data = settings.data
    check_words(model.tokenizer, data.placeholder_token, data.class_word)
    slots = {data.placeholder_token: settings.concept.num_vectors}
    prompt = tokenize(model.tokenizer, fill(data.prompt, data.placeholder_token, data.class_word), slots)
    class_prompt = tokenize(model.tokenizer, fill(data.class_prompt, data.placeholder_token, data.class_word), {})
    pixels = image_to_tensor(square.image, data.resolution)
    model.vae.to(model.text_encoder.device)  # where this model has trained before, it was put away
    latents = encode_image(model.vae, pixels).to(accelerator.device)
    model.vae.to("cpu")
    assert square.mask is not None
    full_mask = mask_to_tensor(square.mask, data.resolution)
    height, width = latents.mean.shape[-2:]
    mask = area_resample(full_mask, (height, width)).to(accelerator.device)
    with torch.no_grad():
        frozen_class = encode(model.text_encoder, class_prompt, {}).to(model.device)
    concept = make_concept(settings, model, square, say).to(model.text_encoder.device)
    identity = flatten(settings) | {"data.digest": digest(pixels, full_mask)}
    return Run(
        settings=settings, accelerator=accelerator, files=files, stages=stages, model=model, concept=concept,
        subject=Subject(latents, mask), prompt=prompt, class_prompt=class_prompt, frozen_class=frozen_class,
        identity=identity, say=say,
    )  # fmt: skip


def make_concept(settings: Settings, model: BaseModel, square: Square, say: Callable[[str], None]) -> Concept:
    """The config's concept, from generators named after the run's seed; it sees the whole training picture."""
    section, data = settings.concept, settings.data
    word = word_embeddings(model.tokenizer, model.text_encoder, data.class_word) if section.residual else None
    if word is not None and section.init_std > (scale := float(word.std())):
        say(
            f"note: a residual of concept.init_std {section.init_std:g} starts far from '{data.class_word}', whose "
            f"embedding has {scale:.2g}: 0.02 starts beside it"
        )
    return build_concept(
        section.type,
        placeholder=data.placeholder_token,
        num_vectors=section.num_vectors,
        width=model.text_width,
        class_embedding=None if word is None else word.cpu(),
        pixels=image_to_tensor(square.image, section.image_size),
        generator=named_generator(settings.run.seed, "concept"),
        init_std=section.init_std,
        clip_model=section.clip_model,
        patch_size=section.patch_size,
        hidden_size=section.hidden_size,
        num_hidden_layers=section.num_hidden_layers,
        num_attention_heads=section.num_attention_heads,
    )


def build_artifact(run: Run, loop: Loop, share: float) -> Artifact:
    """What was learnt, on the CPU in float32."""
    settings, model = run.settings, run.model
    with torch.no_grad():
        embedding = run.concept.vectors().float().cpu().clone()
    last = {row["stage"]: {k: v for k, v in row.items() if k not in ("stage", "step")} for row in loop.losses.rows}
    metadata = {
        "created": int(time.time()),
        "resolution": settings.data.resolution,
        "seed": settings.run.seed,
        "steps": {stage.name: stage.steps for stage in run.stages},
        "learning_rate": {stage.name: stage.settings.learning_rate for stage in run.stages},
        "settings": resolved(settings),
        "mask_share": share,
        "losses": last,
    }
    # a relative path means nothing elsewhere, or worse: a hub id
    source = str(Path(model.source).resolve()) if Path(model.source).exists() else model.source
    base = BaseInfo(model.family, model.name, model.schedule.prediction_type, source)
    return Artifact.of_one_concept(
        name=run.files.name, placeholder=settings.data.placeholder_token, class_word=settings.data.class_word,
        embeddings=embedding, lora=loop.adapters.state(), base=base, metadata=metadata,
    )  # fmt: skip


def _finish(run: Run, loop: Loop, artifact: Artifact, sampler: Sampler, square: Square) -> Image.Image:
    """Write the losses, the artifact and the sheet; returns the preview, the last stage's first sample."""
    rows = [_sheet_row(run, stage, sampler) for stage in run.stages]
    first = rows[-1].pictures[0] if rows[-1].pictures else None
    preview = first or square.image.resize((run.settings.data.resolution,) * 2)
    assert square.mask is not None
    if run.accelerator.is_main_process:
        loop.losses.write(run.files.losses)
        artifact.save(run.files.artifact)
        data, lora = run.settings.data, loop.adapters.layers
        parts = [f"{data.placeholder_token} {data.class_word}", artifact.base.name, f"seed {run.settings.run.seed}"]
        parts += [f"{run.settings.concept.type} concept"]
        parts += [f"LoRA rank {run.settings.adapter.network_dim}"] if lora else []
        caption = f"mask, {mask_share(square):.1%} of the picture"
        sheet = make_sheet(
            run.files.name, "   \u00b7   ".join(parts), square.image, square.mask, caption, sampler.prompts, rows
        )
        save_png(sheet, run.files.sheet)
    return preview


def _sheet_row(run: Run, stage: Stage, sampler: Sampler) -> SheetRow:
    """The stage's last samples, read back: a run that was resumed has those of the stages before, too."""
    repeats = run.settings.sample.images_per_prompt
    paths = [run.files.sample(stage.name, stage.steps, i * repeats) for i in range(len(sampler.prompts))]
    pictures = [Image.open(path).convert("RGB") if path.is_file() else None for path in paths]
    names = {"concept": "concept", "unet": "UNet", "text_encoder": "text encoder"}
    learnt = ", ".join(shown for name, shown in names.items() if name in stage.trains)
    title = {"stage1": "Stage I", "stage2": "Stage II"}.get(stage.name, stage.name)
    return SheetRow(f"{title}, {stage.steps} steps: {learnt}", pictures)


def resolved(settings: Settings) -> str:
    """The settings as TOML that can be fed back: what the run went on from is no part of it."""
    return to_toml(replace(settings, run=replace(settings.run, resume_from_checkpoint="")))


def flatten(settings: Settings) -> dict[str, Any]:
    """``{"section.key": value}``, tuples as lists, as JSON has them."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in to_values(settings).items()}


def _silent(line: str) -> None:
    pass
