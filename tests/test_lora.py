"""LoRA layers: nothing changes at the start, off is the frozen model, eject leaves no trace."""

import copy

import pytest
import torch
from tinymodels import CONCEPT_WIDTH, hashed, outputs, same, tiny_models

from singleinsert.adapters.base import AdapterOptions
from singleinsert.adapters.lora import LoraAdapters
from singleinsert.errors import ConfigError

UNET_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")


@pytest.fixture(scope="module")
def pristine():
    return tiny_models()


@pytest.fixture
def models(pristine):
    return {name: copy.deepcopy(pristine[name]) for name in ("unet", "text_encoder")}


def inject(models, rank=4, alpha=4.0, seed=0, kind=LoraAdapters, **targets):
    targets = {"unet": UNET_TARGETS, "text_encoder": TEXT_TARGETS} | targets
    return kind.inject(models, AdapterOptions(targets, rank, alpha), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("alpha", [4.0, 6.0])
def test_the_lean_forward_pass_is_pefts_to_the_bit(models, alpha):
    """Outputs and all gradients, of three dimensions and two."""
    from peft.tuners.lora import Linear

    adapters = inject(models, alpha=alpha)
    train_a_little(adapters)
    layer = next(iter(adapters.layers["unet"].values()))
    assert type(layer) is not Linear

    def numbers(forward, shape):
        x = hashed(shape, 7).requires_grad_()
        parameters = [layer.lora_A["default"].weight, layer.lora_B["default"].weight]
        y = forward(layer, x)
        return [y, *torch.autograd.grad((y * hashed(tuple(y.shape), 8)).sum(), [x, *parameters])]

    for shape in ((2, 9, layer.in_features), (5, layer.in_features)):
        ours, theirs = numbers(type(layer).forward, shape), numbers(Linear.forward, shape)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        with adapters.disabled():
            x = hashed(shape, 7)
            assert torch.equal(layer(x), layer.base_layer(x))


def train_a_little(adapters):
    with torch.no_grad():
        for i, (_, parameter) in enumerate(adapters.named_parameters()):
            parameter.copy_(0.1 * hashed(tuple(parameter.shape), i))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_off_is_the_frozen_model_and_eject_leaves_no_trace(models, dtype):
    for model in models.values():
        model.to(dtype)
    keys = {name: list(model.state_dict()) for name, model in models.items()}
    before, modules = outputs(models), [type(m) for m in models["unet"].modules()]
    adapters = inject(models)
    assert same(outputs(models), before)  # the up matrix starts at zero
    train_a_little(adapters)
    assert not same(outputs(models), before)
    with adapters.disabled():
        assert same(outputs(models), before)
        with adapters.disabled():
            pass
        assert same(outputs(models), before)
    assert not same(outputs(models), before)
    adapters.eject()
    assert same(outputs(models), before)
    assert {name: list(model.state_dict()) for name, model in models.items()} == keys
    assert [type(m) for m in models["unet"].modules()] == modules
    assert not hasattr(models["unet"], "peft_config")
    inject(models).eject()  # and in again


def test_the_output_is_that_of_merged_weights(models):
    """W + alpha/rank up down, with alpha not equal to the rank."""
    merged = copy.deepcopy(models)
    adapters = inject(models, rank=2, alpha=6.0)
    train_a_little(adapters)
    for component, layers in adapters.state().lora.items():
        for path, lora in layers.items():
            assert lora.alpha == 6.0 and lora.rank == 2
            weight = merged[component].get_submodule(path).weight
            weight.data += 3.0 * lora.up @ lora.down
    for ours, reference in zip(outputs(models), outputs(merged), strict=True):
        assert torch.allclose(ours, reference, atol=2e-5)


def test_only_the_adapters_train_and_in_float32_over_half_weights(models):
    for model in models.values():
        model.to(torch.bfloat16)
    adapters = inject(models)
    parameters = dict(adapters.named_parameters())
    assert all(parameter.dtype == torch.float32 for parameter in parameters.values())
    trainable = {id(p) for model in models.values() for p in model.parameters() if p.requires_grad}
    assert trainable == {id(p) for p in parameters.values()}
    train_a_little(adapters)
    text, out = outputs(models)
    assert text.dtype == out.dtype == torch.bfloat16
    (text.float().square().mean() + out.float().square().mean()).backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in parameters.values())
    assert all(p.grad is None for model in models.values() for p in model.parameters() if not p.requires_grad)


def test_names_shapes_and_the_named_generator(models):
    adapters = inject(models)
    state = adapters.state().lora
    attentions = [p for p, m in models["unet"].named_modules() if p.endswith(("attn1", "attn2"))]
    assert len(state["unet"]) == 4 * len(attentions) and len(state["text_encoder"]) == 4 * 2
    assert "encoder.layers.0.self_attn.q_proj" in state["text_encoder"]
    key = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    assert state["unet"][key].down.shape == (4, CONCEPT_WIDTH) and state["unet"][key].up.shape == (16, 4)
    # kaiming uniform with a = sqrt(5) is uniform in +-1/sqrt(fan_in)
    assert 0.9 < state["unet"][key].down.abs().max() * CONCEPT_WIDTH**0.5 <= 1
    adapters.eject()
    assert adapters.state() is None
    torch.manual_seed(99)
    again = inject(models).state().lora
    assert torch.equal(again["unet"][key].down, state["unet"][key].down)


def test_targets(models):
    for targets in ({"unet": ("to_q", "to_x")}, {"text_encoder": ("to_q",)}):
        with pytest.raises(ConfigError, match="names no layer of the"):
            inject(models, **targets)
    adapters = inject(models, unet=("to_k", "proj_in"), text_encoder=())
    assert set(adapters.state().lora) == {"unet"}
    train_a_little(adapters)
    assert outputs(models)[1].isfinite().all()
    assert adapters.state().lora["unet"]["mid_block.attentions.0.proj_in"].down.shape == (4, 32, 1, 1)
