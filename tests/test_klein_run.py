"""FLUX.2 klein through the command line: both stages, the files, and the pictures of whoever loads them."""

import re

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline
from PIL import Image
from runs import small_values
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_train_script import command_line
from tinyqwen import WIDTH

import infer_singleinsert
import train_singleinsert
from singleinsert.adapters.base import AdapterOptions
from singleinsert.adapters.lora import LoraAdapters
from singleinsert.artifact import Artifact
from singleinsert.config import load_settings
from singleinsert.errors import ConfigError, InputError
from singleinsert.export import export
from singleinsert.inference.pipeline import ConceptPipeline, Picture
from singleinsert.locate import load_concept
from singleinsert.models.loading import load_base_model
from singleinsert.models.sampling import sample_images
from singleinsert.training.stages import stages_of

SEED, STEPS, GUIDANCE = 3, 3, 4.0
PROMPT = "a photo of * face in the snow"
TARGETS = load_settings("klein", None, {}).adapter.denoiser_targets
DOUBLE, SINGLE = 8, 2  # layers that the preset names in each of the tiny model's 2 double and 3 single blocks


@pytest.fixture(scope="module")
def trained(tiny_klein, tmp_path_factory):
    """The output folder of a run of two steps a stage, at rates that show, two vectors, alpha four times the rank: a
    factor that no rounding can move."""
    folder = tmp_path_factory.mktemp("klein")
    values = small_values(
        folder, tiny_klein, stage1__steps=2, stage2__steps=2, stage1__learning_rate=3e-2, stage2__learning_rate=3e-2,
        concept__num_vectors=2, adapter__network_dim=2, adapter__network_alpha=8.0, sample__prompts=["{concept}"],
        save__save_precision="fp32", save__formats=["webui", "diffusers"], run__output_name="zork",
        adapter__denoiser_targets=list(TARGETS), stage2__trains=["concept", "denoiser"],
    )  # fmt: skip
    assert train_singleinsert.main(command_line(values)) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def artifact(trained):
    return Artifact.load(trained / "zork_artifact.safetensors")


@pytest.fixture(scope="module")
def wanted(tiny_klein, artifact):
    """The picture of the model as training leaves it: our adapters in it, the vectors at the lookup."""
    model = load_base_model(tiny_klein)
    adapters = LoraAdapters.inject(
        model.adapted_parts, AdapterOptions({"transformer": TARGETS, "text_encoder": ()}, 2, 8.0), torch.Generator()
    )
    with torch.no_grad():
        for key, parameter in adapters.named_parameters():
            part, path = key.rsplit(".", 1)[0].split(".", 1)
            weights = artifact.lora[part][path]
            parameter.copy_(weights.down if key.endswith(".down") else weights.up)
        condition = model.encode(model.tokenize(PROMPT, {"*": 2}), {"*": artifact.concept.embeddings})
        negative = model.encode(model.tokenize("", {}), {})
    options = {"steps": STEPS, "guidance_scale": GUIDANCE, "height": 32, "width": 32}
    return np.asarray(sample_images(model, condition, negative, [torch.Generator().manual_seed(SEED)], **options)[0])


@pytest.fixture(scope="module")
def pipe(tiny_klein):
    pipe = Flux2KleinPipeline.from_pretrained(tiny_klein)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def drawn_by(pipe, embedding, base):
    """diffusers' picture. It has no loader for such embeddings: the states are those of the file's vectors."""
    model = load_base_model(base)
    states = model.encode(model.tokenize(PROMPT, {"*": 2}), {"*": {"text_encoder": embedding}}).states
    generator = torch.Generator().manual_seed(SEED)
    asked = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "height": 32, "width": 32}
    return np.asarray(pipe(prompt_embeds=states, generator=generator, **asked).images[0])


def test_every_layer_that_the_preset_names_has_learnt(artifact):
    assert artifact.widths == {"text_encoder": WIDTH} and artifact.num_vectors == 2
    assert (artifact.base.family, artifact.base.prediction_type) == ("flux2-klein-4b", "flow")
    assert {part: len(layers) for part, layers in artifact.lora.items()} == {"transformer": 2 * DOUBLE + 3 * SINGLE}
    assert all(weights.up.any() and weights.alpha == 8.0 for weights in artifact.lora["transformer"].values())


@pytest.mark.parametrize("file", ["zork_lora.safetensors", "zork_diffusers"])
def test_diffusers_draws_the_trained_models_picture(file, trained, wanted, tiny_klein, pipe):
    name = "zork.safetensors" if file.endswith(".safetensors") else "zork_diffusers/learned_embeds.safetensors"
    vectors = load_file(trained / name)
    assert set(vectors) == {"qwen3_4b"}
    plain = drawn_by(pipe, vectors["qwen3_4b"], tiny_klein)
    pipe.load_lora_weights(str(trained / file))
    try:
        assert np.array_equal(drawn_by(pipe, vectors["qwen3_4b"], tiny_klein), wanted)
    finally:
        pipe.unload_lora_weights()
    assert not np.array_equal(plain, wanted)  # the file is not of the kind that is passed over without a word


def flat(tensors, prefix):
    """The same weights in a layout with flat names."""
    parts = {"lora_A.weight": "lora_down.weight", "lora_B.weight": "lora_up.weight"}
    found = {}
    for key, tensor in tensors.items():
        stem, end = key.removeprefix("transformer.").split(".lora_")
        found[f"{prefix}{stem.replace('.', '_')}.{parts['lora_' + end]}"] = tensor
    return found


@pytest.mark.parametrize("prefix", ["lora_unet_", "lora_transformer_"])
def test_layouts_that_are_passed_over_in_silence_are_not_ours(prefix, trained, tiny_klein, pipe):
    """The same weights under flat names: diffusers raises nothing, and draws the picture without them."""
    embedding = load_file(trained / "zork.safetensors")["qwen3_4b"]
    plain = drawn_by(pipe, embedding, tiny_klein)
    ours = load_file(trained / "zork_lora.safetensors")
    assert not any(key.startswith("lora_") for key in ours)
    try:
        pipe.load_lora_weights(flat(ours, prefix))
    except (ValueError, KeyError):
        return  # a newer diffusers says so
    try:
        assert np.array_equal(drawn_by(pipe, embedding, tiny_klein), plain)
    finally:
        pipe.unload_lora_weights()


@pytest.mark.parametrize("name", ["zork_artifact.safetensors", "zork.safetensors", "zork_diffusers"])
def test_our_own_loader_draws_it_from_every_file(name, trained, wanted, tiny_klein):
    model = load_base_model(tiny_klein)
    before = {key: tensor.clone() for part in model.parts.values() for key, tensor in part.state_dict().items()}
    pipeline = ConceptPipeline(model, [load_concept(trained / name)])
    picture = Picture(PROMPT, seed=SEED, steps=STEPS, guidance_scale=GUIDANCE, width=32, height=32)
    assert np.array_equal(np.asarray(next(pipeline.render([picture]))), wanted)
    pipeline.set_weights([0.0])
    assert not np.array_equal(np.asarray(next(pipeline.render([picture]))), wanted)
    pipeline.close()
    after = {key: tensor for part in model.parts.values() for key, tensor in part.state_dict().items()}
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


def test_files_of_another_trainer_are_known_by_their_keys(trained, artifact, tmp_path):
    """Without any header: the embedding's key tells the model, and the LoRA's alpha is its rank."""
    for name in ("zork", "zork_lora"):
        save_file(load_file(trained / f"{name}.safetensors"), tmp_path / f"{name}.safetensors")
    back = load_concept(tmp_path / "zork.safetensors")
    assert (back.base.family, back.base.prediction_type) == ("flux2-klein-4b", "flow")
    for path, weights in artifact.lora["transformer"].items():
        assert torch.equal(back.lora["transformer"][path].baked().up, weights.baked().up)


def infer(*words):
    return infer_singleinsert.main(
        ["--prompt", PROMPT, "--seed", str(SEED), "--num_inference_steps", str(STEPS), "--guidance_scale",
         str(GUIDANCE), *map(str, words)]
    )  # fmt: skip


def test_the_inference_script_draws_it_and_the_distilled_sibling_takes_it(
    trained, wanted, tiny_distilled, tmp_path, capsys
):
    assert infer("--concept", trained, "--output_dir", tmp_path / "base") == 0
    assert np.array_equal(np.asarray(Image.open(next((tmp_path / "base").glob("*.png")))), wanted)
    sibling = ("--pretrained_model_name_or_path", tiny_distilled)
    assert infer("--concept", trained, *sibling, "--output_dir", tmp_path / "distilled") == 0
    fast = np.asarray(Image.open(next((tmp_path / "distilled").glob("*.png"))))
    assert not np.array_equal(fast, wanted)  # it takes no guidance
    capsys.readouterr()
    for words, message in (
        (["--scheduler", "dpmpp_2m"], "cannot sample from a flow-matching model"),
        (["--attention_maps"], "attention maps cannot be read"),
    ):
        assert infer("--concept", trained, "--output_dir", tmp_path / "no", *words) == 2
        error = capsys.readouterr().err.strip().splitlines()
        assert message in error[-1], error


def test_layout_of_the_files(trained):
    with safe_open(trained / "zork_lora.safetensors", "pt") as file:
        keys, header = set(file.keys()), file.metadata()
    assert len(keys) == 2 * (2 * DOUBLE + 3 * SINGLE) and not any("alpha" in key for key in keys)
    assert "transformer.transformer_blocks.0.attn.to_out.0.lora_A.weight" in keys
    assert "transformer.single_transformer_blocks.2.attn.to_out.lora_B.weight" in keys
    assert (header["ss_base_model_version"], header["ss_network_alpha"]) == ("flux2_klein_4b", "2.0")
    assert header["modelspec.architecture"] == "Flux.2-klein-4b/lora"
    with safe_open(trained / "zork.safetensors", "pt") as file:
        assert tuple(file.get_tensor("qwen3_4b").shape) == (2, WIDTH)


def test_there_is_no_bundle_of_it(artifact, tmp_path):
    with pytest.raises(InputError, match="A1111, for which bundles are, has no flux2-klein-4b"):
        export(artifact, tmp_path, formats=["bundle"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "distilled"}, "distilled to a few steps.*train on its base model"),
        ({"stage2__trains": ["concept", "denoiser", "text"]}, "stage2.trains has text, of which a flux2-klein-4b"),
        ({"stage1__objective": "break_a_scene"}, "whose cross-attention can be read"),
        ({"model__prediction_type": "epsilon"}, "flow's velocity"),
        ({"model__timestep_shift": 3.0}, "model.timestep_shift 3 with stage1.loss_space x0"),
    ],
    ids=["distilled", "text", "attention", "epsilon", "shift"],
)
def test_what_it_cannot_is_said_in_a_line_before_anything_is_written(
    changes, message, tiny_klein, tiny_distilled, tmp_path, capsys
):
    base = tiny_distilled if changes.pop("model", "") else tiny_klein
    values = small_values(tmp_path, base, **({"stage2__trains": ["denoiser"]} | changes))
    assert train_singleinsert.main(command_line(values)) != 0
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1, error
    assert re.search(message, error[0]), error
    assert not (tmp_path / "out" / "pic_artifact.safetensors").exists()


def test_a_larger_shift_goes_with_the_velocitys_loss_and_not_with_tables(tiny_klein, tiny_sd, tmp_path):
    space = {"stage1.loss_space": "v", "stage2.loss_space": "v", "model.timestep_shift": 3.0}
    assert len(stages_of(load_settings("klein", None, space))) == 2
    with pytest.raises(ConfigError, match="its own table"):
        load_base_model(tiny_sd).schedule.with_shift(2.0)
    schedule = load_base_model(tiny_klein).schedule
    s = schedule.with_shift(3.0).sigmas
    assert torch.allclose((1 - s) / s, 2 / 3 * (1 - schedule.sigmas) / schedule.sigmas, atol=2e-3)
