"""Frozen weights in less memory: quantised, swapped block by block, and text encoders that have nothing to do."""

import csv
import re
from collections import Counter

import pytest
import torch
from runs import QUIET, small_settings, small_values
from test_train_script import command_line
from torch import nn

import train_singleinsert
from singleinsert.adapters.base import AdapterOptions
from singleinsert.adapters.lora import LoraAdapters
from singleinsert.artifact import Artifact
from singleinsert.errors import ConfigError
from singleinsert.models.frozen_weights import (
    BlockSwap,
    blocks_of,
    pieces_of_layers,
    quantize_blocks,
    swap_blocks,
)
from singleinsert.models.loading import load_base_model
from singleinsert.training.run import train
from singleinsert.training.texts import PromptBook

DENOISER_ALONE = {"stage2__trains": ["denoiser"], "run__output_name": "zork"}


def losses(folder):
    with open(next((folder / "out").glob("logs/*/losses.csv"))) as file:
        return [[row[term] for term in ("foreground", "background")] for row in csv.DictReader(file)]


@pytest.mark.parametrize(("family", "count"), [("tiny_sd", 4), ("tiny_klein", 5)])
def test_blocks_from_main_memory_change_no_number(family, count, tmp_path, request):
    """Losses and weights of a run of both stages, to the last bit; all blocks and text encoders' layers are swapped."""
    base, artifacts = request.getfixturevalue(family), []
    assert len(blocks_of(load_base_model(base).denoiser)) == count
    for swapped in (0, count):
        folder = tmp_path / str(swapped)
        values = small_values(
            folder, base, stage1__steps=2, stage2__steps=2, stage1__batch_size=2, stage2__batch_size=2,
            run__gradient_checkpointing=True, run__blocks_to_swap=swapped, run__swap_text_encoders=swapped > 0,
            **DENOISER_ALONE,
        )  # fmt: skip
        assert train_singleinsert.main(command_line(values)) == 0
        artifacts.append(Artifact.load(folder / "out/zork_artifact.safetensors"))
    assert losses(tmp_path / "0") == losses(tmp_path / str(count))
    first, second = artifacts
    assert first.update.digest() == second.update.digest() and torch.equal(first.embedding, second.embedding)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        if len(x) == 0:
            raise ValueError("no sample")
        return self.linear(x).relu()


class Model(nn.Module):
    _repeated_blocks = ("Block",)

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))


def test_a_swapped_block_is_on_the_card_only_while_it_is_called():
    """The card is played by "meta"; what comes into a block later, such as adapters, stays where it is."""
    model, card = Model().requires_grad_(False), torch.device("meta")
    swaps = swap_blocks(model, 2, card)
    assert [swap.block for swap in swaps] == list(model.blocks[1:]) and isinstance(swaps[0], BlockSwap)
    seen, block = [], model.blocks[2]
    block.adapter = nn.Linear(8, 8)
    homes = dict(block.named_parameters())
    block.linear.register_forward_pre_hook(
        lambda *_: seen.append({n: p.device.type for n, p in block.named_parameters()})
    )
    block(torch.empty(2, 8, device=card))
    assert seen == [{"linear.weight": "meta", "linear.bias": "meta", "adapter.weight": "cpu", "adapter.bias": "cpu"}]
    assert all(p is homes[name] and p.device.type == "cpu" for name, p in block.named_parameters())
    with pytest.raises(ValueError, match="no sample"):  # a recomputation may be left in the middle, by an exception
        model.blocks[1](torch.empty(0, 8))
    assert all(p.device.type == "cpu" for p in model.blocks[1].parameters())
    with pytest.raises(ConfigError, match="blocks_to_swap 4: this model has 3 blocks"):
        swap_blocks(model, 4, card)


@pytest.mark.parametrize("family", ["tiny_sd", "tiny_klein", "tiny_zimage"])
def test_a_text_encoders_layers_come_to_the_card_in_the_backward_pass_too(family, request):
    """Where transformers recomputes them. The lookup is where prompts are encoded, and stays there."""
    model, calls = load_base_model(request.getfixturevalue(family)), Counter()
    encoder, part = model.text_encoders["text_encoder"], "text_encoder"
    pieces = pieces_of_layers(encoder)
    staying = {id(parameter) for piece in pieces for parameter in piece.parameters()}
    left = {name for name, parameter in encoder.named_parameters() if id(parameter) not in staying}
    assert all("embed" in name or "norm" in name for name in left) and any("embed" in name for name in left)
    model.enable_gradient_checkpointing()
    for piece in pieces:
        piece.register_forward_pre_hook(lambda module, given: calls.update([module]))
    vectors = torch.ones(1, model.embedding_widths[part], requires_grad=True)
    condition = model.encode(model.tokenize("a photo of * face", {"*": 1}), {"*": {part: vectors}})
    condition.states.square().sum().backward()
    assert vectors.grad.any() and set(calls) == {*pieces} and max(calls.values()) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run__blocks_to_swap": 1}, "saves nothing without gradient_checkpointing"),
        ({"run__swap_text_encoders": True}, "run.swap_text_encoders saves nothing without gradient_checkpointing"),
        ({"run__blocks_to_swap": 99, "run__gradient_checkpointing": True}, "this model has 4 blocks"),
        ({"run__quantize": "nf4", "run__blocks_to_swap": 1}, "do not go together"),
        ({"run__quantize": "int8", "adapter__type": "full"}, "adapter.type full cannot change them: use lora"),
    ],
    ids=["graph", "texts", "many", "both", "full"],
)
def test_what_does_not_go_together_is_said_in_a_line(changes, message, tiny_sd, tmp_path, capsys):
    assert train_singleinsert.main(command_line(small_values(tmp_path, tiny_sd, **changes))) == 2
    assert re.search(message, capsys.readouterr().err.strip().splitlines()[-1])


def test_quantised_weights_need_bitsandbytes(tiny_sd, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    assert train_singleinsert.main(command_line(small_values(tmp_path, tiny_sd, run__quantize="nf4"))) == 2
    assert "quantize nf4 needs bitsandbytes" in capsys.readouterr().err


def test_a_model_too_small_to_be_quantised_says_so():
    pytest.importorskip("bitsandbytes", reason="the CPU set of packages is complete without it")
    with pytest.raises(ConfigError, match="has no effect on so small a model"):
        quantize_blocks(Model(), "int8")


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_with_adapters_off_a_quantised_model_is_itself(kind, tiny_klein):
    """To the last bit, before, with and after adapters; and near the model that it was made of."""
    pytest.importorskip("bitsandbytes", reason="the CPU set of packages is complete without it")
    from tinyklein import random_latents

    model = load_base_model(tiny_klein)
    condition = model.encode(model.tokenize("a cat", {}), {})

    @torch.no_grad()
    def predicted():
        return model.predict(random_latents(), torch.tensor([500]), condition)

    exact = predicted()
    quantize_blocks(model.denoiser, kind)
    plain = predicted()
    error = float((plain - exact).norm() / exact.norm())
    assert 0 < error < {"nf4": 0.5, "int8": 0.1}[kind], error
    options = AdapterOptions({"transformer": ("to_q", "to_qkv_mlp_proj")}, 2, 2.0)
    adapters = LoraAdapters.inject(model.adapted_parts, options, torch.Generator().manual_seed(0))
    assert torch.equal(predicted(), plain)
    for name, parameter in adapters.named_parameters():
        if name.endswith("up"):
            parameter.data.fill_(0.1)
    assert not torch.equal(predicted(), plain)
    with adapters.disabled():
        assert torch.equal(predicted(), plain)
    adapters.eject()
    assert torch.equal(predicted(), plain)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_run_on_quantised_weights(kind, tiny_klein, tmp_path):
    """Both stages, the text encoder too: gradients pass through it to the vector."""
    pytest.importorskip("bitsandbytes", reason="the CPU set of packages is complete without it")
    values = small_values(
        tmp_path, tiny_klein, stage1__steps=1, stage2__steps=1, stage1__batch_size=2, stage2__batch_size=2,
        run__quantize=kind, **DENOISER_ALONE,
    )  # fmt: skip
    assert train_singleinsert.main(command_line(values)) == 0
    artifact = Artifact.load(tmp_path / "out/zork_artifact.safetensors")
    assert all(weights.up.any() for weights in artifact.lora["transformer"].values())


def test_a_stage_that_trains_the_denoiser_alone_encodes_its_prompts_once(tiny_sd, tmp_path, monkeypatch):
    """The text encoder then has nothing to do in its steps but for the first."""
    calls, original = [], PromptBook.prompt
    monkeypatch.setattr(PromptBook, "prompt", lambda self, text: calls.append(text) or original(self, text))
    counts = {}
    for trains in (["denoiser"], ["concept", "denoiser"]):
        folder = tmp_path / "-".join(trains)
        settings = small_settings(folder, tiny_sd, stage1__steps=1, stage2__steps=6, stage2__trains=trains)
        calls.clear()
        train(settings, watch=QUIET)
        counts[tuple(trains)] = calls.count("* face")
    assert counts["concept", "denoiser"] - counts["denoiser",] == 5
