"""Masks that somebody made: every kind of file, the alpha channel, pairs by name; and what cannot train is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from singleinsert.data.folders import mask_in
from singleinsert.data.pictures import Picture, load_picture
from singleinsert.errors import InputError
from singleinsert.masks import check_mask, mask_from_alpha, mask_from_file, share_of
from singleinsert.masks.files import has_alpha_mask

SIZE = (40, 30)


def disc() -> np.ndarray:
    """Boolean (30, 40): a disc of radius 10 in the middle."""
    y, x = np.ogrid[:30, :40]
    return (x - 20) ** 2 + (y - 15) ** 2 <= 100


def grey() -> Image.Image:
    return Image.fromarray(disc().astype(np.uint8) * 255)


@pytest.fixture
def picture() -> Picture:
    return Picture(Image.new("RGB", SIZE, (90, 60, 30)), None, Path("photos/cat.jpg"))


def as_palette() -> Image.Image:
    image = Image.fromarray(disc().astype(np.uint8), "P")
    image.putpalette([0, 0, 0, 255, 255, 255])
    return image


def as_cut_out() -> Image.Image:
    """A subject cut out of a colourful photo, transparent around it."""
    image = Image.new("RGBA", SIZE, (200, 30, 30, 0))
    image.putalpha(grey())
    return image


KINDS = {
    "L": grey,
    "1": lambda: grey().convert("1"),
    "RGB": lambda: grey().convert("RGB"),
    "opaque RGBA": lambda: grey().convert("RGBA"),
    "palette": as_palette,
    "labels 0 and 1": lambda: Image.fromarray(disc().astype(np.uint8)),
    "16 bit": lambda: Image.fromarray(disc().astype(np.uint16) * 65535),
    "cut out": as_cut_out,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_is_the_same_mask(tmp_path, picture, kind):
    KINDS[kind]().save(tmp_path / "mask.png")
    mask = mask_from_file(tmp_path / "mask.png", picture)
    assert mask.mode == "L" and mask.size == SIZE
    assert np.array_equal(np.asarray(mask) == 255, disc()) and set(np.unique(mask)) == {0, 255}


def test_soft_edges_stay(tmp_path, picture):
    ramp = np.tile(np.linspace(0, 255, 40).round().astype(np.uint8), (30, 1))
    Image.fromarray(ramp).save(tmp_path / "mask.png")
    assert np.array_equal(np.asarray(mask_from_file(tmp_path / "mask.png", picture)), ramp)


def test_jpeg_noise_is_no_colour(tmp_path, picture):
    grey().convert("RGB").save(tmp_path / "mask.jpg", quality=60)
    mask = np.asarray(mask_from_file(tmp_path / "mask.jpg", picture))
    assert np.array_equal(mask >= 128, disc())


def test_a_mask_from_a_turned_camera_is_turned(tmp_path):
    """EXIF orientation 6: stored 30x40, shown 40x30, both for the picture and for its mask."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 40)).save(tmp_path / "photo.jpg", exif=exif)
    grey().rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    grey().save(tmp_path / "upright.png")
    picture = load_picture(tmp_path / "photo.jpg")
    for name in ("turned.png", "upright.png"):
        assert np.array_equal(np.asarray(mask_from_file(tmp_path / name, picture)) == 255, disc())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: None, "mask not found"),
        (lambda p: p.write_bytes(b"no picture"), "is not a picture that can be read"),
        (lambda p: p.write_bytes((p.parent / "whole.png").read_bytes()[:60]), "cannot be read"),
        (lambda p: Image.new("RGB", SIZE, (200, 30, 30)).save(p), "has colours in 100% of its pixels"),
        (
            lambda p: Image.new("L", (80, 60)).save(p),
            "is 80x60 but the picture is 40x30: save it at the picture's size",
        ),
        (lambda p: Image.new("L", (30, 40)).save(p), "turned by 90 degrees"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, picture, make, says):
    grey().save(tmp_path / "whole.png")
    make(tmp_path / "mask.png")
    with pytest.raises(InputError, match=says) as caught:
        mask_from_file(tmp_path / "mask.png", picture)
    assert str(tmp_path / "mask.png") in str(caught.value) and "\n" not in str(caught.value)


def test_the_alpha_channel(tmp_path):
    as_cut_out().save(tmp_path / "cat.png")
    picture = load_picture(tmp_path / "cat.png")
    assert has_alpha_mask(picture)
    assert np.array_equal(np.asarray(mask_from_alpha(picture)) == 255, disc())


def test_round_corners_are_no_subject(picture):
    alpha = Image.new("L", SIZE, 255)
    alpha.paste(0, (0, 0, 3, 3))
    assert not has_alpha_mask(Picture(picture.image, alpha, picture.path))


@pytest.mark.parametrize("alpha", [None, Image.new("L", SIZE, 255)])
def test_no_alpha_and_an_opaque_one_are_no_mask(picture, alpha):
    opaque = Picture(picture.image, alpha, picture.path)
    assert not has_alpha_mask(opaque)
    with pytest.raises(InputError, match="no transparent part"):
        mask_from_alpha(opaque)


def test_pairs_by_name(tmp_path):
    """kohya's conditioning_data_dir: the same name, whatever the extension."""
    for name in ("cat.png", "dog.JPG", "dog.txt", "catfish.png"):
        grey().convert("RGB").save(tmp_path / name, format="PNG")
    assert mask_in("photos/cat.jpg", tmp_path) == tmp_path / "cat.png"
    assert mask_in("photos/dog.png", tmp_path) == tmp_path / "dog.JPG"
    with pytest.raises(InputError, match=r"no mask for bird\.jpg .* expected bird\.png there"):
        mask_in("photos/bird.jpg", tmp_path)
    grey().save(tmp_path / "cat.bmp")
    with pytest.raises(InputError, match=r"several masks for cat\.jpg .*: cat\.bmp, cat\.png; keep one"):
        mask_in("photos/cat.jpg", tmp_path)
    with pytest.raises(InputError, match="mask folder not found"):
        mask_in("photos/cat.jpg", tmp_path / "nowhere")


def test_the_share():
    mask = Image.new("L", (100, 100))
    mask.paste(255, (0, 0, 50, 50))
    mask.paste(128, (50, 0, 100, 50))
    # a quarter full, a quarter at 128/255
    assert check_mask(mask) == share_of(mask) == pytest.approx(0.25 + 0.25 * 128 / 255)


@pytest.mark.parametrize(
    ("box", "value", "says"),
    [
        ((0, 0, 0, 0), 0, "empty"),
        ((0, 0, 200, 200), 60, "empty"),  # nowhere more subject than not
        ((0, 0, 7, 5), 255, "a speck of 35 pixels"),
        ((0, 0, 200, 200), 255, "covers 100.0% of the picture, which leaves no background"),
        ((0, 0, 200, 199), 255, "covers 99.5%"),
    ],
)
def test_masks_that_cannot_train(box, value, says):
    mask = Image.new("L", (200, 200))
    mask.paste(value, box)
    with pytest.raises(InputError, match=says):
        check_mask(mask, "mask a.png")


def test_a_small_subject_on_a_small_picture_is_fine():
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 8, 8))  # 64 pixels, 1.6 percent
    assert check_mask(mask) == pytest.approx(1 / 64)


@pytest.mark.parametrize("rim", [254, 0])
def test_a_stray_pixel_of_alpha_is_no_mask(tmp_path, picture, rim):
    """One almost opaque pixel, or a transparent corner: the black-and-white drawing is the mask."""
    alpha = Image.new("L", SIZE, 255)
    alpha.paste(rim, (0, 0, 3, 3))
    image = grey().convert("RGBA")
    image.putalpha(alpha)
    image.save(tmp_path / "mask.png")
    assert np.array_equal(np.asarray(mask_from_file(tmp_path / "mask.png", picture)) == 255, disc())


def test_a_drawing_with_a_wide_transparent_rim_is_the_mask(tmp_path, picture):
    """A quarter of it transparent, where the drawing is black anyway."""
    alpha = Image.new("L", SIZE, 255)
    alpha.paste(0, (0, 0, 10, 30))
    image = grey().convert("RGBA")
    image.putalpha(alpha)
    image.save(tmp_path / "mask.png")
    assert np.array_equal(np.asarray(mask_from_file(tmp_path / "mask.png", picture)) == 255, disc())


@pytest.mark.parametrize("white", [1, 255, 65535])
def test_sixteen_bit_masks(tmp_path, picture, white):
    Image.fromarray(disc().astype(np.uint16) * np.uint16(white)).save(tmp_path / "mask.png")
    assert np.array_equal(np.asarray(mask_from_file(tmp_path / "mask.png", picture)) == 255, disc())
