"""Several named masks in one folder: saved, edited, read again, cut apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from singleinsert.data.pictures import Picture
from singleinsert.errors import InputError
from singleinsert.masks.collection import INDEX, MaskSet, NamedMask, find_masks, load_masks, save_masks
from testbed.dataset import held_out_scenes
from testbed.world.scene import draw

SIZE = (100, 80)


def named(name: str, left: int, top: int, right: int, bottom: int, value: int = 255) -> NamedMask:
    mask = Image.new("L", SIZE)
    mask.paste(value, (left, top, right, bottom))
    return NamedMask(name, f"a {name}", mask, "drawn")


def masks() -> MaskSet:
    # 30x30; 40x40 with 10x10 of the first; 20x20 apart
    return MaskSet(
        'me "at home".jpg',
        SIZE,
        (named("face", 10, 10, 40, 40), named("hair", 30, 30, 70, 70), named("cup", 75, 5, 95, 25)),
    )


def test_round_trip(tmp_path):
    save_masks(masks(), tmp_path / "scene")
    assert load_masks(tmp_path / "scene") == masks()
    assert sorted(p.name for p in (tmp_path / "scene").iterdir()) == ["cup.png", "face.png", "hair.png", "masks.toml"]


def test_soft_edges_survive(tmp_path):
    soft = MaskSet("a.png", SIZE, (NamedMask("face", "face", named("face", 10, 10, 60, 60, value=201).mask),))
    save_masks(soft, tmp_path)
    assert load_masks(tmp_path)["face"].mask.getpixel((20, 20)) == 201


def test_an_edited_png_counts(tmp_path):
    save_masks(masks(), tmp_path)
    named("cup", 70, 0, 100, 30).mask.save(tmp_path / "cup.png")
    assert np.count_nonzero(load_masks(tmp_path)["cup"].mask) == 900


def test_overlaps_union_and_background():
    both = masks()
    # 10x10 shared; the smaller has 900 pixels
    assert both.overlaps() == {("face", "hair"): pytest.approx(100 / 900)}
    covered = 900 + 1600 - 100 + 400
    assert np.count_nonzero(both.union()) == covered
    assert np.count_nonzero(both.background()) == 8000 - covered


def test_disjoint_goes_by_order():
    cut = masks().disjoint()
    assert cut.overlaps() == {}
    assert [np.count_nonzero(each.mask) for each in cut.masks] == [900, 1500, 400]
    inside = MaskSet("a.png", SIZE, (named("face", 10, 10, 60, 60), named("nose", 20, 20, 30, 30)))
    with pytest.raises(InputError, match="mask nose without face is empty"):
        inside.disjoint()


def test_by_name():
    assert masks()["cup"].class_word == "a cup"
    with pytest.raises(InputError, match="no mask 'dog', only face, hair, cup"):
        masks()["dog"]


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: (), "no masks for a.png"),
        (lambda: (named("../up", 0, 0, 50, 50),), "mask name '../up'"),
        (lambda: (named("cup", 0, 0, 50, 50), named("Cup", 0, 0, 50, 50)), "two masks are named"),
        (lambda: (NamedMask("a", "a", Image.new("L", (10, 10))),), "mask a is 10x10, the picture 100x80"),
    ],
)
def test_sets_that_cannot_be(made, says):
    with pytest.raises(InputError, match=says):
        MaskSet("a.png", SIZE, made())


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / INDEX).unlink(), "holds no masks.toml"),
        (lambda f: (f / INDEX).write_text("version = "), "is not valid TOML"),
        (lambda f: (f / INDEX).write_text("version = 9"), "version 9; this program reads 1"),
        (
            lambda f: (f / INDEX).write_text("version = 1\npicture='a'\nsize=[1]"),
            r"size is \[1\], not \[width, height\] in pixels",
        ),
        (lambda f: (f / "cup.png").unlink(), "mask not found: .*cup.png"),
        (lambda f: Image.new("L", SIZE).save(f / "cup.png"), "cup.png is empty"),
        (lambda f: Image.new("L", (9, 9)).save(f / "cup.png"), "cup.png is 9x9 but the picture is 100x80"),
        (
            lambda f: (f / INDEX).write_text((f / INDEX).read_text().replace('"cup"', '"../cup"')),
            "not a plain file name",
        ),
    ],
)
def test_folders_that_cannot_be_read(tmp_path, spoil, says):
    save_masks(masks(), tmp_path)
    spoil(tmp_path)
    with pytest.raises(InputError, match=says):
        load_masks(tmp_path)


def test_several_masks_are_found():
    """A drawn face with a hat: both by the miniature's segmenter, and the face without its hat."""
    for scene in held_out_scenes(200):
        drawn = draw(scene)
        if scene.instances[0].cls == "face" and np.count_nonzero(np.asarray(drawn.masks["hat"]) >= 128) > 250:
            break
    found = find_masks(
        Picture(drawn.image, None, Path("drawn.png")),
        {"whole": "face", "hat": "hat", "bare": "face|hat"},
        backend="mini",
    )
    assert [each.name for each in found.masks] == ["whole", "hat", "bare"] and found["bare"].class_word == "face"
    whole, hat, bare = (np.asarray(each.mask) >= 128 for each in found.masks)
    assert not (bare & hat).any() and np.count_nonzero(whole & ~hat & ~bare) < 0.03 * np.count_nonzero(whole)
