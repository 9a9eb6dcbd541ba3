"""diffusers' names turned back into those of the authors of FLUX.2 and Z-Image, as ComfyUI's files have them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from checkpoints import vae_name
from safetensors.torch import save_file
from torch import Tensor

_KLEIN = {
    "x_embedder": "img_in", "context_embedder": "txt_in", "proj_out": "final_layer.linear",
    "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "double_stream_modulation_img.linear": "double_stream_modulation_img.lin",
    "double_stream_modulation_txt.linear": "double_stream_modulation_txt.lin",
    "single_stream_modulation.linear": "single_stream_modulation.lin",
}  # fmt: skip
_DOUBLE = {
    "attn.to_q": "img_attn.qkv", "attn.add_q_proj": "txt_attn.qkv", "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj", "attn.norm_q": "img_attn.norm.query_norm", "ff.linear_in": "img_mlp.0",
    "attn.norm_k": "img_attn.norm.key_norm", "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm", "ff.linear_out": "img_mlp.2", "ff_context.linear_in": "txt_mlp.0",
    "ff_context.linear_out": "txt_mlp.2",
}  # fmt: skip
_SINGLE = {
    "attn.to_qkv_mlp_proj": "linear1", "attn.to_out": "linear2", "attn.norm_q": "norm.query_norm",
    "attn.norm_k": "norm.key_norm",
}  # fmt: skip


def klein_tensors(transformer: Any) -> dict[str, Tensor]:
    """The transformer as Black Forest Labs names it: fused queries, keys and values, shift before scale at its end."""
    state, found = transformer.state_dict(), {}
    for name, tensor in state.items():
        stem, kind = name.rsplit(".", 1)
        if re.search(r"\.(to_[kv]|add_[kv]_proj)$", stem):
            continue  # with the queries
        if stem == "norm_out.linear":
            found[f"final_layer.adaLN_modulation.1.{kind}"] = torch.cat(tensor.chunk(2)[::-1])
        elif match := re.match(r"(transformer|single_transformer)_blocks\.(\d+)\.(.+)", stem):
            which, number, layer = match.groups()
            if layer.endswith(("to_q", "add_q_proj")):
                names = [re.sub(r"q(_proj)?$", rf"{letter}\1", name.rsplit(".", 1)[0]) for letter in "qkv"]
                tensor = torch.cat([state[f"{each}.{kind}"] for each in names])
            kind = "scale" if ".norm_" in stem else kind
            blocks, names_of = ("double", _DOUBLE) if which == "transformer" else ("single", _SINGLE)
            found[f"{blocks}_blocks.{number}.{names_of[layer]}.{kind}"] = tensor
        else:
            found[f"{_KLEIN[stem]}.{kind}"] = tensor
    return found


def zimage_tensors(transformer: Any) -> dict[str, Tensor]:
    """The transformer as its authors name it, with ComfyUI's prefix."""
    state, found = transformer.state_dict(), {}
    renamed = {
        "all_final_layer.2-1.": "final_layer.", "all_x_embedder.2-1.": "x_embedder.",
        ".attention.to_out.0.": ".attention.out.", ".attention.norm_k.": ".attention.k_norm.",
        ".attention.norm_q.": ".attention.q_norm.",
    }  # fmt: skip
    for name, tensor in state.items():
        if name.endswith((".to_k.weight", ".to_v.weight")):
            continue
        if name.endswith(".to_q.weight"):
            tensor = torch.cat([state[name.replace("to_q", f"to_{letter}")] for letter in "qkv"])
            name = name.replace("to_q", "qkv")
        for ours, theirs in renamed.items():
            name = name.replace(ours, theirs)
        found[f"model.diffusion_model.{name}"] = tensor
    return found


def write_split_files(folder: Path, models: dict[str, Any], transformer: dict[str, Tensor], name: str) -> list[Path]:
    """Three files: ``name``, the language model without its head, and the autoencoder in its authors' names."""
    vae = models["vae"]
    levels = len(vae.config.block_out_channels)
    autoencoder = {vae_name(key, levels): x for key, x in vae.state_dict().items()}
    for key, inner in (("quant_conv.", "encoder."), ("post_quant_conv.", "decoder.")):
        autoencoder = {inner + k if k.startswith(key) else k: x for k, x in autoencoder.items()}
    for key, tensor in autoencoder.items():
        if re.search(r"\.attn_1\.(q|k|v|proj_out)\.weight$", key):
            autoencoder[key] = tensor[..., None, None]
    text = {k: x for k, x in models["text_encoder"].state_dict().items() if not k.startswith("lm_head")}
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.safetensors", folder / "qwen_3_4b.safetensors", folder / "vae.safetensors"]
    for path, tensors in zip(paths, (transformer, text, autoencoder), strict=True):
        save_file({key: tensor.clone().contiguous() for key, tensor in tensors.items()}, path)
    return paths
