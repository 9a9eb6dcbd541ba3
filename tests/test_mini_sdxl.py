"""The start of mini-sdxl: mini-sd's weights in a true SDXL, which says what mini-sd says before it has learnt more."""

import pytest
import torch

from singleinsert.models.bundled import MINI_SD
from singleinsert.models.condition import Condition
from singleinsert.models.families.sdxl import StableDiffusionXL
from singleinsert.models.loading import load_base_model
from testbed.sdxl import GAIN, POOLED, SECOND_WIDTH, TIME_DIM, transplant, transplant_unet, write

PROMPTS = ("a photo of a face in the snow", "a dog on the beach")
TIMES = (100, 500, 900)


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
    assert unet.config.cross_attention_dim == 256 + SECOND_WIDTH
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
    usual, quarter = farthest(mini, GAIN), farthest(mini, 4 * GAIN)
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
