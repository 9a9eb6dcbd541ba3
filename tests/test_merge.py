"""Concepts trained apart become one LoRA: the algebra of the closed form, and the command."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tinyconcepts import make_concept, make_scene
from tinymodels import hashed

import infer_singleinsert
from singleinsert.adapters.weights import LoraWeights, WeightUpdate
from singleinsert.artifact import Artifact
from singleinsert.locate import load_concept
from singleinsert.merge.__main__ import main
from singleinsert.merge.closed_form import TEXT_LAYERS, gate_matrices, merge_concepts, merged_layers
from singleinsert.merge.contexts import of_concepts
from singleinsert.models.loading import load_base_model

PATH = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"


def layer(rank: int, out: int, width: int, seed: int) -> LoraWeights:
    return LoraWeights(hashed((rank, width), seed), hashed((out, rank), seed + 1), float(rank))


def change(weights: LoraWeights) -> torch.Tensor:
    return (weights.up @ weights.down).double()


def moment(rows: torch.Tensor) -> torch.Tensor:
    return rows.T @ rows / len(rows)


def test_the_limit_is_custom_diffusions_merge():
    """W' - W = V'^T (d C^T)^-1 d with d = C (C_reg^T C_reg)^-1, where row c of concept i has the new output dW_i c."""
    width, updates = 12, [layer(3, 5, 12, 1), layer(2, 5, 12, 7)]
    rows = [hashed((2, width), 20).double(), hashed((3, width), 21).double()]
    general = hashed((40, width), 22).double()
    wanted = torch.cat([c @ change(w).T for c, w in zip(rows, updates, strict=True)])  # (5 rows, out)
    stacked = torch.cat(rows)
    d = stacked @ torch.linalg.inv(general.T @ general)
    theirs = wanted.T @ torch.linalg.inv(d @ stacked.T) @ d
    ours = merged_layers([{PATH: w} for w in updates], [moment(c) for c in rows], moment(general), 1e-7, 0.0)[PATH]
    assert ours.rank == 5 and torch.allclose(change(ours), theirs, atol=1e-3 * float(theirs.abs().max()))


def test_features_that_share_nothing_are_kept_apart():
    """t_1 = e1, t_2 = e2, other words e2 and e3, with lambda 0.5 and no ridge: S = diag(1, 1 + 0.5 / 2, 0.5 / 2)."""
    one, two, others = (torch.eye(3, dtype=torch.float64)[rows] for rows in ([0], [1], [1, 2]))
    updates = [{PATH: layer(2, 4, 3, 1)}, {PATH: layer(2, 4, 3, 5)}]
    merged = change(merged_layers(updates, [moment(one), moment(two)], moment(others), 0.5, 0.0)[PATH])
    first, second = (change(update[PATH]) for update in updates)
    assert torch.allclose(merged[:, 0], first[:, 0], atol=1e-6)
    assert torch.allclose(merged[:, 1], second[:, 1] / 1.25, atol=1e-6)
    assert float(merged[:, 2].abs().max()) < 1e-6
    # the ridge is a share of the mean of the diagonal, (1 + 1.25 + 0.25) / 3
    gates = gate_matrices([moment(one), moment(two)], moment(others), 0.5, 0.3)
    assert float(gates[0][0, 0]) == pytest.approx(1 / (1 + 0.3 * 2.5 / 3))


def test_a_layer_that_one_alone_has_is_that_ones():
    updates = [{PATH: layer(2, 4, 3, 1)}, {"other": layer(1, 4, 3, 5)}]
    moments = [torch.eye(3, dtype=torch.float64) / 2] * 2
    merged = merged_layers(updates, moments, torch.zeros(3, 3, dtype=torch.float64), 0.0, 0.0)
    for path, update in zip((PATH, "other"), updates, strict=True):  # G_1 = G_2: each has half of every feature
        assert torch.allclose(change(merged[path]), change(update[path]) / 2, atol=1e-6)


# the command


def keys_and_values(artifact: Artifact) -> Artifact:
    """With the layers of cross-attention's keys and values alone."""
    layers = {path: w for path, w in artifact.lora["unet"].items() if path.endswith(TEXT_LAYERS)}
    return replace(artifact, update=WeightUpdate("kv", {"unet": layers}))


@pytest.fixture(scope="module")
def folder(tiny_sd, tmp_path_factory):
    folder = tmp_path_factory.mktemp("merge")
    made = {
        "annxy": keys_and_values(make_concept(tiny_sd, "annxy")),
        "bobxy": keys_and_values(make_concept(tiny_sd, "bobxy", class_word="cat", num_vectors=2)),
        "kitchen": keys_and_values(make_scene(tiny_sd)),
        "whole": make_concept(tiny_sd, "whole"),
        "plain": make_concept(tiny_sd, "plain", lora=False),
        "twin": keys_and_values(make_concept(tiny_sd, "annxy")),
    }
    for name, artifact in made.items():
        artifact.save(folder / "output" / name / f"{name}_artifact.safetensors")
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def test_two_concepts_and_a_scene_become_one_lora(here, capsys, tiny_sd):
    asked = ["annxy", "bobxy:0.5", "kitchen", "--output_name", "party", "--format", "webui", "bundle", "diffusers"]
    assert main([*asked, "--save_precision", "fp32"]) == 0
    said = capsys.readouterr().out
    assert [line.split(":")[0] for line in said.splitlines()[:4]] == ["annxy", "bobxy", "kitchen", "other words"]
    out = Path("output/party")
    assert {path.name for path in out.glob("*.safetensors")} == {
        "annxy.safetensors", "bobxy.safetensors", "kitchencatty.safetensors", "kitchenmuggy.safetensors",
        "party_lora.safetensors", "party_bundle.safetensors", "party_artifact.safetensors",
    }  # fmt: skip
    merged = load_concept("party")
    ranks = {weights.rank for weights in merged.lora["unet"].values()}
    assert ranks == {2 + 2 + 2} and set(merged.lora) == {"unet"} and merged.metadata["merged"][1] == ["bobxy", 0.5]
    assert [c.name for c in merged.concepts] == ["annxy", "bobxy", "catty", "muggy"]
    for where in ("output/party/party_bundle.safetensors", "output/party/party_diffusers"):
        back = load_concept(where)
        assert {back.trigger(c): c.num_vectors for c in back.concepts} == {
            "annxy": 1, "bobxy": 2, "kitchencatty": 1, "kitchenmuggy": 2,
        }  # fmt: skip
    prompt = "{annxy} and {bobxy} beside <kitchenmuggy>"
    assert infer_singleinsert.main(["--concept", "party", "--prompt", prompt, "--num_inference_steps", "2"]) == 0
    with Image.open(next(Path("output/pictures").glob("*.png"))) as picture:
        text = picture.text["parameters"].splitlines()[0]
    assert text == "annxy face and bobxy cat beside kitchenmuggy <lora:party_lora:1>"


def test_one_concept_alone_is_gated_and_has_the_new_name(here, capsys):
    assert main(["annxy", "--output_name", "annalone"]) == 0
    merged = load_concept("annalone")
    assert merged.trigger(merged.concept) == "annalone" and Path("output/annalone/annalone.safetensors").is_file()
    flags = ["--concept", "annalone", "--prompt", "{concept}", "--num_inference_steps", "2", "--output_dir", "alone"]
    assert infer_singleinsert.main(flags) == 0
    with Image.open(next(Path("alone").glob("*.png"))) as picture:
        assert picture.text["parameters"].startswith("annalone face <lora:annalone_lora:1>\n")


def test_each_concepts_words_are_changed_as_its_own_lora_changes_them(here, tiny_sd):
    """On the tiny model, whose 32 features hold few texts: far better for each than what adding does to the others."""
    model = load_base_model(tiny_sd)
    apart = [load_concept("annxy"), load_concept("bobxy")]
    _, kept = merge_concepts(model, apart, "pair", general_weight=1e-4, ridge=1e-6)
    _, guarded = merge_concepts(model, apart, "pair", general_weight=10.0, ridge=1e-6)
    assert set(kept.concepts) == {"annxy", "bobxy"} and max(kept.concepts.values()) < 0.6
    assert guarded.others < 0.5 * kept.others < 1 and min(guarded.concepts.values()) > max(kept.concepts.values())


def test_a_concept_without_its_class_word_is_read_as_prompts_write_it(here, tiny_sd):
    """Trained by preset scene-paper: no prompt has the class word behind it, so that no text of the merge has."""
    model, artifact = load_base_model(tiny_sd), load_concept("annxy")
    bare = replace(artifact, concepts=(replace(artifact.concept, metadata={"alone": True}),))
    named = replace(artifact, concepts=(replace(artifact.concept, class_word=""),))
    moments = [of_concepts(model, each, ["a photo of {concept}"]) for each in (artifact, bare, named)]
    assert torch.equal(moments[1], moments[2]) and not torch.allclose(moments[0], moments[1])


def test_weights_scale_what_a_concept_brings(here, tiny_sd):
    model, apart = load_base_model(tiny_sd), [load_concept("annxy"), load_concept("plain")]
    (once, _), (half, _) = (merge_concepts(model, apart, "pair", weights) for weights in (None, [0.5, 1.0]))
    for path, weights in once.lora["unet"].items():
        assert torch.allclose(change(half.lora["unet"][path]), change(weights) / 2, atol=1e-6)
    assert np.isfinite(sum(float(change(w).abs().sum()) for w in once.lora["unet"].values()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["annxy", "whole"], "the LoRA of whole changes 32 layers besides the keys and values of cross-attention"),
        (["annxy", "twin"], "two concepts are called annxy: give one another name"),
        (["plain"], "none of the concepts has a LoRA"),
        (["annxy", "carl"], "no concept 'carl'"),
        (["annxy:x", "bobxy"], "the weight after the colon, 'x', is no number"),
        (["annxy", "bobxy", "--output_name", "a/b"], "--output_name a/b: "),
        (["annxy", "bobxy", "--output_name", "annxy"], "annxy_artifact.safetensors is there already"),
        (["annxy", "bobxy", "--pretrained_model_name_or_path", "mini-sd"], "annxy was trained for"),
    ],
)
def test_bad_input_is_one_line(arguments, message, here, capsys):
    before = sorted(here.rglob("*"))
    assert main(["--output_name", "pair", *arguments]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line and sorted(here.rglob("*")) == before
