"""Cross-attention maps: the numbers, the unchanged output, and what is left behind (nothing)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tinyconcepts import make_concept

from singleinsert.errors import InputError
from singleinsert.inference.pipeline import ConceptPipeline, Picture
from singleinsert.models.attention import CrossAttentionMaps, token_probabilities
from singleinsert.models.loading import load_base_model


def inputs(batch: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(batch, 4, 16, 16, generator=generator)
    return latents, torch.full((batch,), 300), torch.randn(batch, 32, 32, generator=generator)


def test_probabilities_by_hand():
    """One head of width 1, scale 1, two tokens: q = 2, k = (0, ln 3 / 2), so that the scores are 0 and ln 3 and the
    probabilities 1/4 and 3/4; for q = 0 they are 1/2 and 1/2."""
    from diffusers.models.attention_processor import Attention

    attn = Attention(query_dim=1, cross_attention_dim=1, heads=1, dim_head=1, bias=False)
    with torch.no_grad():
        attn.to_q.weight.fill_(1.0)
        attn.to_k.weight.fill_(1.0)
    found = token_probabilities(attn, torch.tensor([[[2.0], [0.0]]]), torch.tensor([[[0.0], [math.log(3) / 2]]]))
    assert torch.allclose(found, torch.tensor([[[0.25, 0.75], [0.5, 0.5]]]))


def test_maps_are_diffusers_own_scores(tiny_sd):
    """Against get_attention_scores, diffusers' way of computing what SDPA keeps to itself: 2 of 4 tokens averaged."""
    unet = load_base_model(tiny_sd).unet
    latents, t, context = inputs()
    seen = {}

    def keep(name):
        def hook(attn, args, kwargs):
            hidden = args[0]
            query, key = attn.head_to_batch_dim(attn.to_q(hidden)), attn.head_to_batch_dim(attn.to_k(context))
            scores = attn.get_attention_scores(query, key).reshape(2, attn.heads, hidden.shape[1], -1).mean(1)
            seen[name] = scores

        return hook

    layers = {name: m for name, m in unet.named_modules() if name.endswith(".attn2")}
    hooks = [m.register_forward_pre_hook(keep(name), with_kwargs=True) for name, m in layers.items()]
    with torch.no_grad(), CrossAttentionMaps(unet, [{"a": [1]}, {"a": [2], "b": [3, 5]}], sides={16}) as attention:
        unet(latents, t, context)
    for hook in hooks:
        hook.remove()
    large = [scores for scores in seen.values() if scores.shape[1] == 256]
    assert len(large) < len(seen)  # the UNet has smaller maps, too, and they were left out
    maps = attention.maps()
    first = torch.stack([s[0, :, 1] for s in large]).mean(0).reshape(16, 16)
    both = torch.stack([s[1, :, [3, 5]].mean(-1) for s in large]).mean(0).reshape(16, 16)
    assert torch.allclose(maps[0]["a"], first, atol=1e-6)
    assert torch.allclose(maps[1]["b"], both, atol=1e-6)
    assert set(maps[0]) == {"a"} and set(maps[1]) == {"a", "b"}


def test_the_maps_of_all_tokens_sum_to_one_over_layers_and_calls(tiny_sd):
    unet = load_base_model(tiny_sd).unet
    latents, t, context = inputs(1)
    tokens = {str(i): [i] for i in range(32)}
    with torch.no_grad(), CrossAttentionMaps(unet, [tokens]) as attention:
        unet(latents, t, context)
        unet(latents + 1, t, context)
    total = sum(attention.maps()[0].values())
    assert torch.allclose(total, torch.ones(16, 16), atol=1e-5)


def test_output_is_unchanged_and_processors_come_back(tiny_sd):
    unet = load_base_model(tiny_sd).unet
    latents, t, context = inputs()
    before = dict(unet.attn_processors)
    with torch.no_grad():
        plain = unet(latents, t, context).sample
        with CrossAttentionMaps(unet, [{"a": [1]}] * 2):
            read = unet(latents, t, context).sample
        after = unet(latents, t, context).sample
    assert torch.equal(plain, read) and torch.equal(plain, after)
    assert {name: id(p) for name, p in unet.attn_processors.items()} == {n: id(p) for n, p in before.items()}
    with pytest.raises(ZeroDivisionError), CrossAttentionMaps(unet, [{"a": [1]}]):
        raise ZeroDivisionError
    assert {name: id(p) for name, p in unet.attn_processors.items()} == {n: id(p) for n, p in before.items()}
    assert not unet._forward_pre_hooks


def test_guidance_timesteps_and_layers(tiny_sd):
    """With guidance the last samples are read; calls outside of ``timesteps`` and other layers are not."""
    unet = load_base_model(tiny_sd).unet
    latents, t, context = inputs(4)
    with torch.no_grad():
        with CrossAttentionMaps(unet, [{"a": [1]}] * 2) as guided:
            unet(latents, t, context)
        with CrossAttentionMaps(unet, [{"a": [1]}] * 2) as alone:
            unet(latents[2:], t[2:], context[2:])
        with CrossAttentionMaps(unet, [{"a": [1]}] * 2, timesteps=(0, 300)) as early:
            unet(latents, t, context)
        with CrossAttentionMaps(unet, [{"a": [1]}] * 2, layers=lambda name: "down" in name) as down:
            unet(latents, t, context)
    assert torch.allclose(guided.maps()[1]["a"], alone.maps()[1]["a"], atol=1e-6)
    assert not torch.allclose(down.maps()[1]["a"], alone.maps()[1]["a"], atol=1e-6)
    with pytest.raises(InputError, match="no attention was read"):
        early.maps()
    with pytest.raises(InputError, match="no cross-attention layer"), CrossAttentionMaps(unet, [], layers=str.isdigit):
        pass


def test_positions_of_words(tiny_sd):
    model = load_base_model(tiny_sd)
    prompt = model.tokenize("photo of * baseball cap", {"*": 2})
    assert prompt.positions("*") == [3, 4]
    assert model.word_positions(prompt, "baseball cap") == [5, 6]
    assert model.word_positions(prompt, "dog") == [] == prompt.positions("+")
    twice = model.tokenize("cat * cat", {"*": 1})
    assert [model.word_positions(twice, "cat", after) for after in (-1, 1, 2, 3)] == [[1], [3], [3], []]


def test_a_pipeline_gives_pictures_with_their_maps(tiny_sd, tmp_path):
    """The same pictures as without maps; one map per word that the prompt holds; closing gives the model back."""
    model = load_base_model(tiny_sd)
    modules = {name: id(m) for part in (model.unet, model.text_encoder) for name, m in part.named_modules()}
    pipeline = ConceptPipeline(model, [make_concept(tiny_sd)])
    pictures = [Picture("{concept} in the snow", 1, steps=2), Picture("photo of *", 2, steps=2)]
    plain = list(pipeline.render(pictures))
    read = list(pipeline.render_with_attention(pictures))
    assert [np.array_equal(a, b) for a, (b, _) in zip(plain, read, strict=True)] == [True, True]
    assert [list(maps) for _, maps in read] == [["*", "face"], ["*"]]
    assert read[0][1]["*"].shape == (16, 16) and not torch.equal(read[0][1]["*"], read[0][1]["face"])
    pipeline.close()
    assert modules == {n: id(m) for part in (model.unet, model.text_encoder) for n, m in part.named_modules()}
