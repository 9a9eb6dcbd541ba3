"""Ways to draw that only we have: concepts that come late, LoRAs that follow the noise level."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tinyconcepts import make_concept

from singleinsert.adapters.ranks import Fade
from singleinsert.errors import InputError
from singleinsert.inference.drawing import Drawing, with_class_words
from singleinsert.inference.pipeline import ConceptPipeline, Picture
from singleinsert.inference.prompts import ConceptName, slot
from singleinsert.models.loading import load_base_model

ASKED = Picture("{concept} in the snow", 3, "", 4, 5.0, 32, 32)
CLASS = Picture("face in the snow", 3, "", 4, 5.0, 32, 32)


def drawn(model, folder, picture=ASKED, weight=1.0, **drawing):
    """The picture, and the latents after each step."""
    latents: list[torch.Tensor] = []

    def keep(pipeline, step, timestep, tensors):
        latents.append(tensors["latents"].clone())
        return tensors

    pipeline = ConceptPipeline(
        load_base_model(model), [make_concept(model, "anna")], [weight], drawing=Drawing(**drawing)
    )
    image = next(iter(pipeline.render([picture], callback=keep)))
    pipeline.close()
    assert not pipeline.model.denoiser._forward_pre_hooks
    return np.asarray(image), latents


def test_class_words_in_the_place_of_concepts():
    names = [ConceptName("anna", "face"), ConceptName("hat", "baseball cap")]
    assert with_class_words(f"{slot(0)} face wearing a {slot(1)} in the snow", names) == (
        "face wearing a baseball cap in the snow"
    )
    assert with_class_words(f"{slot(0)} faces and {slot(0)}", names) == "face faces and face"


@pytest.mark.parametrize("kind", ["tiny_sd", "tiny_sdxl"])
def test_delayed_concepts_begin_as_the_class_word_and_then_act(kind, request, tmp_path):
    model = request.getfixturevalue(kind)
    (_, plain), (late, begun), (_, of_class) = (
        drawn(model, tmp_path), drawn(model, tmp_path, delay=0.5), drawn(model, tmp_path, CLASS)
    )  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(begun[:2], of_class[:2], strict=True))
    assert not torch.allclose(begun[2], of_class[2]) and not torch.allclose(begun[0], plain[0])
    assert np.array_equal(drawn(model, tmp_path, delay=0.95)[0], drawn(model, tmp_path, CLASS)[0])  # round(3.8) of 4
    assert not np.array_equal(late, drawn(model, tmp_path, CLASS)[0])


def test_a_fading_lora_counts_less_the_more_noise_there_is(tiny_sd, tmp_path):
    gate = Fade(2.0, 1000.0)
    assert torch.equal(gate.apply(torch.ones(1, 2, 3)), torch.ones(1, 2, 3))  # nothing was asked yet
    gate.noise = torch.tensor([0.5, 0.0])
    assert gate.apply(torch.ones(2, 1, 1)).flatten().tolist() == [0.25, 1.0]
    _, plain = drawn(tiny_sd, tmp_path)
    _, faded = drawn(tiny_sd, tmp_path, lora_fade=8.0)
    _, without = drawn(tiny_sd, tmp_path, weight=0.0)
    first = [(a - b).abs().max() for a, b in ((plain[0], without[0]), (faded[0], without[0]))]
    assert first[1] < first[0]  # the text encoder's LoRA does not fade


@pytest.mark.parametrize("given", [{"delay": 1.0}, {"delay": -0.1}, {"lora_fade": float("nan")}, {"lora_fade": 9.0}])
def test_numbers_that_cannot_be(given):
    with pytest.raises(InputError, match="cannot be"):
        Drawing(**given)


def test_attention_is_not_read_of_steps_without_the_concept(tiny_sd):
    pipeline = ConceptPipeline(load_base_model(tiny_sd), [make_concept(tiny_sd, "anna")], drawing=Drawing(0.5))
    with pytest.raises(InputError, match="set delay to 0"):
        next(iter(pipeline.render_with_attention([ASKED])))
