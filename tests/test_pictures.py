"""Pictures of every kind come in upright, 8-bit and RGB; what cannot be used is refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from singleinsert.data import opening
from singleinsert.data.pictures import (
    Picture,
    area_resample,
    crop_to_square,
    image_to_tensor,
    load_picture,
    mask_to_tensor,
    square_box,
)
from singleinsert.errors import InputError

RED, BLUE = (200, 10, 20), (5, 15, 220)


def two_colours(width: int = 6, height: int = 4) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def picture_of(image: Image.Image) -> Picture:
    return Picture(image, None, Path("picture.png"))


@pytest.mark.parametrize(("suffix", "options"), [("png", {}), ("bmp", {}), ("tiff", {}), ("webp", {"lossless": True})])
def test_rgb_files_come_in_as_they_are(tmp_path, suffix, options):
    path = tmp_path / f"photo.{suffix}"
    two_colours().save(path, **options)
    picture = load_picture(path)
    assert picture.image.mode == "RGB" and picture.alpha is None and picture.path == path
    assert np.array_equal(np.asarray(picture.image), np.asarray(two_colours()))


def test_the_camera_was_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: turn by 90 degrees clockwise to see it upright
    two_colours().save(tmp_path / "turned.png", exif=exif)
    picture = load_picture(tmp_path / "turned.png")
    assert picture.image.size == (4, 6)
    # the left half, red, is on top after a clockwise turn
    assert picture.image.getpixel((1, 0)) == RED and picture.image.getpixel((1, 5)) == BLUE


def test_alpha_is_turned_with_the_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = two_colours().convert("RGBA")
    image.putalpha(Image.fromarray(np.uint8([[255, 255, 255, 0, 0, 0]] * 4)))
    image.save(tmp_path / "cut.png", exif=exif)
    picture = load_picture(tmp_path / "cut.png")
    assert picture.alpha is not None and picture.alpha.size == picture.image.size == (4, 6)
    assert picture.alpha.getpixel((0, 0)) == 255 and picture.alpha.getpixel((0, 5)) == 0


def test_a_damaged_orientation_is_passed_over(tmp_path, monkeypatch):
    two_colours().save(tmp_path / "photo.png")

    def broken(image):
        raise SyntaxError("not a TIFF file")

    monkeypatch.setattr(opening.ImageOps, "exif_transpose", broken)
    assert load_picture(tmp_path / "photo.png").image.getpixel((0, 0)) == RED


def test_colours_under_transparency_are_kept(tmp_path):
    image = two_colours().convert("RGBA")
    image.putalpha(0)
    image.save(tmp_path / "clear.png")
    picture = load_picture(tmp_path / "clear.png")
    assert picture.image.getpixel((0, 0)) == RED
    assert picture.alpha is not None and picture.alpha.getextrema() == (0, 0)


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "CMYK"])
def test_other_modes(tmp_path, mode):
    path = tmp_path / ("photo.tiff" if mode == "CMYK" else "photo.png")
    (two_colours().quantize(4) if mode == "P" else two_colours().convert(mode)).save(path)
    picture = load_picture(path)
    assert picture.image.mode == "RGB" and picture.image.size == (6, 4)
    expected = two_colours().convert("1" if mode == "1" else "L" if mode in ("L", "LA") else "RGB").convert("RGB")
    assert np.abs(np.asarray(picture.image).astype(int) - np.asarray(expected)).max() <= 3
    assert (picture.alpha is not None) == (mode == "LA")


def test_palette_with_a_transparent_colour(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([*RED, *BLUE])
    image.putpixel((0, 0), 0)
    image.save(tmp_path / "icon.gif", transparency=0)
    picture = load_picture(tmp_path / "icon.gif")
    assert picture.image.getpixel((2, 2)) == BLUE
    assert picture.alpha is not None
    assert picture.alpha.getpixel((0, 0)) == 0 and picture.alpha.getpixel((2, 2)) == 255


def test_sixteen_bits_are_scaled_not_cut_off(tmp_path):
    # 65535 -> 255, 32768 / 65535 * 255 = 127.502 -> 128, 257 -> 1, 0 -> 0
    Image.fromarray(np.uint16([[0, 257, 32768, 65535]] * 4)).save(tmp_path / "deep.png")
    picture = load_picture(tmp_path / "deep.png")
    assert [picture.image.getpixel((x, 0)) for x in range(4)] == [(v, v, v) for v in (0, 1, 128, 255)]


@pytest.mark.parametrize(
    ("values", "expected"), [([0.0, 0.5, 1.0], [0, 128, 255]), ([0.0, 100.0, 255.0], [0, 100, 255])]
)
def test_float_pictures(tmp_path, values, expected):
    Image.fromarray(np.float32([values] * 3)).save(tmp_path / "float.tiff")
    picture = load_picture(tmp_path / "float.tiff")
    assert [picture.image.getpixel((x, 0))[0] for x in range(3)] == expected


def test_of_an_animation_the_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, BLUE)]
    frames[0].save(tmp_path / "moving.png", save_all=True, append_images=frames[1:])
    assert load_picture(tmp_path / "moving.png").image.getpixel((0, 0)) == RED


def test_one_pixel_is_a_picture(tmp_path):
    Image.new("RGB", (1, 1), RED).save(tmp_path / "dot.png")
    tensor = image_to_tensor(load_picture(tmp_path / "dot.png").image, 8)
    assert tensor.shape == (1, 3, 8, 8)
    assert torch.allclose(tensor[0, 0], torch.tensor(200 / 127.5 - 1))


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_picture(path)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


def test_refusals_are_one_line(tmp_path):
    assert "not found" in refusal(tmp_path / "absent.png")
    assert "folder" in refusal(tmp_path)
    (tmp_path / "notes.png").write_text("not a picture")
    assert "not a picture" in refusal(tmp_path / "notes.png")
    (tmp_path / "empty.png").touch()
    assert "not a picture" in refusal(tmp_path / "empty.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif"])
def test_a_file_cut_short(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    whole = tmp_path / f"whole.{suffix}"
    Image.fromarray(noise).save(whole)
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    refusal(cut)


def test_a_picture_that_would_fill_the_memory(tmp_path, monkeypatch):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")  # 400 million pixels, PIL's own limit
    assert "pixels" in refusal(tmp_path / "bomb.png")
    monkeypatch.setattr(opening, "MAX_BYTES", 9 * 10)  # ten pixels of nine bytes
    two_colours().save(tmp_path / "photo.png")
    assert "has 6x4 pixels, and a PNG may have 0 million here: scale it down" in refusal(tmp_path / "photo.png")


@pytest.mark.parametrize(
    ("size", "subject", "mode", "padding", "box"),
    [
        ((100, 60), None, "center", 0, (20, 0, 80, 60)),
        ((60, 100), None, "center", 0, (0, 20, 60, 80)),
        ((100, 60), None, "mask", 0, (20, 0, 80, 60)),  # nothing to go by
        ((100, 60), (0, 10, 20, 30), "mask", 0, (0, 0, 60, 60)),  # centred on x = 10, moved inside
        ((100, 60), (60, 10, 80, 30), "mask", 0, (40, 0, 100, 60)),  # 70 - 30 = 40
        ((100, 60), (10, 0, 90, 60), "mask", 0, (10, -10, 90, 70)),  # 80 wide: not cut, 10 drawn out above and below
        ((100, 60), (40, 20, 60, 30), "zoom", 0.5, (30, 5, 70, 45)),  # side 20 * 2, centre (50, 25)
        ((100, 60), (40, 20, 60, 30), "zoom", 0.0, (40, 15, 60, 35)),
        ((100, 60), (40, 20, 60, 30), "zoom", 5.0, (20, 0, 80, 60)),  # no larger than the picture
        ((100, 60), (40, 20, 60, 30), "pad", 0, (0, -20, 100, 80)),
        ((60, 60), (1, 1, 4, 4), "mask", 0, (0, 0, 60, 60)),
    ],
)
def test_square_box(size, subject, mode, padding, box):
    assert square_box(size, subject, mode, padding) == box


def test_the_crop_takes_picture_and_mask_alike():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (60, 100, 3), dtype=np.uint8))
    mask = Image.new("L", (100, 60))
    mask.paste(255, (60, 10, 80, 30))
    square = crop_to_square(picture_of(image), mask, "mask")
    assert square.box == (40, 0, 100, 60)
    assert np.array_equal(np.asarray(square.image), np.asarray(image)[:, 40:100])
    assert square.mask is not None and np.array_equal(np.asarray(square.mask), np.asarray(mask)[:, 40:100])


def test_faint_specks_do_not_steer_the_crop():
    """The noise that a JPEG leaves around a mask."""
    mask = Image.new("L", (100, 40))
    mask.paste(255, (10, 10, 20, 20))
    clean = crop_to_square(Picture(Image.new("RGB", (100, 40)), None, Path("a.png")), mask, "zoom")
    mask.putpixel((99, 0), 60)
    assert crop_to_square(Picture(Image.new("RGB", (100, 40)), None, Path("a.png")), mask, "zoom").box == clean.box


def test_padding_draws_the_edges_out_and_leaves_the_mask_empty():
    image, mask = two_colours(6, 4), Image.new("L", (6, 4), 255)
    square = crop_to_square(picture_of(image), mask, "pad")
    assert square.image.size == (6, 6) and square.box == (0, -1, 6, 5)
    assert square.image.getpixel((0, 0)) == RED and square.image.getpixel((5, 5)) == BLUE
    assert square.mask is not None
    assert np.asarray(square.mask)[[0, 5]].max() == 0 and np.asarray(square.mask)[1:5].min() == 255


def test_no_mask_no_mask():
    assert crop_to_square(picture_of(two_colours())).mask is None


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(InputError, match="mask is 4x4 but picture.png is 6x4"):
        crop_to_square(picture_of(two_colours()), Image.new("L", (4, 4)), "mask")


def test_image_to_tensor_is_exact_where_nothing_is_scaled():
    values = np.arange(3 * 16, dtype=np.uint8).reshape(4, 4, 3) * 5
    tensor = image_to_tensor(Image.fromarray(values), 4)
    assert tensor.shape == (1, 3, 4, 4) and tensor.dtype == torch.float32
    assert torch.equal(tensor[0].permute(1, 2, 0), torch.from_numpy(values).float() / 127.5 - 1)
    assert tensor.min() >= -1 and tensor.max() <= 1


def test_area_by_hand():
    # 3 -> 2: each new element covers one and a half old ones, (a + b/2) / 1.5 and (b/2 + c) / 1.5
    row = torch.tensor([[[[3.0, 6.0, 9.0]]]])
    assert torch.allclose(area_resample(row, (1, 2)), torch.tensor([4.0, 8.0]))
    # 2 -> 3: a, half of each, b
    row = torch.tensor([[[[2.0, 8.0]]]])
    assert torch.allclose(area_resample(row, (1, 3)), torch.tensor([2.0, 5.0, 8.0]))


@pytest.mark.parametrize("old", [(512, 512), (97, 301), (7, 5), (8, 8)])
@pytest.mark.parametrize("new", [(64, 64), (13, 11), (8, 8)])
def test_area_keeps_the_mean_and_the_range(old, new):
    mask = (torch.rand(2, 1, *old, generator=torch.Generator().manual_seed(0)) > 0.7).float()
    small = area_resample(mask, new)
    assert small.shape == (2, 1, *new) and small.dtype == torch.float32
    assert torch.allclose(small.mean((1, 2, 3)), mask.mean((1, 2, 3)), atol=1e-6)
    assert small.min() >= 0 and small.max() <= 1


def test_area_at_whole_ratios_is_pooling():
    values = torch.rand(1, 1, 24, 32, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(area_resample(values, (6, 8)), functional.avg_pool2d(values, 4), atol=1e-6)
    assert torch.allclose(area_resample(values, (48, 64)), values.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert torch.allclose(area_resample(values, (24, 32)), values)


def test_area_is_not_adaptive_pooling():
    """The bug that this function exists for: an element cut by a border must not count whole on both sides."""
    row = torch.tensor([[[[0.0, 1.0, 0.0]]]])
    assert torch.allclose(functional.adaptive_avg_pool2d(row, (1, 2)), torch.tensor([0.5, 0.5]))
    assert torch.allclose(area_resample(row, (1, 2)), torch.tensor([1 / 3, 1 / 3]))


def test_mask_to_tensor():
    mask = Image.new("L", (6, 6))
    mask.paste(255, (0, 0, 3, 6))
    tensor = mask_to_tensor(mask, 4)
    assert tensor.shape == (1, 1, 4, 4)
    # 6 -> 4: columns of one and a half; the second covers pixels 1.5 to 3, all white
    assert torch.allclose(tensor, torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(1, 1, 4, 4))
