"""The artifact loses nothing, is written whole or not at all, and says in one line what is wrong with a file."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tinyconcepts import with_embedding
from tinymodels import hashed

from singleinsert.adapters.weights import LoraWeights, WeightUpdate
from singleinsert.artifact import HEADER_KEY, Artifact, BaseInfo
from singleinsert.errors import InputError, ModelError, SingleInsertError


def weights(rank=2, alpha=0.1, seed=1):
    return LoraWeights(hashed((rank, 6), seed), hashed((5, rank), seed + 1), alpha)


@pytest.fixture
def artifact():
    lora = {"unet": {"mid_block.attn1.to_out.0": weights(), "conv_in": LoraWeights(hashed((2, 4, 3, 3), 5), hashed((8,
    2, 1, 1), 6), 8.0)},
            "text_encoder": {"encoder.layers.0.self_attn.q_proj": weights(3, 1.7)}}  # fmt: skip
    metadata = {"created": 1.25, "settings": 'word = "gesicht ä"\n', "losses": {"stage1": [0.1, 1e-30]}}
    return Artifact.of_one_concept(
        "zork",
        "<me>",
        "baseball cap",
        hashed((2, 8), 3) * 1e-7,
        lora,
        BaseInfo("sd2", "x", "v_prediction", "a/b"),
        metadata,
    )


def same(a, b):
    assert (a.name, a.placeholder, a.class_word, a.base, a.metadata) == (
        b.name,
        b.placeholder,
        b.class_word,
        b.base,
        b.metadata,
    )
    assert torch.equal(a.embedding, b.embedding) and a.lora.keys() == b.lora.keys()
    for component, layers in a.lora.items():
        assert layers.keys() == b.lora[component].keys()
        for path, one in layers.items():
            other = b.lora[component][path]
            assert torch.equal(one.down, other.down) and torch.equal(one.up, other.up) and one.alpha == other.alpha


def test_nothing_is_lost(artifact, tmp_path):
    path = tmp_path / "new" / "zork_artifact.safetensors"
    artifact.save(path)
    same(Artifact.load(path), artifact)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert load_file(path)["embedding"].dtype == torch.float32


def test_a_concept_without_lora_and_sliced_tensors(artifact, tmp_path):
    wide = hashed((4, 9), 3)
    plain = with_embedding(replace(artifact, update=None), wide[::2, 1:])  # not contiguous, shares memory
    plain.save(tmp_path / "a.safetensors")
    same(Artifact.load(tmp_path / "a.safetensors"), plain)


def test_what_cannot_be_is_not_written(artifact, tmp_path):
    nan = artifact.embedding.clone()
    nan[1, 3] = torch.nan
    layer = weights()
    bad = {
        "none of": replace(artifact, name="../zork"),
        "NaN or infinity": with_embedding(artifact, nan),
        "2 dimensions of float32": with_embedding(artifact, artifact.embedding.half()),
        r"shape \(8,\)": with_embedding(artifact, artifact.embedding[0]),
        "ranks differ": replace(
            artifact, update=WeightUpdate("lora", {"unet": {"a": LoraWeights(layer.down, layer.up[:, :1], 1.0)}})
        ),
        "LoRA on 'vae'": replace(artifact, update=WeightUpdate("lora", {"vae": {"a": layer}})),
        "not supported": replace(artifact, base=BaseInfo("flux", "x")),
    }
    for message, one in bad.items():
        with pytest.raises(ModelError, match=message) as raised:
            one.save(tmp_path / "a.safetensors")
        assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_artifact(artifact, tmp_path):
    path = tmp_path / "a.safetensors"
    artifact.save(path)
    whole = path.read_bytes()
    text = json.loads(open_header(whole)[HEADER_KEY])

    def changed(**changes):
        save_file(load_file(path), tmp_path / "b.safetensors", metadata={HEADER_KEY: json.dumps({**text, **changes})})
        return (tmp_path / "b.safetensors").read_bytes()

    tensors = load_file(path)
    del tensors["lora.unet.conv_in.up"]
    save_file(tensors, tmp_path / "c.safetensors", metadata={HEADER_KEY: json.dumps(text)})
    save_file({"emb_params": torch.zeros(1, 8)}, tmp_path / "d.safetensors")
    contents = {
        "cut short": whole[: len(whole) // 2],
        "not a readable": b"no safetensors at all",
        "newer version": changed(version=99),
        "damaged": changed(base={"family": "sd1"}),
        "damaged.*conv_in.up": (tmp_path / "c.safetensors").read_bytes(),
        "not an artifact": (tmp_path / "d.safetensors").read_bytes(),
    }
    for message, content in contents.items():
        path.write_bytes(content)
        with pytest.raises(SingleInsertError, match=message) as raised:
            Artifact.load(path)
        assert "\n" not in str(raised.value) and str(path) in str(raised.value)
    with pytest.raises(InputError, match="no file"):
        Artifact.load(tmp_path / "none.safetensors")


def open_header(content):
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]


def test_rounded_is_what_a_half_precision_file_holds(artifact):
    rounded = artifact.rounded(torch.float16)
    assert torch.equal(rounded.embedding, artifact.embedding.half().float())
    assert rounded.lora["unet"]["conv_in"].alpha == 8.0
    assert rounded.lora["unet"]["mid_block.attn1.to_out.0"].alpha == 0.1  # alphas stay what they are
