"""Diffusers' names turned back into the names of a one-file checkpoint, for any number of blocks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

_RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
           "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}  # fmt: skip
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_name(name: str, levels: int, layers: int, attention_first: bool = False) -> str:
    """``down_blocks.i.resnets.j.norm1.weight`` -> ``input_blocks.n.0.in_layers.0.weight`` and so on.

    ``attention_first``: the lowest of the up blocks has attention before its upsampler, as in SDXL.
    """
    name = name.replace("add_embedding.linear_1", "label_emb.0.0").replace("add_embedding.linear_2", "label_emb.0.2")
    name = name.replace("time_embedding.linear_1", "time_embed.0").replace("time_embedding.linear_2", "time_embed.2")
    name = re.sub("^conv_in", "input_blocks.0.0", name)
    name = re.sub("^conv_norm_out", "out.0", re.sub("^conv_out", "out.2", name))
    if "resnets" in name:
        name = re.sub("|".join(_RESNET), lambda match: _RESNET[match[0]], name)
    if match := re.match(r"down_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)", name):
        block = 1 + int(match[1]) * (layers + 1) + int(match[3])
        return f"input_blocks.{block}.{int(match[2] == 'attentions')}.{match[4]}"
    if match := re.match(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.*)", name):
        return f"input_blocks.{(int(match[1]) + 1) * (layers + 1)}.0.op.{match[2]}"
    if match := re.match(r"up_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)", name):
        block = int(match[1]) * (layers + 1) + int(match[3])
        return f"output_blocks.{block}.{int(match[2] == 'attentions')}.{match[4]}"
    if match := re.match(r"up_blocks\.(\d+)\.upsamplers\.0\.(.*)", name):
        place = 2 if attention_first or int(match[1]) else 1
        return f"output_blocks.{(int(match[1]) + 1) * (layers + 1) - 1}.{place}.{match[2]}"
    name = re.sub(r"mid_block\.attentions\.0", "middle_block.1", name)
    return re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"middle_block.{2 * int(match[1])}", name)


def vae_name(name: str, levels: int) -> str:
    """``decoder.up_blocks.i.resnets.j`` -> ``decoder.up.{levels-1-i}.block.j`` and so on."""
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", name)
    name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    if "mid_block.attentions.0" in name:
        name = re.sub("|".join(map(re.escape, _VAE_ATTENTION)), lambda m: _VAE_ATTENTION[m[0]], name)
    return name.replace("mid_block.attentions.0", "mid.attn_1")


def write_checkpoint(models: dict[str, Any], path: Path, metadata: dict[str, str] | None = None) -> None:
    """One ``.safetensors`` file of SD 1.x layout from diffusers' UNet, VAE and text encoder."""
    tensors = unet_and_vae(models)
    for name, tensor in models["text_encoder"].state_dict().items():
        tensors[f"cond_stage_model.transformer.text_model.{name}"] = tensor
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=metadata)


def write_xl_checkpoint(models: dict[str, Any], path: Path, extra: dict[str, torch.Tensor] | None = None) -> None:
    """One file of SDXL's layout: its second text encoder in OpenCLIP's names. ``extra``: more tensors, or others."""
    tensors = unet_and_vae(models)
    for name, tensor in models["text_encoder"].state_dict().items():
        tensors[f"conditioner.embedders.0.transformer.text_model.{name}"] = tensor
    second = models["text_encoder_2"].state_dict()
    for name in second:
        if name.endswith(("k_proj.weight", "k_proj.bias", "v_proj.weight", "v_proj.bias")):
            continue  # with q
        tensor, stem = second[name], name.removeprefix("text_model.")
        if ".q_proj." in name:
            tensor = torch.cat([second[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"])
        tensors[f"conditioner.embedders.1.model.{open_clip_name(stem)}"] = tensor
    tensors["conditioner.embedders.1.model.text_projection"] = second["text_projection.weight"].T
    del tensors["conditioner.embedders.1.model.text_projection.weight"]
    save_file({name: tensor.contiguous() for name, tensor in {**tensors, **(extra or {})}.items()}, path)


_OPEN_CLIP = {
    "embeddings.token_embedding": "token_embedding", "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final", "encoder.layers": "transformer.resblocks", "self_attn.q_proj.": "attn.in_proj_",
    "self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}  # fmt: skip


def open_clip_name(name: str) -> str:
    for ours, theirs in _OPEN_CLIP.items():
        name = name.replace(ours, theirs)
    return name


def unet_and_vae(models: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Their tensors in a checkpoint's names."""
    unet, vae = models["unet"], models["vae"]
    levels, layers = len(unet.config.block_out_channels), unet.config.layers_per_block
    attention_first = unet.config.up_block_types[0].startswith("CrossAttn")
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in unet.state_dict().items():
        tensors[f"model.diffusion_model.{unet_name(name, levels, layers, attention_first)}"] = tensor
    for name, tensor in vae.state_dict().items():
        if re.search(r"attentions\.0\.to_.*weight$", name):
            tensor = tensor[:, :, None, None]
        tensors[f"first_stage_model.{vae_name(name, len(vae.config.block_out_channels))}"] = tensor
    return tensors
