"""What the model makes of a run's material: latents, prompts, concepts to be learnt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from singleinsert.concepts import Concept, build_concept
from singleinsert.config import Settings
from singleinsert.data.pictures import area_resample, image_to_tensor, mask_to_tensor
from singleinsert.data.subject import Handle
from singleinsert.models.family import Family
from singleinsert.training.prepare import Material
from singleinsert.training.prompting import (
    OneSubject,
    Prompting,
    UnionSampling,
    Variation,
    VariedPrompts,
    Words,
)
from singleinsert.training.seeds import named_generator
from singleinsert.training.step import EncodedPicture
from singleinsert.training.texts import ConceptSet


def encode_pictures(material: Material, model: Family, resolution: int, device: Any) -> tuple[EncodedPicture, ...]:
    """Latents and masks of every picture; the autoencoder comes to where the text encoders are, and then goes."""
    model.autoencoder.to(model.text_device)  # where this model has trained before, it was put away
    encoded = []
    for picture in material.pictures:
        latents = model.encode_picture(image_to_tensor(picture.image, resolution)).to(device)
        fine = {subject.handle: mask_to_tensor(subject.mask, resolution) for subject in picture.subjects}
        size = (latents.mean.shape[-2], latents.mean.shape[-1])
        masks = {name: area_resample(mask, size).to(device) for name, mask in fine.items()}
        encoded.append(EncodedPicture(latents, masks, picture.frame, fine))
    model.autoencoder.to("cpu")
    return tuple(encoded)


def make_prompting(settings: Settings, material: Material, say: Callable[[str], None]) -> Prompting:
    """How the run's method talks to the model: one concept, or random subsets of several. Says which templates it has
    no use for."""
    data, single = settings.data, not material.shown
    for name, stage in settings.stages.items():
        if (stage.prompt_places or stage.prompt_edits) and not (single and Variation.of_stage(stage).templates):
            why = f"objective {stage.objective} asks the training prompt alone" if single else "scene.prompt asks"
            say(f"{name}.prompt_places and prompt_edits are not used: {why}")
    if single:
        descriptions = tuple(picture.description for picture in material.pictures)
        words = Words(data.prompt, data.class_prompt, settings.caption.mode)
        plain = OneSubject(settings.run.seed, material.handles[0], descriptions, words, settings.caption.drop)
        return vary_prompts(plain, settings)
    scene = settings.scene
    return UnionSampling(
        settings.run.seed, {handle.name: handle for handle in material.handles}, material.shown, scene.subset,
        scene.phrase, scene.prompt, scene.joiner,
    )  # fmt: skip


def vary_prompts(plain: OneSubject, settings: Settings) -> Prompting:
    """``plain``, some of its samples asked with the templates of their stage, where a stage has any."""
    varied = {name: Variation.of_stage(stage) for name, stage in settings.stages.items()}
    return VariedPrompts(plain, varied) if any(each.templates for each in varied.values()) else plain


def make_concepts(settings: Settings, model: Family, material: Material, say: Callable[[str], None]) -> ConceptSet:
    """A concept for each handle, from generators named after the run's seed; each sees the pictures that show it."""
    return ConceptSet(
        {handle.name: _make_concept(settings, model, material, handle, say) for handle in material.handles}
    )


def _make_concept(
    settings: Settings, model: Family, material: Material, handle: Handle, say: Callable[[str], None]
) -> Concept:
    section, single = settings.concept, len(material.handles) == 1
    word = model.word_embeddings(handle.class_word)
    if section.residual and section.init_std > (scale := float(next(iter(word.values())).std())):
        say(
            f"note: a residual of concept.init_std {section.init_std:g} starts far from '{handle.class_word}', whose "
            f"embedding has {scale:.2g}: 0.02 starts beside it"
        )
    return build_concept(
        section.type,
        placeholder=handle.placeholder,
        num_vectors=section.num_vectors,
        widths=model.embedding_widths,
        class_embedding={part: vectors.cpu() for part, vectors in word.items()} if section.residual else None,
        pixels=_views_of(material, handle, section.image_size),
        generator=named_generator(settings.run.seed, "concept", *(() if single else (handle.name,))),
        init_std=section.init_std,
        clip_model=section.clip_model,
        patch_size=section.patch_size,
        hidden_size=section.hidden_size,
        num_hidden_layers=section.num_hidden_layers,
        num_attention_heads=section.num_attention_heads,
    )


def _views_of(material: Material, handle: Handle, size: int) -> Tensor:
    """(P, 3, S, S): what an image encoder sees of a concept in the given pictures, which is all there is to see. A
    single one is shown them whole, as in the paper; one of several its own part, on grey."""
    views = []
    for picture in material.given:
        for subject in picture.subjects:
            if subject.handle == handle.name:
                alone = picture.image
                if len(picture.subjects) > 1:
                    alone = Image.new("RGB", picture.image.size, (128, 128, 128))
                    alone.paste(picture.image, mask=subject.mask)
                views.append(image_to_tensor(alone, size))
    return torch.cat(views)
