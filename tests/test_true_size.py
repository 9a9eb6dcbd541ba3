"""The true sizes: keys, shapes and dtypes hold from a checkpoint file to the exported ones.

Of one core: SD 1.5 two minutes, and 10 GB of memory; scenes of SD 1.5 and 2.x three minutes and 7 GB each; SDXL five
minutes, 14 to 16 GB of memory and 7 GB of disk.
"""

import gc
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import write_checkpoint, write_xl_checkpoint
from PIL import Image, ImageDraw
from safetensors import safe_open

import infer_singleinsert
import train_singleinsert
from singleinsert.drawing.sheet import TILE
from singleinsert.masks.__main__ import main as masks
from singleinsert.models.bundled import ASSETS
from singleinsert.models.vocabulary import clip_tokenizer
from singleinsert.training.samples import Sampler


def random_models(family: str) -> dict:
    """A family's UNet, VAE and text encoders with random float16 weights of a sane scale."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    folder, generator = ASSETS / family, torch.Generator().manual_seed(0)
    encoders = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
    with torch.device("meta"):
        models = {
            "unet": UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet")),
            "vae": AutoencoderKL.from_config(AutoencoderKL.load_config(folder / "vae")),
        }
        for part, cls in encoders.items():
            if (folder / part).is_dir():
                models[part] = cls(CLIPTextConfig.from_pretrained(folder / part))
    for model in models.values():
        model.half().to_empty(device="cpu")
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.data.fill_(float("norm" in name and name.endswith("weight")))
            else:
                std = 0.02 if "embedding" in name else 0.5 / math.sqrt(parameter[0].numel())
                parameter.data.normal_(0, std, generator=generator)
    return models


def photo_and_mask(folder):
    from skimage import data

    photo, mask = folder / "astronaut.png", folder / "mask.png"
    Image.fromarray(data.astronaut()).save(photo)
    drawn = Image.new("L", (512, 512), 0)
    ImageDraw.Draw(drawn).ellipse([160, 30, 290, 220], fill=255)
    drawn.save(mask)
    return photo, mask


def train_on_astronaut(folder, monkeypatch, checkpoint, preset, name, steps, *more):
    """The output folder of a run of ``steps`` steps a stage, one sample each."""
    photo, mask = photo_and_mask(folder)
    gc.collect()
    monkeypatch.setattr(Sampler, "__call__", lambda *_: None)  # drawing pictures is seen at small size
    out = folder / "out"
    words = (
        f"--preset {preset} --pretrained_model_name_or_path {checkpoint} --image {photo} --mask {mask} "
        f"--output_dir {out} --output_name {name} --stage1_steps {steps} --stage2_steps {steps} --stage1_batch_size 1 "
        "--stage2_batch_size 1 --mixed_precision bf16 --gradient_checkpointing --resolution 512"
    )
    assert train_singleinsert.main([*words.split(), *more]) == 0
    return out


@pytest.mark.slow
def test_sd15_from_a_checkpoint_through_both_stages_to_the_exported_files(tmp_path, monkeypatch):
    checkpoint = tmp_path / "model.safetensors"
    write_checkpoint(random_models("sd1"), checkpoint)
    out = train_on_astronaut(tmp_path, monkeypatch, checkpoint, "face", "astronaut", 1)
    with safe_open(out / "astronaut.safetensors", framework="np") as file:
        (key,) = file.keys()
        assert file.get_slice(key).get_shape() == [2, 768] and file.get_slice(key).get_dtype() == "F16"
        lengths = np.linalg.norm(file.get_tensor(key).astype(float), axis=1)
        assert lengths.min() > 20 and lengths.max() < 40  # near unit variance: sqrt(768) = 27.7
    with safe_open(out / "astronaut_lora.safetensors", framework="pt") as file:
        keys = list(file.keys())
        ups = [key for key in keys if key.endswith(".lora_up.weight")]
        # UNet: 16 transformer blocks of 2 attentions of 4 layers; text encoder: 12 of 4
        assert len(ups) == 128 + 48 and len(keys) == 3 * len(ups)
        assert all(file.get_tensor(key).dtype == torch.float16 for key in ups)
        assert all(file.get_tensor(key).abs().max() > 0 for key in ups)
        assert "lora_te_text_model_encoder_layers_11_self_attn_out_proj.alpha" in keys
        shape = file.get_slice("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight")
        assert shape.get_shape() == [16, 768]


@pytest.mark.slow
def test_sdxl_from_a_checkpoint_through_both_stages_to_the_exported_files(tmp_path, monkeypatch):
    checkpoint = tmp_path / "model.safetensors"
    write_xl_checkpoint(random_models("sdxl"), checkpoint)
    rank = ("--network_dim", "4", "--network_alpha", "4")
    out = train_on_astronaut(tmp_path, monkeypatch, checkpoint, "face+sdxl", "astronautxy", 2, *rank)
    with safe_open(out / "astronautxy.safetensors", framework="pt") as file:
        found = {key: (tuple(file.get_tensor(key).shape), file.get_tensor(key).dtype) for key in file.keys()}  # noqa: SIM118
    assert found == {"clip_l": ((2, 768), torch.float16), "clip_g": ((2, 1280), torch.float16)}
    with safe_open(out / "astronautxy_lora.safetensors", framework="pt") as file:
        keys = list(file.keys())
        ups = [key for key in keys if key.endswith(".lora_up.weight")]
        # UNet: transformer blocks 2 x 2 + 2 x 10 (down), 10 (middle), 3 x 10 + 3 x 2 (up) = 70 of 2 attentions of 4
        # layers; text encoders: 12 and 32 of 4
        assert len(ups) == 70 * 8 + (12 + 32) * 4 and len(keys) == 3 * len(ups)
        still = {key for key in ups if not file.get_tensor(key).abs().max() > 0}
        # the first text encoder's last layer, whose output SDXL does not use
        idle = "lora_te1_text_model_encoder_layers_11_self_attn_{}_proj.lora_up.weight"
        assert still == {idle.format(name) for name in ("q", "k", "v", "out")}


def write_random_model(family: str, folder: Path, prediction_type: str) -> None:
    """A folder in diffusers' layout, one part in memory at a time beside the others' random weights."""
    shutil.copytree(ASSETS / family, folder)
    scheduler = folder / "scheduler/scheduler_config.json"
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | {"prediction_type": prediction_type}))
    for part, model in random_models(family).items():
        model.save_pretrained(folder / part)
    clip_tokenizer(family).save_pretrained(folder / "tokenizer")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "prediction_type", "width"), [("sd1", "epsilon", 768), ("sd2", "v_prediction", 1024)]
)
def test_a_photo_of_three_things_is_learnt_exported_and_painted_into_another(
    family, prediction_type, width, tmp_path, monkeypatch
):
    """scikit-image's coffee: cup and spoon by boxes, and what is left of the picture."""
    from skimage import data

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Sampler, "__call__", lambda *_: None)  # drawing pictures is seen at small size
    Image.fromarray(data.coffee()).save("coffee.png")
    write_random_model(family, tmp_path / "model", prediction_type)
    gc.collect()
    for word, box in (("cup", "170,15,412,312"), ("spoon", "322,62,430,330")):
        assert masks(["find", "--image", "coffee.png", "--class_word", word, "--box", box, "--output_dir", word]) == 0
    code = train_singleinsert.main(
        "--preset scene --pretrained_model_name_or_path model --image coffee.png --class_word cup --class_word spoon "
        "--mask cup/coffee_mask.png --mask spoon/coffee_mask.png --learn_background --output_name coffeexy "
        "--stage1_steps 1 --stage2_steps 1 --stage1_batch_size 1 --stage2_batch_size 1 --mixed_precision bf16 "
        "--gradient_checkpointing --set scene.mixes=1 --set save.formats=webui,diffusers,bundle".split()
    )
    assert code == 0
    out = Path("output/coffeexy")
    for name in ("cup", "spoon", "background"):
        with safe_open(out / f"coffeexy{name}.safetensors", framework="pt") as file:
            (key,) = file.keys()
            assert file.get_slice(key).get_shape() == [1, width]
    with safe_open(out / "coffeexy_lora.safetensors", framework="pt") as file:
        ups = [key for key in file.keys() if key.endswith(".lora_up.weight")]  # noqa: SIM118
        assert len(ups) == 128 + 4 * (12 if family == "sd1" else 23)  # blocks of attention, layers of the text encoder
        assert all(file.get_tensor(key).abs().max() > 0 for key in ups if "attn2_to_k" in key)
    with safe_open(out / "coffeexy_bundle.safetensors", framework="pt") as file:
        assert sum(key.startswith("bundle_emb.coffeexy") for key in file.keys()) == 3  # noqa: SIM118
    assert len(list((out / "coffeexy_diffusers").glob("*.safetensors"))) == 4
    assert Image.open(out / "coffeexy_sheet.png").height > 716 + TILE  # the heat maps' row
    photo, mask = photo_and_mask(tmp_path)
    flags = (
        f"--concept coffeexy --edit {photo} --edit_mask {mask} --edit_strength 1 --num_inference_steps 2 "
        "--mixed_precision bf16 --output_dir edited"
    )
    assert infer_singleinsert.main([*flags.split(), "--prompt", "a photo of {cup} and {spoon}"]) == 0
    (edited,) = Path("edited").glob("0*.png")
    before, after = (np.asarray(Image.open(path).convert("RGB")) for path in (photo, edited))
    inside = np.asarray(Image.open(mask)) > 0
    assert np.array_equal(after[~inside], before[~inside])
    assert np.abs(after[inside].astype(int) - before[inside]).mean() > 5
