"""Stable Diffusion XL: the UNet is told what diffusers' pipeline tells it, and every mistake in that would show."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from checkpoints import unet_name, write_xl_checkpoint
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from tinysdxl import POOLED, WIDTHS, random_latents, tiny_sdxl_models

from singleinsert.adapters.naming import LoraKey, parse_lora_key
from singleinsert.data.subject import Frame
from singleinsert.errors import InputError, ModelError
from singleinsert.models.bundled import ASSETS
from singleinsert.models.condition import Condition
from singleinsert.models.families import sdxl
from singleinsert.models.loading import load_base_model
from singleinsert.models.sampling import sample_images

PROMPT = "a photo of a face in the snow"
FRAME = Frame(size=(32, 32), original=(64, 80), crop=(10, 20))
T = torch.tensor([500])


@pytest.fixture(scope="module")
def model(tiny_sdxl):
    return load_base_model(tiny_sdxl)


def pipeline_of(folder, model):
    pipe = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    pipe.scheduler = type(model.scheduler).from_config(model.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def condition_of(model, prompt=PROMPT, frame=FRAME):
    with torch.no_grad():
        return model.encode(model.tokenize(prompt, {}), {}, frame)


def test_a_folder_loads_frozen_with_both_encoders(tiny_sdxl):
    model = load_base_model(tiny_sdxl, dtype=torch.bfloat16)
    assert (model.name, model.native_resolution, model.latent_shape(32, 48)) == ("sdxl", 32, (4, 16, 24))
    assert model.embedding_widths == WIDTHS and model.trainable_parts["text"] == ("text_encoder", "text_encoder_2")
    for part in model.parts.values():
        assert not part.training
        assert all(not p.requires_grad and p.dtype == torch.bfloat16 for p in part.parameters())
    assert {part: t.pad_token for part, t in model.tokenizers.items()} == {
        "text_encoder": "<|endoftext|>", "text_encoder_2": "!",
    }  # fmt: skip
    assert {t.model_max_length for t in model.tokenizers.values()} == {32}


def test_a_step_is_diffusers_own(tiny_sdxl, model):
    """Prompt, pooled vector and time ids by the pipeline's own methods, its UNet called with them: the same numbers."""
    pipe = pipeline_of(tiny_sdxl, model)
    states, _, pooled, _ = pipe.encode_prompt(PROMPT, do_classifier_free_guidance=False)
    ids = pipe._get_add_time_ids(
        FRAME.original, FRAME.crop, FRAME.size, dtype=torch.float32, text_encoder_projection_dim=POOLED
    )
    told = {"text_embeds": pooled, "time_ids": ids}
    with torch.no_grad():
        wanted = pipe.unet(random_latents(), T, states, added_cond_kwargs=told).sample
        assert torch.equal(model.predict(random_latents(), T, condition_of(model)), wanted)
        # one condition serves a batch, in which another frame is another prediction
        batch = model.predict(random_latents(2), T.expand(2), condition_of(model))
        assert torch.allclose(batch[:1], model.predict(random_latents(2)[:1], T, condition_of(model)), atol=1e-5)
    assert float(wanted.std()) == pytest.approx(0.511653, rel=1e-4)  # of weights by formula; change it only on purpose


def mistakes(model):
    """name -> the condition with one thing wrong in it."""
    right = condition_of(model).tensors
    first, second = right["states"].split(list(WIDTHS.values()), dim=-1)
    tokens = model.tokenize(PROMPT, {}).tokens
    with torch.no_grad():
        last = model.text_encoder(tokens["text_encoder"].input_ids).last_hidden_state
        padded = model.text_encoder_2(tokens["text_encoder"].input_ids, output_hidden_states=True)
        unprojected = model.text_encoder_2.text_model(tokens["text_encoder_2"].input_ids).pooler_output[:, :POOLED]
    wrong = {
        "encoders in the other order": {"states": torch.cat([second, first], dim=-1)},
        "last layer of the first encoder": {"states": torch.cat([last, second], dim=-1)},
        "second encoder under the first one's padding": {
            "states": torch.cat([first, padded.hidden_states[-2]], dim=-1), "pooled": padded.text_embeds,
        },
        "pooled without its projection": {"pooled": unprojected},
        "pooled of nothing": {"pooled": torch.zeros_like(right["pooled"])},
        "crop left out": {"time_ids": right["time_ids"] * torch.tensor([[1, 1, 0, 0, 1, 1]])},
        "crop as left, top": {"time_ids": right["time_ids"][:, [0, 1, 3, 2, 4, 5]]},
        "width before height": {"time_ids": right["time_ids"][:, [1, 0, 2, 3, 5, 4]]},
        "size and original exchanged": {"time_ids": right["time_ids"][:, [4, 5, 2, 3, 0, 1]]},
    }  # fmt: skip
    return {name: Condition({**right, **changed}) for name, changed in wrong.items()}


def test_every_mistake_shows(model):
    """Each moves the output by more than a twentieth of its size: the least, a crop's sides exchanged, by a tenth."""
    with torch.no_grad():
        right = model.predict(random_latents(), T, condition_of(model))
        for name, condition in mistakes(model).items():
            moved = (model.predict(random_latents(), T, condition) - right).norm() / right.norm()
            assert moved > 0.05, (name, float(moved))


def draw(model, condition, negative):
    generator = torch.Generator().manual_seed(3)
    return np.asarray(sample_images(model, condition, negative, [generator], steps=3, guidance_scale=5.0)[0])


@pytest.mark.parametrize(("prediction", "zero_snr"), [("epsilon", False), ("v_prediction", True)])
def test_pictures_are_diffusers_own(prediction, zero_snr, make_tiny_sdxl):
    folder = make_tiny_sdxl(prediction, zero_snr)
    model = load_base_model(folder)
    assert model.schedule.prediction_type == model.scheduler.config.prediction_type == prediction
    assert model.scheduler.config.timestep_spacing == ("trailing" if zero_snr else "leading")
    assert (float(model.schedule.snr(torch.tensor([999]))) < 1e-6) == zero_snr
    pipe, options = pipeline_of(folder, model), {"num_inference_steps": 3, "height": 32, "width": 32}
    for frame in (None, FRAME):
        sizes = {} if frame is None else {
            "original_size": FRAME.original, "crops_coords_top_left": FRAME.crop, "target_size": FRAME.size,
        }  # fmt: skip
        ours = draw(model, condition_of(model, frame=frame), condition_of(model, "", frame))
        theirs = pipe(
            PROMPT, negative_prompt="", guidance_scale=5.0, generator=torch.Generator().manual_seed(3), **options,
            **sizes,
        ).images[0]  # fmt: skip
        assert np.array_equal(ours, np.asarray(theirs)), frame
        assert ours.std() > 20


def test_a_model_of_zero_terminal_snr_predicts_no_noise(make_tiny_sdxl):
    with pytest.raises(ModelError, match="zero terminal SNR.*usually v_prediction"):
        load_base_model(make_tiny_sdxl("v_prediction", True), prediction_type="epsilon")


def test_both_parts_of_a_concept_train(model):
    """A loss on the prediction reaches the vectors of both encoders; the second one's also by the pooled vector."""
    prompt = model.tokenize("a photo of * face", {"*": 2})
    assert prompt.tokens["text_encoder"].slots == prompt.tokens["text_encoder_2"].slots
    vectors = {part: torch.zeros(2, width, requires_grad=True) for part, width in WIDTHS.items()}
    condition = model.encode(prompt, {"*": vectors}, FRAME)
    model.predict(random_latents(), T, condition).square().mean().backward()
    assert all(bool((vector.grad.norm(dim=1) > 0).all()) for vector in vectors.values())
    (pooled,) = torch.autograd.grad(
        model.encode(prompt, {"*": vectors}, FRAME).tensors["pooled"].square().sum(), [vectors["text_encoder_2"]]
    )
    assert pooled.norm() > 0
    with pytest.raises(InputError, match="no concept is loaded"):
        model.encode(prompt, {}, FRAME)


def test_gradient_checkpointing_changes_no_gradient(tiny_sdxl):
    gradients = []
    for checkpointing in (False, True):
        model = load_base_model(tiny_sdxl)
        if checkpointing:
            model.enable_gradient_checkpointing()
            assert all(encoder.training for encoder in model.text_encoders.values())
        vectors = {part: torch.ones(1, width, requires_grad=True) for part, width in WIDTHS.items()}
        condition = model.encode(model.tokenize("* face", {"*": 1}), {"*": vectors}, FRAME)
        model.predict(random_latents(), T, condition).square().mean().backward()
        gradients.append([vector.grad for vector in vectors.values()])
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-7) for a, b in zip(*gradients, strict=True))


def test_attention_is_read_at_the_level_asked_for(model):
    """Level 2 of latents 16x16 is 8x8, where the tiny UNet's down and up block have cross-attention."""
    with model.read_probabilities((16, 16), 2) as reading, torch.no_grad():
        model.predict(random_latents(), T, condition_of(model))
    probabilities = reading.probabilities()
    assert probabilities.shape == (1, 8, 8, 32)
    assert torch.allclose(probabilities.sum(dim=-1), torch.ones(1, 8, 8), atol=1e-5)
    with model.read_attention([{"face": [5]}]) as maps, torch.no_grad():
        model.predict(random_latents(), T, condition_of(model))
    assert maps.maps()[0]["face"].shape == (8, 8)


def test_half_precision_is_decoded_in_float32(tiny_sdxl, monkeypatch):
    model = load_base_model(tiny_sdxl, dtype=torch.float16)
    seen = []
    monkeypatch.setattr(sdxl, "decode_latents", lambda vae, latents: seen.append(vae.dtype) or [])
    model.decode(random_latents())
    model.vae.register_to_config(force_upcast=False)  # the fp16-fix, which does not overflow
    model.decode(random_latents())
    assert seen == [torch.float32, torch.float16] and model.vae.dtype == torch.float16


def changed_folder(tiny_sdxl, tmp_path, part, **config):
    folder = tmp_path / "model"
    shutil.copytree(tiny_sdxl, folder)
    path = folder / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


def test_folders_that_are_no_base_model(tiny_sdxl, tmp_path):
    folder = changed_folder(tiny_sdxl, tmp_path, "unet", in_channels=9)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    save_file(tensors | {"conv_in.weight": tensors["conv_in.weight"].repeat(1, 3, 1, 1)[:, :9].contiguous()}, weights)
    with pytest.raises(ModelError, match="9 input channels, an inpainting"):
        load_base_model(folder)
    shutil.rmtree(folder)
    with pytest.raises(ModelError, match="statistics per channel"):
        load_base_model(changed_folder(tiny_sdxl, tmp_path, "vae", latents_mean=[0, 0, 0, 0], latents_std=[1, 1, 1, 1]))
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline"))
    with pytest.raises(ModelError, match="is a StableDiffusionXLImg2ImgPipeline: only"):  # what the refiner's says
        load_base_model(folder)


# checkpoints in one file


def test_the_bundled_configs_are_of_the_true_size():
    """The numbers of parameters of stabilityai's SDXL base 1.0."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    folder = ASSETS / "sdxl"
    with torch.device("meta"):
        parts = {
            "unet": UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet")),
            "vae": AutoencoderKL.from_config(AutoencoderKL.load_config(folder / "vae")),
            "text_encoder": CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder")),
            "text_encoder_2": CLIPTextModelWithProjection(CLIPTextConfig.from_pretrained(folder / "text_encoder_2")),
        }
    assert {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()} == {
        "unet": 2_567_463_684, "vae": 83_653_863, "text_encoder": 123_060_480, "text_encoder_2": 694_659_840,
    }  # fmt: skip
    assert parts["vae"].config.scaling_factor == 0.13025 and parts["vae"].config.force_upcast


def test_kohyas_names_of_every_attention_layer_are_read():
    """kohya counts SDXL's blocks as the original code does: 70 transformer blocks of 2 attentions of 4 layers."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(ASSETS / "sdxl" / "unet"))
    ends = (".to_q", ".to_k", ".to_v", ".to_out.0", ".ff.net.0.proj", ".ff.net.2", ".proj_in", ".proj_out")
    paths = [path for path, _ in unet.named_modules() if path.endswith(ends)]
    assert len(paths) == 70 * 8 + 70 * 2 + 11 * 2  # and two layers of each feed-forward, and of each of 11 blocks
    for path in paths:
        flat = unet_name(path, 3, 2, attention_first=True).replace(".", "_")
        assert flat.startswith(("input_blocks_", "middle_block_", "output_blocks_"))
        for name in (flat, path.replace(".", "_")):
            assert parse_lora_key(f"lora_unet_{name}.lora_down.weight") == LoraKey("unet", path, "down"), name
    for number, part in ((1, "text_encoder"), (2, "text_encoder_2")):
        key = f"lora_te{number}_text_model_encoder_layers_11_mlp_fc1.alpha"
        assert parse_lora_key(key) == LoraKey(part, "encoder.layers.11.mlp.fc1", "alpha")


@pytest.fixture
def tiny_assets(tmp_path, monkeypatch):
    """The package's folder of configs with tiny ones in it, CLIP's vocabulary but the tiny widths."""
    models = tiny_sdxl_models(vocab_size=49408)
    shutil.copytree(ASSETS / "sdxl", tmp_path / "assets" / "sdxl")
    for part in WIDTHS:
        models[part].config.save_pretrained(tmp_path / "assets" / "sdxl" / part)
    for part in ("unet", "vae"):
        models[part].save_config(tmp_path / "assets" / "sdxl" / part)
    monkeypatch.setattr(sdxl, "ASSETS", tmp_path / "assets")
    monkeypatch.setattr(sdxl, "_WIDTH", sum(WIDTHS.values()))
    # the first input block with attention: one layer a block here, two in the true model
    monkeypatch.setattr(sdxl, "_K_PROJECTION", sdxl._K_PROJECTION.replace("input_blocks.4", "input_blocks.3"))
    return models


def test_a_checkpoint_is_the_model_it_was_written_from(tiny_assets, tmp_path):
    path = tmp_path / "model.safetensors"
    write_xl_checkpoint(tiny_assets, path)
    model = load_base_model(path)
    for name, part in model.parts.items():
        ours, reference = part.state_dict(), tiny_assets[name].state_dict()
        assert set(ours) == set(reference)
        assert all(torch.equal(ours[key], reference[key]) for key in reference), name
    assert (model.name, model.schedule.prediction_type, model.model_name) == ("sdxl", "epsilon", "model")
    assert [t.pad_token_id for t in model.tokenizers.values()] == [49407, 0]
    # NoobAI's kind says so by keys; a given type wins
    write_xl_checkpoint(tiny_assets, path, extra={"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)})
    model = load_base_model(path)
    assert model.schedule.prediction_type == "v_prediction" and float(model.schedule.alphas_cumprod[-1]) == 0
    assert model.scheduler.config.timestep_spacing == "trailing"
    with pytest.raises(ModelError, match="zero terminal SNR"):
        load_base_model(path, prediction_type="epsilon")


def test_checkpoints_that_are_no_base_model(tiny_assets, tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    first = tiny_assets["unet"].conv_in.weight
    key = "model.diffusion_model.input_blocks.0.0.weight"
    write_xl_checkpoint(tiny_assets, path, extra={key: first.repeat(1, 3, 1, 1)[:, :9].contiguous()})
    with pytest.raises(ModelError, match="9 input channels, an inpainting"):
        load_base_model(path)
    tensors = {key: torch.zeros(1, 4, 1, 1), sdxl._K_PROJECTION: torch.zeros(2, 1280)}
    save_file(tensors, path)
    with pytest.raises(ModelError, match="is SDXL's refiner.*give a base model"):
        load_base_model(path)
    save_file(tensors | {sdxl._K_PROJECTION: torch.zeros(2, sum(WIDTHS.values()))}, path)
    with pytest.raises(ModelError, match="cannot be loaded as SDXL") as error:  # a UNet without text encoders
        load_base_model(path)
    assert "\n" not in str(error.value)


def test_a_frame_of_another_crop_is_another_condition(model):
    first, second = condition_of(model).tensors["time_ids"], condition_of(model, frame=replace(FRAME, crop=(0, 0)))
    assert first.tolist() == [[64, 80, 10, 20, 32, 32]] and first.dtype == torch.int64
    assert second.tensors["time_ids"].tolist() == [[64, 80, 0, 0, 32, 32]]
    assert (
        Condition({"states": torch.zeros(1), "time_ids": first}).to(dtype=torch.bfloat16).tensors["time_ids"] is first
    )
