"""T-LoRA: which components are on at which noise, the orthogonal start, and that drawing does as training did."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from runs import Said, small_settings
from test_parametrized_adapters import change
from tinymodels import outputs, same, tiny_models

from singleinsert.adapters.base import AdapterOptions
from singleinsert.adapters.ranks import RankByNoise, RankGate
from singleinsert.adapters.tlora import TimestepLoraAdapters, last_singular_triples
from singleinsert.artifact import Artifact
from singleinsert.errors import ConfigError
from singleinsert.inference.pipeline import ConceptPipeline, Picture
from singleinsert.models.loading import load_base_model
from singleinsert.training.run import train

TARGETS = {"unet": ("to_q", "to_k", "to_v", "to_out.0"), "text_encoder": ("q_proj", "v_proj")}


@pytest.fixture
def models():
    found = tiny_models()
    return {name: copy.deepcopy(found[name]) for name in ("unet", "text_encoder")}


def inject(models, **options) -> TimestepLoraAdapters:
    given = AdapterOptions(TARGETS, 4, **options)
    return TimestepLoraAdapters.inject(models, given, torch.Generator().manual_seed(0))


def test_the_rank_falls_with_noise():
    # floor((1 - u) 3) + 1: 1 at u = 0.7 (0.9), 2 at 0.5 (1.5), 3 at 0.2 (2.4), 4 at 0 alone
    ranks = RankByNoise(4, least=1, power=1.0)
    assert ranks.at(torch.tensor([0.999, 0.7, 0.5, 0.2, 0.0])).tolist() == [1, 1, 2, 3, 4]
    assert RankByNoise(4, 2, 2.0).at(torch.tensor([0.999, 0.29, 0.0])).tolist() == [2, 3, 4]  # 0.71^2 * 2 = 1.008
    assert ranks.mask(torch.tensor([0.5])).tolist() == [[1, 1, 0, 0]]
    gate = RankGate(ranks, 1000.0)
    gate.noise = torch.tensor([0.5, 0.0])
    assert gate.apply(torch.ones(2, 1, 8)).tolist() == [[[1, 1, 0, 0] * 2], [[1] * 8]]


def test_it_starts_with_the_smallest_components_of_a_random_matrix():
    u, s, v = last_singular_triples(12, 8, 3, torch.Generator().manual_seed(1))
    whole = torch.randn(12, 8, generator=torch.Generator().manual_seed(1)) / 8**0.5
    assert torch.allclose(s, torch.linalg.svdvals(whole)[-3:]) and torch.allclose(u.T @ u, torch.eye(3), atol=1e-5)
    assert torch.allclose(u.T @ whole @ v.T, torch.diag(s), atol=1e-5)
    with pytest.raises(ConfigError, match="a layer of 12 x 8 has no so many"):
        last_singular_triples(12, 8, 9, torch.Generator())


def test_off_is_the_frozen_model_and_eject_leaves_no_trace(models):
    keys = {name: list(model.state_dict()) for name, model in models.items()}
    before = outputs(models)
    adapters = inject(models)
    text, unet = outputs(models)
    assert torch.allclose(text, before[0], atol=1e-5) and torch.allclose(unet, before[1], atol=1e-5)
    change(adapters)
    assert not same(outputs(models), before)
    with adapters.disabled():
        assert same(outputs(models), before)
    names = [name for name, _ in adapters.named_parameters()]
    assert "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.scale" in names
    adapters.eject()
    assert same(outputs(models), before)
    assert {name: list(model.state_dict()) for name, model in models.items()} == keys
    assert not models["unet"]._forward_pre_hooks


def test_at_noise_only_the_first_components_act(models):
    """Components of the UNet above the second change nothing at t = 500 of 1000 with rank 4, and something at 0."""
    adapters = inject(models)
    states = torch.ones(1, 4, models["unet"].config.cross_attention_dim)
    x = torch.linspace(-1, 1, 4 * 64).reshape(1, 4, 8, 8)

    @torch.no_grad()
    def answer(t: int) -> torch.Tensor:
        return models["unet"](x, torch.tensor([t]), states).sample

    before = {t: answer(t) for t in (0, 500)}
    with torch.no_grad():
        for layer in adapters.layers["unet"].values():
            layer.up[:, 2:] += 0.5
    assert torch.equal(answer(500), before[500]) and not torch.equal(answer(0), before[0])


def test_the_saved_update_is_the_trained_one(models):
    adapters = inject(models)
    change(adapters)
    path = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    layer, saved = adapters.layers["unet"][path], adapters.state()
    weights, x = saved.lora["unet"][path], torch.linspace(-1, 1, layer.in_features)[None, None]
    assert weights.rank == 8 and saved.ranks == RankByNoise(4, 1, 1.0)
    layer.gate.noise = None  # every component is on
    change_of = layer(x) - layer.base(x)
    assert torch.allclose(x @ weights.down.T @ weights.up.T * weights.alpha / 8, change_of, atol=1e-5)


def test_a_run_draws_from_its_artifact_what_it_drew_in_training(tmp_path, tiny_sd):
    settings = small_settings(
        tmp_path, tiny_sd, adapter__type="tlora", stage2__learning_rate=0.05, sample__prompts=["{concept}"],
        sample__num_inference_steps=4, run__output_name="mytlora",
    )  # fmt: skip
    said: list[str] = []
    trained = train(settings, watch=Said(said.append))
    assert any("no client's file" in line for line in said)
    artifact = Artifact.load(next(settings.output_dir.glob("*.safetensors")))
    assert artifact.update.ranks == RankByNoise(4, 1, 1.0)
    pictures = {}
    for name, update in (("gated", artifact.update), ("all on", replace(artifact.update, ranks=None))):
        model = load_base_model(tiny_sd)
        pipeline = ConceptPipeline(model, [replace(artifact, update=update)])
        pictures[name] = next(iter(pipeline.render([Picture("* face", 0, "", 4, 7.5, 32, 32)])))
        pipeline.close()
        assert not model.unet._forward_pre_hooks
    drawn = np.asarray(trained.preview).astype(int)
    assert np.abs(np.asarray(pictures["gated"]).astype(int) - drawn).max() <= 1
    assert np.abs(np.asarray(pictures["all on"]).astype(int) - drawn).max() > 1
