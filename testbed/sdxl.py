"""mini-sd's weights in a true Stable Diffusion XL, before any training: the start of mini-sdxl.

The UNet gets a second encoder's columns in its cross-attention, and pooled vector and time ids in its time
embedding, all behind zeros: it says what mini-sd's says, whatever it is told besides. SDXL reads the states BEFORE a
text encoder's last layer, without the final norm that mini-sd's states have, so that the first gets a layer with it:

    states = x + gain * norm(x),  with the UNet's columns divided by gain

which is mini-sd's ``norm(x)`` but for ``x / gain``: 1.3 percent of the prediction at gain 32, 3e-6 at 2^17. A large
gain is exact; a small one, whose error training takes away (:mod:`testbed.sdxl_train`), can be adapted like any other
model and kept in half precision.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from singleinsert.models.families.sd import StableDiffusion

from .unet import config_of

SECOND_WIDTH, POOLED, TIME_DIM = 224, 288, 32
"""Widths of mini-sdxl's own, none of them mini-sd's 256, so that none can be taken for another."""
GAIN = 4.0
"""Small, so that a LoRA's steps on the columns that it divides are not many times those on others."""
SECOND_LAYERS = 4
SEED = 17


@torch.no_grad()
def transplant_unet(unet: Any, second_width: int = SECOND_WIDTH, pooled: int = POOLED, gain: float = 1.0) -> Any:
    """A UNet of SDXL's class that says what ``unet`` says when it is shown ``[gain * states, anything]``.

    Args:
        second_width: of the second text encoder's states. pooled: width of the pooled vector.
    """
    width = unet.config.cross_attention_dim
    config = {
        **config_of(unet), "cross_attention_dim": width + second_width, "addition_embed_type": "text_time",
        "addition_time_embed_dim": TIME_DIM, "projection_class_embeddings_input_dim": pooled + 6 * TIME_DIM,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        larger = UNet2DConditionModel.from_config(config)
    state: dict[str, Tensor] = dict(unet.state_dict())
    for name in state:
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            state[name] = nn.functional.pad(state[name] / gain, (0, second_width))  # (out, width + second_width)
    last = larger.add_embedding.linear_2
    state["add_embedding.linear_2.weight"] = torch.zeros_like(last.weight)
    state["add_embedding.linear_2.bias"] = torch.zeros_like(last.bias)
    missing, unexpected = larger.load_state_dict(state, strict=False)
    assert not unexpected and all(name.startswith("add_embedding.linear_1") for name in missing)
    return larger.eval()


@torch.no_grad()
def transplant_text_encoder(encoder: Any, gain: float = GAIN) -> Any:
    """A text encoder whose states before its last layer are ``x + gain * norm(x)``, x being those that ``encoder`` has
    before its final norm. The last layer, which SDXL does not use, is a copy of the one before.

    In the added layer attention gives nothing, and the feed-forward is the identity behind the final norm: of a gate
    ``y s(y)`` with ``s(y) + s(-y) = 1``, which GELU and its quick form are, ``gate(y) - gate(-y) = y``.
    """
    config = CLIPTextConfig.from_dict(encoder.config.to_dict())
    width, layers = config.hidden_size, config.num_hidden_layers
    assert config.intermediate_size >= 2 * width
    config.num_hidden_layers = layers + 2
    longer = CLIPTextModel(config)
    longer.load_state_dict(encoder.state_dict(), strict=False)
    added = longer.encoder.layers[layers]
    added.load_state_dict(encoder.encoder.layers[-1].state_dict())
    for parameter in (*added.self_attn.out_proj.parameters(), *added.mlp.parameters()):
        parameter.zero_()
    added.layer_norm2.load_state_dict(encoder.final_layer_norm.state_dict())
    identity = torch.eye(width)
    added.mlp.fc1.weight[: 2 * width] = torch.cat([identity, -identity])
    added.mlp.fc2.weight[:, : 2 * width] = torch.cat([gain * identity, -gain * identity], dim=1)
    longer.encoder.layers[layers + 1].load_state_dict(encoder.encoder.layers[-1].state_dict())
    return longer.eval()


def second_text_encoder(first: Any, tokenizer: Any) -> Any:
    """From random weights; small, so that all of mini-sdxl is under 30 MB."""
    config = CLIPTextConfig.from_dict(
        first.config.to_dict() | {
            "hidden_size": SECOND_WIDTH, "intermediate_size": 2 * SECOND_WIDTH, "projection_dim": POOLED,
            "hidden_act": "gelu", "num_hidden_layers": SECOND_LAYERS,
            "pad_token_id": tokenizer.pad_token_id,
        }
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        return CLIPTextModelWithProjection(config).eval()


def transplant(mini: StableDiffusion, gain: float = GAIN) -> StableDiffusionXLPipeline:
    """mini-sdxl before its training, as diffusers' own pipeline; ``save_pretrained`` makes the folder."""
    tokenizer = copy.deepcopy(mini.tokenizer)
    tokenizer.pad_token = "!"
    return StableDiffusionXLPipeline(
        vae=mini.vae, text_encoder=transplant_text_encoder(mini.text_encoder, gain),
        text_encoder_2=second_text_encoder(mini.text_encoder, tokenizer), tokenizer=mini.tokenizer,
        tokenizer_2=tokenizer, unet=transplant_unet(mini.unet, gain=gain), scheduler=mini.scheduler,
        add_watermarker=False,
    )  # fmt: skip


def write(folder: Path, mini: StableDiffusion, gain: float = GAIN) -> Path:
    """Write it in diffusers' layout; returns ``folder``."""
    transplant(mini, gain).save_pretrained(folder)
    return folder
