"""A run's preparation of a photo with as many pixels as are taken: a gigabyte at most, and nothing of it is kept."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw
from test_early import ROOT

from singleinsert.data import pictures
from singleinsert.data.opening import open_picture
from singleinsert.data.pictures import Picture, crop_to_square, load_picture
from singleinsert.errors import InputError
from singleinsert.masks import cleanup, find_mask
from singleinsert.masks.overlay import overlay

PREPARE = """
import resource, sys
import singleinsert.training.run
from singleinsert.config import load_settings
from singleinsert.data import opening, pictures
from singleinsert.masks import cleanup, find, grabcut
from singleinsert.masks.overlay import overlay
from singleinsert.training.prepare import find_material

grabcut.import_cv2()
for part, name in ((opening, "MAX_BYTES"), (cleanup, "LARGEST_CLEANED"), (pictures, "LARGEST_WHOLE")):
    setattr(part, name, int(getattr(part, name) / 4))
pictures.LARGEST_SQUARE //= 2
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
find_material(load_settings(None, None, {"data.class_word": "face", **eval(sys.argv[1])}), print)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("given", ["mask", "box"])
def test_preparation_stays_within_what_reading_may_take(tmp_path, given):
    """All limits, and the photo, at a quarter: 27.5 million pixels of 27.8, and 250 MB. The picture alone
    is 110, twice that while it is turned upright."""
    side = 5240
    photo = Image.merge("RGB", [Image.linear_gradient("L").resize((side, side))] * 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(tmp_path / "photo.jpg", quality=60, exif=exif)
    values = {"data.image": str(tmp_path / "photo.jpg"), "mask.padding": 0.01}
    if given == "mask":
        mask = Image.new("L", (side, side))
        ImageDraw.Draw(mask).ellipse([1000, 1000, 4000, 4000], fill=255)
        mask.save(tmp_path / "photo_mask.png", compress_level=1)
    else:
        values["mask.box"] = [1000, 1000, 4000, 4000]
    done = subprocess.run(
        [sys.executable, "-c", PREPARE, repr(values)], capture_output=True, text=True, cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MALLOC_TRIM_THRESHOLD_": "100000"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) * 1024 <= 250e6, done.stdout


def test_several_concepts_take_more_and_are_taken_smaller(tmp_path):
    """1e9 bytes at 9 + 2 for each of 8 masks, 25 a pixel: 40 million pixels."""
    Image.new("L", (9000, 5000)).save(tmp_path / "a.png")
    assert load_picture(tmp_path / "a.png").image.size == (9000, 5000)
    with pytest.raises(InputError, match="9000x5000 pixels, and a PNG may have 40 million here"):
        open_picture(tmp_path / "a.png", later=25)


@pytest.mark.parametrize("mode", ["mask", "zoom", "center", "pad"])
@pytest.mark.parametrize("size", [(400, 200), (200, 400), (300, 300)])
def test_a_large_square_is_reduced_as_it_is_cut(monkeypatch, size, mode):
    """What trains is the same, but for the filter: the square at its own scale, reduced."""
    y, x = np.mgrid[: size[1], : size[0]]
    image = Image.fromarray(np.stack([x / 2, y / 2, 40 + 0 * x], -1).astype(np.uint8))
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).rectangle((40, 60, 139, 159), fill=255)
    whole = crop_to_square(Picture(image, None, "a.png"), mask, mode)
    monkeypatch.setattr(pictures, "LARGEST_SQUARE", 80)
    small = crop_to_square(Picture(image, None, "a.png"), mask, mode)
    assert small.box == whole.box and small.image.size == small.mask.size == (80, 80)
    for ours, theirs in ((small.image, whole.image), (small.mask, whole.mask)):
        wanted = np.asarray(theirs.resize((80, 80), Image.Resampling.BOX)).astype(int)
        difference = np.abs(np.asarray(ours) - wanted)
        assert difference.mean() < 3 and np.median(difference) <= 1


def test_a_mask_is_looked_for_in_a_reduced_picture(monkeypatch, tmp_path):
    """The box is of the picture's pixels all the same, and so are the mask's size and what is said of it."""
    image = Image.new("RGB", (600, 400), (30, 90, 160))
    ImageDraw.Draw(image).ellipse([200, 100, 400, 300], fill=(230, 180, 140))
    image.save(tmp_path / "a.png")
    box = (180, 80, 420, 320)
    whole = find_mask(load_picture(tmp_path / "a.png"), "ball", box=box)
    monkeypatch.setattr(cleanup, "LARGEST_CLEANED", 150 * 100)
    small = find_mask(load_picture(tmp_path / "a.png"), "ball", box=box)
    assert small.candidates[0].mask.size == (150, 100) and small.mask.size == (600, 400)
    assert small.candidates[0].box == pytest.approx(box)
    ours, theirs = (np.asarray(found.mask) >= 128 for found in (small, whole))
    assert (ours & theirs).sum() / (ours | theirs).sum() > 0.95  # the ellipse's rim at a quarter of its scale
    assert set(np.unique(small.mask)) == {0, 255}


def test_what_a_run_keeps_of_a_picture_draws_the_same(monkeypatch, tmp_path):
    monkeypatch.setattr("singleinsert.masks.overlay.MOST_SIDE", 150)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 600, 3), dtype=np.uint8))
    image.save(tmp_path / "a.png")
    found = find_mask(load_picture(tmp_path / "a.png"), "ball", box=(180, 80, 420, 320))
    kept = found.without_pixels()
    assert kept.picture.image.size == (150, 100) and kept.mask is found.mask
    assert kept.overlay() == found.overlay()
    assert overlay(image, found.mask).size == (150, 100)
