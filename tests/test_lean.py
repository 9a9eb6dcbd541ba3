"""The UNet without operators that change nothing: diffusers' numbers to the last bit, forward and backward."""

from __future__ import annotations

import inspect
from collections import Counter

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from tinymodels import tiny_models
from tinysdxl import tiny_sdxl_models
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from singleinsert.models.condition import Condition
from singleinsert.models.lean import make_lean
from singleinsert.models.loading import load_base_model


class Count(TorchDispatchMode):
    """Operators by name."""

    def __init__(self):
        super().__init__()
        self.of = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.of[str(func.overloadpacket)] += 1
        return func(*args, **(kwargs or {}))


def outcome(unet):
    """Output and the condition's gradient, and how many operators of each kind the forward pass had."""
    x = torch.linspace(-1, 1, 2048).reshape(2, 4, 16, 16)
    width = unet.config.cross_attention_dim
    states = torch.linspace(-1, 1, 2 * 8 * width).reshape(2, 8, width).requires_grad_()
    told = {}
    if unet.config.addition_embed_type:
        pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
        told = {"text_embeds": torch.ones(2, pooled), "time_ids": torch.ones(2, 6)}
    with Count() as count:
        y = unet(x, torch.tensor([3, 7]), states, added_cond_kwargs=told, return_dict=False)[0]
    (gradient,) = torch.autograd.grad(y.square().sum(), states)
    return y.detach(), gradient, count.of


@pytest.mark.parametrize("make", [tiny_models, tiny_sdxl_models])
def test_a_lean_unet_gives_the_same_to_the_bit_and_divides_by_nothing(make):
    unet = make()["unet"].eval().requires_grad_(False)
    before, gradient, operators = outcome(unet)
    make_lean(unet)
    after, lean_gradient, lean = outcome(unet)
    assert torch.equal(before, after) and torch.equal(gradient, lean_gradient)
    blocks = sum(name.endswith("time_emb_proj") for name, _ in unet.named_modules())
    attentions = len(unet.attn_processors)
    # each block and each attention divided by 1; each block had its own silu of the timestep, all but one are gone
    assert operators["aten.div"] - lean["aten.div"] == blocks + attentions
    assert operators["aten.silu"] - lean["aten.silu"] == blocks - 1


def test_attention_in_half_precision_is_differentiated_in_float32_on_a_cpu():
    """bfloat16's own kernel is five times slower backward there; what is only drawn stays with it."""
    unet = tiny_models()["unet"].eval().requires_grad_(False)
    exact, exact_gradient, _ = outcome(unet)
    make_lean(unet.to(torch.bfloat16))
    x, t = torch.linspace(-1, 1, 2048).reshape(2, 4, 16, 16).bfloat16(), torch.tensor([3, 7])
    states = torch.linspace(-1, 1, 2 * 8 * unet.config.cross_attention_dim).reshape(2, 8, -1).bfloat16()
    with Count() as drawn:
        unet(x, t, states)
    with Count() as trained:
        y = unet(x, t, states.requires_grad_(), return_dict=False)[0]
    (gradient,) = torch.autograd.grad(y.float().square().sum(), states)
    through = len(unet.attn_processors) - 1  # the first self-attention stands before the condition
    assert trained.of["aten._to_copy"] == drawn.of["aten._to_copy"] + 4 * through
    for found, wanted in ((y, exact), (gradient, exact_gradient)):
        assert (found.float() - wanted).norm() < 0.05 * wanted.norm()  # bfloat16 has 8 bits


def test_a_pass_walks_through_no_modules_and_reads_no_signatures(tiny_sd, monkeypatch):
    """With a LoRA in SD 1.5 they were a third of what a pass costs the host."""
    model = load_base_model(tiny_sd)
    condition = Condition({"states": torch.zeros(1, 8, 32)})

    def refuse(*args, **kwargs):
        raise AssertionError("a signature was read")

    walked, walk = [], nn.Module.named_modules
    monkeypatch.setattr(nn.Module, "named_modules", lambda *a, **k: (walked.append(m) or m for m in walk(*a, **k)))
    monkeypatch.setattr(inspect, "signature", refuse)
    with torch.no_grad():
        assert model.predict(torch.zeros(1, 4, 16, 16), torch.tensor([3]), condition).isfinite().all()
    asked, modules = len(walked), len(list(model.denoiser.modules()))
    walked.clear()
    _ = model.denoiser.dtype  # as diffusers answers it
    assert asked < 20 < modules < len(walked)


@pytest.mark.parametrize("folder", ["tiny_sd", "tiny_sdxl", "tiny_klein", "tiny_zimage"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_dtype_is_what_diffusers_says(folder, dtype, request):
    model = load_base_model(request.getfixturevalue(folder), dtype=dtype)
    assert model.dtype == model.denoiser.dtype == dtype
    first = next(name for name, _ in model.denoiser.named_parameters())
    model.denoiser._keep_in_fp32_modules = [first]
    model.denoiser.get_parameter(first).data = torch.zeros(1, dtype=torch.float64)
    assert model.dtype == model.denoiser.dtype == dtype


def test_what_is_not_plain_stays_as_it_is():
    unet = tiny_models()["unet"].eval().requires_grad_(False)
    unet.down_blocks[0].resnets[0].output_scale_factor = 2.0
    unet.set_attn_processor(AttnProcessor())
    before = outcome(unet)
    make_lean(unet)
    after = outcome(unet)
    assert torch.equal(before[0], after[0]) and before[2] == after[2]
