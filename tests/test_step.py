"""The training step: its terms against a restatement with separate models, and where gradients go and do not go."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from tinymodels import CONCEPT_WIDTH, hashed
from torch.utils._python_dispatch import TorchDispatchMode

from singleinsert.adapters.base import NO_ADAPTERS, AdapterOptions
from singleinsert.adapters.lora import LoraAdapters
from singleinsert.concepts import build_concept
from singleinsert.data.subject import Frame
from singleinsert.losses import FullImage, SingleInsert
from singleinsert.models.latents import LatentDistribution
from singleinsert.models.loading import load_base_model
from singleinsert.models.text import encode, tokenize
from singleinsert.training.bank import TeacherBank
from singleinsert.training.draws import Draws, draw
from singleinsert.training.prompting import StepPrompt
from singleinsert.training.step import EncodedPicture, training_step
from singleinsert.training.texts import ConceptSet, PromptBook, StepConditions

NONE = NO_ADAPTERS
SHAPE = (4, 16, 16)
PROMPTS = ("a photo of * face", "a photo of a face")


@pytest.fixture
def model(make_tiny_sd, request):
    return load_base_model(make_tiny_sd(getattr(request, "param", "epsilon")))


ASKED = StepPrompt(0, ("it",), PROMPTS[0], PROMPTS[1], PROMPTS[1])
FRAME = Frame.whole((32, 32))


def subject() -> EncodedPicture:
    mask = torch.zeros(1, 1, 16, 16)
    mask[:, :, 4:12, 3:13] = 1.0
    mask[:, :, 12] = 0.25
    latents = LatentDistribution(hashed((1, *SHAPE), 1), 0.1 * hashed((1, *SHAPE), 2).abs())
    return EncodedPicture(latents, {"it": mask}, FRAME, {"it": mask})


def concept():
    return build_concept(
        "vector", placeholder="*", num_vectors=1, widths={"text_encoder": CONCEPT_WIDTH}, class_embedding=None,
        pixels=None, generator=torch.Generator().manual_seed(0), init_std=1.0,
    )  # fmt: skip


def inject(model, alpha=8.0):
    """LoRA whose up matrices are no longer zero."""
    targets = {"unet": ("to_k", "to_q", "to_v", "to_out.0"), "text_encoder": ("q_proj", "v_proj")}
    options = AdapterOptions(targets, rank=2, alpha=alpha)
    adapters = LoraAdapters.inject(model.parts, options, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for i, (_, parameter) in enumerate(adapters.named_parameters()):
            parameter.copy_(0.1 * hashed(tuple(parameter.shape), i))
    return adapters


def conditions_of(model, part, adapters):
    concepts = ConceptSet({"it": part})
    book = PromptBook(model, concepts, {"it": "face"})
    return StepConditions(book, concepts, adapters, [ASKED], [FRAME], tunes_text="text_encoder" in adapters.parts)


def step(draws, conditions, model, adapters, objective, keep=None, together=False):
    asked = [ASKED] * len(draws.t)
    return training_step(draws, asked, [subject()], conditions, model, adapters, objective, keep, together=together)


def run(model, part, adapters, objective, draws, keep=None):
    """Mean of each term over the batch, gradients accumulated as the loop does."""
    conditions = conditions_of(model, part, adapters)
    means = {}
    for terms in step(draws, conditions, model, adapters, objective, keep):
        for name, term in terms.items():
            assert term.shape == draws.t.shape and term.dtype == torch.float32
            means[name] = term.mean().item()
        torch.stack([term.mean() for term in terms.values()]).sum().backward()
    conditions.backward()
    return means


def restated(model, original, part, draws):
    """Equations 3, 4 and 6 with a deep copy for the frozen model and every prompt of the batch encoded."""
    kind, abar = model.schedule.prediction_type, model.schedule.alphas_cumprod[draws.t].reshape(-1, 1, 1, 1)
    given = subject()
    x0 = given.latents.mean + given.latents.std * draws.posterior
    x_t = abar.sqrt() * x0 + (1 - abar).sqrt() * draws.noise

    def x0_hat(models, vectors, prompt):
        tokenized = tokenize(model.tokenizer, prompt, {"*": 1})
        condition = torch.cat([encode(models.text_encoder, tokenized, vectors) for _ in draws.t])
        out = models.unet(x_t, draws.t, condition).sample
        if kind == "epsilon":
            return (x_t - (1 - abar).sqrt() * out) / abar.sqrt()
        return abar.sqrt() * x_t - (1 - abar).sqrt() * out if kind == "v_prediction" else out

    with_concept = x0_hat(model, {"*": part.vectors()["text_encoder"]}, PROMPTS[0])
    tuned_class = x0_hat(model, {}, PROMPTS[1])
    with torch.no_grad():
        frozen = x0_hat(original, {}, PROMPTS[1])
    return {
        "foreground": (given.masks["it"] * (with_concept - x0) ** 2).mean(),
        "background": ((1 - given.masks["it"]) * (with_concept - frozen) ** 2).mean(),
        "semantic": ((tuned_class - frozen) ** 2).mean(),
    }


@pytest.mark.parametrize("model", ["epsilon", "v_prediction", "sample"], indirect=True)
def test_terms_and_gradients_equal_the_restatement(model):
    original, part = copy.deepcopy(model), concept()
    adapters = inject(model)
    draws = draw(model.schedule, SHAPE, 0, "stage2", range(3))
    draws = replace(draws, t=torch.tensor([5, 400, 950]))
    means = run(model, part, adapters, SingleInsert(semantic_weight=1.0), draws)
    named = {"vector": part.weight, **dict(adapters.named_parameters())}
    ours = {name: p.grad.clone() for name, p in named.items()}
    for p in named.values():
        p.grad = None
    reference = restated(model, original, part, draws)
    assert means == pytest.approx({name: term.item() for name, term in reference.items()}, rel=1e-4)
    sum(reference.values()).backward()
    for name, p in named.items():
        assert torch.allclose(ours[name], p.grad, rtol=1e-3, atol=1e-4 * p.grad.abs().max()), name


def test_stage_one_trains_the_concept_alone_and_builds_no_graph_before_the_first_cross_attention(model):
    part, seen = concept(), {}
    for name in ("conv_in", "down_blocks.0.resnets.0", "down_blocks.0.attentions.0", "conv_out"):
        hook = lambda m, a, out, name=name: seen.setdefault(name, []).append(  # noqa: E731
            (out[0] if isinstance(out, tuple) else out).requires_grad
        )
        model.unet.get_submodule(name).register_forward_hook(hook)
    means = run(model, part, NONE, SingleInsert(), draw(model.schedule, SHAPE, 0, "stage1", range(2)))
    assert set(means) == {"foreground", "background"}
    # first the frozen pass, then the one with the concept; no third one
    assert seen == {
        "conv_in": [False, False],
        "down_blocks.0.resnets.0": [False, False],
        "down_blocks.0.attentions.0": [False, True],
        "conv_out": [False, True],
    }
    assert part.weight.grad.abs().sum() > 0
    for module in (model.unet, model.text_encoder, model.vae):
        assert all(p.grad is None for p in module.parameters())


def test_what_an_objective_does_not_need_is_not_computed(model):
    calls = []
    model.unet.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    draws = draw(model.schedule, SHAPE, 0, "stage1", range(1))
    for objective, passes in (
        (FullImage(), [True]),
        (SingleInsert(background_weight=0.0), [True]),
        (SingleInsert(), [False, True]),
        (SingleInsert(semantic_weight=1.0), [False, True, True]),
    ):
        calls.clear()
        run(model, concept(), inject(model) if objective.needs_class else NONE, objective, draws)
        assert calls == passes


def test_the_frozen_prediction_is_the_untouched_models_to_the_bit(model):
    original, part, kept = copy.deepcopy(model), concept(), []
    draws = draw(model.schedule, SHAPE, 0, "stage2", range(2))
    adapters = inject(model)
    run(model, part, adapters, SingleInsert(semantic_weight=1.0), draws, kept.append)
    x_t = model.schedule.add_noise(subject().latents.sample(draws.posterior), draws.noise, draws.t)
    class_condition = encode(original.text_encoder, tokenize(model.tokenizer, PROMPTS[1], {}), {})
    expected = original.unet(x_t, draws.t, class_condition.expand(2, -1, -1)).sample
    assert not kept[0].requires_grad and torch.equal(kept[0], expected)


def test_micro_batches_are_the_whole_batch(model):
    part, adapters = concept(), inject(model)
    objective = SingleInsert(semantic_weight=1.0, min_snr_gamma=5.0, mask_normalization="area")
    whole = draw(model.schedule, SHAPE, 0, "stage2", range(4))
    run(model, part, adapters, objective, whole)
    together = [p.grad.clone() for p in (part.weight, *(p for _, p in adapters.named_parameters()))]
    for p in (part.weight, *(p for _, p in adapters.named_parameters())):
        p.grad = None
    conditions = conditions_of(model, part, adapters)
    for samples in ((0,), (1, 2), (3,)):
        draws = draw(model.schedule, SHAPE, 0, "stage2", samples)
        for terms in step(draws, conditions, model, adapters, objective):
            (torch.stack([term.sum() for term in terms.values()]).sum() / 4).backward()
    conditions.backward()
    for a, p in zip(together, (part.weight, *(p for _, p in adapters.named_parameters())), strict=True):
        assert torch.allclose(a, p.grad, rtol=1e-4, atol=1e-5 * a.abs().max())


def test_both_prompts_in_one_batch_are_both_one_after_the_other(model):
    """The same terms and gradients but for the last digits, by half of the denoiser's passes."""
    part, adapters, passes = concept(), inject(model), []
    trained = [part.weight, *(p for _, p in adapters.named_parameters())]
    draws = draw(model.schedule, SHAPE, 0, "stage2", range(3))
    model.unet.register_forward_hook(lambda module, args, output: passes.append(len(args[0])))
    found = []
    for together in (False, True):
        conditions = conditions_of(model, part, adapters)
        terms = {}
        for yielded in step(draws, conditions, model, adapters, SingleInsert(semantic_weight=1.0), None, together):
            torch.stack([term.sum() for term in yielded.values()]).sum().backward()
            terms |= {name: term.detach() for name, term in yielded.items()}
        conditions.backward()
        found.append([*terms.values(), *(p.grad for p in trained)])
        for p in trained:
            p.grad = None
    assert passes == [3, 3, 3, 3, 6]  # each time the frozen model's; then two of 3 samples, or one of both
    for apart, together in zip(*found, strict=True):
        assert torch.allclose(together, apart, rtol=1e-4, atol=1e-5 * apart.abs().max())


def test_draws_depend_on_seed_stage_and_sample_alone(model):
    a = draw(model.schedule, SHAPE, 0, "stage1", [0, 1, 2])
    assert torch.equal(draw(model.schedule, SHAPE, 0, "stage1", [2]).noise, a.noise[2:])
    for other in (draw(model.schedule, SHAPE, 1, "stage1", [0]), draw(model.schedule, SHAPE, 0, "stage2", [0])):
        assert not torch.equal(other.noise, a.noise[:1])
    assert not torch.equal(a.noise, a.posterior)


class NoHostReads(TorchDispatchMode):
    """Raises where a value is read back from the device, which on a GPU would make the host wait."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func._schema.name not in ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero"), func
        return func(*args, **(kwargs or {}))


def test_the_step_never_waits_for_the_device(model):
    adapters, part = inject(model), concept()
    draws = draw(model.schedule, SHAPE, 0, "stage2", range(2))
    with NoHostReads():
        conditions = conditions_of(model, part, adapters)
        for terms in step(draws, conditions, model, adapters, SingleInsert(semantic_weight=1.0)):
            torch.stack([term.mean() for term in terms.values()]).sum().backward()
        conditions.backward()


def test_the_step_runs_on_fake_tensors(model):
    """So that its cost can be counted without computing it."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    adapters, part = inject(model), concept()
    with FakeTensorMode(allow_non_fake_inputs=True):
        draws = Draws(torch.zeros(2, dtype=torch.long), torch.zeros(2, *SHAPE), torch.zeros(2, *SHAPE))
        conditions = conditions_of(model, part, adapters)
        for terms in step(draws, conditions, model, adapters, SingleInsert(semantic_weight=1.0)):
            torch.stack([term.mean() for term in terms.values()]).sum().backward()
        conditions.backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_give_float32_losses_and_gradients(make_tiny_sd, dtype):
    model, part = load_base_model(make_tiny_sd(), dtype=dtype), concept()
    adapters = inject(model)
    run(model, part, adapters, SingleInsert(semantic_weight=1.0), draw(model.schedule, SHAPE, 0, "s", range(2)))
    for parameter in (part.weight, *(p for _, p in adapters.named_parameters())):
        assert parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all()


def test_the_banks_draws_are_those_of_stage_one_with_the_frozen_models_own_output(model):
    bank = TeacherBank(0, "stage1", 12)
    for first in (0, 4, 8):  # three steps of four
        samples = range(first, first + 4)
        draws = draw(model.schedule, SHAPE, 0, "stage1", samples)
        run(model, concept(), NONE, SingleInsert(), draws, partial(bank.keep, samples))
    drawn = bank.draw(model.schedule, SHAPE, bank.entries(range(12)))
    every = draw(model.schedule, SHAPE, 0, "stage1", range(12))
    # each of stage one's samples exactly once: independent and distributed as they were
    assert sorted(drawn.t.tolist()) == sorted(every.t.tolist()) and drawn.t.tolist() != every.t.tolist()
    assert len({row.sum().item() for row in drawn.noise}) == 12
    # and stage two, with adapters on, sees the terms it would have computed itself
    adapters, objective = inject(model), SingleInsert(semantic_weight=1.0)
    part = bank.draw(model.schedule, SHAPE, bank.entries(range(4, 8)))
    assert part.frozen.shape == (4, *SHAPE)
    banked = run(model, concept(), adapters, objective, part)
    assert banked == pytest.approx(run(model, concept(), adapters, objective, replace(part, frozen=None)), rel=1e-5)
