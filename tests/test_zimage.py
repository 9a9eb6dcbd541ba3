"""Z-Image: what the transformer is told, and how pictures become its latents, beside diffusers' own pipeline."""

import copy

import numpy as np
import pytest
import torch
from diffusers import ZImagePipeline
from tinymodels import hashed
from tinyqwen import WIDTH
from tinyzimage import LATENTS, random_latents

from singleinsert.errors import ModelError
from singleinsert.models.condition import Condition
from singleinsert.models.families.zimage import ZImage
from singleinsert.models.loading import load_base_model
from singleinsert.models.sampling import sample_images

PROMPT = "a photo of the cat, in the snow"


@pytest.fixture(scope="module")
def model(tiny_zimage):
    return load_base_model(tiny_zimage)


@pytest.fixture(scope="module")
def pipe(tiny_zimage):
    pipe = ZImagePipeline.from_pretrained(tiny_zimage)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def encode(model, text):
    return model.encode(model.tokenize(text, {}), {})


@torch.no_grad()
@pytest.mark.parametrize("prompt", [PROMPT, ""])
def test_states_are_those_of_diffusers_pipeline(model, pipe, prompt):
    """But for the last bits: it lets the language model read the padding as well, which nobody attends to."""
    (states,), _ = pipe.encode_prompt(prompt, do_classifier_free_guidance=False)
    condition = encode(model, prompt)
    assert condition.lengths == (len(states),) and condition.states.shape == (1, len(states), WIDTH)
    assert torch.allclose(condition.states[0], states, atol=1e-5)


@torch.no_grad()
def test_predictions_are_the_pipelines(model, pipe):
    """At other sides than a square's, of two prompts of unequal length: negated, and told 1 - s."""
    latents, t = hashed((2, LATENTS, 12, 20), 2), torch.tensor([200, 900])
    condition = Condition.concatenate([encode(model, PROMPT), encode(model, "a cat")])
    assert condition.lengths[0] > condition.lengths[1] and not condition.states[1, condition.lengths[1] :].any()
    sigma = model.schedule.sigmas[t]
    wanted = pipe.transformer(list(latents.unsqueeze(2).unbind()), 1 - sigma, condition.rows(), return_dict=False)[0]
    found = model.predict(latents, t, condition)
    assert torch.equal(found, torch.stack(wanted).squeeze(2)) and found.shape == latents.shape
    assert torch.allclose(model.predict(latents[1:], t[1:], encode(model, "a cat")), found[1:], atol=1e-4)
    x0 = model.schedule.x0_from(found, latents, t)
    assert torch.allclose(x0, latents + sigma.reshape(-1, 1, 1, 1) * found)  # v = -output


@torch.no_grad()
def test_every_mistake_in_what_the_transformer_is_told_shows(model):
    """Another prompt, padding that counts for words, rows for columns, another clock: each moves the prediction."""
    latents, t = random_latents(), torch.tensor([600])
    condition = encode(model, PROMPT)
    wanted = model.predict(latents, t, condition)
    padded = torch.nn.functional.pad(condition.states, (0, 0, 0, 3))
    wrong = [
        model.predict(latents, t, encode(model, "")),
        model.predict(latents, t, Condition({"states": padded}, (padded.shape[1],))),
        model.predict(latents.mT, t, condition).mT,
        model.predict(latents.flip(1), t, condition),
        model.predict(latents, t + 100, condition),
    ]
    assert min(float((other - wanted).norm() / wanted.norm()) for other in wrong) > 0.003


@torch.no_grad()
def test_pictures_become_latents_and_come_back(model, pipe):
    pixels = hashed((1, 3, 32, 48), 3).clamp(-1, 1)
    found, posterior = model.encode_picture(pixels), pipe.vae.encode(pixels).latent_dist
    assert torch.equal(found.mean, (posterior.mean - 0.1159) * 0.3611) and found.mean.shape[1:] == (LATENTS, 16, 24)
    assert found.mean.shape[1:] == model.latent_shape(32, 48) and torch.equal(found.std, posterior.std * 0.3611)
    z = found.mean / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor
    wanted = pipe.image_processor.postprocess(pipe.vae.decode(z, return_dict=False)[0], output_type="pil")[0]
    assert np.array_equal(np.asarray(model.decode(found.mean)[0]), np.asarray(wanted))


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_the_sheets_pictures_are_the_pipelines(model, pipe, guidance):
    """What training draws by the transformer alone, and what inference draws; guidance 1 is the pipeline's 0."""
    condition, negative = encode(model, PROMPT), encode(model, "")
    asked = {"num_inference_steps": 3, "height": 32, "width": 32}
    told = {"prompt_embeds": condition.rows(), "negative_prompt_embeds": negative.rows()}
    generator = torch.Generator().manual_seed(5)
    wanted = pipe(**told, guidance_scale=guidance - 1, generator=generator, **asked).images[0]
    asked = {"steps": 3, "guidance_scale": guidance, "height": 32, "width": 32}
    latents = model.sample(condition, negative, [torch.Generator().manual_seed(5)], **asked)
    assert latents.shape == (1, *model.latent_shape(32, 32))
    drawn = sample_images(model, condition, negative, [torch.Generator().manual_seed(5)], **asked)[0]
    for picture in (model.decode(latents)[0], drawn):
        assert np.array_equal(np.asarray(picture), np.asarray(wanted))
    says = pipe(prompt=PROMPT, guidance_scale=guidance - 1, generator=torch.Generator().manual_seed(5),
                num_inference_steps=3, height=32, width=32).images[0]  # fmt: skip
    assert np.abs(np.asarray(says).astype(int) - np.asarray(wanted)).max() <= 1


def test_conditions_of_unequal_length_keep_their_gradients():
    leaf = torch.ones(1, 2, 3, requires_grad=True)
    short, long = Condition({"states": leaf}, (2,)), Condition({"states": torch.ones(1, 5, 3)}, (5,))
    both = Condition.concatenate([short, short, long])
    assert both.lengths == (2, 2, 5) and both.states.shape == (3, 5, 3)
    assert [len(row) for row in both.to(dtype=torch.bfloat16).rows()] == [2, 2, 5]
    both.rows()[0].sum().backward()
    assert leaf.grad.sum() == 6


def test_a_model_of_another_kind_is_refused_in_a_line(pipe, model):
    for name, value, message in (
        ("siglip_feat_dim", 64, "told by pictures too"),
        ("in_channels", 4, "autoencoder do not fit"),
        ("cap_feat_dim", 64, "text encoder do not fit"),
    ):
        other = copy.copy(pipe)
        other.transformer = copy.copy(pipe.transformer)
        other.transformer._internal_dict = type(pipe.transformer.config)({**pipe.transformer.config, name: value})
        with pytest.raises(ModelError, match=message):
            ZImage.from_pipeline(other, "folder", "folder", "cpu", "auto")
    model.check_trainable()
    turbo = ZImage.from_pipeline(copy.copy(pipe), "Tongyi-MAI/Z-Image-Turbo", "Z-Image-Turbo", "cpu", "auto")
    with pytest.raises(ModelError, match="distilled to a few steps.*such as Tongyi-MAI/Z-Image,"):
        turbo.check_trainable()
