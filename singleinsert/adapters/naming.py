"""Names of LoRA layers: our module paths, kohya's flat names, diffusers' and peft's dotted names.

Our path of a layer is the one its module has in diffusers' UNet ("down_blocks.0.attentions.0....to_out.0") or
in transformers' CLIPTextModel without the "text_model." level ("encoder.layers.0.self_attn.q_proj").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from singleinsert.errors import ModelError
from singleinsert.models.families import FILE_FACTS

UNET, TEXT_ENCODER, TEXT_ENCODER_2 = "unet", "text_encoder", "text_encoder_2"
TEXT_ENCODERS = (TEXT_ENCODER, TEXT_ENCODER_2)
KOHYA_PREFIXES: Mapping[str, Mapping[str, str]] = {name: facts.prefixes for name, facts in FILE_FACTS.items()}
"""What the names of a family's layers begin with, by component."""
COMPONENTS = tuple(dict.fromkeys(part for prefixes in KOHYA_PREFIXES.values() for part in prefixes))
_OTHER_PREFIXES = {
    prefix: part for prefixes in KOHYA_PREFIXES.values() for part, prefix in prefixes.items()
    if part not in (UNET, *TEXT_ENCODERS) and prefix.startswith("lora_")
}  # fmt: skip
_DOTTED_PREFIXES = {
    prefix: part for facts in FILE_FACTS.values() if facts.layout == "diffusers"
    for part, prefix in facts.prefixes.items()
}  # fmt: skip

_COMPOUND_ATOMS = (
    "down_blocks", "up_blocks", "mid_block", "transformer_blocks", "to_q", "to_k", "to_v", "to_out",
    "proj_in", "proj_out", "conv_in", "conv_out", "conv_shortcut", "time_emb_proj", "time_embedding",
    "linear_1", "linear_2", "text_model", "self_attn", "q_proj", "k_proj", "v_proj", "out_proj",
    "input_blocks", "output_blocks", "middle_block",
)  # fmt: skip
_ATOM = re.compile("|".join(rf"{atom}(?=_|$)" for atom in _COMPOUND_ATOMS) + r"|[^_]+")

_PARTS = {"lora_down": "down", "lora_A": "down", "down": "down", "lora_up": "up", "lora_B": "up", "up": "up"}
_KOHYA = re.compile(r"^lora_(unet|te1|te2|te)_(\w+)\.(?:(lora_down|lora_up)\.weight|(alpha))$")
_DOTTED = re.compile(
    r"^(?P<path>.+?)(?:"
    r"\.(?P<peft>lora_[AB])(?:\.[\w-]+)?\.weight"  # peft, with or without the adapter's name
    r"|(?:\.lora|\.lora_linear_layer|_lora)\.(?P<old>down|up)\.weight"  # diffusers before peft
    r"|\.(?P<plain>lora_down|lora_up)\.weight"
    r"|\.(?P<alpha>alpha))$"
)

_LORA_KEY = re.compile(
    r"^lora_(unet|te\d?|transformer|prior\w*)_|\.(lora_[AB]|lora_down|lora_up|lora|lora_linear_layer)\."
    r"|_lora\.(down|up)\.|\.(hada_|lokr_|dora_scale|oft_)"
)


@dataclass(frozen=True)
class LoraKey:
    """What a tensor of a LoRA file is: component ("unet", "text_encoder", "text_encoder_2"), our module path, part."""

    component: str
    path: str
    part: str  # "down", "up" or "alpha"


def flat_name(component: str, path: str, family: str = "sd1") -> str:
    """Kohya's name of a layer of a ``family``, the one every client of Stable Diffusion reads."""
    return KOHYA_PREFIXES[family][component] + path.replace(".", "_")


def dotted_name(component: str, path: str) -> str:
    """Diffusers' name of a layer. Readers with transformers 4 want the ``text_model.`` level, 5 strips it."""
    return f"{component}.text_model.{path}" if component in TEXT_ENCODERS else f"{component}.{path}"


def is_lora(keys: Iterable[str]) -> bool:
    """Whether tensors are called like those of a LoRA, read here or not. An embedding's key may hold "lora" too."""
    return any(_LORA_KEY.search(key) for key in keys)


def unflatten(name: str) -> str:
    """The dotted path behind a flat one ("to_out_0" -> "to_out.0"); the names SD's modules use are known."""
    return ".".join(_ATOM.findall(name))


def parse_lora_key(key: str) -> LoraKey:
    """What the tensor called ``key`` is, in kohya's, diffusers' or peft's naming. ModelError otherwise."""
    if match := _KOHYA.match(key):
        prefix, name, weight, _ = match.groups()
        component = {"unet": UNET, "te2": TEXT_ENCODER_2}.get(prefix, TEXT_ENCODER)
        return LoraKey(component, _our_path(component, unflatten(name), key), _PARTS.get(weight, "alpha"))
    path = key.removeprefix("base_model.model.")
    if (match := _DOTTED.match(path)) and path.startswith("lora_"):
        for prefix, component in _OTHER_PREFIXES.items():
            if path.startswith(prefix):
                part = match["plain"]
                return LoraKey(
                    component, unflatten(match["path"].removeprefix(prefix)), _PARTS[part] if part else "alpha"
                )
        raise ModelError(f"'{key}' belongs to a part that no known model has")
    if match:
        for prefix, component in _DOTTED_PREFIXES.items():
            if path.startswith(prefix):
                path = f"{component}.{path.removeprefix(prefix)}"
        match = _DOTTED.match(path)
        assert match
        first = path.split(".")[0]
        component = first if first in COMPONENTS else UNET
        dotted = match["path"].removeprefix(component + ".").removeprefix("base_model.model.")
        part = match["peft"] or match["old"] or match["plain"]
        return LoraKey(component, _our_path(component, dotted, key), _PARTS[part] if part else "alpha")
    raise ModelError(
        f"'{key}' is no LoRA weight in kohya's, diffusers' or peft's naming (LoHa, LoKr, DoRA are not read)"
    )


def _our_path(component: str, path: str, key: str) -> str:
    if component not in (UNET, *TEXT_ENCODERS):
        return path
    if component in TEXT_ENCODERS:
        path = path.removeprefix("text_model.")
        path = re.sub(r"self_attn\.to_([qkv])$", r"self_attn.\1_proj", path)
        return re.sub(r"self_attn\.to_out$", "self_attn.out_proj", path)
    path = re.sub(r"\.processor\.(to_\w+)$", r".\1", path)
    path = re.sub(r"\.to_out$", ".to_out.0", path)
    return _from_original_blocks(path, key) if re.match(r"(input|middle|output)_blocks?\.", path) else path


def _from_original_blocks(path: str, key: str) -> str:
    """Attention layers in the naming of the original SD code ("input_blocks.4.1") to diffusers' blocks.

    In SD 1.x and 2.x input_blocks 1, 2, 4, 5, 7, 8 and output_blocks 3 to 11 hold attention, in SDXL input_blocks 4, 5,
    7, 8 and output_blocks 0 to 5; the same numbers are the same blocks of diffusers' UNet.
    """
    if path.startswith("middle_block.1."):
        return "mid_block.attentions.0." + path.removeprefix("middle_block.1.")
    if match := re.match(r"input_blocks\.([124578])\.1\.(.+)$", path):
        block, layer = divmod(int(match[1]) - 1, 3)
        return f"down_blocks.{block}.attentions.{layer}.{match[2]}"
    if match := re.match(r"output_blocks\.(\d|10|11)\.1\.(.+)$", path):
        block, layer = divmod(int(match[1]), 3)
        return f"up_blocks.{block}.attentions.{layer}.{match[2]}"
    raise ModelError(f"'{key}' changes a layer outside the attention blocks, which is not read")
