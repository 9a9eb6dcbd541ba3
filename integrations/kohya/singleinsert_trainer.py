"""SingleInsert's losses in the network trainers of kohya's sd-scripts: a mixin in front of theirs, and its options.

kohya's ``process_batch`` still makes the latents and the text conditions; the draws, the three predictions and the loss
are made here. docs/hosts.md tells which commit this was tried on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch
from library import train_util
from torch import Tensor

from singleinsert.errors import ConfigError, SingleInsertError
from singleinsert.hosts import FrozenPredictor, concept_loss, mask_from_batch
from singleinsert.terms import LossSpace

TIMESTEP_WEIGHTS = (
    "min_snr_gamma", "scale_v_pred_loss_like_noise_pred", "v_pred_like_loss", "debiased_estimation_loss"
)  # fmt: skip


Trainer: Any = object  # for the type checker: kohya's, which stands behind the mixin


class SingleInsertMixin(Trainer):
    """To stand before one of kohya's ``NetworkTrainer`` classes in the list of bases."""

    _frozen_class: list[Tensor] | None = None  # the class prompt (1, ...) as the frozen text encoder has it: constant
    _tuned_class: Callable[[], list[Tensor]]  # and as the text encoder has it now
    _loss: Tensor  # (b,)
    _timesteps: Tensor  # (b,)
    _terms: dict[str, Tensor]

    def assert_extra_args(self, args, train_dataset_group, val_dataset_group):
        check_arguments(args)
        super().assert_extra_args(args, train_dataset_group, val_dataset_group)

    def update_metadata(self, metadata, args):
        super().update_metadata(metadata, args)
        for name in ("class_prompt", "background_weight", "semantic_weight", "x0_loss"):
            metadata[f"ss_singleinsert_{name}"] = getattr(args, name)

    def generate_step_logs(self, *args, **kwargs):
        logs = super().generate_step_logs(*args, **kwargs)
        return logs | {f"loss/{name}": term.mean().item() for name, term in self._terms.items()}

    def process_batch(
        self, batch, text_encoders, unet, network, vae, noise_scheduler, vae_dtype, weight_dtype, accelerator, args,
        text_encoding_strategy, tokenize_strategy, is_train=True, train_text_encoder=True, train_unet=True,
    ):  # fmt: skip
        """The batch's loss, a scalar."""

        def encode_class() -> list[Tensor]:
            with accelerator.autocast():
                ids = [ids.to(accelerator.device) for ids in tokenize_strategy.tokenize(args.class_prompt)]
                models = self.get_models_for_text_encoding(args, accelerator, text_encoders)
                conds = text_encoding_strategy.encode_tokens(tokenize_strategy, models, ids)
            return [cond.to(accelerator.device, weight_dtype if args.full_fp16 else None) for cond in conds]

        if self._frozen_class is None:
            with FrozenPredictor.from_network(accelerator.unwrap_model(network), encode_class).active():
                self._frozen_class = encode_class()
        frozen_class = self._frozen_class
        self._tuned_class = encode_class if train_text_encoder else lambda: frozen_class
        # it calls get_noise_pred_and_target; its own loss, unmasked or masked once more, is not looked at
        super().process_batch(
            batch, text_encoders, unet, network, vae, noise_scheduler, vae_dtype, weight_dtype, accelerator, args,
            text_encoding_strategy, tokenize_strategy, is_train, train_text_encoder, train_unet,
        )  # fmt: skip
        loss = self._loss * batch["loss_weights"]
        if not args.x0_loss:
            loss = self.post_process_loss(loss, args, self._timesteps, noise_scheduler)
        return loss.mean()

    def get_noise_pred_and_target(
        self, args, accelerator, noise_scheduler, latents, batch, text_encoder_conds, unet, network, weight_dtype,
        train_unet, is_train=True,
    ):  # fmt: skip
        """kohya's four results, without a graph; what counts is kept for ``process_batch``."""
        noise, noisy_latents, timesteps = train_util.get_noise_noisy_latents_and_timesteps(
            args, noise_scheduler, latents
        )

        def unet_output(noisy: Tensor, conds: list[Tensor]) -> Tensor:
            conds = [cond.expand(len(noisy), *cond.shape[1:]) for cond in conds]
            with accelerator.autocast():
                return self.call_unet(args, accelerator, unet, noisy, timesteps, conds, batch, weight_dtype)

        frozen = FrozenPredictor.from_network(accelerator.unwrap_model(network), unet_output)
        frozen_prediction = class_prediction = None
        if args.background_weight or args.semantic_weight:
            frozen_prediction = frozen(noisy_latents, self._frozen_class)
        noisy_latents.requires_grad_(train_unet)  # gradient checkpointing wants an input that asks for one
        with torch.set_grad_enabled(is_train):
            prediction = unet_output(noisy_latents, text_encoder_conds)
            if args.semantic_weight:
                class_prediction = unet_output(noisy_latents, self._tuned_class())
            self._loss, terms = concept_loss(
                prediction=prediction, frozen_prediction=frozen_prediction, class_prediction=class_prediction,
                latents=latents, noise=noise, timesteps=timesteps, alphas_cumprod=noise_scheduler.alphas_cumprod,
                mask=mask_from_batch(batch, latents.shape[-2:]),
                prediction_type="v_prediction" if args.v_parameterization else "epsilon",
                background_weight=args.background_weight, semantic_weight=args.semantic_weight,
                loss_space=loss_space(args),
            )  # fmt: skip
        self._timesteps, self._terms = timesteps, {name: term.detach() for name, term in terms.items()}
        return prediction.detach(), noise, timesteps, None


def loss_space(args: argparse.Namespace) -> LossSpace:
    """The paper's, or the one that kohya's own loss and its timestep weights are in."""
    if args.x0_loss:
        return "x0"
    return "v" if args.v_parameterization else "epsilon"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The plugin's options; the weights' defaults are the paper's for a run that trains LoRA."""
    group = parser.add_argument_group("SingleInsert")
    group.add_argument(
        "--class_prompt", help='what the subject is one of, as a prompt: "face" where captions say "sks face"'
    )
    group.add_argument(
        "--background_weight", type=float, default=1.0, help="keeps outside the mask what the model draws by itself"
    )
    group.add_argument(
        "--semantic_weight", type=float, default=1.0, help="keeps the class prompt's meaning; 0 saves a third UNet call"
    )
    group.add_argument("--x0_loss", action="store_true", help="compare clean latents, as the paper does, not noise")


def check_arguments(args: argparse.Namespace) -> None:
    """ConfigError where an option is missing, or one of kohya's would not do what it says."""
    if not args.class_prompt:
        raise ConfigError('--class_prompt is missing: the class of the subject, "face" where captions say "sks face"')
    if args.loss_type != "l2":
        raise ConfigError(f"--loss_type {args.loss_type}: SingleInsert's losses are squared errors, leave it at l2")
    for name in TIMESTEP_WEIGHTS:
        if args.x0_loss and getattr(args, name):
            raise ConfigError(f"--x0_loss sets the timesteps' weights, and so does --{name}: choose one of them")


def main(trainer_class: type, parser: argparse.ArgumentParser) -> None:
    """What the last lines of kohya's scripts do."""
    add_arguments(parser)
    args = parser.parse_args()
    train_util.verify_command_line_training_args(args)
    args = train_util.read_config_from_file(args, parser)
    try:
        trainer_class().train(args)
    except SingleInsertError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
