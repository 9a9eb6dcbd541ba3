"""Attention of transformers that read words and patches as one sequence: what is read, and that nothing else moves."""

import importlib

import pytest
import torch
from tinyklein import random_latents as klein_latents
from tinymodels import hashed
from tinyzimage import random_latents as zimage_latents

from singleinsert.errors import ConfigError
from singleinsert.models.condition import Condition
from singleinsert.models.joint_attention import JointSequence, word_probabilities
from singleinsert.models.loading import load_base_model

FAMILIES = {
    "tiny_klein": (klein_latents, "transformer_flux2", 5, (8, 8)),  # 2 double blocks and 3 single ones
    "tiny_zimage": (zimage_latents, "transformer_z_image", 3, (8, 8)),  # its refiners see words or patches alone
}
T = torch.tensor([600])


@pytest.fixture(params=FAMILIES)
def name(request):
    return request.param


@pytest.fixture
def model(name, request):
    return load_base_model(request.getfixturevalue(name))


def encode(model, text):
    return model.encode(model.tokenize(text, {}), {})


def test_the_softmax_is_over_the_words_alone():
    """Two heads of width 1, a patch before two words: logits 0 and log 3, then 0 and 0: (1/4, 3/4) and (1/2, 1/2)."""
    key = torch.tensor([[[9.0], [0.0], [torch.tensor(3.0).log()]], [[-9.0], [0.0], [0.0]]])
    sequence = JointSequence(None, (1, 1), 0, 1, (2,), 3)
    found = word_probabilities(torch.ones(2, 3, 1), key, 1.0, sequence, 0)
    assert torch.allclose(found, torch.tensor([[3 / 8, 5 / 8]]))


@torch.no_grad()
def test_it_is_the_joint_attention_of_each_block_shared_out_among_the_words(name, model, monkeypatch):
    """From what diffusers hands to its own attention: rows of the whole softmax, those of the words divided by their
    sum, are the softmax over the words."""
    latents, module, blocks, size = FAMILIES[name]
    place, calls = importlib.import_module(f"diffusers.models.transformers.{module}"), []
    real = place.dispatch_attention_fn

    def kept(query, key, *args, **kwargs):
        calls.append((query[0].transpose(0, 1), key[0].transpose(0, 1)))  # (heads, total, d)
        return real(query, key, *args, **kwargs)

    condition = encode(model, "a photo of the cat, in the snow")
    plain = model.predict(latents(), T, condition)
    with model.read_probabilities(tuple(latents().shape[-2:]), 4) as reader:
        read = model.predict(latents(), T, condition)
        (found,) = reader.probabilities()
    assert torch.equal(read, plain) and found.shape[:2] == size
    assert torch.allclose(found.sum(-1), torch.ones(size), atol=1e-5)
    monkeypatch.setattr(place, "dispatch_attention_fn", kept)
    model.predict(latents(), T, condition)
    total, length = max(query.shape[1] for query, _ in calls), condition.states.shape[1]
    wanted = torch.zeros(64, length)
    joint = [(query, key) for query, key in calls if query.shape[1] == total]
    assert len(joint) == blocks
    for query, key in joint:
        whole = (query @ key.mT * query.shape[-1] ** -0.5).softmax(-1)  # (heads, total, total)
        rows = whole[:, length:, :length] if name == "tiny_klein" else whole[:, :64, 64 : 64 + length]
        wanted += (rows / rows.sum(-1, keepdim=True)).mean(0) / blocks
    assert torch.allclose(found.flatten(0, 1), wanted, atol=1e-6)


def test_gradients_are_the_same_with_checkpointing(name, request):
    latents = FAMILIES[name][0]
    found = []
    for checkpointed in (False, True):
        model = load_base_model(request.getfixturevalue(name))
        if checkpointed:
            model.enable_gradient_checkpointing()
        condition = encode(model, "a cat")
        leaf = condition.states.detach().requires_grad_(True)
        with model.read_probabilities(tuple(latents().shape[-2:]), 4) as reader:
            output = model.predict(latents(), T, Condition({"states": leaf}, condition.lengths))
            attention = reader.probabilities()
            weights = hashed(tuple(attention.shape), 3)
            ((attention * weights).sum() + output.square().mean()).backward()
        found.append(leaf.grad)
    assert found[0].abs().sum() > 0 and torch.equal(*found)


@torch.no_grad()
def test_with_guidance_the_maps_are_the_prompts(name, model):
    """One step: what the pipeline asks with the negative prompt is not in them. Two prompts of unequal length."""
    conditions = [encode(model, text) for text in ("a photo of the cat, in the snow", "a cat")]
    both, tokens = Condition.concatenate(conditions), [{"cat": [5]}, {"cat": [4], "a": [3]}]
    found = []
    for guidance in (1.0, 4.0):
        seeds = [torch.Generator().manual_seed(i) for i in range(2)]
        with model.read_attention(tokens) as attention:
            model.sample(both, encode(model, ""), seeds, steps=1, guidance_scale=guidance, height=32, width=32)
        found.append(attention.maps())
    for alone, guided in zip(*found, strict=True):
        assert alone.keys() == guided.keys()
        for word in alone:
            assert torch.allclose(alone[word], guided[word], atol=1e-5) and alone[word].std() > 0
    seeds = [torch.Generator().manual_seed(1)]
    with model.read_attention(tokens[1:]) as attention:
        model.sample(conditions[1], None, seeds, steps=1, guidance_scale=1.0, height=32, width=32)
    assert torch.allclose(attention.maps()[0]["a"], found[0][1]["a"], atol=1e-4)


def test_compiled_blocks_are_refused(model):
    next(model.transformer.children())._compiled_call_impl = print
    with pytest.raises(ConfigError, match=r"leave run\.compile out"):
        model.read_attention([])
