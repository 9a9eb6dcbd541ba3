"""What holds of every adapter that replaces weights (full, kv, svd), and what each does of its own."""

import copy

import pytest
import torch
from tinymodels import hashed, outputs, same, tiny_models

from singleinsert.adapters import adapter_class, adapter_kinds
from singleinsert.adapters.base import AdapterOptions
from singleinsert.adapters.parametrized import low_rank
from singleinsert.errors import ConfigError

KINDS = [kind for kind in adapter_kinds() if "lora" not in kind]


@pytest.fixture(scope="module")
def pristine():
    return tiny_models()


@pytest.fixture
def models(pristine):
    return {name: copy.deepcopy(pristine[name]) for name in ("unet", "text_encoder")}


def inject(models, kind, rank=2, **targets):
    own = adapter_class(kind).own_targets
    chosen = {"unet": targets.get("unet", own["denoiser"]), "text_encoder": targets.get("text_encoder", own["text"])}
    return adapter_class(kind).inject(models, AdapterOptions(chosen, rank), torch.Generator().manual_seed(0))


def change(adapters, by=0.05):
    with torch.no_grad():
        for i, (_, parameter) in enumerate(adapters.named_parameters()):
            parameter.add_(by * hashed(tuple(parameter.shape), i))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_off_is_the_frozen_model_and_eject_leaves_no_trace(models, kind, dtype):
    for model in models.values():
        model.to(dtype)
    keys = {name: list(model.state_dict()) for name, model in models.items()}
    objects = {name: [id(p) for p in model.parameters()] for name, model in models.items()}
    before, classes = outputs(models), [type(m) for model in models.values() for m in model.modules()]
    adapters = inject(models, kind)
    assert same(outputs(models), before)  # nothing has trained
    assert models["unet"].dtype == dtype
    assert all(p.dtype == torch.float32 for _, p in adapters.named_parameters())
    change(adapters)
    assert not same(outputs(models), before)
    with adapters.disabled():
        assert same(outputs(models), before)
    assert not same(outputs(models), before)
    adapters.eject()
    assert same(outputs(models), before)
    assert {name: list(model.state_dict()) for name, model in models.items()} == keys
    assert {name: [id(p) for p in model.parameters()] for name, model in models.items()} == objects
    assert [type(m) for model in models.values() for m in model.modules()] == classes
    inject(models, kind).eject()  # and in again


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_what_trains_and_nothing_else(models, kind):
    adapters = inject(models, kind)
    for _, parameter in adapters.named_parameters():
        parameter.requires_grad_(True)
    text, unet = outputs(models)
    (text.square().sum() + unet.square().sum()).backward()
    named = dict(adapters.named_parameters())
    assert named and all(p.grad is not None for p in named.values())
    ours = {id(p) for p in named.values()}
    assert not [n for m in models.values() for n, p in m.named_parameters() if id(p) not in ours and p.grad is not None]


@pytest.mark.parametrize("kind", KINDS)
def test_the_saved_lora_is_the_nearest_and_says_what_it_misses(models, kind):
    adapters = inject(models, kind, rank=1000)  # more than any layer has: nothing is left out of matrices
    change(adapters)
    update = adapters.state()
    assert update.kind == kind and len(update.digest()) == 16
    for part, layers in update.lora.items():
        for path, weights in layers.items():
            name = f"{part}.{path}.weight"
            delta = (weights.up.flatten(1) @ weights.down.flatten(1)).reshape(adapters.change_of(name).shape)
            assert torch.allclose(delta, adapters.change_of(name), atol=1e-5)
    small = type(adapters)(
        adapters.parts, adapters.places, adapters.before, AdapterOptions({}, 1), adapters.classes
    ).state()
    assert small.error > update.error or not update.lora
    assert sum(w.rank for layers in small.lora.values() for w in layers.values()) == sum(
        len(layers) for layers in small.lora.values()
    )


def test_a_kind_that_is_none():
    assert {"full", "kv", "lora", "svd", "tlora"} <= {*adapter_kinds()}
    with pytest.raises(ConfigError, match=r"adapter.type 'lroa' is none of .*lora"):
        adapter_class("lroa")


def test_low_rank_of_a_known_spectrum():
    # diag(5, 4, 3): rank 2 leaves out the 3
    weights, missed = low_rank(torch.diag(torch.tensor([5.0, 4.0, 3.0])), 2)
    assert missed == pytest.approx(9.0) and weights.alpha == weights.rank == 2
    assert torch.allclose(weights.up @ weights.down, torch.diag(torch.tensor([5.0, 4.0, 0.0])), atol=1e-5)
    conv, missed = low_rank(hashed((6, 4, 3, 3), 3), 6)
    assert conv.down.shape == (6, 4, 3, 3) and conv.up.shape == (6, 6, 1, 1) and missed == pytest.approx(0, abs=1e-6)


def test_full_may_take_everything(models):
    adapters = inject(models, "full", unet=("*",), text_encoder=("*",))
    names = [name for name, _ in adapters.named_parameters()]
    assert len(names) == sum(1 for model in models.values() for _ in model.parameters())
    assert any(name.endswith(".bias") for name in names) and any("norm" in name for name in names)
    change(adapters)
    assert 0 < adapters.state().error < 1  # norms and biases have no LoRA
    adapters.eject()


def test_kv_is_the_keys_and_values_of_cross_attention(models):
    names = [name for name, _ in inject(models, "kv").named_parameters()]
    assert names and all(name.startswith("unet.") and ".attn2.to_" in name for name in names)
    assert {name.split(".")[-2] for name in names} == {"to_k", "to_v"}


def test_svd_shifts_singular_values_and_keeps_them_above_zero(models):
    layer = models["unet"].get_submodule("mid_block.attentions.0.transformer_blocks.0.attn1.to_q")
    before = torch.linalg.svdvals(layer.weight.detach())
    adapters = inject(models, "svd")
    shift = dict(adapters.named_parameters())["unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"]
    assert shift.shape == before.shape
    with torch.no_grad():
        shift[0], shift[1], shift[-1] = 1.0, 0.5, -100.0
    after = torch.linalg.svdvals(layer.weight.detach())
    expected = torch.cat([before[:1] + 1, before[1:2] + 0.5, before[2:-1], torch.zeros(1)])
    assert torch.allclose(after, expected.sort(descending=True).values, atol=1e-4)
