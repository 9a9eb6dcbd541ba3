"""A transformer in one file, with text encoder and autoencoder as files beside it, as ComfyUI keeps them."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from splitfiles import klein_tensors, write_split_files, zimage_tensors
from tinyklein import random_latents as klein_latents
from tinyklein import tiny_klein_models
from tinymodels import hashed
from tinyzimage import random_latents as zimage_latents
from tinyzimage import tiny_zimage_models

from singleinsert.errors import ModelError
from singleinsert.models.loading import load_base_model, short_name
from singleinsert.models.presence import check_source
from singleinsert.models.split_files import NOTHING, Beside, split_source

CASES = {
    "tiny_klein": (tiny_klein_models, klein_tensors, klein_latents, "flux-2-klein-base-4b"),
    "tiny_zimage": (tiny_zimage_models, zimage_tensors, zimage_latents, "z_image_bf16"),
}


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """(folder in diffusers' layout, the three files of the same weights, latents)."""
    build, tensors_of, latents, name = CASES[request.param]
    models = build()
    paths = write_split_files(tmp_path_factory.mktemp("split"), models, tensors_of(models["transformer"]), name)
    return request.getfixturevalue(request.param), paths, latents


@torch.no_grad()
@pytest.mark.parametrize("given", [1, 3], ids=["transformer", "all"])
def test_files_are_the_folders_model(case, given):
    folder, paths, latents = case
    source = ",".join(str(path) for path in (*paths[:given], folder))
    check_source(source)
    ours, wanted = load_base_model(source), load_base_model(folder)
    assert (ours.name, ours.model_name, ours.source) == (wanted.name, paths[0].stem, source)
    ours.check_trainable()
    for model in (ours, wanted):
        prompt = model.tokenize("a photo of the cat", {})
        model.said = model.predict(latents(), torch.tensor([500]), model.encode(prompt, {}))
        model.seen = model.encode_picture(hashed((1, 3, 32, 32), 2)).mean
    for part, module in wanted.parts.items():
        weights = ours.parts[part].state_dict()
        assert all(torch.equal(weights[name], tensor) for name, tensor in module.state_dict().items()), part
    # the same weights; where they lie in memory decides on some processors how sums are rounded
    torch.testing.assert_close(ours.said, wanted.said, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.seen, wanted.seen, rtol=1e-5, atol=1e-5)


def test_names_of_a_list(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    first, beside = split_source("~/a.safetensors, ~/b.safetensors,own/model")
    assert first == f"{tmp_path}/a.safetensors" and beside == Beside((tmp_path / "b.safetensors",), "own/model")
    (tmp_path / "x,y.safetensors").touch()
    assert split_source(tmp_path / "x,y.safetensors") == (f"{tmp_path}/x,y.safetensors", NOTHING)


def test_by_their_names_distilled_models_are_not_trained(case, tmp_path):
    folder, paths, _ = case
    name = "flux-2-klein-4b" if "klein" in paths[0].name else "z_image_turbo_bf16"
    other = (tmp_path / name).with_suffix(".safetensors")
    other.symlink_to(paths[0])
    model = load_base_model(f"{other},{folder}")
    assert short_name(model.source) == name
    with pytest.raises(ModelError, match="distilled to a few steps"):
        model.check_trainable()


def test_what_is_wrong_is_said_in_a_line(case, tmp_path, tiny_sd):
    folder, paths, _ = case
    scaled = {**load_file(paths[0]), "model.diffusion_model.layers.0.scale_weight": torch.ones(1)}
    save_file(scaled, tmp_path / "fp8.safetensors")
    lost = {key: x for key, x in load_file(paths[1]).items() if "layers.1." not in key}
    save_file(lost, tmp_path / "lost.safetensors")
    for source, message in (
        (f"{paths[0]},{folder},{folder}", "no list of a model's parts"),
        (f"{paths[0]},{paths[0]},{folder}", "neither a Qwen3 text encoder nor an autoencoder"),
        (f"{paths[0]},{tmp_path}/gone.safetensors,{folder}", "no checkpoint .*gone.safetensors"),
        (f"{paths[0]},{tiny_sd}", "is a StableDiffusionPipeline"),
        (f"{tmp_path}/fp8.safetensors,{folder}", "take the file in bfloat16"),
        (f"{paths[0]},{tmp_path}/lost.safetensors,{folder}", "lost.safetensors does not fit the config"),
        (str(paths[0]), "^(black-forest-labs/FLUX.2-klein-base-4B|Tongyi-MAI/Z-Image): (the hub was not reached|what)"),
    ):
        with pytest.raises(ModelError, match=message) as raised:
            load_base_model(source)
        assert "\n" not in str(raised.value)
