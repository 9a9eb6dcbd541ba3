"""Drawing without what training needs: LoRA folded into the weights and taken out, keys and values kept, to the bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tinyconcepts import inject_lora, make_concept
from torch import nn

from singleinsert.adapters import adapter_class
from singleinsert.adapters.base import AdapterOptions
from singleinsert.adapters.folded import folded
from singleinsert.adapters.ranks import RankByNoise
from singleinsert.inference.pipeline import ConceptPipeline, Picture
from singleinsert.models.keys import kept_keys
from singleinsert.models.loading import load_base_model

SHAPE = (2, 4, 16, 16)


@pytest.fixture
def model(tiny_sd):
    return load_base_model(tiny_sd)


@torch.no_grad()
def output(model, states):
    x = torch.linspace(-1, 1, 2048).reshape(SHAPE)
    return model.denoiser(x, 500, states, return_dict=False)[0]


def conditions():
    return torch.linspace(-1, 1, 2 * 32 * 32).reshape(2, 32, 32)


def test_lora_is_folded_in_and_taken_out_to_the_bit(model):
    states = conditions()
    frozen = output(model, states)
    adapters = inject_lora(model, "anna", 2, 5.0)
    before = {name: (p, p.data_ptr(), p.clone()) for name, p in model.denoiser.named_parameters()}
    tuned = output(model, states)
    with folded(model.denoiser):
        changed = [name for name, (p, where, _) in before.items() if p.data_ptr() != where]
        drawn = output(model, states)
    # 2 transformer blocks of 2 attentions of 4 layers, each with one matrix that is a copy
    assert len(changed) == len(adapters.layers["unet"]) and all(name.endswith("weight") for name in changed)
    assert torch.allclose(drawn, tuned, atol=1e-5) and not torch.equal(drawn, frozen)
    for name, parameter in model.denoiser.named_parameters():
        assert parameter is before[name][0] and parameter.data_ptr() == before[name][1]
        assert torch.equal(parameter, before[name][2])
    assert torch.equal(output(model, states), tuned)
    adapters.eject()
    assert torch.equal(output(model, states), frozen)


def test_it_is_taken_out_whatever_happens(model):
    adapters = inject_lora(model, "anna", 2, 5.0)
    tuned = output(model, conditions())
    with pytest.raises(ZeroDivisionError), folded(model.denoiser):
        raise ZeroDivisionError
    assert torch.equal(output(model, conditions()), tuned)
    with adapters.disabled(), folded(model.denoiser):
        frozen = output(model, conditions())
    adapters.eject()
    assert torch.equal(output(model, conditions()), frozen)


def test_half_precision_is_left_as_it_is(tiny_sd):
    """A bfloat16 weight of 1 keeps steps of 2^-8: an update of a thousandth would be lost in the sum."""
    model = load_base_model(tiny_sd, dtype=torch.bfloat16)
    inject_lora(model, "anna", 2, 5.0)
    where = [p.data_ptr() for p in model.denoiser.parameters()]
    with folded(model.denoiser):
        assert [p.data_ptr() for p in model.denoiser.parameters()] == where


def test_what_counts_by_the_noise_is_left_as_it_is(tiny_sd):
    """A LoRA whose rank follows the noise is another one at each step: folded, all of it would be on at all of them."""
    anna, picture = make_concept(tiny_sd, "anna", alpha=5.0), Picture("anna face", seed=1, steps=3)
    gated = replace(anna, update=replace(anna.update, ranks=RankByNoise(2, 1)))
    drawn = [
        np.asarray(next(iter(ConceptPipeline(load_base_model(tiny_sd), [concept]).render([picture]))))
        for concept in (anna, gated)
    ]
    assert np.abs(drawn[0].astype(int) - drawn[1]).max() > 1
    model = load_base_model(tiny_sd)
    ConceptPipeline(model, [gated])
    where = [p.data_ptr() for p in model.denoiser.parameters()]
    with folded(model.denoiser):
        assert [p.data_ptr() for p in model.denoiser.parameters()] == where


@pytest.mark.parametrize("kind", ["full", "kv", "svd"])
def test_weights_of_other_adapters_are_made_once(model, kind):
    targets = {model.denoiser_part: ("attn2.to_k",)}
    adapters = adapter_class(kind).inject(model.adapted_parts, AdapterOptions(targets, 2, 2.0), torch.Generator())
    with torch.no_grad():
        for _, parameter in adapters.named_parameters():
            parameter.add_(0.1)
    tuned = output(model, conditions())
    layer = next(m for name, m in model.denoiser.named_modules() if name.endswith("attn2.to_k"))
    with folded(model.denoiser), torch.no_grad():
        assert torch.equal(output(model, conditions()), tuned)
        assert layer.weight is layer.weight
    adapters.eject()


def test_keys_and_values_are_computed_once_for_a_condition(model, monkeypatch):
    calls, original = [], nn.functional.linear

    def linear(x, weight, bias=None):
        calls.append(tuple(x.shape))
        return original(x, weight, bias)

    states, other = conditions(), conditions().neg()
    wanted = output(model, states), output(model, other)
    monkeypatch.setattr(nn.functional, "linear", linear)
    shape = tuple(states.shape)
    with kept_keys(model.denoiser):
        assert torch.equal(output(model, states), wanted[0])
        once = calls.count(shape)
        assert once > 0 and once % 2 == 0
        assert torch.equal(output(model, states), wanted[0]) and calls.count(shape) == once
        assert torch.equal(output(model, other), wanted[1]) and calls.count(shape) == 2 * once
    assert torch.equal(output(model, states), wanted[0]) and calls.count(shape) == 3 * once
    assert not any("forward" in vars(module) for module in model.denoiser.modules())


def test_pictures_are_within_a_level_of_what_they_are_unfolded(tiny_sd, monkeypatch):
    pictures = [Picture("anna face", seed=seed, steps=3) for seed in (1, 2)]
    anna = make_concept(tiny_sd, "anna", alpha=5.0)
    drawn = [np.asarray(image) for image in ConceptPipeline(load_base_model(tiny_sd), [anna]).render(pictures)]
    monkeypatch.setattr("singleinsert.adapters.folded._can_fold", lambda layer: False)
    wanted = [np.asarray(image) for image in ConceptPipeline(load_base_model(tiny_sd), [anna]).render(pictures)]
    assert max(np.abs(a.astype(int) - b).max() for a, b in zip(drawn, wanted, strict=True)) <= 1
