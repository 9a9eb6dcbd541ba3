"""The start of mini-flow: its parts are klein's true classes, its teacher is mini-sd, and one step of its training."""

import argparse

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline

from singleinsert.models.bundled import MINI_SD
from singleinsert.models.families.flux2 import velocity
from singleinsert.models.loading import load_base_model
from testbed import flow_vectors
from testbed.flow import (
    LENGTH,
    WIDTH,
    Teacher,
    build_pipeline,
    build_text_encoder,
    build_tokenizer,
    build_transformer,
    flow_autoencoder,
    pack,
)
from testbed.flow_train import Data, Told, prompts_of, states_of, train_transformer, velocities
from testbed.tokenizer import words

CAPTIONS = ["a photo of a red cat wearing a blue top hat in the snow", "", "a dog on the beach"]


@pytest.fixture(scope="module")
def mini():
    return load_base_model(MINI_SD)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return build_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def autoencoder(mini):
    generator = np.random.default_rng(0)
    return flow_autoencoder(mini.vae, generator.normal(0.3, 1.5, (64, 4, 16, 16)))


def test_every_word_is_one_token_with_a_space_before_it_or_not(tokenizer):
    for word in words():
        assert len(tokenizer(word)["input_ids"]) == 1, word
        if word[0].isalpha():
            assert len(tokenizer(" " + word)["input_ids"]) == 1, word


def test_merged_spans_stand_where_a_concept_would(tokenizer):
    prompts = prompts_of(tokenizer, CAPTIONS * 40, share=1.0)
    assert set(prompts.sums) == {row for row in range(120) if row % 3 != 1}
    for row, (slot, ids) in prompts.sums.items():
        before = tokenizer.decode(prompts.ids[row, :slot])
        after = tokenizer.decode(prompts.ids[row, slot + 1 :], skip_special_tokens=True)
        span = tokenizer.decode(ids)
        said = before.removeprefix("<|im_start|>user\n") + span.strip() + " " + after
        assert said.split()[: len(CAPTIONS[row % 3].split())] == CAPTIONS[row % 3].split()
        assert 2 <= len(span.split()) <= 5


def test_the_folder_is_a_klein(mini, tokenizer, autoencoder, tmp_path):
    """Its states are those that diffusers' pipeline and the family encode; its latents come back as the picture."""
    encoder, transformer = build_text_encoder(tokenizer).eval(), build_transformer(16)
    build_pipeline(autoencoder, transformer, encoder, tokenizer).save_pretrained(tmp_path)
    model = load_base_model(tmp_path)
    assert (model.name, model.latent_shape(64, 64)) == ("flux2-klein-4b", (16, 8, 8))
    assert sum(p.numel() for p in transformer.parameters()) < 9e6
    condition = model.encode(model.tokenize(CAPTIONS[0], {}), {})
    assert condition.states.shape == (1, LENGTH, 3 * WIDTH)
    prompts = prompts_of(tokenizer, CAPTIONS[:1], share=0.0)
    ids = torch.from_numpy(prompts.ids.astype(np.int64))
    with torch.no_grad():
        assert torch.equal(states_of(encoder, ids, [], tokenizer.pad_token_id), condition.states)
        states, _ = Flux2KleinPipeline.from_pretrained(tmp_path).encode_prompt(CAPTIONS[0], max_sequence_length=LENGTH)
    assert torch.equal(states, condition.states)
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3)) * 2 - 1
    scale = mini.vae.config.scaling_factor
    wanted = pack(mini.encode_picture(pixels).mean) - autoencoder.bn.running_mean.view(1, -1, 1, 1) * scale
    assert torch.allclose(model.encode_picture(pixels).mean, wanted, atol=1e-4)


@torch.no_grad()
def test_a_vector_at_the_output_is_what_the_denoiser_is_told(tokenizer, autoencoder, tmp_path):
    """And the language model's own states stay what they are where it reads an embedding of zeros there."""
    encoder, transformer = build_text_encoder(tokenizer).eval(), build_transformer(16)
    build_pipeline(autoencoder, transformer, encoder, tokenizer).save_pretrained(tmp_path)
    model = load_base_model(tmp_path)
    vector = torch.randn(1, flow_vectors.output_widths(model)["text_encoder"])
    assert vector.shape == (1, 3 * WIDTH)
    prompt = model.tokenize("a photo of a * in the snow", {"*": 1})
    place = prompt.tokens["text_encoder"].slots[0].position
    states = flow_vectors.encode(model, prompt, {"*": {"text_encoder": vector}}).states
    plain = model.encode(prompt, {"*": {"text_encoder": torch.zeros(1, WIDTH)}}).states
    assert torch.equal(states[0, place], vector[0])
    rest = torch.arange(LENGTH) != place
    assert torch.equal(states[:, rest], plain[:, rest]) and not torch.equal(states, plain)


@torch.no_grad()
def test_the_teacher_says_of_its_own_noisy_latents_what_it_always_said(mini, autoencoder):
    """The same x0, whether mini-sd is asked by its own schedule or along the flow."""
    teacher = Teacher(mini.unet, mini.schedule, autoencoder, mini.vae.config.scaling_factor)
    condition = mini.encode(mini.tokenize(CAPTIONS[2], {}), {})
    rows = torch.tensor([150, 500, 850])
    generator = torch.Generator().manual_seed(1)
    clean, noise = (torch.randn(3, 4, 16, 16, generator=generator) for _ in range(2))
    x_t = mini.schedule.add_noise(clean, noise, rows)
    wanted = mini.schedule.x0_from(mini.predict(x_t, rows, condition), x_t, rows)
    s = teacher.levels_of(rows).view(-1, 1, 1, 1)
    x_s = (1 - s) * (pack(clean) - teacher.mean) + s * pack(noise)
    v = teacher.velocity(x_s, rows, condition.states.expand(3, -1, -1))
    assert torch.allclose(x_s - s * v, pack(wanted) - teacher.mean, atol=2e-4)
    assert torch.equal(teacher.row(teacher.levels_of(rows)), rows)
    assert teacher.knows(torch.tensor([0.02, 0.03, 0.93, 0.95])).tolist() == [False, True, True, False]


def test_what_is_learnt_is_the_teachers_where_it_knows_and_the_datas_elsewhere(mini, autoencoder):
    teacher = Teacher(mini.unet, mini.schedule, autoencoder, mini.vae.config.scaling_factor)
    teacher.velocity = lambda x, rows, states: torch.full_like(x, 7.0)
    x0 = torch.randn(64, 16, 8, 8, generator=torch.Generator().manual_seed(2))
    states = torch.zeros(64, 48, 256)
    x_s, s, target = velocities(x0, states, teacher, torch.Generator().manual_seed(0), data_share=0.0)
    told = (target == 7.0).flatten(1).all(dim=1)
    assert torch.equal(told, teacher.knows(s) | (told & (s <= 0.0281))) and 48 < told.sum() < 64
    spread = s.view(-1, 1, 1, 1)
    assert torch.allclose((x_s - spread * target)[~told], x0[~told], atol=1e-5)  # along the data's own velocity
    _, _, target = velocities(x0, states, teacher, torch.Generator().manual_seed(0), data_share=1.0)
    assert not (target == 7.0).any()


def test_a_few_steps_learn_and_go_on_where_they_were(mini, tokenizer, autoencoder, tmp_path):
    generator = np.random.default_rng(1)
    shapes = ((8, 4, 16, 16), (8, LENGTH, 3 * WIDTH), (8, 48, 256))
    latents, *said = (torch.from_numpy(generator.normal(0, 1, shape)) for shape in shapes)
    data = Data(latents, Told(*said), Told(*said))
    teacher = Teacher(mini.unet, mini.schedule, autoencoder, mini.vae.config.scaling_factor)
    seen = []

    def trained(steps):
        args = argparse.Namespace(batch_size=4, rate=1e-3, compile=False, runs=tmp_path, steps=steps)
        model = train_transformer(build_transformer(16), data, teacher, 0.8, args, seen.append)
        states = torch.zeros(1, LENGTH, 3 * WIDTH)
        with torch.no_grad():
            return velocity(model, torch.ones(1, 16, 8, 8), torch.tensor([0.5]), states)

    four = trained(4)
    assert (tmp_path / "flow-transformer.pt").exists() and not torch.equal(four, trained(8))
    assert torch.load(tmp_path / "flow-transformer.pt", weights_only=True)["step"] == 8
