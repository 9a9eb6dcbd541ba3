"""Stable Diffusion XL through the command line: both stages, the files, and the pictures of whoever loads them."""

import re

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from runs import small_values, values_that_show
from safetensors import safe_open
from safetensors.torch import load_file
from test_train_script import command_line
from tinyconcepts import picture_as_trained
from tinysdxl import WIDTHS

import infer_singleinsert
import train_singleinsert
from singleinsert.artifact import Artifact
from singleinsert.export import export
from singleinsert.inference.pipeline import ConceptPipeline, Picture
from singleinsert.locate import load_concept
from singleinsert.models.loading import load_base_model

SEED, STEPS, GUIDANCE = 3, 3, 5.0
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj")


@pytest.fixture(scope="module")
def trained(tiny_sdxl, tmp_path_factory):
    """The output folder of a run of two steps a stage, at rates that show, two vectors, alpha three times the rank."""
    folder = tmp_path_factory.mktemp("sdxl")
    formats = ["webui", "diffusers", "bundle"]
    values = values_that_show(folder, tiny_sdxl, adapter__network_alpha=6.0, save__formats=formats)
    assert train_singleinsert.main(command_line(values)) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def artifact(trained):
    return Artifact.load(trained / "zork_artifact.safetensors")


def as_trained(folder, artifact):
    return np.asarray(picture_as_trained(folder, artifact, 6.0, TEXT, seed=SEED, steps=STEPS, guidance_scale=GUIDANCE))


def pipeline_of(folder):
    pipe = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    pipe.scheduler = type(load_base_model(folder).scheduler).from_config(load_base_model(folder).scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def load_embedding(pipe, path, token="zork"):
    """As docs/clients.md tells: one call for each text encoder."""
    both = load_file(path)
    pipe.load_textual_inversion(both["clip_l"], token=token, text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer)
    pipe.load_textual_inversion(
        both["clip_g"], token=token, text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2
    )


def drawn_by(pipe, prompt="zork face in the snow"):
    generator = torch.Generator().manual_seed(SEED)
    pictures = pipe(
        prompt, negative_prompt="", generator=generator, num_inference_steps=STEPS, guidance_scale=GUIDANCE, height=32,
        width=32,
    )  # fmt: skip
    return np.asarray(pictures.images[0])


def test_every_part_has_learnt(artifact):
    """All but the first text encoder's last layer, whose output SDXL does not use.

    The UNet has 1 (down) + 1 (middle) + 2 (up) attention blocks of 2 layers of 2 attentions of 4 projections: 64.
    """
    assert artifact.widths == WIDTHS and artifact.num_vectors == 2 and artifact.base.family == "sdxl"
    assert {part: len(layers) for part, layers in artifact.lora.items()} == {
        "unet": 64, "text_encoder": 3 * 4, "text_encoder_2": 3 * 4,
    }  # fmt: skip
    idle = {f"{part}.{path}" for part, layers in artifact.lora.items() for path, w in layers.items() if not w.up.any()}
    assert idle == {f"text_encoder.encoder.layers.2.self_attn.{name}" for name in TEXT}


def test_diffusers_draws_the_trained_models_picture(trained, artifact, tiny_sdxl):
    wanted = as_trained(tiny_sdxl, artifact)
    pipe = pipeline_of(tiny_sdxl)
    plain = drawn_by(pipe, "face in the snow")
    load_embedding(pipe, trained / "zork.safetensors")
    embedded = drawn_by(pipe)
    pipe.load_lora_weights(str(trained / "zork_lora.safetensors"))
    assert np.array_equal(drawn_by(pipe), wanted)
    # each file does something: neither is of the kind that is passed over without a word
    assert not np.array_equal(embedded, plain) and not np.array_equal(embedded, wanted)
    # peft's layout, alpha multiplied into the weights: rounded in another place
    pipe = pipeline_of(tiny_sdxl)
    load_embedding(pipe, trained / "zork_diffusers/learned_embeds.safetensors")
    pipe.load_lora_weights(str(trained / "zork_diffusers"))
    assert np.abs(drawn_by(pipe).astype(int) - wanted).max() <= 1


def test_the_old_rule_for_the_end_of_a_text_is_set_right(trained, artifact, tiny_sdxl):
    """The true model's config says eos_token_id 2: transformers then takes the largest id for the text's end, which is
    an added token's. docs/clients.md tells what to set."""
    pipe = pipeline_of(tiny_sdxl)
    load_embedding(pipe, trained / "zork.safetensors")
    pipe.load_lora_weights(str(trained / "zork_lora.safetensors"))
    pipe.text_encoder_2.text_model.eos_token_id = 2
    assert not np.array_equal(drawn_by(pipe), as_trained(tiny_sdxl, artifact))
    pipe.text_encoder_2.text_model.eos_token_id = pipe.tokenizer_2.eos_token_id
    assert np.array_equal(drawn_by(pipe), as_trained(tiny_sdxl, artifact))


@pytest.mark.parametrize(
    "name", ["zork_artifact.safetensors", "zork.safetensors", "zork_diffusers", "zork_bundle.safetensors"]
)
def test_our_own_loader_draws_it_from_every_file(name, trained, artifact, tiny_sdxl):
    wanted = as_trained(tiny_sdxl, artifact)
    model = load_base_model(tiny_sdxl)
    before = {key: tensor.clone() for part in model.parts.values() for key, tensor in part.state_dict().items()}
    pipeline = ConceptPipeline(model, [load_concept(trained / name)])
    picture = Picture("* face in the snow", seed=SEED, steps=STEPS, guidance_scale=GUIDANCE)
    (drawn,) = pipeline.render([picture])
    assert np.abs(np.asarray(drawn).astype(int) - wanted).max() <= 1  # its LoRA is folded into the weights
    pipeline.set_weights([0.0])
    (without,) = pipeline.render([picture])
    assert not np.array_equal(np.asarray(without), wanted)
    pipeline.close()
    after = {key: tensor for part in model.parts.values() for key, tensor in part.state_dict().items()}
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


def test_the_inference_script_draws_it(trained, artifact, tiny_sdxl, tmp_path):
    code = infer_singleinsert.main(
        ["--concept", str(trained), "--prompt", "* face in the snow", "--seed", str(SEED), "--num_inference_steps",
         str(STEPS), "--guidance_scale", str(GUIDANCE), "--output_dir", str(tmp_path), "--attention_maps"]
    )  # fmt: skip
    assert code == 0
    pictures = sorted(path for path in tmp_path.rglob("*.png") if "attention" not in path.name)
    difference = np.asarray(Image.open(pictures[0])).astype(int) - as_trained(tiny_sdxl, artifact)
    assert np.abs(difference).max() <= 1


def test_layout_of_the_files(trained, artifact):
    embedding = load_file(trained / "zork.safetensors")
    assert {key: tuple(tensor.shape) for key, tensor in embedding.items()} == {"clip_l": (2, 32), "clip_g": (2, 48)}
    with safe_open(trained / "zork_lora.safetensors", "pt") as file:
        keys, header = set(file.keys()), file.metadata()
    stems = {key.split(".")[0] for key in keys}
    assert len(keys) == 3 * len(stems) and len(stems) == 64 + 12 + 12
    assert "lora_unet_down_blocks_1_attentions_0_transformer_blocks_1_attn2_to_out_0" in stems
    for number in (1, 2):
        assert f"lora_te{number}_text_model_encoder_layers_2_self_attn_out_proj" in stems
    assert not any(stem.startswith("lora_te_") for stem in stems)
    assert header["ss_base_model_version"] == "sdxl_base_v1-0"
    assert header["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert "ss_v2" not in header or header["ss_v2"] == "False"
    with safe_open(trained / "zork_bundle.safetensors", "pt") as file:
        assert {"bundle_emb.zork.clip_l", "bundle_emb.zork.clip_g"} <= set(file.keys())


ATTENTION = {
    "stage1__objective": "break_a_scene", "stage2__objective": "break_a_scene",
    "stage1__attention_loss": "cross_entropy", "stage2__attention_loss": "cross_entropy",
    "run__gradient_checkpointing": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [({}, ["--low_vram"]), ({"adapter__type": "full", "run__mixed_precision": "bf16"}, []), (ATTENTION, [])],
    ids=["low_vram", "full", "attention"],
)
def test_other_ways_to_train_work_on_it_too(changes, words, tiny_sdxl, tmp_path):
    """Encoders in main memory; weights replaced, in a class of the same name; Break-A-Scene's attention losses."""
    values = small_values(
        tmp_path, tiny_sdxl, stage1__steps=1, stage2__steps=1, stage1__batch_size=2, stage2__batch_size=2,
        run__output_name="zork", sample__prompts=["{concept}"], **changes,
    )  # fmt: skip
    assert train_singleinsert.main([*command_line(values), *words]) == 0
    artifact = Artifact.load(tmp_path / "out" / "zork_artifact.safetensors")
    assert all({p: t.shape[1] for p, t in c.embeddings.items()} == WIDTHS for c in artifact.concepts)
    assert set(artifact.lora) == {"unet", *WIDTHS}


def test_a_concept_of_another_family_is_refused_in_a_line(trained, tiny_sd, tiny_sdxl, tmp_path, capsys):
    from tinyconcepts import make_concept

    make_concept(tiny_sd, "small").save(tmp_path / "small_artifact.safetensors")
    for concept, base, message in (
        (trained, tiny_sd, "vectors of width 32 and 48.* takes 32"),
        (tmp_path / "small_artifact.safetensors", tiny_sdxl, "vectors of width 32.* takes 32 and 48"),
    ):
        code = infer_singleinsert.main(
            ["--concept", str(concept), "--prompt", "*", "--pretrained_model_name_or_path", str(base)]
        )
        error = capsys.readouterr().err.strip()
        assert code == 2 and len(error.splitlines()) == 1

        assert re.search(message, error), error


def test_half_precision_files_are_read_back(artifact, trained, tmp_path):
    export(artifact, tmp_path, precision="fp16")
    back, rounded = load_concept(tmp_path), artifact.rounded(torch.float16)
    assert all(torch.equal(back.concept.embeddings[part], rounded.concept.embeddings[part]) for part in WIDTHS)
    assert {part: set(layers) for part, layers in back.lora.items()} == {p: set(x) for p, x in artifact.lora.items()}
    for part, layers in rounded.lora.items():
        for path, weights in layers.items():
            assert torch.equal(back.lora[part][path].up, weights.up) and back.lora[part][path].alpha == 6.0
