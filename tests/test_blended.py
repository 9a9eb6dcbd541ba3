"""Editing regions of a photo: outside nothing changes, to the bit; inside is plain sampling from the noised photo."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from tinyconcepts import make_concept

from singleinsert.errors import InputError
from singleinsert.inference.blended import Blend, edit_pictures
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
        **parts, scheduler=build_scheduler(scheduler, model.scheduler), safety_checker=None,
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


def test_a_mask_that_is_0_everywhere_is_the_photo(pipeline, model):
    """Its latents end as the photo's clean ones, whatever was drawn; pasted, not a bit has changed."""
    canvas = prepare_canvas(model, photo(), [Region(LEFT, "a red hat")])
    nowhere = dataclasses.replace(canvas, masks=((torch.zeros_like(canvas.masks[0][0]),),))
    unpasted = dataclasses.replace(nowhere, opacity=np.zeros_like(canvas.opacity))
    decoded = dataclasses.replace(nowhere, opacity=np.ones_like(canvas.opacity))
    assert np.array_equal(*map(np.asarray, (*edit_pictures(pipeline, unpasted, [HAT]), photo())))
    assert np.array_equal(*map(np.asarray, (*edit_pictures(pipeline, decoded, [HAT]), model.decode(canvas.latents)[0])))


@pytest.fixture
def seen(monkeypatch):
    """Every (latents before the blend, latents after it) of the test, float32."""
    pairs, call = [], Blend.__call__

    def record(self, pipeline, step, timestep, tensors):
        out = call(self, pipeline, step, timestep, tensors)
        pairs.append((tensors["latents"].clone(), out["latents"].clone()))
        return out

    monkeypatch.setattr(Blend, "__call__", record)
    return pairs


def starting_noise(seed):
    return torch.randn((4, 16, 16), generator=torch.Generator().manual_seed(seed))


STOCHASTIC = {"ddpm", "euler_a"}


@pytest.mark.parametrize(
    ("scheduler", "prediction_type"),
    # Karras' levels lie between the rows of the table that the model is asked for, and PNDM takes means of outputs at
    # several levels: v, unlike epsilon, is then not quite what their steps take it for
    [(name, kind) for name in SCHEDULERS for kind in ("epsilon", "v_prediction")
     if name not in STOCHASTIC and not (name in ("dpmpp_2m_karras", "pndm") and kind == "v_prediction")],
)  # fmt: skip
def test_the_photo_comes_back_at_the_level_that_the_latents_have(scheduler, prediction_type, make_tiny_sd, seen):
    """A model that knows the photo and the noise: each step leads exactly to the photo at the next level, with the same
    noise, so blending must change nothing. The authors' scripts, which blend one level too noisy, fail here."""
    model = load_base_model(make_tiny_sd(prediction_type))
    canvas = prepare_canvas(model, photo(), [Region(LEFT, "a red hat")])
    noise, abar = starting_noise(HAT.seed), model.schedule.alphas_cumprod

    def all_knowing(x, t, **_):
        signal, sigma = abar[int(t)] ** 0.5, (1 - abar[int(t)]) ** 0.5
        return ((noise if prediction_type == "epsilon" else signal * noise - sigma * canvas.latents).expand_as(x),)

    model.unet.forward = all_knowing
    list(edit_pictures(ConceptPipeline(model, scheduler=scheduler), canvas, [HAT]))
    assert len(seen) >= 6  # 0.75 of 8 steps; Heun and PNDM have more calls
    for before, after in seen[:-1]:
        torch.testing.assert_close(before, after, rtol=1e-3, atol=2e-3)
    assert torch.equal(seen[-1][1][..., 8:], canvas.latents[..., 8:])  # clean; LEFT ends with latent 6, dilated 7


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_rows_joined_after_each_step_are_steps_with_joined_outputs(scheduler, model, seen):
    """eps = m_1 eps_1 + m_2 eps_2: two prompts in one pass, against one prompt whose output is mixed by hand."""
    joined = [Region(LEFT, "a red hat"), Region(RIGHT, "a tree")]
    canvas = prepare_canvas(model, photo(), joined)
    one = prepare_canvas(model, photo(), [Region(canvas.whole_mask, "a red hat")])
    (left,), (right,) = canvas.masks
    assert torch.equal(one.masks[0][0], left + right)  # they are apart
    outputs = torch.stack([starting_noise(101), starting_noise(102)])
    pipeline = ConceptPipeline(model, scheduler=scheduler)
    model.unet.forward = lambda x, t, **_: (0.2 * x + outputs.repeat(2, 1, 1, 1),)
    list(edit_pictures(pipeline, canvas, [HAT]))
    two_rows = seen[-1][1]
    mixed = torch.where(left > 0, outputs[0], outputs[1])
    model.unet.forward = lambda x, t, **_: (0.2 * x + mixed,)
    list(edit_pictures(pipeline, one, [HAT]))
    torch.testing.assert_close(two_rows, seen[-1][1], rtol=1e-3, atol=1e-3)
    assert two_rows.shape == (1, 4, 16, 16)  # one row is decoded


def test_each_region_follows_its_own_prompt(pipeline):
    """What a region gets from its own prompt is nearer to that prompt alone than to the other's."""
    hat, tree = ((LEFT, "a red hat"), (RIGHT, "a green tree")), ((LEFT, "a green tree"), (RIGHT, "a red hat"))
    both, swapped = edited(pipeline, hat, HAT)[0], edited(pipeline, tree, HAT)[0]
    alone = edited(pipeline, hat[:1], HAT)[0]
    inside = np.asarray(LEFT) > 0
    assert np.abs(both - alone)[inside].mean() < 0.8 * np.abs(swapped - alone)[inside].mean()


def test_one_by_one_keeps_what_is_done(pipeline, seen):
    """The second pass starts from the first one's latents and changes them in its own mask alone."""
    regions = [(LEFT, "a red hat"), (RIGHT, "a green tree")]
    edited(pipeline, regions, HAT, order="one_by_one")
    first, second = (seen[end][1] for end in (len(seen) // 2 - 1, -1))
    (_,), (right,) = prepare_canvas(pipeline.model, photo(), [Region(*region) for region in regions]).masks
    assert torch.equal(first[(right == 0).expand_as(first)], second[(right == 0).expand_as(first)])
    assert (first - second)[(right == 1).expand_as(first)].abs().mean() > 0.1


def test_pictures_do_not_hang_on_the_batch(pipeline):
    regions = [(LEFT, "a red hat"), (RIGHT, "a green tree")]
    pictures = [dataclasses.replace(HAT, seed=seed) for seed in range(3)]
    for noise in ("fixed", "fresh"):
        together = edited(pipeline, regions, *pictures, noise=noise, batch_size=6)
        alone = edited(pipeline, regions, *pictures, noise=noise, batch_size=1)
        assert np.abs(np.subtract(together, alone)).max() <= 1
        assert np.abs(together[0] - together[1]).mean() > 1


def test_strength_is_how_far_it_goes(pipeline):
    """Of 8 steps, 1 at the least; more steps from more noise change more."""
    inside, before = np.asarray(LEFT) > 0, np.asarray(photo()).astype(int)
    change = [
        np.abs(edited(pipeline, [(LEFT, "a red hat")], HAT, strength=s)[0] - before)[inside].mean()
        for s in (0.01, 0.5, 1.0)
    ]
    assert change == sorted(change) and change[2] > change[0] + 5


@pytest.mark.parametrize("size", [(100, 70), (33, 47), (200, 20)])
def test_photos_of_any_size(size, pipeline):
    width, height = size
    place = mask((width // 2, 3, width - 1, height // 2), size)
    (got,) = edited(pipeline, [(place, "a red hat")], HAT, image=photo(*size))
    before, inside = np.asarray(photo(*size)).astype(int), np.asarray(place) > 0
    assert got.shape == (height, width, 3)
    assert np.array_equal(got[~inside], before[~inside]) and np.abs(got - before)[inside].mean() > 5


def test_the_window_around_the_masks():
    """Twice the mask's sides, 512 pixels at least, inside the photo; and its shape at the model's number of pixels."""
    assert window((4000, 3000), (1000, 1000, 1400, 1100), 512) == (800, 794, 1600, 1306)  # 1050 -+ 256
    assert window((4000, 3000), (0, 2900, 100, 3000), 512) == (0, 2488, 512, 3000)
    assert window((400, 300), (0, 0, 400, 300), 512) == (0, 0, 400, 300)
    assert canvas_size((0, 0, 512, 512), 512, 8) == (512, 512)
    assert canvas_size((0, 0, 1000, 500), 512, 8) == (728, 360)  # 512 * sqrt(2) = 724.1, / sqrt(2) = 362.0
    assert canvas_size((0, 0, 3000, 10), 64, 8) == (1112, 8)  # 64 * sqrt(300) = 1108.5, / sqrt(300) = 3.7


def tensor(mask):
    return torch.from_numpy(np.asarray(mask, np.float32) / 255)[None, None]


def test_a_thick_mask_at_latent_size():
    """8 x 8 pixels a latent: 2.5 x 4 latents become the mean of what they cover, and one latent more on each side."""
    (only,) = mask_stages(tensor(mask((24, 16, 44, 48), (64, 64))), (8, 8))
    row = [0, 0, 1, 1, 1, 1, 0.5, 0]  # covered: 3, 4, and half of 5
    assert only[0, 0].tolist() == [row if 1 <= y <= 6 else [0] * 8 for y in range(8)]


def test_a_thin_mask_keeps_its_strength_and_its_area():
    """A line one pixel wide covers an eighth of its latents; it counts whole, and the first stages give it room."""
    line = tensor(mask((16, 35, 48, 36), (64, 64)))
    stages = mask_stages(line, (8, 8))
    assert [int((stage > 0).sum()) for stage in stages] == [8 * 8, 8 * 7, 8 * 5, 6 * 3]  # 3, 2, 1, 0 latents wider
    assert stages[-1][0, 0, 3:6, 1:7].eq(1).all()
    assert all((wide >= narrow).all() for wide, narrow in itertools.pairwise(stages))
    assert np.array_equal(opacity(line, (64, 64), 4), line[0, 0].numpy())


def test_the_paste_rises_inside_of_the_mask():
    """Over 4 pixels: 1/4, 2/4, 3/4, whole; not at the picture's edge, which is no edge of the mask."""
    soft = opacity(tensor(mask((0, 0, 20, 64), (64, 64))), (64, 64), 4)
    assert np.allclose(soft, np.array([1] * 16 + [1, 0.75, 0.5, 0.25] + [0] * 44) + np.zeros((64, 1)))


def test_thin_masks_change_thin_things(pipeline):
    line = mask((4, 15, 28, 16))
    (got,) = edited(pipeline, [(line, "a red hat")], HAT)
    before, inside = np.asarray(photo()).astype(int), np.asarray(line) > 0
    assert np.array_equal(got[~inside], before[~inside]) and np.abs(got - before)[inside].mean() > 5


def test_concepts_and_half_precision_and_offloading(tiny_sd):
    anna = make_concept(tiny_sd, "anna")
    (plain,) = edited(ConceptPipeline(load_base_model(tiny_sd), [anna]), [(LEFT, "{anna}")], HAT)
    (without,) = edited(ConceptPipeline(load_base_model(tiny_sd)), [(LEFT, "face")], HAT)
    assert np.abs(plain - without).mean() > 0.5
    model = load_base_model(tiny_sd)
    canvas = prepare_canvas(model, photo(), [Region(LEFT, "{anna}")])
    offloaded = ConceptPipeline(model, [anna], offload="model", offload_device="cpu")
    assert np.array_equal(*map(np.asarray, (*edit_pictures(offloaded, canvas, [HAT]), plain)))
    half = ConceptPipeline(load_base_model(tiny_sd, dtype=torch.bfloat16), [anna])
    (rough,) = edited(half, [(LEFT, "{anna}")], HAT)
    assert np.abs(rough - plain).mean() < 0.5 * np.abs(without - plain).mean()


@pytest.mark.parametrize(
    ("regions", "options", "message"),
    [
        ([], {}, "nothing to edit"),
        ([(Image.new("L", (32, 32), 120), "a hat")], {}, "mask 1 is empty"),
        ([(LEFT, "a hat"), (mask((1, 1, 5, 5), (32, 30)), "a hat")], {}, "mask 2 is 32x30 but the picture is 32x32"),
        ([(LEFT, "{bob}")], {}, "names no loaded concept"),
        ([(LEFT, "a hat")], {"strength": 0.0}, "strength of 0 cannot be"),
        ([(LEFT, "a hat")], {"strength": float("nan")}, "strength of nan cannot be"),
        ([(LEFT, "a hat")], {"order": "backwards"}, "order 'backwards' is none of at_once, one_by_one"),
        ([(LEFT, "a hat")], {"noise": "loud"}, "noise 'loud' is none of fixed, fresh"),
    ],
)
def test_what_cannot_be_is_one_line(regions, options, message, pipeline):
    with pytest.raises(InputError, match=message) as raised:
        edited(pipeline, regions, HAT, **options)
    assert "\n" not in str(raised.value)


def test_sd2_that_predicts_v(make_tiny_sd):
    pipeline = ConceptPipeline(load_base_model(make_tiny_sd("v_prediction", "sd2")))
    (got,) = edited(pipeline, [(LEFT, "a red hat")], HAT)
    before, inside = np.asarray(photo()).astype(int), np.asarray(LEFT) > 0
    assert np.array_equal(got[~inside], before[~inside]) and np.abs(got - before)[inside].mean() > 5
