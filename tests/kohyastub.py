"""sd-scripts as its plugin sees it: true signatures (commit 48d368f), bodies cut down to what a step does."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

WIDTH, LENGTH = 6, 5


class NetworkTrainer:
    """``train_network.NetworkTrainer``."""

    def assert_extra_args(self, args, train_dataset_group, val_dataset_group):
        self.asserted = True

    def update_metadata(self, metadata, args):
        pass

    def generate_step_logs(
        self, args, current_loss, avr_loss, lr_scheduler, lr_descriptions, optimizer=None, keys_scaled=None,
        mean_norm=None, maximum_norm=None, mean_grad_norm=None, mean_combined_norm=None,
    ):  # fmt: skip
        return {"loss/current": current_loss, "loss/average": avr_loss}

    def get_models_for_text_encoding(self, args, accelerator, text_encoders):
        return text_encoders

    def call_unet(self, args, accelerator, unet, noisy_latents, timesteps, text_conds, batch, weight_dtype, **kwargs):
        return unet(noisy_latents, timesteps, text_conds[0]).sample

    def get_noise_pred_and_target(
        self, args, accelerator, noise_scheduler, latents, batch, text_encoder_conds, unet, network, weight_dtype,
        train_unet, is_train=True,
    ):  # fmt: skip
        raise AssertionError("the plugin has its own")

    def post_process_loss(self, loss, args, timesteps, noise_scheduler):
        return loss * args.min_snr_gamma if args.min_snr_gamma else loss

    def process_batch(
        self, batch, text_encoders, unet, network, vae, noise_scheduler, vae_dtype, weight_dtype, accelerator, args,
        text_encoding_strategy, tokenize_strategy, is_train=True, train_text_encoder=True, train_unet=True,
    ):  # fmt: skip
        latents = batch["latents"] * self.vae_scale_factor
        with torch.set_grad_enabled(is_train and train_text_encoder), accelerator.autocast():
            conds = text_encoding_strategy.encode_tokens(
                tokenize_strategy,
                self.get_models_for_text_encoding(args, accelerator, text_encoders),
                batch["input_ids_list"],
            )
        prediction, target, timesteps, weighting = self.get_noise_pred_and_target(
            args, accelerator, noise_scheduler, latents, batch, conds, unet, network, weight_dtype, train_unet,
            is_train=is_train,
        )  # fmt: skip
        assert weighting is None and timesteps.shape == (len(latents),)
        loss = (prediction.float() - target.float()).square()
        return (loss * 0.5).mean()  # kohya masks here, whatever it is told

    def __init__(self):
        self.vae_scale_factor = 0.5

    def train(self, args):
        self.assert_extra_args(args, None, None)


class SdxlNetworkTrainer(NetworkTrainer):
    """``sdxl_train_network.SdxlNetworkTrainer``."""

    def get_models_for_text_encoding(self, args, accelerator, text_encoders):
        return [*text_encoders, accelerator.unwrap_model(text_encoders[-1])]

    def call_unet(
        self, args, accelerator, unet, noisy_latents, timesteps, text_conds, batch, weight_dtype, indices=None
    ):
        states, pooled = text_conds
        sizes = batch["original_sizes_hw"].to(weight_dtype)
        return unet(noisy_latents, timesteps, states + torch.cat([pooled, sizes], dim=1).mean()).sample


def get_noise_noisy_latents_and_timesteps(args, noise_scheduler, latents):
    noise = torch.randn_like(latents)
    timesteps = torch.randint(0, len(noise_scheduler.alphas_cumprod), (len(latents),))
    abar = noise_scheduler.alphas_cumprod[timesteps].reshape(-1, 1, 1, 1)
    return noise, abar.sqrt() * latents + (1 - abar).sqrt() * noise, timesteps


def verify_command_line_training_args(args):
    pass


def read_config_from_file(args, parser):
    return args


class Network(nn.Module):
    """``networks.lora.LoRANetwork``: one multiplier, on what hooks add to the text encoder and the UNet."""

    def __init__(self, text_encoder: nn.Module, unet: nn.Module) -> None:
        super().__init__()
        self.multiplier = 1.0
        self.on_text, self.on_unet = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, 1, bias=False)
        text_encoder.register_forward_hook(lambda _, args, out: (out[0] + self.on_text(out[0]) * self.multiplier,))
        unet.register_forward_hook(self._unet_hook)

    def _unet_hook(self, _: nn.Module, args: Any, output: SimpleNamespace) -> SimpleNamespace:
        change = self.on_unet(args[2].mean(1))[:, :, None, None]
        return SimpleNamespace(sample=output.sample + change * self.multiplier)

    def set_multiplier(self, multiplier: float) -> None:
        self.multiplier = multiplier


class TextEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, WIDTH).requires_grad_(False)

    def forward(self, ids: Tensor) -> tuple[Tensor]:
        return (self.table(ids),)


class UNet(nn.Module):
    def forward(self, noisy: Tensor, timesteps: Tensor, states: Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=noisy * 0.3 + states.mean(dim=(1, 2))[:, None, None, None])


class Strategy:
    """Tokenises and encodes, as kohya's two strategies do; tokens are (b, n, LENGTH). ``seen``: what, and how."""

    def __init__(self, network: Network, pooled: bool) -> None:
        self.network, self.pooled, self.seen = network, pooled, list[tuple[int, float, bool]]()

    def tokenize(self, text: str) -> list[Tensor]:
        return [torch.full((1, 1, LENGTH), len(text))]

    def encode_tokens(self, tokenize_strategy, models, tokens):
        assert len(models) == (2 if self.pooled else 1)
        ids = tokens[0]
        self.seen.append((int(ids[0, 0, 0]), self.network.multiplier, torch.is_grad_enabled()))
        states = models[0](ids.reshape(-1, LENGTH))[0].reshape(len(ids), -1, WIDTH)
        return [states, states[:, 0]] if self.pooled else [states]


def arguments(**changes: Any) -> argparse.Namespace:
    given = {
        "class_prompt": "face", "background_weight": 1.0, "semantic_weight": 1.0, "x0_loss": True, "loss_type": "l2",
        "v_parameterization": False, "full_fp16": False, "min_snr_gamma": None, "debiased_estimation_loss": False,
        "scale_v_pred_loss_like_noise_pred": False, "v_pred_like_loss": None,
    }  # fmt: skip
    return argparse.Namespace(**(given | changes))


ACCELERATOR = SimpleNamespace(
    device=torch.device("cpu"), autocast=nullcontext, unwrap_model=lambda model: getattr(model, "module", model)
)


def modules() -> dict[str, ModuleType]:
    """sd-scripts' modules by the names they are imported under."""
    contents: dict[str, dict[str, Any]] = {
        "library.train_util": {
            function.__name__: function
            for function in (
                get_noise_noisy_latents_and_timesteps,
                verify_command_line_training_args,
                read_config_from_file,
            )
        },
        "train_network": {"NetworkTrainer": NetworkTrainer, "setup_parser": argparse.ArgumentParser},
        "sdxl_train_network": {"SdxlNetworkTrainer": SdxlNetworkTrainer, "setup_parser": argparse.ArgumentParser},
    }
    made = {name: ModuleType(name) for name in ("library", *contents)}
    for name, content in contents.items():
        vars(made[name]).update(content, __spec__=ModuleSpec(name, None))
    vars(made["library"])["train_util"] = made["library.train_util"]
    return made
