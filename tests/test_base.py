"""Loading base models: each source gives the same model, and what is wrong is said in one line."""

import json
import shutil

import numpy as np
import pytest
import torch
from checkpoints import write_checkpoint
from safetensors.torch import save_file
from tinymodels import CONCEPT_WIDTH, tiny_models

from singleinsert.errors import ModelError
from singleinsert.models.bundled import ASSETS
from singleinsert.models.families import sd
from singleinsert.models.families.sd import StableDiffusion, name_of
from singleinsert.models.latents import encode_image
from singleinsert.models.loading import load_base_model, short_name
from singleinsert.models.sampling import sample_images
from singleinsert.models.vocabulary import clip_tokenizer


def test_a_folder_loads_frozen_in_the_dtype_asked_for(make_tiny_sd):
    model = load_base_model(make_tiny_sd("v_prediction"), dtype=torch.bfloat16)
    assert model.schedule.prediction_type == model.scheduler.config.prediction_type == "v_prediction"
    assert (model.name, model.pixels_per_latent, model.native_resolution) == ("sd1", 2, 32)
    assert model.embedding_widths == {"text_encoder": 32} and model.latent_shape(32, 64) == (4, 16, 32)
    for part in (model.unet, model.vae, model.text_encoder):
        assert not part.training
        assert all(not p.requires_grad and p.dtype == torch.bfloat16 for p in part.parameters())
    assert model.schedule.alphas_cumprod.dtype == torch.float32
    assert not model.scheduler.config.clip_sample and model.scheduler.config.steps_offset == 1
    assert model.tokenizer.model_max_length == 32
    assert load_base_model(make_tiny_sd(family="sd2")).name == "sd2"
    assert load_base_model(make_tiny_sd(), prediction_type="sample").schedule.prediction_type == "sample"


def test_weights_come_straight_to_their_device_and_dtype(tiny_sd, monkeypatch):
    """The file has float32; diffusers is told of both, so that no part is whole in another place or precision."""
    from diffusers import StableDiffusionPipeline

    asked, arrived, original = [], [], StableDiffusionPipeline.from_pretrained

    def watch(*args, **kwargs):
        asked.append((kwargs["dtype"], kwargs["device_map"]))
        pipeline = original(*args, **kwargs)
        for name in StableDiffusion.weight_parts:
            arrived.extend((p.dtype, p.device.type) for p in getattr(pipeline, name).parameters())
        return pipeline

    monkeypatch.setattr(StableDiffusionPipeline, "from_pretrained", watch)
    model = load_base_model(tiny_sd, dtype=torch.bfloat16)
    assert asked == [(torch.bfloat16, "cpu")] and set(arrived) == {(torch.bfloat16, "cpu")}
    for part in (model.unet, model.vae, model.text_encoder):  # no hook holds them there
        assert not any(hasattr(module, "_hf_hook") for module in part.modules())
        assert part.to("meta").device.type == "meta"


def broken(tiny_sd, tmp_path, *removed):
    folder = tmp_path / "model"
    shutil.copytree(tiny_sd, folder)
    for name in removed:
        (folder / name).unlink()
    return folder


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        (["model_index.json"], "no diffusers model: model_index.json is missing"),
        (["unet/config.json", "vae/config.json"], "unet/config.json, vae/config.json missing"),
        (["text_encoder/model.safetensors"], r"text_encoder/\*model.safetensors missing"),
        (["tokenizer/tokenizer.json"], "tokenizer/tokenizer.json .* missing"),
        (["scheduler/scheduler_config.json"], "scheduler/scheduler_config.json missing"),
    ],
)
def test_an_incomplete_folder_names_what_is_missing(tiny_sd, tmp_path, removed, message):
    with pytest.raises(ModelError, match=message) as error:
        load_base_model(broken(tiny_sd, tmp_path, *removed))
    assert "\n" not in str(error.value)


def test_pickle_variant_truncated_and_foreign_folders(tiny_sd, tmp_path):
    folder = broken(tiny_sd, tmp_path)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ModelError, match=r"there is diffusion_pytorch_model.bin"):
        load_base_model(folder)
    weights.with_suffix(".bin").rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    with pytest.raises(ModelError, match=r"there is diffusion_pytorch_model.fp16.safetensors"):
        load_base_model(folder)
    weights.write_bytes(b"\x10" + b"\0" * 40)
    with pytest.raises(ModelError, match="cannot be loaded") as error:
        load_base_model(folder)
    assert "\n" not in str(error.value)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "FluxPipeline"}))
    with pytest.raises(ModelError, match="is a FluxPipeline: only"):
        load_base_model(folder)


def test_sources_that_are_none(tmp_path):
    for source, message in (
        (tmp_path / "none", "no model folder"),
        ("model.ckpt", "pickle checkpoints are not loaded"),
        (tmp_path / "none.safetensors", "no checkpoint"),
        ("nobody/no-such-model", "nobody/no-such-model: the hub was not reached"),
    ):
        with pytest.raises(ModelError, match=message) as error:
            load_base_model(source)
        assert "\n" not in str(error.value)


def test_the_bundled_vocabulary_is_clips():
    # ids as OpenAI's own tokenizer gives them
    tokenizer = clip_tokenizer("sd1")
    assert tokenizer("a photo of a cat")["input_ids"] == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert (len(tokenizer), tokenizer.pad_token_id) == (49408, 49407)
    assert clip_tokenizer("sd2").pad_token_id == 0


def test_the_bundled_configs_are_of_the_true_size():
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig

    for family, parameters in (("sd1", 859_520_964), ("sd2", 865_910_724)):
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(ASSETS / family / "unet"))
            vae = AutoencoderKL.from_config(AutoencoderKL.load_config(ASSETS / family / "vae"))
        assert sum(p.numel() for p in unet.parameters()) == parameters
        assert sum(p.numel() for p in vae.parameters()) == 83_653_863
        assert name_of(CLIPTextConfig.from_pretrained(ASSETS / family / "text_encoder")) == family


@pytest.fixture
def tiny_assets(tmp_path, monkeypatch):
    """The package's folder of configs with tiny ones in it, CLIP's vocabulary but the tiny width."""
    models = tiny_models(vocab_size=49408)
    folder = tmp_path / "assets"
    shutil.copytree(ASSETS / "sd1", folder / "sd1")
    shutil.copytree(ASSETS / "clip", folder / "clip")
    models["text_encoder"].config.save_pretrained(folder / "sd1" / "text_encoder")
    for part in ("unet", "vae"):
        models[part].save_config(folder / "sd1" / part)
    monkeypatch.setattr(sd, "ASSETS", folder)
    monkeypatch.setattr(sd, "_NAME_OF_WIDTH", {CONCEPT_WIDTH: "sd1", 64: "sd2"})
    return models


def test_a_checkpoint_is_the_model_it_was_written_from(tiny_assets, tmp_path):
    path = tmp_path / "model.safetensors"
    write_checkpoint(tiny_assets, path)
    model = load_base_model(path)
    for part in ("unet", "vae", "text_encoder"):
        ours, reference = getattr(model, part).state_dict(), tiny_assets[part].state_dict()
        assert set(ours) == set(reference)
        assert all(torch.equal(ours[key], reference[key]) for key in reference), part
    assert model.schedule.prediction_type == "epsilon" and model.model_name == "model" and model.name == "sd1"
    write_checkpoint(tiny_assets, path, {"modelspec.prediction_type": "v"})
    assert load_base_model(path).schedule.prediction_type == "v_prediction"


def test_checkpoints_that_are_none(tmp_path):
    path = tmp_path / "x.safetensors"
    key = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    for tensors, message in (
        ({"lora_unet_x.lora_down.weight": torch.zeros(1)}, "is a LoRA"),
        ({"something": torch.zeros(1)}, r"is no checkpoint of .*Stable Diffusion 1\.x and 2\.x"),
        ({key: torch.zeros(2, 2048)}, "is no checkpoint of .*Stable Diffusion"),
        ({key: torch.zeros(2, 1024)}, "does not tell its prediction type"),
        ({key: torch.zeros(2, 768)}, "cannot be loaded as SD1"),
    ):
        save_file(tensors, path)
        with pytest.raises(ModelError, match=message) as error:
            load_base_model(path)
        assert "\n" not in str(error.value)
    path.write_bytes(b"\x10")
    with pytest.raises(ModelError, match="not a readable safetensors"):
        load_base_model(path)
    assert short_name("runwayml/stable-diffusion-v1-5") == "stable-diffusion-v1-5"


def test_the_vae_runs_once_and_keeps_its_posterior(tiny_sd):
    model = load_base_model(tiny_sd, dtype=torch.bfloat16)
    pixels = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
    latents = encode_image(model.vae, pixels)
    assert model.vae.dtype == torch.bfloat16
    reference = load_base_model(tiny_sd).vae.to(torch.bfloat16).float().encode(pixels).latent_dist
    noise = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = 0.5 * (reference.mean + reference.std * noise)  # 0.5 is the tiny VAE's scaling factor
    assert latents.mean.dtype == torch.float32
    assert torch.allclose(latents.sample(noise), expected, atol=1e-6)


def test_pictures_do_not_depend_on_their_neighbours(tiny_sd):
    model = load_base_model(tiny_sd)
    condition, empty = (model.encode(model.tokenize(prompt, {}), {}) for prompt in ("a photo of a face", ""))

    def draw(*seeds):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return sample_images(model, condition.expand(len(seeds)), empty, generators, steps=3)

    pair = draw(1, 2)
    assert pair[0].size == (32, 32) and pair[0].tobytes() != pair[1].tobytes()
    # another batch size sums in another order: one grey level at most
    alone, together = (np.asarray(picture, dtype=int) for picture in (draw(1)[0], pair[0]))
    assert np.abs(alone - together).max() <= 1
