"""Where pictures are opened: formats by a list, readers' odd exceptions as one line, limits from headers, profiles."""

from __future__ import annotations

import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from singleinsert.data import opening
from singleinsert.data.opening import FORMATS, formats, heif_is_read, open_picture, to_8_bits
from singleinsert.data.pictures import LARGEST_WHOLE, area_resample, load_picture, mask_to_tensor, split_alpha
from singleinsert.errors import InputError
from singleinsert.masks.files import read_mask

DATA = Path(__file__).parent / "data" / "pictures"
BROKEN = sorted(path for path in DATA.iterdir() if path.name.startswith("picture-"))


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.name)
@pytest.mark.parametrize("read", [load_picture, read_mask])
def test_what_pillows_readers_raise_is_one_line(path, read):
    """RuntimeError (AVIF), IndexError (QOI), NotImplementedError (DDS), AssertionError (FTEX), Ghostscript (EPS)."""
    with pytest.raises(InputError) as problem:
        read(path)
    assert str(path) in str(problem.value) and "\n" not in str(problem.value)


def test_no_program_is_started_for_a_picture(monkeypatch):
    monkeypatch.setattr(subprocess, "check_call", None)
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(InputError, match=r"holiday.jpg is not a picture that can be read"):
        load_picture(DATA / "picture-eps-called-holiday.jpg")
    assert not {"EPS", "WMF", "FPX", "MIC", "PDF", "MPEG", "HDF5", "BUFR", "GRIB"} & {*FORMATS, *formats()}


def test_any_exception_of_a_reader_is_one_line(tmp_path, monkeypatch):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    for kind in (RuntimeError, IndexError, AssertionError, MemoryError, SystemError, RecursionError, KeyError):

        def load(self, kind=kind):
            raise kind

        monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
        with pytest.raises(InputError, match=rf"a.png cannot be read.* \({kind.__name__}\)"):
            load_picture(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a\0b.png", "a" * 300 + ".png"])
def test_names_that_no_file_has(name):
    with pytest.raises(InputError, match="not found"):
        load_picture(name)


@pytest.mark.parametrize("suffix", ["jfif", "avif", "jp2", "tiff", "PNG", "Jpeg", "webp", "gif", "ppm", "tga"])
def test_formats_that_are_read(tmp_path, suffix):
    path = tmp_path / f"photo.{suffix}"
    Image.new("RGB", (16, 16), (200, 100, 50)).save(path)
    red, green, blue = load_picture(path).image.getpixel((8, 8))
    assert abs(red - 200) < 12 and abs(green - 100) < 12 and abs(blue - 50) < 12


def test_heic_names_the_package_that_reads_it(tmp_path, monkeypatch):
    (tmp_path / "photo.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    monkeypatch.setattr(opening, "heif_is_read", lambda: False)
    monkeypatch.setattr(opening, "formats", lambda: ("PNG",))
    with pytest.raises(InputError, match="pip install pillow-heif"):
        load_picture(tmp_path / "photo.HEIC")


RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    """Colours near the corners, each channel at 0 or 255: top left and right, bottom left and right."""
    right, bottom = image.width - 6, image.height - 6
    values = 255 * (np.asarray(image) > 127)
    return [tuple(values[y, x].tolist()) for x, y in ((5, 5), (right, 5), (5, bottom), (right, bottom))]


@pytest.mark.parametrize(
    ("orientation", "seen"),
    [
        (1, [RED, GREEN, BLUE, WHITE]),
        (2, [GREEN, RED, WHITE, BLUE]),  # mirrored
        (3, [WHITE, BLUE, GREEN, RED]),  # half a turn
        (6, [BLUE, RED, WHITE, GREEN]),  # a quarter turn to the right: a phone held upright
        (8, [GREEN, WHITE, RED, BLUE]),
    ],
)
def test_heic_with_its_rotation_and_alpha(tmp_path, orientation, seen):
    """Files of libheif's own encoder, whose rotation is a property (irot, imir), as phones write it."""
    pytest.importorskip("pillow_heif")
    assert heif_is_read()
    drawn = Image.new("RGBA", (96, 64))
    for place, colour in zip(((0, 0), (48, 0), (0, 32), (48, 32)), (RED, GREEN, BLUE, WHITE), strict=True):
        drawn.paste((*colour, 0 if colour == WHITE else 255), (*place, place[0] + 48, place[1] + 32))
    exif = Image.Exif()
    exif[0x0112] = orientation
    drawn.save(tmp_path / "photo.HEIC", "HEIF", quality=90, exif=exif.tobytes())
    picture = load_picture(tmp_path / "photo.HEIC")
    assert picture.image.size == ((64, 96) if orientation > 4 else (96, 64))
    assert corners(picture.image) == seen
    assert [value[0] for value in corners(picture.alpha.convert("RGB"))] == [255 * (c != WHITE) for c in seen]


def png_of_size(width: int, height: int, colour_type: int = 0) -> bytes:
    """A PNG that claims a size and holds next to nothing: 8-bit, grey, or with colour type 2 RGB."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


def test_a_mask_of_another_size_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    (tmp_path / "mask.png").write_bytes(png_of_size(9000, 9000))
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", None)
    with pytest.raises(InputError, match=r"mask .*mask.png is 9000x9000 but the picture is 40x30"):
        read_mask(tmp_path / "mask.png", (40, 30))


def test_masks_have_the_pictures_limit(tmp_path):
    (tmp_path / "mask.png").write_bytes(png_of_size(12_000, 12_000, colour_type=2))
    # 1e9 bytes at 9 bytes for each pixel: 111 million; 12,000 * 12,000 are 144 million
    with pytest.raises(InputError, match="has 12000x12000 pixels, and a PNG may have 111 million here"):
        read_mask(tmp_path / "mask.png")
    with pytest.raises(InputError, match="a PNG may have 77 million here"):  # beside the 4 of its picture
        open_picture(tmp_path / "mask.png", "mask", held=4)
    (tmp_path / "mask.png").write_bytes(png_of_size(60_000, 60_000))  # beyond Pillow's own limit
    with pytest.raises(InputError, match="has too many pixels"):
        read_mask(tmp_path / "mask.png")


def test_display_p3_becomes_srgb():
    """An iPhone's profile: (235, 184, 121) in Display P3 is about (243, 183, 108) in sRGB."""
    stored = Image.open(DATA / "display-p3.jpg").getpixel((40, 60))
    assert stored == (235, 184, 121)
    picture = load_picture(DATA / "display-p3.jpg")
    assert np.abs(np.subtract(picture.image.getpixel((40, 60)), (243, 183, 108))).max() <= 3
    assert picture.notes == () and "icc_profile" not in picture.image.info


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "LA", "L"])
def test_a_profile_of_srgb_moves_nothing(tmp_path, mode):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    values = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(values).convert(mode)
    image.save(tmp_path / "with.png", icc_profile=profile)
    image.save(tmp_path / "without.png")
    assert load_picture(tmp_path / "with.png").image == load_picture(tmp_path / "without.png").image


@pytest.mark.parametrize(
    "content", [b"no profile", b"\0" * 200, Image.open(DATA / "display-p3.jpg").info["icc_profile"][:300]]
)
def test_a_bad_profile_is_one_line_and_the_picture_goes_on(tmp_path, content):
    Image.new("RGB", (4, 4), (220, 60, 50)).save(tmp_path / "a.png", icc_profile=content)
    picture = load_picture(tmp_path / "a.png")
    assert picture.image.getpixel((0, 0)) == (220, 60, 50)
    (note,) = picture.notes
    assert "colour profile" in note and "\n" not in note


def test_a_profile_of_other_channels_is_told(tmp_path):
    profile = Image.open(DATA / "display-p3.jpg").info["icc_profile"]
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "a.tiff", icc_profile=profile)
    picture = load_picture(tmp_path / "a.tiff")
    assert picture.image.getpixel((0, 0)) == (255, 0, 0) and "is of RGB, not of CMYK" in picture.notes[0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("read", [load_picture, read_mask])
def test_values_that_are_no_numbers_are_one_line(tmp_path, read, bad):
    values = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert np.ptp(np.asarray(load_picture(tmp_path / "a.tif").image)) == 255
    values[3, 4] = bad
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"a.tif holds values that are no numbers \(NaN or infinite\)"):
        read(tmp_path / "a.tif")


def test_lab_has_no_alpha(tmp_path):
    """Its channels are called L, A and B, and its profile is of what it is converted from."""
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = Image.new("RGB", (4, 4), (200, 100, 50))
    ImageCms.applyTransform(image, ImageCms.buildTransform(srgb, lab, "RGB", "LAB")).save(tmp_path / "a.tiff")
    picture = load_picture(tmp_path / "a.tiff")
    assert picture.alpha is None and picture.notes == ()
    assert np.abs(np.subtract(picture.image.getpixel((0, 0)), (200, 100, 50))).max() <= 2


def cmyk_profile() -> bytes:
    """A CMYK profile by the ICC's format (lut8): white without ink, black with any, two grid points a side, in Lab."""
    black, white = bytes([0, 128, 128]), bytes([255, 128, 128])
    ramp = bytes(range(256))
    grid = b"".join(white if inks == (0, 0, 0, 0) else black for inks in np.ndindex(2, 2, 2, 2))
    matrix = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + ramp * 4 + grid + ramp * 3
    lut += bytes(-len(lut) % 4)
    xyz = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    tags, content, offset = b"", b"", 132 + 12 * 2
    for name, part in ((b"A2B0", lut), (b"wtpt", xyz)):
        tags += name + struct.pack(">II", offset + len(content), len(part))
        content += part
    size = offset + len(content)
    header = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x02400000, b"prtr", b"CMYK", b"Lab ") + bytes(12) + b"acsp"
    header += bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + struct.pack(">I", 2) + tags + content


def test_cmyk_goes_by_its_profile(tmp_path):
    """The profile makes black of the least ink at full strength; without it a full cyan is (0, 255, 255)."""
    inked = Image.new("CMYK", (4, 4), (255, 0, 0, 0))
    inked.paste((0, 0, 0, 0), (0, 0, 2, 4))
    inked.save(tmp_path / "a.tiff", icc_profile=cmyk_profile())
    picture = load_picture(tmp_path / "a.tiff")
    assert picture.notes == ()
    assert min(picture.image.getpixel((0, 0))) >= 250 and max(picture.image.getpixel((3, 0))) <= 5


def test_sixteen_bit_masks_say_what_their_white_is():
    """Labels 0 and 1, and 8-bit values in 16 bits, beside true 16 bits; pictures of 16 bits are always of 65535."""
    for top in (1, 255, 65535):
        grey = to_8_bits(Image.fromarray(np.uint16([[0, top]])), whites=(1.0, 255.0, 65535.0))
        assert np.asarray(grey).tolist() == [[0, 255]]
    assert np.asarray(to_8_bits(Image.fromarray(np.uint16([[0, 255]])))).tolist() == [[0, 1]]


def test_strips_are_the_whole(monkeypatch):
    values = np.random.default_rng(0).integers(0, 65536, (50, 40), dtype=np.uint16)
    whole = np.asarray(to_8_bits(Image.fromarray(values)))
    monkeypatch.setattr(opening, "STRIP_VALUES", 100)
    assert np.array_equal(np.asarray(to_8_bits(Image.fromarray(values))), whole)


def test_large_masks_are_resampled_in_strips_to_the_same(monkeypatch):
    mask = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 50), dtype=np.uint8))
    whole = mask_to_tensor(mask, 16)
    monkeypatch.setattr("singleinsert.data.pictures.LARGEST_WHOLE", 100)
    monkeypatch.setattr(opening, "STRIP_VALUES", 350)  # seven rows
    assert whole.shape == (1, 1, 16, 16) and mask.width * mask.height < LARGEST_WHOLE
    assert (mask_to_tensor(mask, 16) - whole).abs().max() < 1e-6
    assert area_resample(whole, (1, 1)).item() == pytest.approx(np.asarray(mask).mean() / 255, abs=1e-6)


def test_warnings_of_libraries_are_not_shown(tmp_path, recwarn):
    exif = Image.Exif()
    exif[0x0112] = 1
    Image.new("P", (4, 4)).save(tmp_path / "a.png", transparency=b"\0\1", exif=exif)
    split_alpha(open_picture(tmp_path / "a.png"))
    assert not recwarn.list
