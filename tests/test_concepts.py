"""Concepts: the vectors' shapes and first scale, the residual, the seeds, and that all of it trains."""

import pytest
import torch

from singleinsert.concepts import build_concept, residual_base
from singleinsert.errors import ConfigError, ModelError

VIT = {"patch_size": 8, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
PIXELS = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    from transformers import CLIPVisionConfig, CLIPVisionModel

    folder = tmp_path_factory.mktemp("clip")
    config = CLIPVisionConfig(image_size=32, hidden_size=48, intermediate_size=96, num_hidden_layers=2,
                              num_attention_heads=4, patch_size=8)  # fmt: skip
    CLIPVisionModel(config).save_pretrained(folder)
    return str(folder)


def vectors_of(concept):
    (vectors,) = concept.vectors().values()
    return vectors


def build(type="vit", seed=0, num_vectors=1, width=96, residual=None, **changes):
    sizes = VIT if type == "vit" else {}
    return build_concept(
        type, placeholder="*", num_vectors=num_vectors, widths={"text_encoder": width},
        class_embedding=None if residual is None else {"text_encoder": residual}, pixels=PIXELS,
        generator=torch.Generator().manual_seed(seed), **(sizes | changes),
    )  # fmt: skip


@pytest.mark.parametrize("type", ["vit", "clip_vit", "vector"])
def test_vectors_start_near_the_standard_deviation_asked_for_and_train(type, clip_folder):
    extra = {"clip_model": clip_folder} if type == "clip_vit" else {}
    for std in (1.0, 0.1):
        vectors = vectors_of(build(type, num_vectors=3, width=768, init_std=std, **extra))
        assert vectors.shape == (3, 768) and vectors.dtype == torch.float32
        assert vectors.std().item() == pytest.approx(std, rel=0.15)
    concept = build(type, **extra)
    vectors_of(concept).square().sum().backward()
    assert all(p.grad is not None for p in concept.parameters())
    assert "pixels" not in concept.state_dict() and "base" not in concept.state_dict()


@pytest.mark.parametrize("type", ["vit", "vector"])
def test_the_seed_alone_decides(type):
    torch.manual_seed(1)
    first = build(type).state_dict()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again, other = build(type).state_dict(), build(type, seed=1).state_dict()
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_the_residual_stands_on_the_class_word():
    word = torch.arange(6.0).reshape(2, 3)
    assert residual_base(word, 1).tolist() == [[1.5, 2.5, 3.5]]
    assert torch.equal(residual_base(word, 3), word[[0, 1, 0]])
    at_the_word = build("vector", width=3, residual=word, init_std=0.0)
    assert vectors_of(at_the_word).tolist() == [[1.5, 2.5, 3.5]]
    free, standing = build(), build(residual=torch.ones(1, 96))
    assert torch.equal(vectors_of(standing), vectors_of(free) + 1)


def test_the_vit_sees_the_picture():
    concept = build()
    before = vectors_of(concept)
    concept.pixels.neg_()
    assert not torch.allclose(before, vectors_of(concept), atol=1e-3)


def test_what_cannot_be_built(clip_folder):
    with pytest.raises(ConfigError, match="none of vit, clip_vit, vector"):
        build("resnet")
    with pytest.raises(ModelError, match="nowhere: cannot be loaded"):
        build("clip_vit", clip_model="nowhere")
    with pytest.raises(ModelError, match="set concept.image_size to 32"):
        build_concept(
            "clip_vit", placeholder="*", num_vectors=1, widths={"text_encoder": 8}, class_embedding=None,
            pixels=torch.zeros(1, 3, 64, 64), generator=torch.Generator(), clip_model=clip_folder,
        )  # fmt: skip
