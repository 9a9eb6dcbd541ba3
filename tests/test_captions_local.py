"""Local models of five kinds through the true loading code: what they say, what they are shown, what cannot be had."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from tinyvlms import SENTENCE, TEMPLATE, write_blip, write_florence, write_llava, write_qwen_vl, write_smolvlm

from singleinsert.captions.ask import load_ask
from singleinsert.captions.local import MAX_NEW_TOKENS, TOKENS_TO_THINK, LocalModel, load_processor
from singleinsert.errors import ModelError

LETTERS = "A B C D E F".split()


def noise(seed: int, width: int = 40, height: int = 32) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("write", [write_smolvlm, write_llava, write_qwen_vl])
def test_a_chat_model_says_its_sentence_and_chooses(write, tmp_path):
    ask = load_ask(f"vlm:{write(tmp_path / 'model', critic='E')}")
    assert not ask.captions_only and ask.name == f"vlm:{tmp_path / 'model'}"
    assert ask(noise(0), "What is it?") == " ".join(SENTENCE)
    assert ask.choose(noise(0), "A or B?", LETTERS) == "E"
    words = [ask.scores(noise(seed), "A or B?", LETTERS) for seed in (0, 1)]
    assert not torch.equal(*words)  # the picture reaches the model
    ask.close()
    assert ask.model is None


def test_a_picture_is_one_tile_and_768_pixels_at_most(tmp_path):
    model = LocalModel(str(write_smolvlm(tmp_path / "model")))
    inputs = model.inputs(noise(0, 2000, 1000), "x")
    assert inputs["pixel_values"].shape[1] == 1  # (batch, tiles, ...): a caption does not need seventeen
    place = model.tokenizer.convert_tokens_to_ids("<image>")
    assert int((inputs["input_ids"] == place).sum()) == 4  # image_seq_len


def test_thoughts_are_switched_off_where_the_template_knows_how_and_cut_out_where_it_does_not(tmp_path):
    template = TEMPLATE + "{% if enable_thinking is defined and not enable_thinking %} yes{% endif %}"
    model = LocalModel(str(write_llava(tmp_path / "switch", template=template)))
    assert model.tokenizer.decode(model.inputs(noise(0), "x")["input_ids"][0]).endswith("ASSISTANT: yes")
    model = LocalModel(str(write_llava(tmp_path / "thinks", ("<think> a hat?", "</think> a face", "in snow."))))
    assert model(noise(0), "x") == "a face in snow."
    model = LocalModel(str(write_llava(tmp_path / "lost", ("<think> a hat?", "and a beach"))))
    limits: list[int] = []
    generate = model._generate
    model._generate = lambda inputs, text, limit: limits.append(limit) or generate(inputs, text, limit)
    assert model(noise(0), "x") == "" and limits == [MAX_NEW_TOKENS, TOKENS_TO_THINK]


@pytest.mark.skipif("torchvision" in sys.modules, reason="with torchvision the ordinary way works")
def test_qwens_processor_is_opened_without_torchvision(tmp_path):
    """Fails when transformers changes what the workaround relies on; without it the ordinary way raises."""
    from transformers import AutoProcessor

    folder = write_qwen_vl(tmp_path / "qwen")
    with pytest.raises(ImportError, match="(?i)torchvision"):
        AutoProcessor.from_pretrained(folder)
    processor = load_processor(str(folder))
    assert type(processor).__name__ == "Qwen2_5_VLProcessor" and processor.chat_template


def test_a_processor_that_cannot_be_had_names_what_can(tmp_path):
    folder = write_qwen_vl(tmp_path / "qwen")
    config = folder / "preprocessor_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"processor_class": "SmolVLMProcessor"}))
    (folder / "config.json").write_text(
        json.dumps(json.loads((folder / "config.json").read_text()) | {"model_type": "smolvlm"})
    )
    with pytest.raises(ModelError, match="needs torchvision: take one .*SmolVLM-500M.*openai:URL#MODEL") as error:
        load_ask(f"vlm:{folder}")
    assert "\n" not in str(error.value)


def test_blip_and_florence_caption_and_cannot_be_asked(tmp_path):
    blip = LocalModel(str(write_blip(tmp_path / "blip")))
    assert blip.captions_only and blip(noise(0), "Say yes") == blip(noise(0), "Say no") != ""
    assert blip.choose(noise(0), "x", LETTERS) is None
    florence = LocalModel(str(write_florence(tmp_path / "florence")))
    assert florence.captions_only and isinstance(florence(noise(0), "x"), str)
    inputs = florence.inputs(noise(0), "<MORE_DETAILED_CAPTION>")
    assert int((inputs["input_ids"] == 3).sum()) == 5  # its own five tokens for the picture, and not a sixth of ours


@pytest.mark.parametrize("spec", ["nowhere", "./nowhere", "some/model-that-is-not-here", "/"])
def test_a_model_that_is_not_there_is_one_line(spec):
    with pytest.raises(ModelError, match=r"config\.json") as error:
        load_ask(f"vlm:{spec}")
    assert "\n" not in str(error.value)


def test_options_that_the_tokenizer_does_not_know_are_read_from_the_text(tmp_path):
    model = LocalModel(str(write_llava(tmp_path / "model", ("it is", "Z."))))
    assert not model.can_tell_apart(["A", "Z"]) and model.can_tell_apart(["A", "B"])  # "Z." is a token, "Z" is none
    assert model.choose(noise(0), "x", ["A", "Z"]) == "Z"
    assert model.choose(noise(0), "x", ["Q", "Y"]) is None


def test_a_chat_template_that_fails_is_one_line(tmp_path):
    model = LocalModel(str(write_llava(tmp_path / "model", template="{{ raise_exception('only texts') }}")))
    for ask in (lambda: model(noise(0), "x"), lambda: model.choose(noise(0), "x", LETTERS)):
        with pytest.raises(ModelError, match="cannot answer on a picture and a text: only texts") as error:
            ask()
        assert "\n" not in str(error.value)
