"""kohya's plugin against a stub with sd-scripts' true signatures (docs/hosts.md: what was run on the real one)."""

import argparse
import importlib
import inspect
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from kohyastub import (
    ACCELERATOR,
    LENGTH,
    Network,
    NetworkTrainer,
    SdxlNetworkTrainer,
    Strategy,
    TextEncoder,
    UNet,
    arguments,
    get_noise_noisy_latents_and_timesteps,
    modules,
)
from torch import nn

from singleinsert.errors import ConfigError
from singleinsert.hosts import concept_loss

PLUGIN = Path(__file__).parents[1] / "integrations" / "kohya"
CAPTION, CLASS = len("sks face"), len("face")  # the stub's token of a text is its length


@pytest.fixture
def sd_scripts(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The plugin's modules, imported as if started in the folder of sd-scripts."""
    for name, module in modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(sys, "path", [str(PLUGIN), *sys.path])
    names = ("singleinsert_trainer", "kohya_singleinsert", "kohya_singleinsert_sdxl")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    plugin, sd, sdxl = (importlib.import_module(name) for name in names)
    return SimpleNamespace(plugin=plugin, sd=sd.SingleInsertTrainer, sdxl=sdxl.SdxlSingleInsertTrainer)


class Run:
    """One trainer with its models, and a batch of two squares of 16x16 with latents of 2x2."""

    def __init__(self, trainer: NetworkTrainer, text_encoders: int = 1) -> None:
        torch.manual_seed(0)
        self.trainer, self.text_encoder, self.unet = trainer, TextEncoder(), UNet()
        self.network = Network(self.text_encoder, self.unet)
        self.network.set_multiplier(0.8)  # not 1, so that setting it back to a constant would show
        self.wrapped = nn.Module()
        self.wrapped.module = self.network  # as accelerate wraps it for several processes
        self.strategy = Strategy(self.network, pooled=text_encoders == 2)
        self.models = [self.text_encoder] * (text_encoders - (text_encoders == 2))
        self.scheduler = SimpleNamespace(alphas_cumprod=torch.linspace(0.99, 0.05, 10))
        left = torch.zeros(2, 16, 16)
        left[:, :, :8] = 1
        self.batch = {
            "latents": torch.randn(2, 4, 2, 2), "input_ids_list": [torch.full((2, 1, LENGTH), CAPTION)],
            "conditioning_images": left[:, None].expand(-1, 3, -1, -1) * 2 - 1, "loss_weights": torch.ones(2),
            "original_sizes_hw": torch.ones(2, 2),
        }  # fmt: skip

    def step(self, args: argparse.Namespace, **options: bool) -> torch.Tensor:
        torch.manual_seed(7)
        return self.trainer.process_batch(
            self.batch, self.models, self.unet, self.wrapped, None, self.scheduler, torch.float32, torch.float32,
            ACCELERATOR, args, self.strategy, self.strategy, **options,
        )  # fmt: skip

    def wanted(self, **options) -> torch.Tensor:
        """The loss (b,), from the same draws and the parts' own algebra."""
        torch.manual_seed(7)
        latents = torch.as_tensor(self.batch["latents"]) * 0.5
        noise, noisy, timesteps = get_noise_noisy_latents_and_timesteps(None, self.scheduler, latents)

        def output(token: int, multiplier: float) -> torch.Tensor:
            states = self.text_encoder.table(torch.full((2, LENGTH), token))
            states = states + self.network.on_text(states) * multiplier
            change = self.network.on_unet(states.mean(1))[:, :, None, None]
            return noisy * 0.3 + states.mean(dim=(1, 2))[:, None, None, None] + change * multiplier

        semantic = options.get("semantic_weight", 1.0)
        return concept_loss(
            prediction=output(CAPTION, 0.8), frozen_prediction=output(CLASS, 0.0),
            class_prediction=output(CLASS, 0.8) if semantic else None, latents=latents, noise=noise,
            timesteps=timesteps, alphas_cumprod=self.scheduler.alphas_cumprod,
            mask=torch.tensor([1.0, 0]).expand(2, 1, 2, 2), **({"semantic_weight": 1.0} | options),
        ).loss  # fmt: skip


@pytest.mark.parametrize("name", ["process_batch", "get_noise_pred_and_target", "assert_extra_args", "update_metadata"])
def test_overrides_take_what_kohya_passes(sd_scripts, name):
    theirs, ours = (inspect.signature(getattr(c, name)).parameters for c in (NetworkTrainer, sd_scripts.sd))
    assert [(p.name, p.default) for p in theirs.values()] == [(p.name, p.default) for p in ours.values()]


def test_loss_is_concept_loss_masked_once(sd_scripts):
    run = Run(sd_scripts.sd())
    loss = run.step(arguments())
    assert loss.item() == pytest.approx(run.wanted().mean().item(), rel=1e-5)
    assert run.network.multiplier == 0.8
    run.batch["loss_weights"] = torch.tensor([1.0, 3.0])
    weighted = (run.wanted() * run.batch["loss_weights"]).mean().item()
    assert run.step(arguments()).item() == pytest.approx(weighted, rel=1e-5)


def test_alpha_masks_give_the_same_loss(sd_scripts):
    run = Run(sd_scripts.sd())
    loss = run.step(arguments())
    run.batch["alpha_masks"] = run.batch.pop("conditioning_images")[:, 0] / 2 + 0.5
    assert torch.equal(run.step(arguments()), loss)


def test_class_prompt_is_encoded_frozen_once_and_tuned_each_step(sd_scripts):
    run = Run(sd_scripts.sd())
    run.step(arguments())
    run.step(arguments())
    assert run.strategy.seen == [
        (CLASS, 0.0, False),
        (CAPTION, 0.8, True), (CLASS, 0.8, True),
        (CAPTION, 0.8, True), (CLASS, 0.8, True),
    ]  # fmt: skip


def test_gradients_reach_unet_and_text_encoder(sd_scripts):
    run = Run(sd_scripts.sd())
    run.step(arguments()).backward()
    assert run.network.on_text.weight.grad.abs().sum() > 0 and run.network.on_unet.weight.grad.abs().sum() > 0


def test_text_encoder_that_does_not_train_is_asked_once(sd_scripts):
    run = Run(sd_scripts.sd())
    run.step(arguments(), train_text_encoder=False).backward()
    run.step(arguments(), train_text_encoder=False)
    assert [token for token, _, _ in run.strategy.seen] == [CLASS, CAPTION, CAPTION]
    assert run.network.on_text.weight.grad is None


def test_weights_of_zero_cost_no_prediction(sd_scripts):
    run = Run(sd_scripts.sd())
    calls = []
    run.unet.register_forward_hook(lambda *_: calls.append(run.network.multiplier))
    for background, semantic, multipliers in ((1, 1, [0, 0.8, 0.8]), (1, 0, [0, 0.8]), (0, 0, [0.8])):
        calls.clear()
        run.step(arguments(background_weight=background, semantic_weight=semantic))
        assert calls == multipliers


def test_kohyas_own_space_and_timestep_weights(sd_scripts):
    run = Run(sd_scripts.sd())
    loss = run.step(arguments(x0_loss=False, semantic_weight=0, min_snr_gamma=3.0))
    wanted = 3 * run.wanted(loss_space="epsilon", semantic_weight=0).mean().item()
    assert loss.item() == pytest.approx(wanted, rel=1e-5)
    v = run.step(arguments(x0_loss=False, v_parameterization=True))
    wanted = run.wanted(loss_space="v", prediction_type="v_prediction").mean().item()
    assert v.item() == pytest.approx(wanted, rel=1e-5)


def test_validation_builds_no_graph(sd_scripts):
    run = Run(sd_scripts.sd())
    loss = run.step(arguments(), is_train=False)
    assert not loss.requires_grad and loss.item() == pytest.approx(run.wanted().mean().item(), rel=1e-5)


def test_sdxl_expands_every_condition(sd_scripts):
    run = Run(sd_scripts.sdxl(), text_encoders=2)
    assert isinstance(run.trainer, SdxlNetworkTrainer)
    run.step(arguments()).backward()
    assert run.network.on_unet.weight.grad.abs().sum() > 0
    assert run.strategy.seen[0] == (CLASS, 0.0, False)


def test_logs_and_metadata_name_the_terms(sd_scripts):
    run = Run(sd_scripts.sd())
    loss = run.step(arguments())
    logs = run.trainer.generate_step_logs(arguments(), 1.0, 1.0, None, None)
    assert list(logs) == ["loss/current", "loss/average", "loss/foreground", "loss/background", "loss/semantic"]
    assert sum(list(logs.values())[2:]) == pytest.approx(loss.item(), rel=1e-5)
    metadata = {}
    run.trainer.update_metadata(metadata, arguments())
    assert metadata["ss_singleinsert_class_prompt"] == "face" and metadata["ss_singleinsert_x0_loss"] is True


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"class_prompt": None}, "--class_prompt is missing"),
        ({"loss_type": "huber"}, "--loss_type huber"),
        ({"min_snr_gamma": 5.0}, "--min_snr_gamma"),
        ({"debiased_estimation_loss": True}, "--debiased_estimation_loss"),
    ],
)
def test_refused_options(sd_scripts, changes, says):
    trainer = sd_scripts.sd()
    trainer.assert_extra_args(arguments(), None, None)
    assert trainer.asserted
    with pytest.raises(ConfigError, match=says):
        sd_scripts.sd().assert_extra_args(arguments(**changes), None, None)


def test_options_and_the_line_of_an_error(sd_scripts, monkeypatch, capsys):
    parser = argparse.ArgumentParser()
    parser.set_defaults(**{k: v for k, v in vars(arguments()).items() if k not in ("class_prompt", "x0_loss")})
    monkeypatch.setattr("sys.argv", ["kohya_singleinsert.py", "--background_weight", "0.5"])
    with pytest.raises(SystemExit) as stop:
        sd_scripts.plugin.main(sd_scripts.sd, parser)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: --class_prompt is missing")
    options = argparse.ArgumentParser()
    sd_scripts.plugin.add_arguments(options)
    assert vars(options.parse_args([])) == {
        "class_prompt": None, "background_weight": 1.0, "semantic_weight": 1.0, "x0_loss": False,
    }  # fmt: skip
