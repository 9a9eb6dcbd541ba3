"""Memory switches: the effect of each is seen, or it stops with one clear line."""

import importlib.util
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runs import QUIET, Said, small_settings
from test_step import NoHostReads
from tinymodels import CONCEPT_WIDTH, hashed
from torch import nn

from singleinsert.adapters.base import AdapterOptions
from singleinsert.adapters.lora import LoraAdapters
from singleinsert.errors import MissingPackageError
from singleinsert.models.loading import load_base_model
from singleinsert.training.loop import Loop
from singleinsert.training.run import load_model, train
from singleinsert.training.source import SampleSource
from singleinsert.training.stages import build_lr_scheduler, build_optimizer, stages_of
from singleinsert.training.switches import (
    enable_channels_last,
    enable_compile,
    enable_xformers,
)


def saved_bytes(model, condition):
    """What one forward pass keeps for its backward."""
    total = 0

    def pack(tensor):
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.unet(hashed((2, 4, 16, 16), 1), torch.tensor([10, 900]), condition)
    return total


@pytest.mark.parametrize("component", ["unet", "text_encoder"])
def test_gradient_checkpointing_recomputes_in_evaluation_mode_too(tiny_sd, component):
    """The frozen models are in evaluation mode, where transformers ignores the switch; no_grad passes pay nothing."""
    model, runs = load_base_model(tiny_sd), []
    inner = model.unet.mid_block.resnets[1].conv1 if component == "unet" else model.text_encoder.encoder.layers[1].mlp
    inner.register_forward_pre_hook(lambda *_: runs.append(1))  # a recomputation may stop before its end

    def gradient():
        runs.clear()
        leaf = hashed((2, 8, CONCEPT_WIDTH), 2).requires_grad_()
        if component == "unet":
            out = model.unet(hashed((2, 4, 16, 16), 1), torch.tensor([10, 900]), leaf).sample
        else:
            hook = model.text_encoder.get_input_embeddings().register_forward_hook(lambda *_: leaf)
            out = model.text_encoder(torch.zeros(2, 8, dtype=torch.long))[0]
            hook.remove()
        out.square().sum().backward()
        return leaf.grad

    kept = saved_bytes(model, hashed((2, 8, CONCEPT_WIDTH), 2).requires_grad_())
    plain = gradient()
    assert len(runs) == 1
    model.enable_gradient_checkpointing()
    assert torch.allclose(gradient(), plain, rtol=1e-5, atol=1e-6) and len(runs) == 2
    assert saved_bytes(model, hashed((2, 8, CONCEPT_WIDTH), 2).requires_grad_()) < kept / 2


def test_attention_is_pytorchs_own_everywhere(tiny_sd, monkeypatch):
    """SDPA in UNet, VAE and text encoder: nowhere a softmax over scores that are kept."""
    model, calls, softmaxes = load_base_model(tiny_sd), [], []
    original = nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        nn.functional, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or original(*a, **k)
    )
    monkeypatch.setattr(torch.Tensor, "softmax", lambda *a, **k: softmaxes.append(1))
    model.text_encoder(torch.zeros(1, 8, dtype=torch.long))
    assert len(calls) == 2
    model.unet(hashed((1, 4, 16, 16), 1), torch.tensor([10]), hashed((1, 8, CONCEPT_WIDTH), 2))
    assert len(calls) == 2 + 2 * 4  # self and cross attention in one layer down, one in the middle, two up
    model.vae.encode(hashed((1, 3, 32, 32), 1))
    assert len(calls) == 11 and not softmaxes


def test_encoders_run_once_per_step_on_one_sample(tiny_sd, tmp_path, monkeypatch):
    """However large the batch: each prompt once, the two of stage II together, and the picture once. The frozen class
    prompt is encoded in a run's first step."""
    calls, original = [], Loop._optimiser_step

    def watch(loop, stage):
        parts = {"text": loop.run.model.text_encoder, "image": loop.run.concepts["face"].vit}
        hooks = [
            part.register_forward_pre_hook(
                lambda _, args, name=name: calls.append((stage.name, loop.step, name, len(args[0])))
            )
            for name, part in parts.items()
        ]
        original(loop, stage)
        for hook in hooks:
            hook.remove()

    monkeypatch.setattr(Loop, "_optimiser_step", watch)
    train(small_settings(tmp_path, tiny_sd, stage1__steps=2, stage2__steps=2, run__micro_batch_size=2), watch=QUIET)
    one, first, both = (
        [("image", 1), ("text", 1)],
        [("image", 1), ("text", 1), ("text", 1)],
        [("image", 1), ("text", 2)],
    )
    steps = {("stage1", 0): first, ("stage1", 1): one, ("stage2", 0): both, ("stage2", 1): both}
    assert sorted(calls) == sorted((*step, *call) for step, made in steps.items() for call in made)


def test_offloaded_encoders_compute_in_float32_and_the_run_is_the_same(tiny_sd, tmp_path):
    """Which device holds what is counted in test_cost."""
    seen, models = {}, []

    def load(settings, accelerator):
        models.append(load_model(settings, accelerator))
        return models[-1]

    watch = Said(on_step=lambda *_: seen.update({name: part.dtype for name, part in models[-1].parts.items()}))
    prompts = {"sample__prompts": ["{concept}", "{concept} in the snow"]}
    results = [
        train(small_settings(tmp_path / str(offload), tiny_sd, run__mixed_precision="bf16", run__offload=offload,
                             **prompts), load=load, watch=watch).artifact.embedding
        for offload in (False, True)
    ]  # fmt: skip
    assert seen == {"unet": torch.bfloat16, "text_encoder": torch.float32, "vae": torch.bfloat16}
    assert torch.allclose(*results, atol=0.05)
    assert len(list((tmp_path / "True/out/samples").iterdir())) == 6  # two prompts: before, and after both stages


def test_channels_last_orders_the_weights_and_changes_no_number(tiny_sd):
    model = load_base_model(tiny_sd)
    arguments = hashed((2, 4, 16, 16), 1), torch.tensor([10, 900]), hashed((2, 8, CONCEPT_WIDTH), 2)
    before = model.unet(*arguments).sample
    enable_channels_last(model)
    seen = []
    model.unet.mid_block.resnets[0].register_forward_hook(
        lambda _, args, out: seen.append(out.is_contiguous(memory_format=torch.channels_last))
    )
    assert torch.allclose(model.unet(*arguments).sample, before, atol=1e-5)
    convolutions = [m for m in (*model.unet.modules(), *model.vae.modules()) if isinstance(m, nn.Conv2d)]
    assert all(m.weight.is_contiguous(memory_format=torch.channels_last) for m in convolutions) and seen == [True]


def test_compiled_blocks_compute_the_same_with_and_without_lora(tiny_sd):
    model, lines, compiled = load_base_model(tiny_sd), [], []
    arguments = hashed((2, 4, 16, 16), 1), torch.tensor([10, 900]), hashed((2, 8, CONCEPT_WIDTH), 2)

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    with torch.no_grad():
        before = model.unet(*arguments).sample
        enable_compile(model, lines.append, backend=backend)
        probes = len(compiled)
        assert torch.allclose(model.unet(*arguments).sample, before, atol=1e-5) and not lines
        frozen = len(compiled)
        assert frozen > probes
        options = AdapterOptions({"unet": ("to_q", "to_v")}, rank=2, alpha=2.0)
        adapters = LoraAdapters.inject(model.parts, options, torch.Generator().manual_seed(0))
        for name, parameter in adapters.named_parameters():
            parameter.copy_(0.1 * hashed(tuple(parameter.shape), len(name)))
        assert not torch.allclose(model.unet(*arguments).sample, before, atol=1e-3)
        assert len(compiled) > frozen
        with adapters.disabled():
            assert torch.allclose(model.unet(*arguments).sample, before, atol=1e-5)


def test_where_nothing_compiles_a_line_says_so_and_the_run_goes_on(tiny_sd):
    def backend(graph, inputs):
        raise RuntimeError("no compiler\nand many more lines")

    model, lines = load_base_model(tiny_sd), []
    enable_compile(model, lines.append, backend=backend)
    assert len(lines) == 1 and "going on without" in lines[0] and "\n" not in lines[0]
    assert all(module._compiled_call_impl is None for module in model.unet.modules())


def test_where_xformers_kernels_do_not_load_pytorchs_attention_stays(tiny_sd, monkeypatch):
    """Never the attention that keeps its scores: the processors are SDPA's, also where one part had changed already."""
    from diffusers.models.attention_processor import AttnProcessor2_0

    model, lines = load_base_model(tiny_sd), []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="pip install xformers"):
        enable_xformers(model)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "there")
    enable_xformers(model, lines.append)
    assert len(lines) == 1 and "xformers does not run here" in lines[0] and "\n" not in lines[0]
    processors = [*model.unet.attn_processors.values(), model.vae.encoder.mid_block.attentions[0].processor]
    assert {type(processor) for processor in processors} == {AttnProcessor2_0}


def test_8_bit_adam_names_its_package_where_it_is_missing(tiny_sd, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(MissingPackageError, match="pip install bitsandbytes"):
        train(small_settings(tmp_path, tiny_sd, run__use_8bit_adam=True), watch=QUIET)
    assert not (tmp_path / "out").exists()


def test_8_bit_adam_keeps_8_bit_moments_and_resumes(tiny_sd, tmp_path, monkeypatch):
    pytest.importorskip("bitsandbytes", reason="the CPU set of packages is complete without it")
    dtypes = {}
    original = Loop._release

    def watch(loop):
        for parameter, state in loop.optimizer.state.items():
            dtypes[parameter.numel() >= 4096] = state["state1"].dtype  # smaller tensors stay in float32
        original(loop)

    monkeypatch.setattr(Loop, "_release", watch)
    settings = small_settings(tmp_path, tiny_sd, run__use_8bit_adam=True, run__checkpointing_steps=1)
    whole = train(settings, watch=QUIET).artifact
    assert dtypes == {True: torch.uint8, False: torch.float32}
    kept = tmp_path / "out/checkpoints/pic/step_000005.safetensors"
    changes = {"run__resume_from_checkpoint": str(kept), "run__output_dir": str(tmp_path / "again")}
    again = train(small_settings(tmp_path, tiny_sd, run__use_8bit_adam=True, **changes), watch=QUIET).artifact
    assert torch.equal(again.embedding, whole.embedding)


def test_bitsandbytes_is_quiet_about_kernels_that_nothing_here_uses(caplog):
    """peft imports it in every run. On CPUs with bfloat16 units its import prints a line; others must still be told."""
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    logger.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s.", "No module named 'kernels'")
    logger.warning("something else")
    assert [record.getMessage() for record in caplog.records] == ["something else"]
    pytest.importorskip("bitsandbytes", reason="the CPU set of packages is complete without it")
    command = [sys.executable, "-c", "import singleinsert, bitsandbytes"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    assert done.stdout + done.stderr == ""


def test_each_stage_has_its_own_optimiser_settings(tiny_sd, tmp_path):
    settings = small_settings(
        tmp_path, tiny_sd, stage2__adam_beta2=0.5, stage2__adam_weight_decay=0.25, stage2__adam_epsilon=1e-3,
        stage2__lr_scheduler="linear", stage2__lr_warmup_steps=1, stage2__steps=5,
    )  # fmt: skip
    stage = stages_of(settings)[1]
    optimizer = build_optimizer([nn.Parameter(torch.zeros(2))], stage, use_8bit_adam=False)
    group = optimizer.param_groups[0]
    assert (group["betas"], group["weight_decay"], group["eps"]) == ((0.9, 0.5), 0.25, 1e-3)
    scheduler, rates = build_lr_scheduler(optimizer, stage), []
    for _ in range(5):
        rates.append(optimizer.param_groups[0]["lr"] / 5e-5)
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0, 1, 0.75, 0.5, 0.25])


def test_no_stage_of_the_loop_waits_for_the_device_within_a_step(tiny_sd, tmp_path, monkeypatch):
    """From the draws on: gradients, clipping, the bank and the log. On a GPU AdamW is fused, and does not either."""
    original, steps = Loop._optimiser_step, []

    def watch(loop, stage):
        drawn = loop.source.draw(stage, range(4 * loop.step, 4 * loop.step + 4))
        monkeypatch.setattr(loop.source, "draw", lambda *_: drawn)
        monkeypatch.setattr(loop.optimizer, "step", lambda: None)
        monkeypatch.setattr(loop.lr_scheduler, "step", lambda: None)
        with NoHostReads():
            original(loop, stage)
        steps.append(stage.name)

    monkeypatch.setattr(Loop, "_optimiser_step", watch)
    train(small_settings(tmp_path, tiny_sd, stage1__steps=1, stage2__steps=1), watch=QUIET)
    assert steps == ["stage1", "stage2"]


def test_the_teacher_bank_spares_stage_two_the_frozen_passes(tiny_sd, tmp_path):
    passes, step = {"stage1": [], "stage2": []}, []

    def load(settings, accelerator):
        model = load_model(settings, accelerator)
        model.unet.register_forward_hook(lambda *_: step.append(torch.is_grad_enabled()))
        return model

    def watch(stage, _):
        passes[stage] += step
        step.clear()

    settings = small_settings(tmp_path, tiny_sd, run__teacher_bank=True, run__checkpointing_steps=1,
                              run__checkpoints_total_limit=0)  # fmt: skip
    whole = train(settings, load=load, watch=Said(on_step=watch)).artifact
    # with the concept; stage two's own class prompt with adapters is in the same pass
    assert passes == {"stage1": [False, True] * 3, "stage2": [True] * 3}
    kept = str(tmp_path / "out/checkpoints/pic/step_000002.safetensors")
    changes = {"run__resume_from_checkpoint": kept, "run__output_dir": str(tmp_path / "again")}
    again = train(small_settings(tmp_path, tiny_sd, run__teacher_bank=True, **changes), watch=QUIET).artifact
    assert torch.equal(again.embedding, whole.embedding)


def test_a_longer_stage_two_sees_fresh_samples_when_the_bank_is_used_up(tiny_sd, tmp_path, monkeypatch):
    """Two steps of four fill it with eight. Four of stage II's five steps of four have them twice, one has its own."""
    drawn, original = [], SampleSource.draw

    def watch(source, stage, samples):
        draws = original(source, stage, samples)
        if stage.name == "stage2":
            drawn.append((draws.frozen is not None, tuple(draws.noise.flatten(1).sum(1).tolist())))
        return draws

    monkeypatch.setattr(SampleSource, "draw", watch)
    train(small_settings(tmp_path, tiny_sd, stage1__steps=2, stage2__steps=5), watch=QUIET)
    assert [known for known, _ in drawn] == [True] * 4 + [False]
    a, b, again_a, again_b, fresh = (noise for _, noise in drawn)
    assert (a, b) == (again_a, again_b) and len({*a, *b, *fresh}) == 12
