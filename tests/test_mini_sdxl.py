"""The start of mini-sdxl: mini-sd's weights in a true SDXL, which says what mini-sd says before it has learnt more."""

import numpy as np
import pytest
import torch
from PIL import Image

from singleinsert.config import load_settings
from singleinsert.models.bundled import ASSETS, MINI_SD, place_of_model
from singleinsert.models.condition import Condition
from singleinsert.models.families.sdxl import StableDiffusionXL
from singleinsert.models.loading import load_base_model
from testbed.gate import generate, load_pipeline
from testbed.judge import Judge
from testbed.sdxl import GAIN, POOLED, SECOND_WIDTH, TIME_DIM, transplant, transplant_unet, write
from testbed.sdxl_data import Framing, Texts, draw_framing
from testbed.sdxl_text import merge_spans, summed_in
from testbed.sdxl_train import (
    BOTH_BLANK,
    FIRST_BLANK,
    NOTHING,
    SECOND_BLANK,
    Told,
    divide_first_columns,
    told,
)
from testbed.text import encode_tokens
from testbed.world.captions import BACKGROUND_WORDS

PROMPTS = ("a photo of a face in the snow", "a dog on the beach")
TIMES = (100, 500, 900)
MINI_SDXL = ASSETS / "mini-sdxl"


@pytest.fixture(scope="module")
def mini():
    return load_base_model(MINI_SD)


def latents():
    return torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))


def difference(one, other):
    return float((one - other).norm() / other.norm())


@torch.no_grad()
def test_the_unet_says_what_mini_sd_says_whatever_else_it_is_told(mini):
    unet = transplant_unet(mini.unet)
    assert unet.config.cross_attention_dim == 256 + SECOND_WIDTH and not unet.config.get("_name_or_path")
    assert unet.config.projection_class_embeddings_input_dim == POOLED + 6 * TIME_DIM
    generator = torch.Generator().manual_seed(1)
    for time in TIMES:
        condition = mini.encode(mini.tokenize(PROMPTS[0], {}), {})
        wanted = mini.predict(latents(), torch.tensor([time]), condition)
        for _ in range(2):
            second = torch.randn(1, condition.states.shape[1], SECOND_WIDTH, generator=generator)
            told = {
                "text_embeds": torch.randn(1, POOLED, generator=generator),
                "time_ids": torch.randint(0, 99, (1, 6), generator=generator),
            }
            states = torch.cat([condition.states, second], dim=-1)
            out = unet(latents(), time, states, added_cond_kwargs=told).sample
            assert torch.allclose(out, wanted, atol=1e-5)


@torch.no_grad()
def farthest(mini, gain):
    """The largest difference of the whole model's predictions, from its prompts on, relative to mini-sd's."""
    model = StableDiffusionXL.from_pipeline(transplant(mini, gain), "mini-sdxl", "mini-sdxl", "cpu", "auto")
    return max(
        difference(
            model.predict(latents(), torch.tensor([time]), model.encode(model.tokenize(prompt, {}), {})),
            mini.predict(latents(), torch.tensor([time]), mini.encode(mini.tokenize(prompt, {}), {})),
        )
        for prompt in PROMPTS
        for time in TIMES
    )


def test_the_whole_model_does_so_from_its_prompts_on(mini):
    """What is left of the un-normed states is 1 / gain of them: a fourth of it at four times the gain."""
    assert farthest(mini, 2.0**17) < 1e-5
    usual, quarter = farthest(mini, 32.0), farthest(mini, 4 * 32.0)
    assert usual < 0.02  # the empty prompt moves the prediction by 0.08 to 0.2
    assert quarter == pytest.approx(usual / 4, rel=0.15)


@torch.no_grad()
def test_what_is_new_can_learn(mini):
    """The columns and the time embedding behind the zeros get gradients: only what is in front of linear_2 waits."""
    model = StableDiffusionXL.from_pipeline(transplant(mini), "mini-sdxl", "mini-sdxl", "cpu", "auto")
    condition = model.encode(model.tokenize(PROMPTS[0], {}), {})
    new = [
        model.unet.add_embedding.linear_2.weight,
        model.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_k.weight,
    ]
    with torch.enable_grad():
        for weight in new:
            weight.requires_grad_(True)
        model.predict(latents(), torch.tensor([500]), Condition(condition.tensors)).square().sum().backward()
    assert new[0].grad.norm() > 0 and new[1].grad[:, 256:].norm() > 0


def test_the_folder_is_one_of_sdxl(mini, tmp_path):
    model = load_base_model(write(tmp_path / "mini-sdxl", mini))
    assert (model.name, model.native_resolution, model.latent_shape(64, 64)) == ("sdxl", 64, (4, 16, 16))
    assert model.embedding_widths == {"text_encoder": 256, "text_encoder_2": SECOND_WIDTH}
    assert [t.pad_token for t in model.tokenizers.values()] == ["<|endoftext|>", "!"]
    assert len({256, SECOND_WIDTH, POOLED, 256 + SECOND_WIDTH}) == 4


# its training


def test_a_framing_is_what_its_time_ids_say():
    """A crop is the part that begins at (top, left) of the enlarged picture; a small original has lost what is fine."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[32:, :, 0] = 255  # below, red
    pixels[:, 48:, 1] = 255  # at the right, green
    picture = Image.fromarray(pixels)
    assert np.array_equal(np.asarray(Framing((64, 64), 64, (0, 0)).apply(picture)), pixels)
    crop = Framing((64, 64), 128, (64, 0))
    assert crop.time_ids == (64, 64, 64, 0, 64, 64)
    seen = np.asarray(crop.apply(picture))
    assert (seen[4:, :, 0] > 250).all() and (seen[:, :60, 1] < 5).all()  # the lower left quarter alone
    fine = Image.fromarray(((np.indices((64, 64)).sum(0) % 2) * 255).astype(np.uint8))
    low = Framing((16, 64), 64, (0, 0))
    assert low.time_ids[:2] == (16, 64) and np.asarray(low.apply(fine)).std() < 20 < np.asarray(fine).std()
    lines = Image.fromarray(np.repeat((np.indices((64, 64))[1] % 2 * 255)[None], 1, 0)[0].astype(np.uint8))
    assert np.asarray(Framing((16, 64), 64, (0, 0)).apply(lines)).std() > 100  # upright lines: its width is whole
    assert np.asarray(Framing((64, 16), 64, (0, 0)).apply(lines)).std() < 20


def test_framings_are_true_and_none_is_the_whole_picture():
    kinds = [draw_framing(np.random.default_rng([k, 8])) for k in range(200)]
    for framing in kinds:
        assert max(framing.crop) + 64 <= framing.side <= 112 and min(framing.original) >= 16
        assert framing.side > 64 or framing.original != (64, 64)
    assert 0.3 < np.mean([f.side > 64 and f.original == (64, 64) for f in kinds]) < 0.6
    assert 0.2 < np.mean([f.side == 64 for f in kinds]) < 0.5


@torch.no_grad()
def test_merged_spans_are_what_mini_sds_encoder_was_trained_with(mini):
    ids = mini.tokenizer(["a photo of a red cat in the snow"] * 2, padding="max_length", return_tensors="pt").input_ids
    merges = [(1, 4, 7)]
    wanted = encode_tokens(mini.text_encoder, ids, merges)
    merged, sums = merge_spans(ids, merges, mini.tokenizer.pad_token_id)
    with summed_in(mini.text_encoder, sums):
        found = mini.text_encoder(input_ids=merged).last_hidden_state
    assert torch.allclose(found, wanted, atol=1e-5)
    end = (merged[1] == mini.tokenizer.eos_token_id).int().argmax()
    assert end == (ids[1] == mini.tokenizer.eos_token_id).int().argmax() - 2


def test_each_encoder_must_do_without_the_other_and_the_pooled_vector_without_both():
    count, length = 4000, 3
    texts = Texts(torch.ones(1, length, 4), torch.full((1, length, 2), 2.0), torch.full((1, 5), 3.0))
    empty = Told(torch.full((1, length, 6), -1.0), torch.full((1, 5), -1.0))
    said = told(texts, torch.zeros(count, dtype=torch.long), empty, np.random.default_rng(0))
    first, second, pooled = said.states[:, 0, 0], said.states[:, 0, -1], said.pooled[:, 0]
    for share, rows in (
        (NOTHING, (first == 0) & (second == 0) & (pooled == 0)),
        (BOTH_BLANK, (first == -1) & (second == -1) & (pooled == 3)),
        (FIRST_BLANK, (first == -1) & (second == 2) & (pooled == 3)),
        (SECOND_BLANK, (first == 1) & (second == -1) & (pooled == 3)),
        (1 - NOTHING - BOTH_BLANK - FIRST_BLANK - SECOND_BLANK, (first == 1) & (second == 2) & (pooled == 3)),
    ):
        assert float(rows.float().mean()) == pytest.approx(share, abs=0.02)


@torch.no_grad()
def test_divided_columns_say_of_true_states_what_training_saw(mini):
    unet = transplant_unet(mini.unet)
    generator = torch.Generator().manual_seed(2)
    for parameter in unet.add_embedding.parameters():
        parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    states = torch.randn(1, 48, 256 + SECOND_WIDTH, generator=generator)
    more = {
        "text_embeds": torch.randn(1, POOLED, generator=generator),
        "time_ids": torch.tensor([[64, 64, 0, 8, 64, 64]]),
    }
    wanted = unet(latents(), 500, states, added_cond_kwargs=more).sample
    divide_first_columns(unet, 256)
    states[..., :256] *= GAIN
    assert torch.allclose(unet(latents(), 500, states, added_cond_kwargs=more).sample, wanted, atol=1e-5)


# the trained miniature


def test_the_miniature_is_chosen_by_name():
    settings = load_settings("mini", None, {"model.pretrained_model_name_or_path": "mini-sdxl"})
    assert (settings.data.resolution, settings.mask.backend) == (64, "mini")
    assert place_of_model("mini-sdxl") == MINI_SDXL
    model = load_base_model(MINI_SDXL)
    assert not any("_name_or_path" in path.read_text() for path in MINI_SDXL.glob("*/config.json"))
    assert model.name == "sdxl" and sum(path.stat().st_size for path in MINI_SDXL.rglob("*")) < 30e6


@pytest.mark.parametrize("told", ["first", "second"])
def test_each_text_encoder_is_heard_by_itself(told):
    """The other one has the empty prompt: a family that mixes them up, or leaves one out, shows here."""
    asked = [("car", "in the snow"), ("tree", "on the beach"), ("cup", "in the city"), ("face", "in the desert")]
    prompts = [f"a photo of a {cls} {place}" for cls, place in asked]
    read = Judge.load().read(generate(load_pipeline(MINI_SDXL), prompts, 3.0, told=told))
    places = [BACKGROUND_WORDS[reading["background"].value] for reading in read]
    right = sum(place in words for words, (_, place) in zip(places, asked, strict=True))
    if told == "second":
        assert right == 4 and [reading.cls for reading in read] == [cls for cls, _ in asked]
    else:  # the pooled vector, the second one's, says nothing then, which training never had
        assert right >= 3


def test_time_ids_say_how_large_a_picture_was_and_which_part_it_is():
    """A small original is blurred; a part of a picture shows its subject larger, and where it lies there: what is
    cut off at the top and what is cut off at the left are told apart."""
    pipe = load_pipeline(MINI_SDXL)

    def drawn(**ids):
        prompts = ["a photo of a red car in the snow"] * 4
        seeds = [torch.Generator().manual_seed(k) for k in range(4)]
        found = pipe(prompts, None, 64, 64, 25, generator=seeds, guidance_scale=3.0, **ids).images
        return np.stack([np.asarray(picture, dtype=float) for picture in found])  # (4, 64, 64, 3)

    def redness(pixels):
        return float(np.clip(pixels[..., 0] - pixels[..., 1:].max(axis=-1), 0, None).mean())

    def edges(pixels):
        return float(np.abs(np.diff(pixels.mean(axis=-1), axis=2)).mean())

    def middle(pixels):
        """Row and column of what is red."""
        red = np.clip(pixels[..., 0] - pixels[..., 1:].max(axis=-1) - 40, 0, None)
        return tuple(float((red * place).sum() / red.sum()) for place in np.indices(red.shape)[1:])

    whole = drawn()
    assert edges(drawn(original_size=(16, 16))) < 0.95 * edges(whole)
    assert redness(drawn(crops_coords_top_left=(24, 24))) > 1.15 * redness(whole)
    lower, right = (middle(drawn(crops_coords_top_left=crop)) for crop in ((44, 0), (0, 44)))
    assert lower[0] < middle(whole)[0] - 6 < right[0] - 6 and right[1] < middle(whole)[1] - 3 < lower[1] - 3
