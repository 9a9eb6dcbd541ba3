"""Several concepts of one run: one file of ours, an embedding each and one LoRA for the clients, loaded once."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tinyconcepts import inject_lora, make_concept, make_scene
from tinymodels import CONCEPT_WIDTH, hashed

from singleinsert.adapters.naming import flat_name, parse_lora_key
from singleinsert.adapters.weights import LoraWeights, WeightUpdate
from singleinsert.artifact import HEADER_KEY, Artifact, BaseInfo
from singleinsert.errors import InputError, ModelError
from singleinsert.export import export
from singleinsert.inference.pipeline import ConceptPipeline, Picture
from singleinsert.interchange import load_pair
from singleinsert.locate import load_concept
from singleinsert.models.loading import load_base_model
from singleinsert.models.sampling import sample_images

SEED, STEPS = 3, 3
PROMPT = "{catty} and {muggy}"
FORMAT_1 = Path(__file__).parent / "data" / "format1_artifact.safetensors"


@pytest.fixture(scope="module")
def scene(tiny_sd):
    return make_scene(tiny_sd, rank=2, alpha=5.0)


def header(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def described(artifact):
    """Everything of an artifact but its tensors."""
    concepts = [replace(concept, embeddings={}) for concept in artifact.concepts]
    return artifact.name, concepts, artifact.base, artifact.metadata, artifact.update.key


def same_tensors(a, b):
    assert [c.embeddings.keys() for c in a.concepts] == [c.embeddings.keys() for c in b.concepts]
    for one, other in zip(a.concepts, b.concepts, strict=True):
        assert all(torch.equal(one.embeddings[key], other.embeddings[key]) for key in one.embeddings)
    return a.update.digest() == b.update.digest()


def test_nothing_is_lost_in_format_2(scene, tmp_path):
    scene.save(tmp_path / "kitchen_artifact.safetensors")
    back = Artifact.load(tmp_path / "kitchen_artifact.safetensors")
    assert described(back) == described(scene) and same_tensors(back, scene)
    assert json.loads(header(tmp_path / "kitchen_artifact.safetensors")[HEADER_KEY])["version"] == 2
    with pytest.raises(ModelError, match=r"holds 2 concepts \(catty, muggy\), and one is wanted"):
        _ = back.embedding


def test_an_artifact_of_format_1_is_one_concept():
    """Written by the version before; tensors by formula."""
    old = Artifact.load(FORMAT_1)
    assert [(c.name, c.placeholder, c.class_word) for c in old.concepts] == [("zork", "<me>", "face")]
    assert torch.equal(old.embedding, hashed((2, 8), 3)) and old.trigger(old.concept) == "zork"
    weights = old.lora["text_encoder"]["encoder.layers.0.self_attn.q_proj"]
    assert torch.equal(weights.down, hashed((3, 6), 5)) and weights.alpha == 1.7


def test_one_concept_is_still_written_as_old_readers_read_it(tiny_sd, tmp_path):
    """They take the tensor "embedding", five fields of a text of version 1, and every other tensor as the LoRA's."""
    concept = make_concept(tiny_sd)
    concept.save(tmp_path / "a_artifact.safetensors")
    text = json.loads(header(tmp_path / "a_artifact.safetensors")[HEADER_KEY])
    assert text["version"] == 1 and {"name", "placeholder", "class_word", "base", "metadata"} <= set(text)
    keys = set(load_file(tmp_path / "a_artifact.safetensors")) - {"embedding"}
    assert all(key.startswith("lora.") and key.endswith((".down", ".up", ".alpha")) for key in keys)


def test_two_text_encoders_are_format_2(tmp_path):
    embeddings = {"text_encoder": hashed((2, 768), 1), "text_encoder_2": hashed((2, 1280), 2)}
    lora = {
        "text_encoder_2": {"encoder.layers.0.self_attn.q_proj": LoraWeights(hashed((2, 6), 3), hashed((5, 2), 4), 1.0)}
    }
    one = Artifact.of_one_concept("zork", "*", "face", embeddings, lora, BaseInfo("sdxl", "xl"))
    one.save(tmp_path / "zork_artifact.safetensors")
    assert same_tensors(Artifact.load(tmp_path / "zork_artifact.safetensors"), one)
    export(one, tmp_path / "out", precision="fp32", formats=("webui", "bundle"))
    assert set(load_file(tmp_path / "out/zork.safetensors")) == {"clip_l", "clip_g"}
    assert {key.split("_text_model")[0] for key in load_file(tmp_path / "out/zork_lora.safetensors")} == {"lora_te2"}
    for name in ("zork", "zork_bundle"):
        back = load_concept(tmp_path / f"out/{name}.safetensors")
        assert same_tensors(back, one) and back.base.family == "sdxl"


def test_names_of_both_text_encoders():
    layer = "encoder.layers.0.mlp.fc1"
    for component, prefix in (("text_encoder", "lora_te1_"), ("text_encoder_2", "lora_te2_")):
        name = flat_name(component, layer, "sdxl")
        assert name == f"{prefix}text_model_encoder_layers_0_mlp_fc1"
        for key in (f"{name}.alpha", f"{component}.text_model.{layer}.lora_A.weight"):
            found = parse_lora_key(key)
            assert (found.component, found.path) == (component, layer)


def test_what_cannot_be_an_artifact(scene, tmp_path):
    catty, muggy = scene.concepts
    wide = {"text_encoder": hashed((1, 2 * CONCEPT_WIDTH), 1)}
    bad = {
        "names differ": replace(scene, concepts=(catty, replace(muggy, name="CATTY"))),
        "no concept": replace(scene, concepts=()),
        "means something else": replace(scene, concepts=(replace(catty, name="concept"), muggy)),
        "does not go with the others": replace(scene, concepts=(catty, replace(muggy, embeddings=wide))),
        "which no model has": replace(scene, concepts=(replace(catty, embeddings={"t5": wide["text_encoder"]}),)),
        "not texts": replace(scene, concepts=(replace(catty, class_word=3), muggy)),
    }
    for message, one in bad.items():
        with pytest.raises(ModelError, match=message) as raised:
            one.save(tmp_path / "a.safetensors")
        assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_changed_weight_is_damage(scene, tmp_path):
    """The header tells the digest of the update: one number that differs is found."""
    path = tmp_path / "kitchen_artifact.safetensors"
    scene.save(path)
    tensors, texts = load_file(path), header(path)
    key = next(key for key in tensors if key.endswith(".up"))
    tensors[key].view(-1)[0] += 1
    save_file(tensors, path, metadata=texts)
    with pytest.raises(ModelError, match="damaged.*not those which were saved"):
        Artifact.load(path)


def test_a_part_shares_the_lora(scene):
    part = scene.part("muggy")
    assert part.name == "kitchenmuggy" and part.concept.name == "muggy" and part.update is scene.update
    assert part.lora_stem == "kitchen_lora" and scene.part("KitchenMuggy") == part
    with pytest.raises(InputError, match="no concept 'dog': catty, muggy"):
        scene.part("dog")


FILES = {
    "webui": ["kitchen_lora.json", "kitchen_lora.safetensors", "kitchencatty.json", "kitchencatty.safetensors",
              "kitchenmuggy.json", "kitchenmuggy.safetensors"],
    "bundle": ["kitchen_bundle.safetensors"],
    "diffusers": ["kitchen_diffusers/kitchencatty.safetensors", "kitchen_diffusers/kitchenmuggy.safetensors",
                  "kitchen_diffusers/pytorch_lora_weights.safetensors"],
}  # fmt: skip


@pytest.mark.parametrize("form", FILES)
def test_exported_scenes_come_back(form, scene, tmp_path):
    export(scene, tmp_path, formats=(form,), precision="fp32")
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*")) == FILES[form]
    where = {"webui": ".", "bundle": "kitchen_bundle.safetensors", "diffusers": "kitchen_diffusers"}[form]
    back = load_concept(tmp_path / where)
    if form == "bundle":  # the file's own order
        back = replace(back, concepts=tuple(sorted(back.concepts, key=lambda concept: concept.name)))
    kept = {key: scene.metadata[key] for key in ("created", "resolution")}
    assert described(back) == described(replace(scene, base=replace(scene.base, source=""), metadata=kept))
    assert back.update.is_near(scene.update, 1e-6)
    assert [back.trigger(concept) for concept in back.concepts] == ["kitchencatty", "kitchenmuggy"]


def test_one_embedding_file_finds_the_lora_that_it_shares(scene, tmp_path):
    export(scene, tmp_path, precision="fp32")
    part = load_concept(tmp_path / "kitchenmuggy.safetensors")
    assert (part.name, part.concept.name, part.lora_stem) == ("kitchenmuggy", "muggy", "kitchen_lora")
    assert same_tensors(part, scene.part("muggy"))
    (tmp_path / "kitchen_lora.safetensors").unlink()
    alone = tmp_path / "kitchenmuggy.safetensors"
    assert load_concept(alone).update is None and load_concept(alone).lora_file == "kitchen_lora"
    with pytest.raises(ModelError, match=r"goes with kitchen_lora.safetensors, which is not in"):
        load_concept(tmp_path)


def test_texts_for_the_webuis(scene, tmp_path):
    export(scene, tmp_path)
    card = json.loads((tmp_path / "kitchen_lora.json").read_text())
    assert card["activation text"] == "kitchencatty cat and kitchenmuggy mug"
    assert card["example prompts"][1] == "kitchencatty cat and kitchenmuggy mug on the beach <lora:kitchen_lora:1>"
    assert json.loads((tmp_path / "kitchenmuggy.json").read_text())["activation text"] == "kitchenmuggy mug"
    texts = header(tmp_path / "kitchen_lora.safetensors")
    (tags,) = json.loads(texts["ss_tag_frequency"]).values()
    assert set(tags) == {"kitchencatty cat", "kitchenmuggy mug"}
    bundle = {"lora_unet_a.lora_down.weight": torch.ones(1, 2), "lora_unet_a.lora_up.weight": torch.ones(2, 1)}
    bundle |= {f"bundle_emb.{name}.string_to_param.*": hashed((1, 768), 1) for name in ("anna", "bob")}
    save_file(bundle, tmp_path / "theirs.safetensors")  # of another trainer, whose names have no scene in them
    theirs = load_pair(tmp_path / "theirs.safetensors")
    assert [theirs.trigger(concept) for concept in theirs.concepts] == ["anna", "bob"]


@pytest.mark.parametrize("form", FILES)
def test_concepts_trained_without_their_class_words_are_named_without_them(form, scene, tiny_sd, tmp_path):
    """Preset scene-paper learns "<catty>": "kitchencatty cat" would ask for something that was never trained."""
    bare = replace(scene, concepts=tuple(replace(c, metadata=c.metadata | {"alone": True}) for c in scene.concepts))
    bare.save(tmp_path / "kitchen_artifact.safetensors")
    assert [c.alone for c in Artifact.load(tmp_path / "kitchen_artifact.safetensors").concepts] == [True, True]
    export(bare, tmp_path, formats=(form,), precision="fp32")
    if form == "webui":
        card = json.loads((tmp_path / "kitchen_lora.json").read_text())
        assert card["activation text"] == "kitchencatty and kitchenmuggy"
    where = {"webui": ".", "bundle": "kitchen_bundle.safetensors", "diffusers": "kitchen_diffusers"}[form]
    pipeline = ConceptPipeline(load_base_model(tiny_sd), [load_concept(tmp_path / where)])
    wanted = pipeline.encode("<catty> in the snow").states
    assert torch.equal(pipeline.encode("{catty} in the snow").states, wanted)
    assert not torch.equal(pipeline.encode("<catty> cat in the snow").states, wanted)
    first = pipeline.names[0].handle
    assert torch.equal(pipeline.encode("{concept}").states, pipeline.encode(f"<{first}>").states)


def test_diffusers_draws_both_with_one_lora(scene, tiny_sd, tmp_path):
    """The picture of our adapters in the model, both vectors at the lookup, from diffusers' own loaders, to the bit."""
    export(scene, tmp_path, formats=("diffusers",), precision="fp32")
    model = load_base_model(tiny_sd)
    adapters = inject_lora(model, "kitchen", 2, 2.0)
    with torch.no_grad():
        for key, parameter in adapters.named_parameters():
            component, path = key.rsplit(".", 1)[0].split(".", 1)
            weights = scene.lora[component][path].baked()
            parameter.copy_(weights.down if key.endswith(".down") else weights.up)
        slots = {f"<{concept.name}>": concept.num_vectors for concept in scene.concepts}
        vectors = {f"<{concept.name}>": concept.embeddings for concept in scene.concepts}
        condition = model.encode(model.tokenize("<catty> cat and <muggy> mug", slots), vectors)
        negative = model.encode(model.tokenize("", {}), {})
    (wanted,) = sample_images(model, condition, negative, [torch.Generator().manual_seed(SEED)], steps=STEPS)
    pipe = StableDiffusionPipeline.from_pretrained(tiny_sd, safety_checker=None)
    pipe.scheduler = DDIMScheduler.from_config(model.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    folder = tmp_path / "kitchen_diffusers"
    pipe.load_textual_inversion([str(folder / f"kitchen{name}.safetensors") for name in ("catty", "muggy")])
    pipe.load_lora_weights(str(folder))
    got = pipe("kitchencatty cat and kitchenmuggy mug", negative_prompt="", num_inference_steps=STEPS,
               generator=torch.Generator().manual_seed(SEED)).images[0]  # fmt: skip
    assert np.array_equal(np.asarray(got), np.asarray(wanted))


def outputs(pipeline, prompt=PROMPT):
    (image,) = pipeline.render([Picture(prompt, seed=SEED, steps=STEPS)])
    return np.asarray(image)


def test_a_scene_is_drawn_with_its_lora_once(scene, tiny_sd, tmp_path):
    """The layer's weight is W + (5/2) B A, however many of the concepts are loaded, and from whichever files."""
    from peft.tuners.lora import LoraLayer

    export(scene, tmp_path, precision="fp32")
    files = [load_concept(tmp_path / f"kitchen{name}.safetensors") for name in ("catty", "muggy")]
    pictures = []
    for concepts in ([scene], list(scene.parts()), files, [scene.part("catty"), files[1]]):
        pipeline = ConceptPipeline(load_base_model(tiny_sd), concepts)
        layers = [layer for layer in pipeline.model.unet.modules() if isinstance(layer, LoraLayer)]
        assert layers and all(list(layer.lora_A) == ["concept0"] for layer in layers)
        assert {layer.scaling["concept0"] for layer in layers} == {2.5}
        pictures.append(outputs(pipeline))
    assert all(np.array_equal(picture, pictures[0]) for picture in pictures)


def test_half_precision_and_whole_files_of_one_lora_go_together(scene, tiny_sd, tmp_path):
    export(scene, tmp_path, precision="bf16")
    ConceptPipeline(
        load_base_model(tiny_sd), [scene.part("catty"), load_concept(tmp_path / "kitchenmuggy.safetensors")]
    )


def test_two_weights_or_contents_of_one_lora_are_refused(scene, tiny_sd):
    with pytest.raises(InputError, match="kitchencatty has the weight 1 and kitchenmuggy 0.5.*share one LoRA"):
        ConceptPipeline(load_base_model(tiny_sd), scene.parts(), [1.0, 0.5])
    changed = {c: {p: replace(w, up=w.up * 2) for p, w in layers.items()} for c, layers in scene.lora.items()}
    other = replace(scene.part("muggy"), update=WeightUpdate("lora", changed, origin=scene.update.key))
    with pytest.raises(InputError, match="learnt with one LoRA, and its weights in their files differ"):
        ConceptPipeline(load_base_model(tiny_sd), [scene.part("catty"), other])


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), 1e30, -1e30])
def test_weights_that_no_picture_survives(weight, scene, tiny_sd):
    with pytest.raises(InputError, match="at most 100"):
        ConceptPipeline(load_base_model(tiny_sd), [scene], [weight])


def test_prompts_take_handles_and_whole_names(scene, tiny_sd):
    pipeline = ConceptPipeline(load_base_model(tiny_sd), [scene])
    wanted = pipeline.encode(PROMPT).states
    for prompt in (
        "{kitchencatty} and {kitchenmuggy}",
        "<CATTY> cat and <muggy> mug",
        "{catty} and <kitchenmuggy> mug",
    ):
        assert torch.equal(pipeline.encode(prompt).states, wanted), prompt
    with pytest.raises(InputError, match="{mugy} .*did you mean muggy"):
        pipeline.encode("{mugy}")
    garden = make_scene(tiny_sd, "garden")
    both = ConceptPipeline(load_base_model(tiny_sd), [scene, garden])
    with pytest.raises(InputError, match="'catty' could be kitchencatty or gardencatty"):
        both.encode("{catty}")
    assert both.encode("{gardencatty} and {kitchenmuggy}").batch == 1


@pytest.mark.parametrize(
    ("name", "concepts", "message"),
    [
        ("kitchen", (("one", "cat"), ("onetwo", "mug")), "'kitchenone' is part of 'kitchenonetwo'"),
        ("kitchen", (("asset1", "cat"), ("asset10", "mug")), "'kitchenasset1' is part of 'kitchenasset10'"),
        ("foot", (("ball", "cat"), ("ster", "mug")), "'football' is a word of CLIP's vocabulary"),
        ("my kitchen", (("a", "cat"), ("b", "mug")), "it holds a space.*such as my_kitchena"),
    ],
)
def test_triggers_that_no_client_can_tell_apart(name, concepts, message, tiny_sd, tmp_path):
    with pytest.raises(InputError, match=message):
        export(make_scene(tiny_sd, name, concepts, lora=False), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_command_line_takes_a_scene(scene, tmp_path, monkeypatch, capsys):
    from infer_singleinsert import main

    monkeypatch.chdir(tmp_path)
    scene.save(Path("output/kitchen/kitchen_artifact.safetensors"))
    flags = ["--concept", "output/kitchen", "--prompt", "{catty} beside {muggy}", "--num_inference_steps", "2"]
    assert main([*flags, "--width", "32", "--height", "32"]) == 0
    from PIL import Image

    text = Image.open(next(Path("output/pictures").glob("*.png"))).text["parameters"]
    assert text.startswith("kitchencatty cat beside kitchenmuggy mug <lora:kitchen_lora:1>\n")
    assert capsys.readouterr().err.count("error") == 0


def test_a_scene_and_a_concept_trained_apart(scene, tiny_sd, tmp_path, monkeypatch):
    """Two LoRAs, each with its own weight, in one prompt; the scene's weight is one for all of its concepts."""
    from PIL import Image

    from infer_singleinsert import main

    monkeypatch.chdir(tmp_path)
    scene.save(Path("output/kitchen/kitchen_artifact.safetensors"))
    make_concept(tiny_sd, "hatxy", class_word="hat").save(Path("output/hatxy/hatxy_artifact.safetensors"))
    flags = ["--concept", "kitchen:0.8", "--concept", "hatxy:0.5", "--num_inference_steps", "2"]
    assert main([*flags, "--prompt", "{catty} wearing {hatxy} beside <muggy>", "--width", "32", "--height", "32"]) == 0
    with Image.open(next(Path("output/pictures").glob("*.png"))) as picture:
        text = picture.text["parameters"].splitlines()[0]
    assert (
        text == "kitchencatty cat wearing hatxy hat beside kitchenmuggy <lora:kitchen_lora:0.8> <lora:hatxy_lora:0.5>"
    )
