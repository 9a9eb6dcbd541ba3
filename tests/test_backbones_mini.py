"""The bundled miniature backbones: every metric tells an original from noise, and the right one from a wrong one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from singleinsert.metrics import backbones, scores
from singleinsert.metrics.regions import Mask, mask_array
from testbed.world.captions import full_caption
from testbed.world.features import EDITS
from testbed.world.scene import Instance, Scene, draw

CLASSES = ("face", "cat", "dog", "cup", "car", "tree")
PLACES = ("beach", "snow", "jungle", "city", "desert", "water")


def scene(cls: str, number: int, background: str, seed: int) -> Scene:
    """A photo of an unseen instance without accessories."""
    plain = {name: values[0] for name, values in EDITS.items()}
    return Scene((Instance.from_seed(3_500_000_000 + number, cls),), (plain,), background, "photo", "front", seed)


def drawn(what: Scene) -> tuple[Image.Image, Mask]:
    done = draw(what)
    return done.image, np.round(mask_array(done.masks["subject"]))


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def world() -> dict[str, list]:
    """For each class an original; the same instance elsewhere; another instance there; noise; with masks."""
    out: dict[str, list] = {"scenes": [], "original": [], "same": [], "other": [], "noise": []}
    for k, cls in enumerate(CLASSES):
        first = scene(cls, k, PLACES[k], 10 + k)
        elsewhere = scene(cls, k, PLACES[(k + 3) % 6], 50 + k)
        out["scenes"].append(first)
        out["original"].append(drawn(first))
        out["same"].append(drawn(elsewhere))
        out["other"].append(drawn(replace(elsewhere, instances=(Instance.from_seed(3_600_000_000 + k, cls),))))
        out["noise"].append((noise(k), out["same"][-1][1]))
    return out


@pytest.fixture(scope="module")
def clip() -> backbones.TextImageEncoder:
    return backbones.load_clip("mini")


@pytest.fixture(scope="module")
def dino() -> backbones.ImageEncoder:
    return backbones.load_dino("mini")


def similarities(encoder, world, kind: str, region: scores.Region) -> np.ndarray:
    """(classes,) similarity of each original and what `kind` has for it."""
    found = []
    for (reference, reference_mask), (picture, mask) in zip(world["original"], world[kind], strict=True):
        found += scores.image_similarity(
            encoder, [picture], reference, masks=[mask], reference_mask=reference_mask, region=region
        )
    return np.asarray(found)


@pytest.mark.parametrize("name", ["clip", "dino"])
@pytest.mark.parametrize("region", ["whole", "foreground", "background"])
def test_image_similarity_tells_the_original_from_noise(name, region, world, request):
    encoder = request.getfixturevalue(name)
    itself = similarities(encoder, world, "original", region)
    assert itself == pytest.approx(1, abs=1e-5)
    assert (similarities(encoder, world, "noise", region) < 0.9).all()


@pytest.mark.parametrize("name", ["clip", "dino"])
def test_the_foreground_is_about_the_subject_wherever_it_is(name, world, request):
    encoder = request.getfixturevalue(name)
    same, other, static = (similarities(encoder, world, kind, "foreground") for kind in ("same", "other", "noise"))
    assert same.mean() > other.mean() > static.mean()
    assert (same > static).all() and (same > other).sum() >= 5


@pytest.mark.parametrize("name", ["clip", "dino"])
def test_the_background_is_about_the_place_whoever_is_there(name, world, request):
    """The same place laid out anew around another instance, against another place around the same instance."""
    encoder = request.getfixturevalue(name)
    found = []
    for k, first in enumerate(world["scenes"]):
        reference, reference_mask = world["original"][k]
        there = drawn(scene(first.instances[0].cls, 70 + k, first.background, 90 + k))
        elsewhere = world["same"][k]
        found.append(scores.image_similarity(
            encoder, [there[0], elsewhere[0]], reference, masks=[there[1], elsewhere[1]],
            reference_mask=reference_mask, region="background",
        ))  # fmt: skip
    there_, elsewhere_ = np.asarray(found).T
    assert (there_ > elsewhere_).all()


def test_clip_t_tells_the_right_prompt(clip, world):
    pictures = [picture for picture, _ in world["original"]]
    prompts = [full_caption(each) for each in world["scenes"]]
    right = np.asarray(scores.text_similarity(clip, pictures, prompts))
    wrong = np.asarray(scores.text_similarity(clip, pictures, prompts[1:] + prompts[:1]))
    static = np.asarray(scores.text_similarity(clip, [noise(k) for k in range(6)], prompts))
    assert (right > wrong).all() and (right > static).all()
    assert right.mean() > static.mean() + 0.2


def test_diversity_tells_copies_from_samples():
    lpips = backbones.load_lpips("mini")
    copies = [draw(scene("cat", 1, "snow", 5), masks=False).image] * 3
    similar = [draw(scene("cat", 1, "snow", seed), masks=False).image for seed in (5, 6, 7)]
    different = [draw(scene(cls, 1, place, 5), masks=False).image for cls, place in
                 (("cat", "snow"), ("car", "jungle"), ("face", "beach"))]  # fmt: skip
    values = [scores.diversity(lpips, each) for each in (copies, similar, different)]
    assert values[0] == 0 and values[0] < values[1] < values[2]
    assert float(lpips([copies[0]], [noise(0)])) > values[1]


def test_lpips_grows_with_the_change():
    lpips = backbones.load_lpips("mini")
    picture = draw(scene("face", 2, "city", 4), masks=False).image
    values = np.asarray(picture, float)
    static = np.random.default_rng(0).normal(0, 1, values.shape)
    changed = [Image.fromarray((values + s * static).clip(0, 255).astype(np.uint8)) for s in (0, 8, 24, 72)]
    found = lpips([picture] * 4, changed).tolist()
    assert found[0] == 0 and found == sorted(found) and found[1] > 0


def test_sids_measures_tell_the_subject_from_noise_and_its_surroundings(clip, world):
    for k in range(6):
        reference, (same, _), (other, _) = world["original"][k], world["same"][k], world["noise"][k]
        subject = scores.subject_alignment(clip, [reference[0], same, other], [reference])
        assert min(subject[:2]) > subject[2]
        apart = scores.non_subject_disentanglement(clip, [reference[0], same], [reference])
        assert apart[0] < apart[1]  # the reference itself is the most entangled with its own surroundings


def test_identity_similarity_tells_the_concepts_apart(dino):
    """Two subjects in a picture, each with its mask: another layout of the two, and noise in their places."""
    both = [Instance.from_seed(3_500_000_001, "cat"), Instance.from_seed(3_500_000_002, "cup")]
    plain = {name: values[0] for name, values in EDITS.items()}
    first, second = (draw(Scene(tuple(both), (plain, plain), place, "photo", "front", seed))
                     for place, seed in (("snow", 1), ("beach", 2)))  # fmt: skip
    reference_masks, masks = ([np.round(mask_array(d.masks[key])) for key in ("subject", "second")]
                              for d in (first, second))  # fmt: skip
    found = scores.identity_similarity(
        dino, [second.image, noise(0)], first.image, masks=[masks, masks], reference_masks=reference_masks
    )
    assert found[0][0] > found[1][0] and found[0][1] > found[1][1]
    swapped = scores.identity_similarity(
        dino, [second.image], first.image, masks=[masks[::-1]], reference_masks=reference_masks
    )
    assert sum(found[0]) > sum(swapped[0])


def test_the_assets_are_small_and_plain_transformers_folders():
    from transformers import CLIPModel, CLIPTokenizer, ViTModel

    total = sum(file.stat().st_size for file in backbones.MINI.rglob("*") if file.is_file())
    assert total < 2_000_000
    assert CLIPModel.from_pretrained(backbones.MINI / "clip").config.vision_config.image_size == 64
    assert len(CLIPTokenizer.from_pretrained(backbones.MINI / "clip")("a red cat")["input_ids"]) == 5
    assert ViTModel.from_pretrained(backbones.MINI / "vit", add_pooling_layer=False).config.image_size == 64
