"""FLUX.2 klein: what the transformer is told, and how pictures become its latents, beside diffusers' own pipeline."""

import copy
import re

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline
from PIL import Image
from tinyklein import CHANNELS, random_latents
from tinymodels import hashed
from tinyqwen import WIDTH, tiny_qwen_tokenizer

from singleinsert.errors import InputError, ModelError
from singleinsert.models.chat import ChatTemplate, tokenize_in_chat
from singleinsert.models.families.flux2 import Flux2Klein
from singleinsert.models.loading import load_base_model
from singleinsert.models.sampling import sample_images

BEFORE, AFTER = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
AFTER_A_SLOT = "<|im_end|> <|im_start|>assistant <think> </think>"
PROMPT = "a photo of the cat, in the snow"


@pytest.fixture(scope="module")
def model(tiny_klein):
    return load_base_model(tiny_klein)


@pytest.fixture(scope="module")
def pipe(tiny_klein):
    pipe = Flux2KleinPipeline.from_pretrained(tiny_klein)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def comfyui_pieces(text, names):
    """What ComfyUI's tokenizer does with a filled template: texts, and the names of the embeddings between them.

    comfy/sd1_clip.py, July 2026: the text is cut before each ``embedding:`` that follows white space; such a piece is
    split at white space into the embedding's name and the words after it, which are joined again by single spaces.
    """
    found = []
    for number, piece in enumerate(re.split(r"(?<=\s)embedding:", text)):
        if number:
            name, *words = piece.split()
            assert name in names
            found.append((None, name))
            piece = " ".join(words)
        if piece:
            found.append((piece, None))
    return found


@pytest.mark.parametrize(
    ("ours", "texts"),
    [
        ("a photo of * face", [BEFORE + "a photo of ", "face" + AFTER_A_SLOT]),
        ("a photo of *", [BEFORE + "a photo of ", AFTER_A_SLOT]),
        ("* face  on\tthe beach", [BEFORE, "face on the beach" + AFTER_A_SLOT]),
        ("a * cat and a <b> dog, in snow", [BEFORE + "a ", "cat and a", "dog, in snow" + AFTER_A_SLOT]),
        ("a cat  in the snow", [BEFORE + "a cat  in the snow" + AFTER]),
        ("", [BEFORE + AFTER]),
    ],
)
def test_prompts_are_tokenised_in_pieces_as_comfyui_does(ours, texts):
    tokenizer, names = tiny_qwen_tokenizer(), {"*": "first", "<b>": "second"}
    template = ChatTemplate.of(tokenizer, enable_thinking=False)
    assert template == (BEFORE, AFTER)
    theirs = ours
    for placeholder, name in names.items():
        theirs = theirs.replace(placeholder, f"embedding:{name}" + " " * ours.endswith(placeholder))
    pieces = comfyui_pieces(BEFORE + theirs + AFTER, names.values())
    assert [text for text, _ in pieces if text] == texts
    found = tokenize_in_chat(tokenizer, template, ours, {"*": 1, "<b>": 2}, 512, padded=True)
    wanted: list = []
    for text, name in pieces:
        wanted += tokenizer(text)["input_ids"] if text else [None] * (1 if name == "first" else 2)
    slots = {slot.position for slot in found.slots}
    ids = [None if place in slots else token for place, token in enumerate(found.input_ids[0].tolist())]
    assert ids == wanted + [tokenizer.pad_token_id] * (512 - len(wanted))


def test_the_template_is_not_searched_for_placeholders_and_long_prompts_are_cut(caplog):
    tokenizer = tiny_qwen_tokenizer()
    template = ChatTemplate.of(tokenizer, enable_thinking=False)
    assert not tokenize_in_chat(tokenizer, template, "a cat", {"user": 1, "think": 1}, 64, padded=True).slots
    long = "a cat and " * 40
    assert tokenize_in_chat(tokenizer, template, long, {}, 64, padded=True).input_ids.shape == (1, 64)
    assert "prompt cut to its first 64 tokens" in caplog.text
    with pytest.raises(InputError, match="lies beyond the 64 tokens"):
        tokenize_in_chat(tokenizer, template, long + "*", {"*": 1}, 64, padded=True)
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="no chat template"):
        ChatTemplate.of(tokenizer)


@torch.no_grad()
@pytest.mark.parametrize("prompt", [PROMPT, ""])
def test_states_are_those_of_diffusers_pipeline(model, pipe, prompt):
    """To the last bit, though the layers that are not read are gone."""
    states, _ = pipe.encode_prompt(prompt)
    assert len(model.text_encoder.model.layers) == 28 < len(pipe.text_encoder.model.layers)
    assert torch.equal(model.encode(model.tokenize(prompt, {}), {}).states, states)
    assert states.shape == (1, 512, 3 * WIDTH)


@torch.no_grad()
def test_vectors_at_the_lookup_equal_a_table_that_holds_them(model):
    """At the input of a causal language model, and with a gradient that is not nought."""
    vectors = hashed((2, WIDTH), 1)
    prompt = model.tokenize("a photo of * face", {"*": 2})
    with torch.enable_grad():
        leaf = vectors.clone().requires_grad_(True)
        condition = model.encode(prompt, {"*": {"text_encoder": leaf}})
        condition.states.square().sum().backward()
    assert (leaf.grad.norm(dim=-1) > 0).all()
    other = copy.deepcopy(model)
    table = other.text_encoder.model.embed_tokens.weight
    ids = prompt.tokens["text_encoder"].input_ids.clone()
    unused = [token for token in range(len(table)) if token not in ids][: len(vectors)]
    for slot, token in zip(prompt.slots, unused, strict=True):
        table[token] = vectors[slot.vector]
        ids[0, slot.position] = token
    tokens = type(prompt.tokens["text_encoder"])(ids)
    assert torch.equal(other.encode(type(prompt)("", {"text_encoder": tokens}), {}).states, condition.states)


@torch.no_grad()
def test_predictions_are_the_pipelines(model, pipe):
    """At other sides than a square's, with its own helpers."""
    latents, sigma = hashed((2, CHANNELS, 6, 10), 2), model.schedule.sigmas[[200, 900]]
    condition = model.encode(model.tokenize(PROMPT, {}), {})
    states, text_ids = pipe.encode_prompt([PROMPT, PROMPT])
    wanted = pipe.transformer(
        hidden_states=pipe._pack_latents(latents), timestep=sigma, guidance=None, encoder_hidden_states=states,
        txt_ids=text_ids, img_ids=pipe._prepare_latent_ids(latents), return_dict=False,
    )[0]  # fmt: skip
    wanted = pipe._unpack_latents_with_ids(wanted, pipe._prepare_latent_ids(latents), 6, 10)
    found = model.predict(latents, torch.tensor([200, 900]), condition)
    assert torch.allclose(found, wanted, atol=1e-5) and found.shape == latents.shape


@torch.no_grad()
def test_every_mistake_in_what_the_transformer_is_told_shows(model):
    """Layers of the language model in another order, rows for columns, another clock: each moves the prediction."""
    latents, t = random_latents(), torch.tensor([600])
    condition = model.encode(model.tokenize(PROMPT, {}), {})
    wanted = model.predict(latents, t, condition)
    taps = condition.states.unflatten(-1, (3, WIDTH))
    wrong = [
        model.predict(latents, t, type(condition)({"states": taps.flip(2).flatten(2)})),
        model.predict(latents, t, model.encode(model.tokenize("", {}), {})),
        model.predict(latents.mT, t, condition).mT,
        model.predict(latents.unflatten(1, (-1, 4)).transpose(1, 2).flatten(1, 2), t, condition),
        model.predict(latents, t + 100, condition),
    ]
    assert min(float((other - wanted).norm() / wanted.norm()) for other in wrong) > 0.01


@torch.no_grad()
def test_pictures_become_latents_as_in_the_pipeline(model, pipe):
    pixels = hashed((1, 3, 32, 48), 3).clamp(-1, 1)
    found = model.encode_picture(pixels)
    assert torch.equal(found.mean, pipe._encode_vae_image(pixels, None))
    assert found.mean.shape[1:] == model.latent_shape(32, 48) == (CHANNELS, 8, 12)
    # the deviation is scaled like the mean: what one draw adds, packed and divided by the statistics
    noise = hashed((1, 3, 16, 24), 4)
    posterior = pipe.vae.encode(pixels).latent_dist
    deviation = pipe.vae.bn.running_var.add(pipe.vae.config.batch_norm_eps).sqrt().view(1, -1, 1, 1)
    assert torch.allclose(
        found.std * pipe._patchify_latents(noise), pipe._patchify_latents(posterior.std * noise) / deviation, atol=1e-6
    )


@torch.no_grad()
def test_the_sheets_pictures_are_the_pipelines(model, pipe):
    """What training draws by the transformer alone, and what inference draws, is what diffusers draws, to the bit."""
    asked = {"num_inference_steps": 3, "guidance_scale": 4.0, "height": 32, "width": 32}
    wanted = pipe(prompt=PROMPT, generator=torch.Generator().manual_seed(5), **asked).images[0]
    condition, negative = (model.encode(model.tokenize(text, {}), {}) for text in (PROMPT, ""))
    latents = model.sample(
        condition, negative, [torch.Generator().manual_seed(5)], steps=3, guidance_scale=4.0, height=32, width=32
    )
    assert latents.shape == (1, *model.latent_shape(32, 32))
    drawn = sample_images(
        model, condition, negative, [torch.Generator().manual_seed(5)], steps=3, guidance_scale=4.0, height=32,
        width=32,
    )[0]  # fmt: skip
    for picture in (model.decode(latents)[0], drawn):
        assert isinstance(picture, Image.Image) and np.array_equal(np.asarray(picture), np.asarray(wanted))


def test_a_model_of_another_kind_is_refused_in_a_line(pipe):
    for part, name, value, message in (
        ("transformer", "guidance_embeds", True, "guidance as an input"),
        ("transformer", "in_channels", 16, "autoencoder do not fit"),
        ("transformer", "joint_attention_dim", 64, "text encoder do not fit"),
    ):
        other = copy.copy(pipe)
        other.transformer = copy.copy(getattr(pipe, part))
        other.transformer._internal_dict = type(pipe.transformer.config)({**pipe.transformer.config, name: value})
        with pytest.raises(ModelError, match=message):
            Flux2Klein.from_pipeline(other, "folder", "folder", "cpu", "auto")
    with pytest.raises(ModelError, match="flow's velocity"):
        Flux2Klein.from_pipeline(pipe, "folder", "folder", "cpu", "epsilon")
