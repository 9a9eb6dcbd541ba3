"""Encoders and LPIPS: through the real loading code, against transformers' own outputs and torchmetrics' LPIPS."""

from __future__ import annotations

import importlib
import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tinybackbones import write_preprocessor, write_tiny_clip, write_tiny_vit

from singleinsert.errors import InputError, ModelError
from singleinsert.metrics import lpips, scores
from singleinsert.metrics.backbones import Preparation, load_clip, load_dino, load_lpips


def noise(seed: int, size: tuple[int, int] = (40, 48)) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return write_tiny_clip(tmp_path_factory.mktemp("clip"))


# ------------------------------------------------------------------------------------------------------------ CLIP
def test_clip_is_transformers_own_model(clip_folder):
    from transformers import CLIPModel, CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    clip = load_clip(str(clip_folder))
    pictures, prompts = [noise(k) for k in range(3)], ["a photo of a cat", "a dog on the beach", "red hat"]
    model = CLIPModel.from_pretrained(clip_folder).eval()
    pixels = CLIPImageProcessorPil.from_pretrained(clip_folder)(pictures, return_tensors="pt").pixel_values
    ids = CLIPTokenizer.from_pretrained(clip_folder)(
        prompts, padding="max_length", max_length=16, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        out = model(input_ids=ids, pixel_values=pixels)
    assert torch.allclose(clip.images(pictures), out.image_embeds, atol=1e-5)
    assert torch.allclose(clip.texts(prompts), out.text_embeds, atol=1e-5)
    diagonal = out.logits_per_image.diagonal() / model.logit_scale.exp()
    assert scores.text_similarity(clip, pictures, prompts) == pytest.approx(diagonal.tolist(), abs=1e-5)
    assert clip.name == f"CLIP {clip_folder.name}"


def test_clip_t_is_torchmetrics_clip_score(clip_folder, monkeypatch):
    """CLIPScore is 100 cos before its mean over pictures is cut off at 0."""
    functional = importlib.import_module("torchmetrics.functional.multimodal.clip_score")
    from transformers import CLIPModel, CLIPProcessor, CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPProcessor(
        CLIPImageProcessorPil.from_pretrained(clip_folder), CLIPTokenizer.from_pretrained(clip_folder)
    )
    model = CLIPModel.from_pretrained(clip_folder).eval()
    for name in ("get_image_features", "get_text_features"):  # transformers 5 wraps what torchmetrics takes bare
        inner = getattr(model, name)
        monkeypatch.setattr(model, name, lambda *a, inner=inner, **k: inner(*a, **k).pooler_output)
    clip = load_clip(str(clip_folder))
    for seed, prompt in enumerate(["a cat", "a photo of a red hat", "snow", "the dog wearing glasses"]):
        picture = noise(seed)
        ours = scores.text_similarity(clip, [picture], [prompt])[0]
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        found, _ = functional._clip_score_update([pixels], [prompt], model, processor)
        assert 100 * ours == pytest.approx(found[0].item(), abs=1e-3)


# ------------------------------------------------------------------------------------------------------------ DINO
@pytest.mark.parametrize("kind", ["vit", "dinov2", "dinov2_with_registers"])
def test_dino_is_the_class_token(tmp_path, kind):
    from transformers import AutoModel

    dino = load_dino(str(write_tiny_vit(tmp_path / kind, kind)))
    picture = noise(1, (32, 32))
    pixels = torch.from_numpy(np.array(picture, np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(tmp_path / kind).eval()(pixel_values=pixels).last_hidden_state
    assert torch.allclose(dino.images([picture])[0], F.normalize(hidden[0, 0], dim=0), atol=1e-5)


# ----------------------------------------------------------------------------------------------------- preparation
@pytest.mark.parametrize("size", [(40, 48), (48, 31), (32, 32), (20, 90)])
@pytest.mark.parametrize("resample", [2, 3])
def test_preparation_is_transformers_own(tmp_path, size, resample):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    write_preprocessor(tmp_path, resample=resample)
    picture = noise(0, size)
    theirs = CLIPImageProcessorPil.from_pretrained(tmp_path)([picture], return_tensors="pt").pixel_values[0]
    config = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert torch.allclose(Preparation(config, 224, None)(picture), theirs, atol=1e-5)


def test_preparation_of_dinos_older_files():
    """DINO's own files say size = 224, a number, and no crop."""
    config = {"do_resize": True, "size": 24, "resample": 2, "do_normalize": True, "image_mean": [0.5] * 3,
              "image_std": [0.5] * 3}  # fmt: skip
    assert Preparation(config, 24, None)(noise(0, (48, 30))).shape == (3, 24, 24)


# ----------------------------------------------------------------------------------------------------------- LPIPS
@pytest.mark.parametrize("network", ["alex", "vgg"])
def test_lpips_is_torchmetrics_own(network, monkeypatch):
    """Random networks, the published linear weights: the same distances."""
    reference = importlib.import_module("torchmetrics.functional.image.lpips")
    torch.manual_seed(0)
    ours = lpips.Lpips(network)
    weights = lpips._read(lpips.ASSETS / "lpips" / f"{network}.safetensors")
    lpips._fill(ours, {**{k: v for k, v in ours.state_dict().items() if k.startswith("features.")},
                       **{f"linear.{k}": v for k, v in weights.items()}}, lpips.ASSETS)  # fmt: skip
    monkeypatch.setattr(reference, "_get_tv_model_features", lambda *_: ours.features)
    theirs = reference._LPIPS(net=network, pretrained=True, pnet_rand=True)
    a, b = ([noise(k + shift, (64, 64)) for k in range(2)] for shift in (0, 7))
    tensors = [torch.stack([lpips.pixels(p) for p in side]) for side in (a, b)]
    with torch.no_grad():
        expected = theirs(*tensors).flatten()
    assert torch.allclose(lpips.LpipsDistance(ours)(a, b), expected, rtol=1e-4, atol=1e-7)
    assert (expected > 0).all()


def test_lpips_by_hand():
    """One 1x1 picture pair and a network of one layer: unit vectors (1, 0) and (0.6, 0.8), weights 1 and 2.
    (1 - 0.6)^2 * 1 + (0 - 0.8)^2 * 2 = 0.16 + 1.28."""
    f, g = torch.tensor([5.0, 0.0]).view(1, 2, 1, 1), torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    model = lpips.Lpips("mini")
    model.linear = torch.nn.ParameterList([torch.tensor([1.0, 2.0])])
    model.outputs = lambda x: [f if x.sum() > 0 else g]
    assert model(torch.ones(1, 3, 1, 1), -torch.ones(1, 3, 1, 1)).item() == pytest.approx(1.44)


@pytest.mark.parametrize("how", ["hub", "folder", "safetensors"])
def test_lpips_reads_torchvisions_file(tmp_path, monkeypatch, how):
    from safetensors.torch import save_file

    torch.manual_seed(1)
    features, _ = lpips.alexnet()
    weights = {f"features.{k}": v for k, v in features.state_dict().items()} | {"classifier.1.weight": torch.ones(2, 2)}
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    place = tmp_path / "hub" / "checkpoints" if how == "hub" else tmp_path / "own"
    place.mkdir(parents=True)
    if how == "safetensors":
        save_file(weights, place / "alexnet-owt-7be5be79.safetensors")
    else:
        torch.save(weights, place / "alexnet-owt-7be5be79.pth")
    distance = load_lpips("alex" if how == "hub" else str(place))
    same, other = distance([noise(0, (64, 64))] * 2, [noise(0, (64, 64)), noise(1, (64, 64))])
    assert same == 0 and other > 0
    # each size on its own: small pictures and large ones in one call
    mixed = distance([noise(0, (64, 64)), noise(0, (80, 64))], [noise(1, (64, 64)), noise(1, (80, 64))])
    assert mixed[0] == pytest.approx(float(other), rel=1e-5) and mixed[1] > 0
    with pytest.raises(InputError, match="larger pictures than 16x16"):
        distance([noise(0, (16, 16))], [noise(1, (16, 16))])


def test_vggs_layers_are_torchvisions():
    features, taps = lpips.vgg16()
    assert taps == (3, 8, 15, 22, 29)  # relu1_2, relu2_2, relu3_3, relu4_3, relu5_3
    names = [name for name in features.state_dict() if name.endswith("weight")]
    assert names == [f"{k}.weight" for k in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)]


# ---------------------------------------------------------------------------------------------- what cannot be had
@pytest.mark.parametrize(
    ("load", "name", "said"),
    [
        (load_clip, "openai/clip-vit-base-patch32", "needs config.json, .* and tokenizer_config.json"),
        (load_dino, "facebook/dino-vits16", "needs config.json, model.safetensors and preprocessor_config.json"),
        (load_clip, "no-such-folder", "no folder no-such-folder"),
        (load_dino, "./nothing/here", "no folder ./nothing/here"),
        (load_lpips, "alex", "alexnet-owt-7be5be79.pth"),
        (load_lpips, "vgg", "vgg16-397923af.pth"),
        (load_lpips, "no-such-folder", "mini, alex, vgg, or a folder"),
    ],
)
def test_what_is_missing_is_named_in_one_line(load, name, said, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ModelError, match=said) as error:
        load(name)
    assert "\n" not in str(error.value)


def test_a_model_of_another_kind_is_refused(tmp_path, clip_folder):
    with pytest.raises(ModelError, match="is a clip model, not DINO"):
        load_dino(str(clip_folder))
    with pytest.raises(ModelError, match="is a vit model, not CLIP"):
        load_clip(str(write_tiny_vit(tmp_path / "vit", "vit")))


@pytest.mark.parametrize("gone", ["model.safetensors", "config.json", "tokenizer.json"])
def test_an_incomplete_clip_folder_says_what_it_needs(tmp_path, clip_folder, gone):
    folder = tmp_path / "clip"
    shutil.copytree(clip_folder, folder)
    (folder / gone).unlink()
    with pytest.raises(ModelError, match="it needs .*tokenizer.json") as error:
        load_clip(str(folder))
    assert "\n" not in str(error.value)


def test_damaged_lpips_weights_are_named(tmp_path):
    (tmp_path / "vgg16-397923af.pth").write_bytes(b"not weights")
    with pytest.raises(ModelError, match="vgg16-397923af.pth"):
        load_lpips(str(tmp_path))
    torch.save({"features.0.weight": torch.ones(2)}, tmp_path / "vgg16-397923af.pth")
    with pytest.raises(ModelError, match="does not hold the weights of LPIPS vgg"):
        load_lpips(str(tmp_path))


@pytest.mark.parametrize("load", [load_clip, load_dino, load_lpips])
def test_where_the_miniatures_are_missing_the_line_says_what_makes_them(load, tmp_path, monkeypatch):
    monkeypatch.setattr("singleinsert.metrics.backbones.MINI", tmp_path / "none")
    monkeypatch.setattr("singleinsert.metrics.lpips.MINI", tmp_path / "none")
    with pytest.raises(ModelError, match="is missing: .*python -m testbed.backbones makes it"):
        load("mini")
