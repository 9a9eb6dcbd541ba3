"""What shows in a picture of the drawn world."""

from __future__ import annotations

import dataclasses

import pytest

from testbed.labels import COLOR_ATTRIBUTES, HEADS, attributes_of, head_of, labels, visible
from testbed.world.features import CLASSES, EDITS
from testbed.world.scene import Instance, Scene

PLAIN = {name: values[0] for name, values in EDITS.items()}


def scene(
    cls: str, style: str = "photo", view: str = "front", features: dict[str, str] | None = None, **edits: str
) -> Scene:
    instance = Instance.from_seed(1, cls)
    instance = dataclasses.replace(instance, features=instance.features | (features or {}))
    return Scene((instance,), (PLAIN | edits,), "beach", style, view)


def test_sunglasses_hide_the_eyes_and_glasses_do_not() -> None:
    assert {"eye_color", "eye_size"} <= visible(scene("face", glasses="glasses")).keys()
    assert not {"eye_color", "eye_size"} & visible(scene("face", glasses="sunglasses")).keys()
    assert "eye_color" not in visible(scene("cat", glasses="sunglasses"))


def test_a_bald_head_has_a_hair_colour_only_in_its_beard() -> None:
    assert "hair_color" not in visible(scene("face", features={"hair": "bald", "marking": "plain"}))
    assert "hair_color" in visible(scene("face", features={"hair": "bald", "marking": "bearded"}))


def test_a_hat_hides_the_hair_style_and_the_colour_of_short_hair() -> None:
    assert visible(scene("face", features={"hair": "long"}))["hair"] == "long"
    long = visible(scene("face", features={"hair": "long"}, hat="beanie"))
    assert "hair" not in long
    assert "hair_color" in long
    assert "hair_color" not in visible(scene("face", features={"hair": "short", "marking": "plain"}, hat="cap"))
    assert "hair_color" in visible(scene("face", features={"hair": "short", "marking": "bearded"}, hat="cap"))


def test_pixel_art_swallows_fine_features_and_keeps_large_ones() -> None:
    shown = visible(scene("face", "pixel art"))
    assert not {"nose", "marking", "eye_color"} & shown.keys()
    assert {"skin", "head", "view"} <= shown.keys()


@pytest.mark.parametrize("cls", CLASSES)
def test_a_pencil_sketch_has_no_colours(cls: str) -> None:
    shown = visible(scene(cls, "pencil sketch", hat="cap", scarf="red", fruits="red"))
    assert not COLOR_ATTRIBUTES & shown.keys()
    assert shown["style"] == "pencil sketch"


def test_accessories_are_two_questions() -> None:
    worn = visible(scene("dog", scarf="red"))
    assert (worn["scarf"], worn["scarf_color"]) == ("scarf", "red")
    bare = visible(scene("dog"))
    assert bare["scarf"] == "none"
    assert not {"scarf_color", "hat_color"} & bare.keys()


def test_views_count_where_they_are_drawn() -> None:
    assert visible(scene("face", view="left"))["view"] == "left"
    assert visible(scene("car", view="front"))["view"] == "right"  # a car's front view is its right side
    assert visible(scene("car", view="left"))["view"] == "left"
    assert "view" not in visible(scene("tree", view="left"))


def test_two_subjects_are_asked_for_their_surroundings_only() -> None:
    two = next(s for s in map(Scene.from_seed, range(500)) if len(s.instances) == 2)
    assert set(visible(two)) == {"background", "style"}


@pytest.mark.parametrize("cls", CLASSES)
def test_every_attribute_that_shows_has_a_head_with_its_value(cls: str) -> None:
    for seed in range(60):
        shown = Scene.from_seed(seed, Instance.from_seed(seed, cls))
        assert set(visible(shown)) <= set(attributes_of(cls))
        for name, value in visible(shown).items():
            head = head_of(cls, name)
            assert head is not None
            assert HEADS[head][labels(shown)[head]] == value


def test_a_class_has_no_head_for_what_it_lacks() -> None:
    assert head_of("car", "hair_color") is None
    assert head_of("tree", "view") is None
    assert head_of("face", "nose") == "face.nose"
