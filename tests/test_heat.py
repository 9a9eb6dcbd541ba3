"""Heat maps: the colour scale, the strip with its bar, and what a finished scene's maps are."""

import numpy as np
import pytest
import torch
from PIL import Image
from test_break_a_scene import BOTH, FRAME, scene_concepts
from tinymodels import hashed

from singleinsert.drawing.heat import HEAT, TILE_GAP, TITLE_HEIGHT, heat_picture, heat_strip
from singleinsert.drawing.sheet import make_sheet
from singleinsert.drawing.typeface import typeface
from singleinsert.models.attention import CrossAttentionMaps, layers_at
from singleinsert.models.latents import LatentDistribution
from singleinsert.models.loading import load_base_model
from singleinsert.training.attention import LEVELS, handle_maps
from singleinsert.training.step import EncodedPicture
from singleinsert.training.texts import PromptBook

GREY = Image.new("RGB", (64, 64), (90, 90, 90))


def lightness(color):
    """CIE L* of an sRGB colour: 116 Y^(1/3) - 16 of its luminance Y (for Y > 0.009)."""
    linear = [c / 3294.6 if c <= 10.31475 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color]
    return 116 * (np.dot(linear, [0.2126, 0.7152, 0.0722])) ** (1 / 3) - 16


def test_equal_steps_of_the_scale_are_equal_steps_of_lightness():
    steps = np.diff([lightness(color) for color in HEAT])
    assert steps.mean() == pytest.approx(9.6, abs=0.3) and np.abs(steps - steps.mean()).max() < 1.5


def test_the_heat_is_light_where_the_map_is_high():
    heat = np.zeros((8, 8))
    heat[:, 4:] = 1.0
    shown = np.asarray(heat_picture(GREY, heat, strength=1.0)).astype(int)
    assert abs(shown[32, 2] - HEAT[0]).max() <= 2 and abs(shown[32, 61] - HEAT[-1]).max() <= 2
    # half of the photo's own grey, whatever its colour was: 0.299 * 200 + 0.587 * 40 + 0.114 * 40 = 88
    red = np.asarray(heat_picture(Image.new("RGB", (8, 8), (200, 40, 40)), heat, strength=0.5)).astype(int)
    assert abs(red[4, 0] - (np.array(HEAT[0]) + 88) / 2).max() <= 2
    assert np.asarray(heat_picture(Image.new("RGB", (9, 7)), np.ones((4, 4)))).shape == (7, 9, 3)  # no spread: no NaN


def test_maps_of_a_strip_share_one_scale_from_zero():
    """The highest value, 0.4, is the lightest colour; 0.2 in the other map is the middle one, and so is the bar's."""
    maps = {"cat": np.full((4, 4), 0.4), "cup": np.full((4, 4), 0.2)}
    tile = 65
    strip = np.asarray(heat_strip(Image.new("RGB", (8, 8)), maps, tile, typeface())).astype(int)
    middle = TITLE_HEIGHT + tile // 2
    firsts = [strip[middle, place * (tile + TILE_GAP) + 9] for place in range(2)]
    for found, stop in zip(firsts, (HEAT[-1], HEAT[4]), strict=True):
        assert abs(found - 0.6 * np.array(stop)).max() <= 2  # 0.6 of the colour over a black picture
    bar = strip[TITLE_HEIGHT:, 2 * (tile + TILE_GAP) + 5]
    for y, stop in ((0, HEAT[-1]), (tile // 2, HEAT[4]), (tile - 1, HEAT[0])):
        assert abs(bar[y] - stop).max() <= 2


def test_the_strip_is_a_row_of_the_sheet():
    row = {"<cat> cat": np.ones((4, 4)), "<cup> cup": np.eye(4)}
    plain, heated = (make_sheet("a", "b", GREY, GREY, "c", ["d"], [], heats) for heats in ({}, row))
    strip = np.asarray(heat_strip(GREY, row, 224, typeface()))
    assert heated.height - plain.height >= len(strip) and heated.width > plain.width
    bottom = np.asarray(heated)
    corners = np.argwhere((bottom == strip[TITLE_HEIGHT, 0]).all(-1))
    assert any(
        np.array_equal(bottom[y : y + 224, x : x + 400], strip[TITLE_HEIGHT:, :400])
        for y, x in corners
        if y >= plain.height - 100
    )


def test_a_handles_map_is_the_attention_that_its_vectors_have(make_tiny_sd):
    """Against the other reader, call by call: the mean over the noise levels, of the same layers."""
    model, concepts = load_base_model(make_tiny_sd()), scene_concepts()
    masks = {name: torch.ones(1, 1, 16, 16) for name in ("cat", "cup")}
    picture = EncodedPicture(LatentDistribution(hashed((1, 4, 16, 16), 1), torch.ones(())), masks, FRAME, masks)
    book = PromptBook(model, concepts, {"cat": "cat", "cup": "cup"})
    maps = handle_maps(model, book, concepts, BOTH, picture, 4, torch.Generator().manual_seed(5))
    places = {name: book.prompt(BOTH.prompt).positions(f"<{name}>") for name in ("cat", "cup")}
    assert maps.keys() == places.keys() and all(len(own) == 1 for own in places.values())
    layers, generator = layers_at(model.unet, (16, 16), 4), torch.Generator().manual_seed(5)
    condition = model.encode(book.prompt(BOTH.prompt), concepts.vectors(), FRAME)
    with CrossAttentionMaps(model.unet, [places], layers=layers.__contains__) as attention, torch.no_grad():
        for u in LEVELS:
            t = torch.tensor([int(u * 1000)])
            noise = torch.randn(1, 4, 16, 16, generator=generator)
            model.predict(model.schedule.add_noise(picture.latents.mean, noise, t), t, condition)
    for name, expected in attention.maps()[0].items():
        assert torch.allclose(maps[name], expected, atol=1e-6) and 0 < float(maps[name].mean()) < 1
