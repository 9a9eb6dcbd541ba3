"""FLUX.2 klein and Z-Image through the command line: both stages, the files, the pictures of whoever loads them."""

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline, ZImagePipeline
from evaluations import arguments
from PIL import Image
from runs import draw_subject, small_values, values_that_show
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_train_script import command_line
from tinyqwen import WIDTH

import infer_singleinsert
import train_singleinsert
from singleinsert import check
from singleinsert.adapters.base import ATTENTION, AdapterOptions
from singleinsert.adapters.lora import LoraAdapters
from singleinsert.artifact import Artifact
from singleinsert.config import load_settings
from singleinsert.errors import InputError
from singleinsert.evaluate.__main__ import main as evaluate
from singleinsert.evaluate.results import Results
from singleinsert.export import export
from singleinsert.inference.blended import Blend, edit_pictures
from singleinsert.inference.canvas import Region, prepare_canvas
from singleinsert.inference.pipeline import ConceptPipeline, Picture
from singleinsert.locate import load_concept
from singleinsert.models.loading import load_base_model
from singleinsert.models.sampling import sample_images

SEED, STEPS, GUIDANCE = 3, 3, 4.0
PROMPT = "a photo of * face in the snow"


@dataclass(frozen=True)
class Case:
    """A family: its preset, its tiny model's fixture, diffusers' pipeline, and what its files say."""

    preset: str
    base: str
    pipeline: Any
    name: str
    layers: int
    prefix: str
    key: str
    version: str
    architecture: str
    ignored: tuple[str, ...]

    @property
    def targets(self) -> tuple[str, ...]:
        return load_settings(self.preset, None, {}).adapter.denoiser_targets or ATTENTION["denoiser"]


CASES = (
    # 8 layers of each of 2 double blocks, 2 of each of 3 single ones
    Case("klein", "tiny_klein", Flux2KleinPipeline, "flux2-klein-4b", 2 * 8 + 3 * 2, "transformer.",
         "transformer_blocks.0.attn.to_out.0", "flux2_klein_4b", "Flux.2-klein-4b",
         ("lora_unet_", "lora_transformer_")),
    # 4 layers of each of 3 blocks and of 2 refiners; of its layouts diffusers passes over none in silence
    Case("zimage", "tiny_zimage", ZImagePipeline, "z-image", 5 * 4, "diffusion_model.",
         "layers.2.attention.to_out.0", "z_image", "Z-Image", ()),
)  # fmt: skip


@pytest.fixture(scope="module", params=CASES, ids=[case.preset for case in CASES])
def case(request):
    return request.param


@pytest.fixture(scope="module")
def base(case, request):
    return request.getfixturevalue(case.base)


@pytest.fixture(scope="module")
def trained(case, base, tmp_path_factory):
    """The output folder of a run of two steps a stage, at rates that show, two vectors, alpha four times the rank: a
    factor that no rounding can move."""
    folder = tmp_path_factory.mktemp(case.preset)
    values = values_that_show(
        folder, base, adapter__network_alpha=8.0, save__formats=["webui", "diffusers"],
        adapter__denoiser_targets=list(case.targets), stage2__trains=["concept", "denoiser"],
    )  # fmt: skip
    assert train_singleinsert.main(command_line(values)) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def artifact(trained):
    return Artifact.load(trained / "zork_artifact.safetensors")


@pytest.fixture(scope="module")
def wanted(case, base, artifact):
    """The picture of the model as training leaves it: our adapters in it, the vectors at the lookup."""
    model = load_base_model(base)
    adapters = LoraAdapters.inject(
        model.adapted_parts,
        AdapterOptions({"transformer": case.targets, "text_encoder": ()}, 2, 8.0),
        torch.Generator(),
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
def pipe(case, base):
    pipe = case.pipeline.from_pretrained(base)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def drawn_by(pipe, embedding, base):
    """diffusers' picture. It has no loader for such embeddings: the states are those of the file's vectors."""
    model = load_base_model(base)
    condition = model.encode(model.tokenize(PROMPT, {"*": 2}), {"*": {"text_encoder": embedding}})
    told = model.pipeline_conditions(condition, model.encode(model.tokenize("", {}), {}))
    generator, guidance = torch.Generator().manual_seed(SEED), model.pipeline_guidance(GUIDANCE)
    asked = {"num_inference_steps": STEPS, "guidance_scale": guidance, "height": 32, "width": 32}
    return np.asarray(pipe(**told, generator=generator, **asked).images[0])


def test_every_layer_that_the_preset_names_has_learnt(case, artifact):
    assert artifact.widths == {"text_encoder": WIDTH} and artifact.num_vectors == 2
    assert (artifact.base.family, artifact.base.prediction_type) == (case.name, "flow")
    assert {part: len(layers) for part, layers in artifact.lora.items()} == {"transformer": case.layers}
    assert all(weights.up.any() and weights.alpha == 8.0 for weights in artifact.lora["transformer"].values())


@pytest.mark.parametrize("file", ["zork_lora.safetensors", "zork_diffusers"])
def test_diffusers_draws_the_trained_models_picture(file, trained, wanted, base, pipe):
    name = "zork.safetensors" if file.endswith(".safetensors") else "zork_diffusers/learned_embeds.safetensors"
    vectors = load_file(trained / name)
    assert set(vectors) == {"qwen3_4b"}
    plain = drawn_by(pipe, vectors["qwen3_4b"], base)
    pipe.load_lora_weights(str(trained / file))
    try:
        assert np.array_equal(drawn_by(pipe, vectors["qwen3_4b"], base), wanted)
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


def test_layouts_that_are_passed_over_in_silence_are_not_ours(case, trained, base, pipe):
    """The same weights under flat names: diffusers raises nothing, and draws the picture without them."""
    embedding = load_file(trained / "zork.safetensors")["qwen3_4b"]
    plain = drawn_by(pipe, embedding, base)
    ours = load_file(trained / "zork_lora.safetensors")
    assert all(key.startswith(case.prefix) and "alpha" not in key for key in ours)
    for prefix in case.ignored:
        try:
            pipe.load_lora_weights(flat(ours, prefix))
        except (ValueError, KeyError):
            continue  # a newer diffusers says so
        try:
            assert np.array_equal(drawn_by(pipe, embedding, base), plain)
        finally:
            pipe.unload_lora_weights()


def same(picture, wanted):
    """But for a level here and there: drawing folds the LoRA into the weights, which rounds in another order."""
    difference = np.abs(picture.astype(int) - wanted)
    return difference.max() <= 1 and (difference > 0).mean() < 0.02


@pytest.mark.parametrize("name", ["zork_artifact.safetensors", "zork.safetensors", "zork_diffusers"])
def test_our_own_loader_draws_it_from_every_file(name, trained, wanted, base):
    model = load_base_model(base)
    before = {key: tensor.clone() for part in model.parts.values() for key, tensor in part.state_dict().items()}
    pipeline = ConceptPipeline(model, [load_concept(trained / name)])
    picture = Picture(PROMPT, seed=SEED, steps=STEPS, guidance_scale=GUIDANCE, width=32, height=32)
    assert same(np.asarray(next(pipeline.render([picture]))), wanted)
    pipeline.set_weights([0.0])
    assert not np.array_equal(np.asarray(next(pipeline.render([picture]))), wanted)
    pipeline.close()
    after = {key: tensor for part in model.parts.values() for key, tensor in part.state_dict().items()}
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


def test_files_of_another_trainer_are_known_by_their_keys(case, trained, artifact, tmp_path):
    """Without any header: the embedding's key and the LoRA's layers tell the model, and alpha is the rank."""
    for name in ("zork", "zork_lora"):
        save_file(load_file(trained / f"{name}.safetensors"), tmp_path / f"{name}.safetensors")
    back = load_concept(tmp_path / "zork.safetensors")
    assert (back.base.family, back.base.prediction_type) == (case.name, "flow")
    for path, weights in artifact.lora["transformer"].items():
        assert torch.equal(back.lora["transformer"][path].baked().up, weights.baked().up)


def infer(*words):
    return infer_singleinsert.main(
        ["--prompt", PROMPT, "--seed", str(SEED), "--num_inference_steps", str(STEPS), "--guidance_scale",
         str(GUIDANCE), *map(str, words)]
    )  # fmt: skip


def test_the_inference_script_draws_it(trained, wanted, tmp_path, capsys):
    assert infer("--concept", trained, "--output_dir", tmp_path / "base") == 0
    assert same(np.asarray(Image.open(next((tmp_path / "base").glob("*.png")))), wanted)
    capsys.readouterr()
    assert infer("--concept", trained, "--output_dir", tmp_path / "no", "--scheduler", "dpmpp_2m") == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert "cannot sample from a flow-matching model" in error[-1], error


def test_maps_of_where_the_concept_acts(trained, wanted, tmp_path):
    assert infer("--concept", trained, "--output_dir", tmp_path, "--attention_maps") == 0
    assert same(np.asarray(Image.open(next(tmp_path.glob("*3.png")))), wanted)
    strip = np.asarray(Image.open(next(tmp_path.glob("*-attention.png"))))
    assert strip.std() > 10


def test_a_photo_is_edited_within_its_mask(trained, tmp_path):
    photo, mask = draw_subject(tmp_path)
    words = ("--edit", photo, "--edit_mask", mask, "--edit_strength", "0.7", "--width", "32", "--height", "32")
    assert infer("--concept", trained, "--output_dir", tmp_path / "new", *words[:6]) == 0
    before, after = (np.asarray(Image.open(path).convert("RGB")) for path in (photo, next(tmp_path.glob("new/0*.png"))))
    inside = np.asarray(Image.open(mask)) > 0
    assert np.array_equal(after[~inside], before[~inside]) and not np.array_equal(after[inside], before[inside])


class Knowing:
    """In the transformer's place: it knows the photo (c, h, w) and the noise, and says the true velocity."""

    def __init__(self, model, canvas, seed):
        self.model, shape = model, canvas.latents.shape[1:]
        self.velocity = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) - canvas.latents[0]
        self.levels = []

    def __call__(self, x=None, t=None, captions=None, *, hidden_states=None, timestep=None, **rest):
        if x is None:
            self.levels.append(float(timestep[0]))
            return (self.model.packed(self.velocity[None]).expand_as(hidden_states),)
        self.levels.append(1 - float(t[0]))
        return ([-self.velocity.unsqueeze(1)] * len(x),)


@pytest.mark.parametrize("strength", [0.7, 1.0])
def test_the_photo_comes_back_at_the_level_that_the_latents_have(strength, base, pipe, monkeypatch):
    """Each step then leads exactly to the photo at the next level, so that blending must change nothing; and the levels
    are those that the pipeline itself has at that size."""
    model = load_base_model(base)
    picture = Picture("a cat", seed=SEED, steps=4, guidance_scale=GUIDANCE)
    canvas = prepare_canvas(model, Image.open(draw_subject(Path(str(base)).parent / "photo")[0]).convert("RGB"),
                            [Region(Image.new("L", (80, 64), 255), "a cat")], resolution=48)  # fmt: skip
    knowing, pairs, call = Knowing(model, canvas, SEED), [], Blend.__call__
    monkeypatch.setattr(model.transformer, "forward", knowing)

    def record(self, pipeline, step, timestep, tensors):
        out = call(self, pipeline, step, timestep, tensors)
        pairs.append((tensors["latents"].clone(), out["latents"].clone()))
        return out

    monkeypatch.setattr(Blend, "__call__", record)
    kept = replace(canvas, masks=((torch.zeros_like(canvas.masks[0][0]),),))
    list(edit_pictures(ConceptPipeline(model), kept, [picture], strength=strength))
    assert len(pairs) == round(4 * strength)
    for before, after in pairs:
        assert torch.allclose(before.float(), after.float(), atol=2e-5)
    pipe.transformer.forward, real = Knowing(model, canvas, SEED), pipe.transformer.forward
    try:
        states = model.encode(model.tokenize("a cat", {}), {})
        told = model.pipeline_conditions(states, states)
        pipe(**told, num_inference_steps=4, guidance_scale=0.0, width=canvas.size[0], height=canvas.size[1])
        wanted = pipe.transformer.forward.levels
    finally:
        pipe.transformer.forward = real
    assert list(dict.fromkeys(knowing.levels)) == pytest.approx(wanted[-len(pairs) :])


def test_what_a_finished_concept_has_taken_with_it_is_looked_at(trained, capsys):
    assert check.main([str(trained), "--num_images", "1"]) == 0
    assert "comes back" in capsys.readouterr().out


def test_it_is_evaluated(case, base, tmp_path):
    """Trained and drawn by the runner, with attention maps in the report."""
    more = ("--rows", "first", "--only", "a", "--prompt_limit", "1")
    words = arguments(tmp_path, base, *more, concepts=("a",))
    words[words.index("--preset") + 1] = f"mini+{case.preset}"
    assert evaluate(words) == 0
    results = Results.load(tmp_path / "out")
    assert len(results.samples) == 2 and results.facts["sampling"]["scheduler"].endswith("its own")
    assert (tmp_path / "out/report/attention-a.png").is_file()


def test_attention_is_a_loss(case, base, tmp_path):
    """Break-A-Scene's, on a picture of one subject; the maps are of all blocks."""
    values = small_values(
        tmp_path, base, stage1__objective="break_a_scene", stage1__attention_weight=0.1, stage1__steps=2,
        stage1__semantic_weight=0.0, stage2__steps=0, stage2__trains=["denoiser"], run__output_name="zork",
        run__gradient_checkpointing=True,
    )  # fmt: skip
    assert train_singleinsert.main(command_line(values)) == 0
    with open(tmp_path / "out/logs/zork/losses.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and all(float(row["attention"]) > 0 for row in rows)


def test_the_distilled_sibling_takes_it(case, trained, wanted, tmp_path, request):
    if case.preset != "klein":
        pytest.skip("Z-Image Turbo differs from Z-Image by its numbers alone")
    sibling = ("--pretrained_model_name_or_path", request.getfixturevalue("tiny_distilled"))
    assert infer("--concept", trained, *sibling, "--output_dir", tmp_path) == 0
    fast = np.asarray(Image.open(next(tmp_path.glob("*.png"))))
    assert not np.array_equal(fast, wanted)  # it takes no guidance


def test_a_concept_of_a_model_with_the_same_language_model_is_refused(case, trained, tmp_path, request, capsys):
    """Widths and keys agree; what the vectors mean to the other transformer does not."""
    (other,) = (each.base for each in CASES if each is not case)
    folder = request.getfixturevalue(other)
    words = ("--pretrained_model_name_or_path", folder, "--output_dir", tmp_path)
    assert infer("--concept", trained / "zork.safetensors", *words) == 2
    assert f"was trained for a {case.name}" in capsys.readouterr().err.strip().splitlines()[-1]


def test_layout_of_the_files(case, trained):
    with safe_open(trained / "zork_lora.safetensors", "pt") as file:
        keys, header = set(file.keys()), file.metadata()
    assert len(keys) == 2 * case.layers and not any("alpha" in key for key in keys)
    assert {f"{case.prefix}{case.key}.lora_{part}.weight" for part in "AB"} <= keys
    assert (header["ss_base_model_version"], header["ss_network_alpha"]) == (case.version, "2.0")
    assert header["modelspec.architecture"] == f"{case.architecture}/lora"
    with safe_open(trained / "zork.safetensors", "pt") as file:
        assert tuple(file.get_tensor("qwen3_4b").shape) == (2, WIDTH)


def test_there_is_no_bundle_of_it(case, artifact, tmp_path):
    with pytest.raises(InputError, match=f"A1111, for which bundles are, has no {case.name}"):
        export(artifact, tmp_path, formats=["bundle"])
