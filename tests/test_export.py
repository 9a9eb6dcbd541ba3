"""Exported files: diffusers' own loaders give the trained model's pictures to the bit; layouts and texts that clients
expect; nothing is overwritten."""

import hashlib
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from tinyconcepts import CREATED, make_concept, picture_as_trained, with_embedding

from singleinsert.adapters.weights import WeightUpdate
from singleinsert.artifact import SUFFIX
from singleinsert.errors import InputError, ModelError
from singleinsert.export import FORMATS, export
from singleinsert.export.metadata import kohya_hashes
from singleinsert.export.webui import example_prompts
from singleinsert.locate import load_concept
from singleinsert.models.loading import load_base_model
from singleinsert.training.files import RESULTS

SEED, STEPS = 3, 3


@pytest.fixture(scope="module")
def concept(tiny_sd):
    return make_concept(tiny_sd)


@pytest.fixture
def preview():
    return Image.new("RGB", (600, 400), "red")


def header(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def diffusers_picture(folder, embedding, lora, prompt="zork face in the snow"):
    """The picture of diffusers alone, with its own loaders and its own prompt encoding."""
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipe.scheduler = DDIMScheduler.from_config(load_base_model(folder).scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    if embedding:
        pipe.load_textual_inversion(str(embedding))
        pipe.load_lora_weights(str(lora))
    generator = torch.Generator().manual_seed(SEED)
    return pipe(prompt, negative_prompt="", generator=generator, num_inference_steps=STEPS).images[0]


TEXT = ("q_proj", "k_proj", "v_proj", "out_proj")
CASES = [  # family, vectors, rank, alpha, text targets, precision
    ("sd1", 1, 2, 2.0, TEXT, "fp32"),
    ("sd1", 3, 2, 8.0, TEXT, "fp16"),
    ("sd1", 2, 4, 0.1, (), "bf16"),
    ("sd2", 1, 2, 1.0, TEXT, "fp16"),
]


@pytest.mark.parametrize(("family", "vectors", "rank", "alpha", "targets", "precision"), CASES)
def test_round_trip_through_diffusers_is_exact(
    family, vectors, rank, alpha, targets, precision, make_tiny_sd, tmp_path
):
    folder = make_tiny_sd("v_prediction" if family == "sd2" else "epsilon", family)
    concept = make_concept(folder, num_vectors=vectors, rank=rank, alpha=alpha, text_targets=targets)
    export(concept, tmp_path, formats=("webui", "diffusers"), precision=precision)
    dtype = {"fp16": torch.float16, "fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    wanted = np.asarray(picture_as_trained(folder, concept.rounded(dtype), alpha, targets, seed=SEED, steps=STEPS))
    webui = diffusers_picture(folder, tmp_path / "zork.safetensors", tmp_path / "zork_lora.safetensors")
    assert np.array_equal(webui, wanted)
    both = tmp_path / "zork_diffusers"  # here alpha / rank is multiplied into the up weights before they are rounded
    baked = {c: {path: w.baked() for path, w in layers.items()} for c, layers in concept.lora.items()}
    rounded = replace(concept, update=WeightUpdate("lora", baked)).rounded(dtype)
    wanted_baked = np.asarray(picture_as_trained(folder, rounded, rank, targets, seed=SEED, steps=STEPS))
    assert np.array_equal(diffusers_picture(folder, both, both), wanted_baked)
    assert abs(wanted_baked.astype(int) - wanted).mean() < 1  # of 255
    # and the comparison is not one of two plain models
    assert not np.array_equal(diffusers_picture(folder, None, None, "face in the snow"), wanted)


@pytest.mark.parametrize("formats", [("webui",), ("diffusers",), ("bundle",)])
def test_our_own_loader_reads_every_format_back(formats, tiny_sd, tmp_path):
    concept = make_concept(tiny_sd, num_vectors=2, rank=3, alpha=0.7)
    export(concept, tmp_path, formats=formats, precision="fp32")
    found = {"webui": "zork.safetensors", "diffusers": "zork_diffusers", "bundle": "zork_bundle.safetensors"}[
        formats[0]
    ]
    back = load_concept(tmp_path / found)
    assert back.name == "zork"  # a bundle's file has another name than what prompts call it
    assert back.lora_file == {"webui": "zork_lora", "diffusers": "zork_lora", "bundle": "zork_bundle"}[formats[0]]
    assert (back.class_word, back.base.name, back.base.family) == ("face", concept.base.name, "sd1")
    assert torch.equal(back.embedding, concept.embedding)
    assert back.lora.keys() == concept.lora.keys() and back.update.key == concept.update.digest()
    for component, layers in concept.lora.items():
        for path, weights in layers.items():
            one, wanted = back.lora[component][path], weights.baked() if formats == ("diffusers",) else weights
            assert torch.equal(one.down, wanted.down) and torch.equal(one.up, wanted.up)
            assert one.alpha == pytest.approx(wanted.alpha, rel=1e-7)


def test_a_folder_with_every_format_is_read_back(concept, tmp_path):
    export(concept, tmp_path, formats=("webui", "diffusers", "bundle"), precision="fp32")
    assert torch.equal(load_concept(tmp_path).embedding, concept.embedding)


def test_a_run_looks_for_every_name_that_an_export_writes(concept, tmp_path, preview):
    export(concept, tmp_path, formats=FORMATS, preview=preview)
    assert {path.name.removeprefix("zork") for path in tmp_path.iterdir()} == {*RESULTS} - {SUFFIX, "_sheet.png"}


def test_a_damaged_artifact_is_not_replaced_by_the_rounded_files_beside_it(concept, tmp_path):
    export(concept, tmp_path)
    concept.save(tmp_path / "zork_artifact.safetensors")
    (tmp_path / "zork_artifact.safetensors").write_bytes((tmp_path / "zork_artifact.safetensors").read_bytes()[:-100])
    with pytest.raises(ModelError, match="may be cut short"):
        load_concept(tmp_path)


def test_layout_for_the_webuis(tiny_sd, tmp_path, preview):
    concept = make_concept(tiny_sd, num_vectors=1, rank=2, alpha=5.0)
    written = export(concept, tmp_path, precision="fp16", preview=preview)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in written) == [
        "zork.json", "zork.preview.png", "zork.safetensors",
        "zork_lora.json", "zork_lora.preview.png", "zork_lora.safetensors",
    ]  # fmt: skip
    embedding = load_file(tmp_path / "zork.safetensors")
    assert {key: (tuple(t.shape), t.dtype) for key, t in embedding.items()} == {"zork": ((1, 32), torch.float16)}
    tensors = load_file(tmp_path / "zork_lora.safetensors")
    stems = {key.split(".", 1)[0] for key in tensors}
    assert {key.split(".", 1)[1] for key in tensors} == {"lora_down.weight", "lora_up.weight", "alpha"}
    assert len(tensors) == 3 * len(stems)
    modules = dict(load_base_model(tiny_sd).unet.named_modules())
    flat = {"lora_unet_" + path.replace(".", "_") for path in modules}
    text = re.compile(r"lora_te_text_model_encoder_layers_\d_self_attn_(q|k|v|out)_proj")
    assert all(stem in flat or text.fullmatch(stem) for stem in stems)
    assert {float(tensors[f"{stem}.alpha"]) for stem in stems} == {5.0}
    assert {tensors[f"{stem}.alpha"].shape for stem in stems} == {torch.Size([])}


def test_sd15_names_are_kohyas():
    """A few by hand, against the names that kohya's trainer gives: it replaces the dots of diffusers' paths."""
    from singleinsert.adapters.naming import flat_name

    assert flat_name("unet", "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0") == (
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0"
    )
    assert flat_name("text_encoder", "encoder.layers.11.self_attn.out_proj") == (
        "lora_te_text_model_encoder_layers_11_self_attn_out_proj"
    )


def test_metadata_of_kohya_and_modelspec(tiny_sd, tmp_path, preview):
    concept = make_concept(tiny_sd, rank=2, alpha=5.0)
    export(concept, tmp_path, preview=preview)
    texts = header(tmp_path / "zork_lora.safetensors")
    wanted = {
        "ss_output_name": "zork_lora", "ss_network_module": "networks.lora", "ss_network_dim": "2",
        "ss_network_alpha": "5.0", "ss_network_args": "{}", "ss_v2": "False", "ss_base_model_version": "sd_v1",
        "ss_sd_model_name": concept.base.name, "ss_training_started_at": str(float(CREATED)), "ss_clip_skip": "1",
        "ss_tag_frequency": '{"1_zork face": {"zork face": 1}}', "ss_resolution": "(32, 32)", "ss_seed": "7",
        "ss_steps": "15", "ss_learning_rate": "5e-05",
        "modelspec.sai_model_spec": "1.0.1", "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.title": "zork_lora", "modelspec.trigger_phrase": "zork face", "modelspec.resolution": "32x32",
        "modelspec.prediction_type": "epsilon", "modelspec.date": "2023-11-14T22:13:20+00:00",
    }  # fmt: skip
    assert {key: texts[key] for key in wanted} == wanted
    assert "lora_adapter_metadata" not in texts  # diffusers raises where a file has alphas and this
    assert (
        texts["modelspec.thumbnail"].startswith("data:image/jpeg;base64,")
        and len(texts["modelspec.thumbnail"]) < 90_000
    )
    assert str(tiny_sd) not in "".join(texts.values())  # files are handed around: no local path
    spec = header(tmp_path / "zork.safetensors")
    assert spec["modelspec.architecture"] == "stable-diffusion-v1/textual-inversion"


def test_metadata_of_sd2(make_tiny_sd, tmp_path):
    export(make_concept(make_tiny_sd("v_prediction", "sd2")), tmp_path)
    texts = header(tmp_path / "zork_lora.safetensors")
    assert (texts["ss_v2"], texts["ss_base_model_version"]) == ("True", "sd_v2_v")
    assert (texts["modelspec.architecture"], texts["modelspec.prediction_type"]) == (
        "stable-diffusion-v2-768-v/lora",
        "v",
    )
    assert json.loads((tmp_path / "zork_lora.json").read_text())["sd version"] == "SD2"


def test_hashes_are_those_of_the_file(concept, tmp_path):
    """sshs_model_hash: SHA-256 of what follows the header, of the file on disk as of the tensors."""
    export(concept, tmp_path)
    content = (tmp_path / "zork_lora.safetensors").read_bytes()
    data = content[8 + int.from_bytes(content[:8], "little") :]
    texts = header(tmp_path / "zork_lora.safetensors")
    assert texts["sshs_model_hash"] == hashlib.sha256(data).hexdigest()
    assert texts["modelspec.hash_sha256"] == "0x" + texts["sshs_model_hash"]
    # a file shorter than 1 MiB has nothing at the legacy hash's place
    assert texts["sshs_legacy_hash"] == hashlib.sha256(b"").hexdigest()[:8]


def test_legacy_hash_by_hand():
    """64 KiB from 1 MiB on; the header's length does not depend on texts that are not ss_*."""
    tensors = {"a": torch.arange(400_000, dtype=torch.float32)}
    ours = kohya_hashes(tensors, {"ss_x": "1", "modelspec.title": "left out"})
    from safetensors.torch import save

    content = save(tensors, {"ss_x": "1"})
    assert ours[1] == hashlib.sha256(content[1 << 20 : (1 << 20) + (1 << 16)]).hexdigest()[:8]


def test_user_metadata_and_previews(concept, tmp_path, preview):
    export(concept, tmp_path, preview=preview)
    lora, embedding = (
        json.loads((tmp_path / f"{stem}.json").read_text(encoding="utf-8")) for stem in ("zork_lora", "zork")
    )
    assert (lora["activation text"], lora["preferred weight"], lora["sd version"]) == ("zork face", 1.0, "SD1")
    assert embedding["example prompts"] == lora["example prompts"] == example_prompts(concept)
    assert example_prompts(concept)[0] == "zork face <lora:zork_lora:1>"
    assert "embeddings" in lora["notes"] and lora["description"].startswith("zork face")
    for stem in ("zork", "zork_lora"):
        with Image.open(tmp_path / f"{stem}.preview.png") as picture:
            assert picture.size == (512, 341)


def test_bundle_layout(concept, tmp_path):
    export(concept, tmp_path, formats=("bundle",), precision="fp16")
    tensors = load_file(tmp_path / "zork_bundle.safetensors")
    (key,) = [key for key in tensors if not key.startswith("lora_")]
    assert key == "bundle_emb.zork.string_to_param.*" and tensors[key].shape == (1, 32)
    assert header(tmp_path / "zork_bundle.safetensors")["ss_output_name"] == "zork_bundle"


def test_a_concept_without_lora(tiny_sd, tmp_path):
    concept = make_concept(tiny_sd, lora=False)
    export(concept, tmp_path, formats=("webui", "diffusers"))
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*")) == [
        "zork.json", "zork.safetensors", "zork_diffusers/learned_embeds.safetensors",
    ]  # fmt: skip
    assert json.loads((tmp_path / "zork.json").read_text())["example prompts"][0] == "zork face"
    with pytest.raises(InputError, match="no LoRA to bundle"):
        export(concept, tmp_path, formats=("bundle",))


def parts(path):
    """What a file says, without the order of the header's texts, which safetensors leaves to chance."""
    content = path.read_bytes()
    if path.suffix != ".safetensors":
        return content
    start = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:start]), content[start:]


def test_the_same_files_twice(concept, tmp_path, preview):
    for folder in ("a", "b"):
        export(concept, tmp_path / folder, formats=("webui", "diffusers", "bundle"), preview=preview)
    for path in (tmp_path / "a").rglob("*.*"):
        assert parts(path) == parts(tmp_path / "b" / path.relative_to(tmp_path / "a"))


def test_refusals_write_nothing(concept, tmp_path):
    large = with_embedding(concept, concept.embedding * 1e6)
    refusals = [
        (concept, {"formats": ("webui", "ckpt")}, "'ckpt' is none of webui"),
        (concept, {"precision": "fp8"}, "'fp8' is none of fp16, fp32, bf16"),
        (large, {"precision": "fp16"}, "too large for fp16"),
        (replace(concept, name="zork.v2"), {"formats": ("bundle",)}, "splits the names in a bundle at dots"),
    ]
    for artifact, options, message in refusals:
        with pytest.raises(InputError, match=message):
            export(artifact, tmp_path, **options)
    assert list(tmp_path.iterdir()) == []
    export(large, tmp_path, precision="bf16")
    before = (tmp_path / "zork.safetensors").read_bytes()
    with pytest.raises(InputError, match="zork.safetensors is there already"):
        export(concept, tmp_path)
    assert (tmp_path / "zork.safetensors").read_bytes() == before
    export(concept, tmp_path, overwrite=True)
    assert (tmp_path / "zork.safetensors").read_bytes() != before


def test_a_name_that_is_a_word_is_told(concept, tmp_path, capsys):
    from singleinsert.export.__main__ import main

    path = tmp_path / "zork_artifact.safetensors"
    concept.save(path)
    for name, refused in (("", None), ("cat", True), ("Astronaut", False)):  # and "astronaut" as a whole word only
        assert main([str(path), "--output_dir", str(tmp_path / name), "--output_name", name]) == 0
        said = capsys.readouterr().err
        if not name:
            assert said.startswith("next: ") and "is a word" not in said
            continue
        assert f"'{name}' is a word of CLIP's vocabulary" in said and f"--output_name {name}xy" in said
        assert ("diffusers" in said) == refused


def test_command_line(concept, tmp_path, capsys):
    from singleinsert.export.__main__ import main

    path = tmp_path / "zork_artifact.safetensors"
    concept.save(path)
    Image.new("RGB", (64, 64)).save(tmp_path / "zork.preview.png")
    out = tmp_path / "out"
    assert (
        main([str(path), "--format", "webui", "diffusers", "bundle", "--output_dir", str(out), "--output_name", "zonk"])
        == 0
    )
    printed = capsys.readouterr().out.split()
    assert (
        f"{out}/zonk_diffusers/pytorch_lora_weights.safetensors" in printed
        and (out / "zonk_lora.preview.png").is_file()
    )
    assert main([str(path), "--output_dir", str(out), "--output_name", "zonk"]) == 2
    assert main([str(tmp_path / "none.safetensors")]) == 2
    assert main([str(path), "--preview", str(path), "--output_dir", str(tmp_path / "x")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3 and all(line.startswith("error: ") for line in errors)


@pytest.mark.parametrize("name", ["Zork", "zorK"])
def test_several_vectors_under_a_name_with_capitals(name, tiny_sd, tmp_path):
    """transformers' tokenizer writes prompts small, and diffusers looks for the further vectors as it is written there:
    with a key in capitals all but the first vector are lost."""
    concept = make_concept(tiny_sd, name, num_vectors=3)
    export(concept, tmp_path)
    assert set(load_file(tmp_path / f"{name}.safetensors")) == {name.lower()}
    pipe = StableDiffusionPipeline.from_pretrained(tiny_sd, safety_checker=None)
    pipe.load_textual_inversion(str(tmp_path / f"{name}.safetensors"))
    table = pipe.text_encoder.get_input_embeddings().weight
    text = pipe.maybe_convert_prompt(f"{name.lower()} face", pipe.tokenizer)
    ids = pipe.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert torch.equal(table[ids[:3]].float(), concept.embedding.half().float())
    # In capitals diffusers replaces nothing, so that only the first is read: docs/clients.md says to write it small.
    assert pipe.maybe_convert_prompt(f"{name} face", pipe.tokenizer) == f"{name} face"
