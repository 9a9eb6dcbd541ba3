"""Editing regions of a photo: what is outside stays to the bit, what is inside is plain sampling from the noised photo."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from tinyconcepts import make_concept

from singleinsert.errors import InputError
from singleinsert.inference.blended import Blend, edit_pictures, starting_late
from singleinsert.inference.canvas import Region, canvas_size, mask_stages, opacity, prepare_canvas, window
from singleinsert.inference.pipeline import ConceptPipeline, Picture
from singleinsert.inference.schedulers import SCHEDULERS, build_scheduler
from singleinsert.models.loading import load_base_model

HAT = Picture("a red hat", seed=3, steps=8)


def photo(width=32, height=32):
    """Smooth colours with some texture, so that nothing about it is constant."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    values = np.stack([x * 3 + y, 255 - y * 4, (x * y) % 97 + 60], axis=-1)
    return Image.fromarray((values % 256).astype(np.uint8))


def mask(box, size=(32, 32)):
    """White within left, top, right, bottom (exclusive)."""
    image = Image.new("L", size, 0)
    image.paste(255, box)
    return image


LEFT, RIGHT, WHOLE = mask((3, 4, 14, 20)), mask((20, 10, 30, 30)), mask((0, 0, 32, 32))


def edited(pipeline, regions, *pictures, image=None, **options):
    canvas = prepare_canvas(pipeline.model, image or photo(), [Region(*region) for region in regions])
    return [np.asarray(picture).astype(int) for picture in edit_pictures(pipeline, canvas, pictures, **options)]


@pytest.fixture
def model(tiny_sd):
    return load_base_model(tiny_sd)


@pytest.fixture
def pipeline(model):
    return ConceptPipeline(model)


@pytest.mark.parametrize("noise", ["fixed", "fresh"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_outside_stays_to_the_bit_and_inside_changes(scheduler, noise, model):
    pipeline = ConceptPipeline(model, scheduler=scheduler)
    (got,) = edited(pipeline, [(LEFT, "a red hat")], HAT, noise=noise)
    before, inside = np.asarray(photo()).astype(int), np.asarray(LEFT) > 0
    assert np.array_equal(got[~inside], before[~inside])
    assert np.abs(got - before)[inside].mean() > 5
    assert type(pipeline.pipeline.scheduler).__name__ == SCHEDULERS[scheduler].class_name  # put back


def img2img(model, scheduler, strength, picture=HAT):
    """diffusers' own pipeline, from the same clean latents: it starts at the noised source and changes everything."""
    from diffusers import StableDiffusionImg2ImgPipeline

    pixels = torch.from_numpy(np.array(photo(), np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
    parts = {name: getattr(model, name) for name in ("vae", "text_encoder", "tokenizer", "unet")}
    other = StableDiffusionImg2ImgPipeline(
        **parts, scheduler=build_scheduler(scheduler, model.scheduler.config), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    other.set_progress_bar_config(disable=True)
    with torch.no_grad():
        conditions = [model.encode(model.tokenize(text, {}), {}).states for text in (picture.prompt, "")]
        (image,) = other(
            prompt_embeds=conditions[0], negative_prompt_embeds=conditions[1], image=model.encode_picture(pixels).mean,
            strength=strength, num_inference_steps=picture.steps, guidance_scale=picture.guidance_scale,
            generator=[torch.Generator().manual_seed(picture.seed)],
        ).images  # fmt: skip
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("strength", [0.5, 0.75, 1.0])
@pytest.mark.parametrize("scheduler", sorted(set(SCHEDULERS) - {"pndm"}))
def test_a_mask_that_is_1_everywhere_is_plain_sampling_from_the_noised_photo(scheduler, strength, model):
    """Of 8 steps: 4, 6, all. PNDM below: diffusers starts it in the middle with its first step at the wrong level."""
    (got,) = edited(ConceptPipeline(model, scheduler=scheduler), [(WHOLE, HAT.prompt)], HAT, strength=strength)
    assert np.array_equal(got, img2img(model, scheduler, strength))
