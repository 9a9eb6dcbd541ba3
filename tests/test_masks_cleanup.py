"""Clean-up on shapes whose result can be said beforehand."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from singleinsert.errors import ConfigError
from singleinsert.masks.cleanup import Cleanup, clean, cut_away, pad_and_feather, union

SIDE = 200
OFF = Cleanup(smooth=0, fill_holes=False, min_part=0)


def drawn(*boxes: tuple[int, int, int, int], value: int = 255) -> Image.Image:
    """Filled boxes (right and bottom exclusive) on black."""
    mask = Image.new("L", (SIDE, SIDE))
    for left, top, right, bottom in boxes:
        ImageDraw.Draw(mask).rectangle((left, top, right - 1, bottom - 1), fill=value)
    return mask


def pixels(mask: Image.Image) -> int:
    return int(np.count_nonzero(np.asarray(mask) >= 128))


def test_nothing_asked_for_changes_nothing():
    mask = drawn((20, 30, 90, 100), (150, 150, 153, 190))
    assert clean(mask, OFF) == mask
    soft = drawn((20, 30, 90, 100), value=77)
    assert pad_and_feather(soft, OFF) == soft


def test_whiskers_and_cracks_go():
    body, whisker, crack = (40, 40, 120, 120), (120, 70, 170, 72), (70, 40, 72, 90)
    mask = drawn(body, whisker)
    mask.paste(0, crack)
    # radius 0.02 of 200 = 4 pixels: a line of 2 is opened away, a gap of 2 is closed
    cleaned = np.asarray(clean(mask, Cleanup(smooth=0.02, fill_holes=False, min_part=0))) >= 128
    assert not cleaned[:, 126:].any()
    assert cleaned[60:90, 60:110].all()
    # the corners are rounded, the sides stay where they were
    assert cleaned[80, 40] and cleaned[80, 119] and not cleaned[80, 39]


def test_a_subject_at_the_border_keeps_its_border():
    mask = drawn((0, 0, 100, SIDE))
    assert np.array_equal(np.asarray(clean(mask, Cleanup(smooth=0.02))), np.asarray(mask))


def test_holes():
    ring = drawn((50, 50, 150, 150))
    ring.paste(0, (80, 80, 120, 120))
    assert pixels(clean(ring, Cleanup(smooth=0, fill_holes=True, min_part=0))) == 100 * 100
    bay = drawn((50, 50, 150, 150))
    bay.paste(0, (80, 80, 120, 150))  # open to the outside
    assert pixels(clean(bay, Cleanup(smooth=0, fill_holes=True, min_part=0))) == 100 * 100 - 40 * 70
    at_border = drawn((0, 50, 150, 150))
    at_border.paste(0, (0, 80, 40, 120))  # open to the outside of the picture
    assert pixels(clean(at_border, Cleanup(smooth=0, fill_holes=True, min_part=0))) == 150 * 100 - 40 * 40


@pytest.mark.parametrize(("min_part", "left"), [(0, 10000 + 400 + 25), (0.01, 10000 + 400), (0.05, 10000), (1, 10000)])
def test_crumbs(min_part, left):
    # pieces of 100x100, 20x20 (4 percent of it) and 5x5 (0.25 percent)
    mask = drawn((10, 10, 110, 110), (130, 130, 150, 150), (180, 180, 185, 185))
    assert pixels(clean(mask, Cleanup(smooth=0, fill_holes=False, min_part=min_part))) == left


def test_padding_grows_and_shrinks():
    mask = drawn((60, 60, 140, 140))
    grown = np.asarray(pad_and_feather(mask, Cleanup(padding=0.05)))  # 10 pixels
    assert grown[100, 50] == 255 and grown[100, 49] == 0 and grown[100, 149] == 255 and grown[100, 150] == 0
    assert grown[51, 51] == 0, "corners are round: the distance counts"
    shrunk = np.asarray(pad_and_feather(mask, Cleanup(padding=-0.05)))
    assert shrunk[100, 70] == 255 and shrunk[100, 69] == 0


def test_feathering_keeps_the_share():
    mask = drawn((60, 60, 140, 140))
    soft = np.asarray(pad_and_feather(mask, Cleanup(feather=0.02)), np.float64)
    assert soft[100, 100] == 255 and soft[100, 10] == 0 and 100 < soft[100, 60] < 155
    assert soft.mean() == pytest.approx(np.asarray(mask).mean(), rel=0.01)


def test_parts_are_cut_away_and_joined():
    hair, face = drawn((20, 20, 180, 120)), drawn((60, 60, 140, 180))
    assert pixels(cut_away(hair, [face])) == 160 * 100 - 80 * 60
    assert cut_away(hair, []) == hair
    assert pixels(union([hair, face])) == 160 * 100 + 80 * 120 - 80 * 60


@pytest.mark.parametrize(
    "wrong", [{"smooth": -0.1}, {"min_part": 1.5}, {"padding": 0.6}, {"feather": 0.5}, {"smooth": float("nan")}]
)
def test_out_of_range(wrong):
    with pytest.raises(ConfigError, match=f"mask.{next(iter(wrong))} (is|must be)"):
        Cleanup(**wrong)
