"""The tiny models are sane: words are one token, outputs finite and of order one, the folder loads."""

import torch
from diffusers import StableDiffusionPipeline
from tinymodels import WORDS, hashed, tiny_tokenizer


def test_hash_is_the_one_the_goldens_were_made_with():
    values = hashed((4,), 1)
    assert torch.allclose(values, hashed((4,), 1))
    noise = hashed((64, 64), 7)
    assert abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05
    assert torch.linalg.matrix_rank(noise) == 64


def test_every_word_is_one_token():
    tokenizer = tiny_tokenizer()
    for word in WORDS:
        ids = tokenizer(word)["input_ids"]
        assert len(ids) == 3 and tokenizer.unk_token_id != ids[1], word
    assert len(tokenizer("a photo of a face, * hat")["input_ids"]) == 10
    assert tokenizer("\u00fc")["input_ids"][1] == tokenizer.unk_token_id


def test_the_folder_is_a_pipeline(tiny_sd):
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_sd)
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline("a photo of a face", num_inference_steps=2, output_type="pt", generator=torch.manual_seed(0))
    assert picture.images.shape == (1, 3, 32, 32)
    assert 0.02 < picture.images.std() < 0.5
    text = pipeline.text_encoder(torch.tensor([pipeline.tokenizer("a face")["input_ids"]])).last_hidden_state
    noisy = torch.linspace(-1, 1, 4 * 256).reshape(1, 4, 16, 16)
    out = pipeline.unet(noisy, 500, text).sample
    assert 0.1 < out.std() < 3 and out.isfinite().all()
