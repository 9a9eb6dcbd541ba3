"""Embeddings and LoRAs of other trainers: every naming and shape that goes round, and what is refused."""

import json

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from tinymodels import hashed
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from singleinsert.adapters.naming import LoraKey, dotted_name, flat_name, parse_lora_key
from singleinsert.errors import InputError, ModelError
from singleinsert.interchange import load_pair
from singleinsert.locate import load_concept

TO_Q = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
TO_OUT = "up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_out.0"
MID = "mid_block.attentions.0.proj_in"
Q_PROJ = "encoder.layers.11.self_attn.q_proj"
VECTOR = hashed((1, 768), 1)


def lora_file(path, stems, names, alpha=None, **header):
    """A LoRA of rank 2 on each of ``stems``; ``names`` are the down and up tensors' endings."""
    tensors = {}
    for i, stem in enumerate(stems):
        tensors[stem + names[0]], tensors[stem + names[1]] = hashed((2, 4), 10 + i), hashed((4, 2), 20 + i)
        if alpha is not None:
            tensors[stem + ".alpha"] = torch.tensor(alpha)
    save_file(tensors, path, metadata={key: str(value) for key, value in header.items()})


@pytest.fixture
def embedding(tmp_path):
    save_file({"emb_params": VECTOR}, tmp_path / "her.safetensors")
    return tmp_path / "her.safetensors"


def test_names_of_every_sd15_layer_come_back():
    with torch.device("meta"):
        unet = UNet2DConditionModel(block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768)
        models = {"unet": unet, "text_encoder": CLIPTextModel(CLIPTextConfig())}
    count = 0
    for component, model in models.items():
        for path, module in model.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                count += 1
                for name in (
                    flat_name(component, path) + ".lora_down.weight",
                    dotted_name(component, path) + ".lora_A.weight",
                ):
                    assert parse_lora_key(name) == LoraKey(component, path, "down")
    assert count == 282 + 72  # linear and convolution layers of SD 1.5's UNet and text encoder


KOHYA = ["lora_unet_" + path.replace(".", "_") for path in (TO_Q, TO_OUT, MID)]
KOHYA_TEXT = "encoder_layers_11_self_attn_q_proj"
DOTTED = [TO_Q, TO_OUT, MID]
OLD = [
    "unet." + TO_Q.replace(".to_q", ".processor.to_q"),
    "unet." + TO_OUT.replace(".to_out.0", ".processor.to_out"),
    "unet." + MID,
]
NAMINGS = {
    "kohya": ([*KOHYA, f"lora_te_text_model_{KOHYA_TEXT}"], (".lora_down.weight", ".lora_up.weight")),
    "kohya te1": ([*KOHYA, f"lora_te1_text_model_{KOHYA_TEXT}"], (".lora_down.weight", ".lora_up.weight")),
    "kohya without text_model": ([*KOHYA, f"lora_te_{KOHYA_TEXT}"], (".lora_down.weight", ".lora_up.weight")),
    "peft": ([*("unet." + p for p in DOTTED), f"text_encoder.text_model.{Q_PROJ}"], (".lora_A.weight",
    ".lora_B.weight")), "peft of transformers 5": ([*("unet." + p for p in DOTTED), f"text_encoder.{Q_PROJ}"],
    (".lora_A.weight", ".lora_B.weight")), "peft's own files": ([*("base_model.model.unet." + p for p in DOTTED),
    f"base_model.model.text_encoder.{Q_PROJ}"],
                         (".lora_A.default.weight", ".lora_B.default.weight")),
    "diffusers of 2023": ([*OLD, f"text_encoder.text_model.{Q_PROJ.replace('q_proj', 'to_q')}"], ("_lora.down.weight",
    "_lora.up.weight")), "diffusers before peft": ([*("unet." + p for p in DOTTED),
    f"text_encoder.text_model.{Q_PROJ}"],
                              (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight")),
    "original blocks": (["lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q",
    "lora_unet_output_blocks_11_1_transformer_blocks_0_attn2_to_out_0",
                         "lora_unet_middle_block_1_proj_in", f"lora_te_text_model_{KOHYA_TEXT}"], (".lora_down.weight",
                         ".lora_up.weight")),
}  # fmt: skip


@pytest.mark.parametrize("naming", NAMINGS)
def test_every_naming(naming, embedding, tmp_path):
    stems, names = NAMINGS[naming]
    lora_file(tmp_path / "lora.safetensors", stems, names)
    concept = load_pair(embedding, tmp_path / "lora.safetensors")
    assert {component: set(layers) for component, layers in concept.lora.items()} == {
        "unet": {TO_Q, TO_OUT, MID}, "text_encoder": {Q_PROJ},
    }  # fmt: skip
    weights = concept.lora["unet"][TO_OUT]
    assert torch.equal(weights.down, hashed((2, 4), 11)) and torch.equal(weights.up, hashed((4, 2), 21))
    assert weights.alpha == 2.0  # none in the file: the rank


def test_attention_blocks_of_the_original_naming():
    """SD's input_blocks.1, 2, 4, 5, 7, 8 and output_blocks.3 to 11, one by one, two and three to a block."""
    ends = {f"input_blocks.{i}": f"down_blocks.{b}.attentions.{n}" for i, b, n in
            [(1, 0, 0), (2, 0, 1), (4, 1, 0), (5, 1, 1), (7, 2, 0), (8, 2, 1)]}  # fmt: skip
    ends |= {f"output_blocks.{i}": f"up_blocks.{i // 3}.attentions.{i % 3}" for i in range(3, 12)}
    for original, ours in ends.items():
        key = "lora_unet_" + original.replace(".", "_") + "_1_proj_out.lora_up.weight"
        assert parse_lora_key(key) == LoraKey("unet", f"{ours}.proj_out", "up")


def test_alpha_from_the_file_and_from_peft_metadata(embedding, tmp_path):
    path = tmp_path / "lora.safetensors"
    lora_file(path, *NAMINGS["kohya"], alpha=0.5)
    assert {w.alpha for layers in load_pair(embedding, path).lora.values() for w in layers.values()} == {0.5}
    config = {
        "unet.lora_alpha": 8,
        "unet.alpha_pattern": {"mid_block.attentions.0.proj_in": 3},
        "text_encoder.lora_alpha": 16,
    }
    lora_file(path, *NAMINGS["peft"], lora_adapter_metadata=json.dumps(config))
    lora = load_pair(embedding, path).lora
    assert (lora["unet"][TO_Q].alpha, lora["unet"][MID].alpha, lora["text_encoder"][Q_PROJ].alpha) == (8, 3, 16)


@pytest.mark.parametrize("key", ["emb_params", "her", "<her>", "clip_l", "string_to_param.*"])
@pytest.mark.parametrize("shape", [(768,), (1, 768), (3, 1024)])
def test_every_embedding(key, shape, tmp_path):
    save_file({key: hashed(shape, 4).half()}, tmp_path / "her.safetensors")
    concept = load_concept(tmp_path / "her.safetensors")
    assert concept.name == "her" and concept.lora == {} and concept.class_word == ""
    assert torch.equal(concept.embedding, hashed(shape, 4).half().float().reshape(-1, shape[-1]))
    assert concept.base.family == ("sd2" if shape[-1] == 1024 else "sd1")


def test_kohyas_metadata_tells_the_base(embedding, tmp_path):
    lora_file(
        tmp_path / "her_lora.safetensors",
        *NAMINGS["kohya"],
        ss_v2=True,
        ss_base_model_version="sd_v2_v",
        ss_sd_model_name="sd21.safetensors",
    )
    base = load_concept(embedding).base  # the LoRA beside it goes with it
    assert (base.family, base.prediction_type, base.name, base.source) == (
        "sd2",
        "v_prediction",
        "sd21.safetensors",
        "",
    )


def test_damaged_headers_are_one_line(embedding, tmp_path):
    lora_file(tmp_path / "lora.safetensors", *NAMINGS["peft"], lora_adapter_metadata="{no json")
    with pytest.raises(ModelError, match="'lora_adapter_metadata' is damaged"):
        load_pair(embedding, tmp_path / "lora.safetensors")
    for text in ("{no json", '{"base": {"family": "sd1"}}'):
        save_file({"emb_params": VECTOR}, embedding, metadata={"singleinsert": text})
        with pytest.raises(ModelError, match="'singleinsert' is damaged"):
            load_pair(embedding)


def test_pickle_only_when_asked_for(tmp_path):
    path = tmp_path / "her.pt"
    torch.save({"string_to_token": {"*": 265}, "string_to_param": {"*": VECTOR}, "name": "her", "step": 7}, path)
    with pytest.raises(InputError, match="--allow_pickle"):
        load_concept(path)
    assert torch.equal(load_concept(path, allow_pickle=True).embedding, VECTOR)
    torch.save({"<her>": VECTOR[0]}, tmp_path / "learned_embeds.bin")
    assert torch.equal(load_concept(tmp_path / "learned_embeds.bin", allow_pickle=True).embedding, VECTOR)
    torch.save({"x": print}, path)  # a file that would run code is not run even then
    with pytest.raises(ModelError, match="more than plain tensors"):
        load_concept(path, allow_pickle=True)


def test_folders_names_and_two_files(embedding, tmp_path, monkeypatch):
    lora_file(tmp_path / "any.safetensors", *NAMINGS["kohya"])
    assert load_concept(tmp_path).lora and load_concept(tmp_path).name == "her"
    assert load_concept(f"{embedding}+{tmp_path / 'any.safetensors'}").lora
    other = tmp_path / "other"
    other.mkdir()
    save_file({"emb_params": VECTOR}, other / "a.safetensors")
    save_file({"emb_params": VECTOR}, other / "b.safetensors")
    with pytest.raises(InputError, match="several embeddings .a.safetensors, b.safetensors."):
        load_concept(other)
    save_file({"emb_params": VECTOR}, other / "other.safetensors")
    assert load_concept(other).name == "other"  # called like the folder
    monkeypatch.chdir(tmp_path)
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "him").symlink_to(other)
    assert load_concept("him").name == "other"


def test_what_is_refused(embedding, tmp_path):
    def file(name, **tensors):
        save_file({key.replace("__", "."): tensor for key, tensor in tensors.items()}, tmp_path / name)
        return tmp_path / name

    zeros, down = torch.zeros(1, 768), torch.zeros(2, 4)
    embeddings = {
        "different numbers": file("a.safetensors", clip_l=zeros, clip_g=torch.zeros(2, 1280)),
        "width 1280": file("b.safetensors", emb_params=torch.zeros(1, 1280)),
        "it holds 2 tensors": file("c.safetensors", her=zeros[0], her_1=zeros[0] + 1),
        "is a LoRA": file("d.safetensors", lora_unet_x__lora_down__weight=down),
        "shape": file("e.safetensors", emb_params=torch.zeros(1, 2, 768)),
        "NaN": file("f.safetensors", emb_params=zeros + torch.nan),
        "neither a file": tmp_path / "none.safetensors",
    }
    for message, path in embeddings.items():
        with pytest.raises((InputError, ModelError), match=message) as raised:
            load_concept(path)
        assert "\n" not in str(raised.value)
    loras = {
        "'up' and no down": file("g.safetensors", lora_te2_text_model_x__lora_up__weight=down),
        "LoHa": file("h.safetensors", lora_unet_mid_block__hada_w1_a=down),
        "no up weight": file("i.safetensors", lora_unet_mid_block__lora_down__weight=down),
        "'alpha' and no down and up": file("j.safetensors", lora_unet_mid_block__alpha=torch.tensor(1.0)),
        "outside the attention": file("k.safetensors", lora_unet_input_blocks_3_0_op__lora_down__weight=down),
    }
    for message, path in loras.items():
        with pytest.raises(ModelError, match=message) as raised:
            load_pair(embedding, path)
        assert str(path) in str(raised.value) and "\n" not in str(raised.value)
