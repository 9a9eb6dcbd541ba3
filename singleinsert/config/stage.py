"""The settings of one stage of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from singleinsert.config.declare import setting
from singleinsert.terms import LossSpace, MaskNormalization, Role


@dataclass(frozen=True)
class StageSettings:
    """One stage of training."""

    steps: int = setting(50, "optimiser steps; 0 leaves the stage out", minimum=0)
    batch_size: int = setting(
        16, "samples (a timestep and noise each) per step, divided among the processes", minimum=1, maximum=4096
    )
    learning_rate: float = setting(1e-4, "learning rate", minimum=0, maximum=10)
    trains: tuple[Role, ...] = setting(("concept",), "what trains: concept, denoiser, text")
    objective: Literal["singleinsert", "full_image", "break_a_scene"] = setting(
        "singleinsert",
        "singleinsert: the paper's losses; full_image: the plain diffusion loss, no mask; break_a_scene: the same "
        "losses on the union of the subjects that a prompt names, and a loss on the attention of their handles",
    )
    foreground_weight: float = setting(1.0, "weight of the foreground loss", minimum=0)
    background_weight: float = setting(1.0, "weight of the background loss, gamma in the paper", minimum=0)
    semantic_weight: float = setting(0.0, "weight of the semantic loss, eta in the paper", minimum=0)
    loss_space: LossSpace = setting("x0", "space in which errors are squared; the paper's is x0")
    min_snr_gamma: float = setting(0.0, "Min-SNR clamp, used instead of loss_space; 0: off", minimum=0)
    mask_normalization: MaskNormalization = setting(
        "mean", "divide a masked loss by all elements (mean, the paper) or by the mask's share of them (area)"
    )
    prior_weight: float = setting(
        0.0, "full_image, singleinsert: weight of DreamBooth's prior term, the whole-picture loss on pictures of the "
        "class, see [prior]", minimum=0, off=0.0,
    )  # fmt: skip
    attention_weight: float = setting(
        0.01, "break_a_scene: weight of the loss on the handles' cross-attention", minimum=0
    )
    attention_loss: Literal["mse_max", "cross_entropy", "mass"] = setting(
        "mse_max", "break_a_scene: mse_max, the paper's, compares each map, divided by its maximum, with the mask; "
        "cross_entropy, handles compete for each point; mass, most of a handle's attention lies on its subject, and it "
        "is not zero",
    )  # fmt: skip
    attention_level: int = setting(
        4, "break_a_scene: attention is read where the latents' side is divided by this, at 16 x 16 for 512 px",
        minimum=1, maximum=64,
    )  # fmt: skip
    masked: bool = setting(
        True, "break_a_scene: the foreground loss counts on the subjects that a prompt names; false: everywhere, which "
        "is the paper's ablation", off=True,
    )  # fmt: skip
    timestep_importance: float = setting(
        0.0, "draw timesteps in proportion to their weight in the loss, to this power, and weigh them less in return; "
        "0: uniformly, as in the paper", minimum=0, maximum=2,
    )  # fmt: skip
    stratified_timesteps: bool = setting(False, "spread the timesteps of a batch evenly over their distribution")
    prompt_places: tuple[str, ...] = setting(
        (), "templates such as '{concept} in the snow', with which some samples are asked in place of the training "
        "prompt: what the subject is does not change in them", off=(),
    )  # fmt: skip
    prompt_edits: tuple[str, ...] = setting(
        (), "the same of templates that change the subject, such as 'a painting of {concept}': the foreground loss is "
        "left out", off=(),
    )  # fmt: skip
    prompt_share: float = setting(
        0.5, "share of the samples that are asked with a template", minimum=0, maximum=1, off=0.5
    )
    prompt_foreground: bool = setting(
        False, "the foreground loss is asked with prompt_places too; without it, with the training prompt alone",
        off=False,
    )  # fmt: skip
    adam_beta1: float = setting(0.9, "AdamW beta 1", minimum=0, maximum=0.99999)
    adam_beta2: float = setting(0.999, "AdamW beta 2", minimum=0, maximum=0.9999999)
    adam_weight_decay: float = setting(1e-2, "AdamW weight decay", minimum=0, maximum=10)
    adam_epsilon: float = setting(1e-8, "AdamW epsilon", minimum=1e-16, maximum=1)
    max_grad_norm: float = setting(1.0, "gradients are clipped to this norm; 0: no clipping", minimum=0)
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine"] = setting(
        "constant", "course of the learning rate, named as in diffusers"
    )
    lr_warmup_steps: int = setting(0, "steps until the full learning rate", minimum=0)
