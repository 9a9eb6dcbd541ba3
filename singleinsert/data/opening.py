"""The one place where a picture file is opened: which formats, how large, and what is said of those that are no use."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from singleinsert.errors import InputError, first_line

if TYPE_CHECKING:
    from PIL import ImageCms

FORMATS = (
    "AVIF", "BMP", "DIB", "GIF", "HEIF", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "PSD", "QOI", "SGI",
    "TGA", "TIFF", "WEBP",
)  # fmt: skip
"""Pillow's names of what is read, whatever a file's name says. EPS starts Ghostscript, WMF asks Windows to draw, FPX
and MIC run a library of their own; textures of games, scientific grids and films are no photos."""

HEIF_SUFFIXES = (".heic", ".heif", ".hif")
INSTALL_HEIF = "pip install pillow-heif"

MAX_BYTES = 1e9
"""Of memory that a picture may take at its height, from the file's decoder to the square that trains."""
BYTES_PER_PIXEL = {"AVIF": 18, "HEIF": 18, "JPEG2000": 26, "TIFF": 12, "PSD": 14, "WEBP": 17}
"""Where a decoder holds more than Pillow's own, beside the picture: measured, and rounded up."""
COMMON_BYTES_PER_PIXEL, WITH_ALPHA, GREY = 9, 11, 3
"""Pillow keeps colours in four bytes: the picture, a copy, and a byte or two of alpha. 111 and 90 million pixels. Of
grey, which only a mask stays: the picture, a copy turned upright, and one on the way."""
PROGRESSIVE = 11
"""A progressive JPEG's coefficients are all held, two bytes each."""

STRIP_VALUES = 1_000_000
SRGB_TOLERANCE = 2
"""Of 255: a profile that moves no colour by more is sRGB in all but name, and rounding twice would be worse."""


@cache
def heif_is_read() -> bool:
    """Whether HEIC pictures can be read: pillow-heif is then registered with Pillow."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


@cache
def formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow can read."""
    heif_is_read()
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def open_picture(
    path: str | Path, what: str = "picture", size: tuple[int, int] | None = None, *, held: int = 0, later: int = 0
) -> Image.Image:
    """Read a picture file whole: the first frame, turned upright as the camera noted it (EXIF), in the file's own mode.

    Args:
        what: how errors call it, "picture" or "mask".
        size: (width, height) that it must have, looked at in the file's header before anything is decoded.
        held: bytes for each pixel that the caller holds meanwhile: a mask's picture.
        later: bytes for each pixel that the caller will hold once it is read, if those are more than reading takes.

    Raises:
        InputError: missing, a folder, not a picture, damaged or cut short, of too many pixels or another size, or
            with values that are not finite. One line. Pillow's readers let two dozen kinds of exceptions through; all
            of them end here.
    """
    with _opened(path, what, size, held, later) as file:
        file.load()
        image = _upright(file)
    if size is not None and image.size != size:
        raise InputError(size_message(Path(path), what, image.size, size))
    if image.mode == "F" and not all(np.isfinite(values).all() for _, values in strips(image)):
        raise InputError(f"{what} {path} holds values that are no numbers (NaN or infinite): save it as PNG")
    return image


def check_header(path: str | Path, what: str = "picture", size: tuple[int, int] | None = None) -> tuple[int, int]:
    """(width, height) as a picture file's header has it, not turned upright. Nothing is decoded.

    Args:
        what, size: as for :func:`open_picture`; either side may be the width.

    Raises:
        InputError: what :func:`open_picture` would say, as far as the header tells.
    """
    with _opened(path, what, size) as file:
        return file.size


@contextmanager
def _opened(
    path: str | Path, what: str, size: tuple[int, int] | None = None, held: int = 0, later: int = 0
) -> Iterator[Image.Image]:
    path = _existing_file(path, what)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sizes are judged below, by our own limit; the rest names source files
            with Image.open(path, formats=formats()) as file:
                _check_size(file, path, what, size, max(_bytes_per_pixel(file, what) + held, later))
                yield file
    except InputError:
        raise
    except UnidentifiedImageError as problem:
        raise InputError(_unidentified(path, what)) from problem
    except Image.DecompressionBombError as problem:
        raise InputError(f"{what} {path} has too many pixels: scale it down, 4096 a side is plenty") from problem
    except Exception as problem:
        raise InputError(
            f"{what} {path} cannot be read, it may be damaged or cut short ({first_line(problem)})"
        ) from problem


def is_picture(path: Path) -> bool:
    """Whether a file begins as one of the formats does; nothing is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=formats()):
                return True
    except Exception:
        return False


def _existing_file(path: str | Path, what: str) -> Path:
    try:
        path = Path(path)
        if path.is_dir():
            raise InputError(f"{path} is a folder: give one {what}")
        if not path.exists():
            raise InputError(f"{what} not found: {path}")
        if not path.is_file():
            raise InputError(f"{path} is no file: give one {what}")
    except (OSError, ValueError) as problem:  # a name that is too long; a NUL in it
        raise InputError(f"{what} not found: {str(path)!r} ({first_line(problem)})") from problem
    return path


def _unidentified(path: Path, what: str) -> str:
    if path.suffix.lower() in HEIF_SUFFIXES and not heif_is_read():
        return f"{path} is a HEIC {what}, which needs pillow-heif: {INSTALL_HEIF}, or save it as JPEG"
    return f"{what} {path} is not a picture that can be read: save it as PNG or JPEG"


def _check_size(file: Image.Image, path: Path, what: str, size: tuple[int, int] | None, bytes_per_pixel: int) -> None:
    if size is not None and file.size not in (size, size[::-1]):  # turned by EXIF is looked at once it is turned
        raise InputError(size_message(path, what, file.size, size))
    most = int(MAX_BYTES / bytes_per_pixel)
    if file.width * file.height > most:
        raise InputError(
            f"{what} {path} has {file.width}x{file.height} pixels, and a {file.format} may have {most / 1e6:.0f} "
            "million here: scale it down, 4096 a side is plenty"
        )


def _bytes_per_pixel(file: Image.Image, what: str) -> int:
    if file.format in BYTES_PER_PIXEL:
        return BYTES_PER_PIXEL[file.format]
    if "progressive" in file.info:
        return PROGRESSIVE
    if what == "mask" and file.mode in ("1", "L") and not has_alpha(file):
        return GREY
    return WITH_ALPHA if has_alpha(file) else COMMON_BYTES_PER_PIXEL


def has_alpha(image: Image.Image) -> bool:
    """Whether a file says how opaque its pixels are. (LAB has a channel called A, too.)"""
    return "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La")


def size_message(path: Path, what: str, found: tuple[int, int], wanted: tuple[int, int]) -> str:
    """What is wrong with a mask of another size than its picture's."""
    hint = " (turned by 90 degrees?)" if found == wanted[::-1] else ""
    return (
        f"{what} {path} is {found[0]}x{found[1]} but the picture is {wanted[0]}x{wanted[1]}{hint}: "
        "save it at the picture's size"
    )


def _upright(image: Image.Image) -> Image.Image:
    """Turned as the camera noted (EXIF); a damaged note is passed over, as viewers do."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # PIL's EXIF reader raises a dozen kinds
        return image.copy()


def to_srgb(image: Image.Image) -> tuple[Image.Image, str]:
    """A picture in the colours that models are trained with: converted from the file's ICC profile to sRGB.

    Args:
        image: mode "RGB", "L" or "CMYK", with what its file said in ``image.info``.

    Returns:
        (mode "RGB", or the picture as it is where it has no profile or one of sRGB; a sentence where the profile is no
        use and the colours are taken for sRGB, else "").
    """
    content = image.info.get("icc_profile")
    if not content:
        return image, ""
    from PIL import ImageCms  # few pictures need it, and it is slow to import

    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
        space = profile.profile.xcolor_space.strip()
        if space == "RGB" and image.mode == "L":
            image = image.convert("RGB")
        if {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(space) != image.mode:
            return image, f"its colour profile is of {space or 'nothing'}, not of {image.mode}: it is not used"
        transform = ImageCms.buildTransform(
            profile, ImageCms.createProfile("sRGB"), image.mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )  # fmt: skip
        if image.mode != "CMYK" and _changes_nothing(transform, image.mode):
            return image, ""
        converted = transform.apply(image)
    except Exception as problem:  # littlecms' own kinds, OSError, TypeError for a cut profile
        return image, f"its colour profile cannot be read, its colours are taken for sRGB ({first_line(problem)})"
    return converted, ""


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Tried on greys and on the corners and middles of the colour cube."""
    steps = np.arange(0, 256, 17, dtype=np.uint8)
    if mode == "L":
        values = np.arange(256, dtype=np.uint8)[None]
    else:
        values = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    chart = Image.fromarray(values)
    moved = np.asarray(transform.apply(chart)).astype(np.int16) - np.asarray(chart.convert("RGB"))
    return bool(np.abs(moved).max() <= SRGB_TOLERANCE)


def strips(image: Image.Image) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, rows of values) from top to bottom, few enough at a time that arithmetic in float64 takes no room."""
    rows = max(1, STRIP_VALUES // max(1, image.width))
    for top in range(0, image.height, rows):
        yield top, np.asarray(image.crop((0, top, image.width, min(top + rows, image.height))))


def to_8_bits(image: Image.Image, whites: tuple[float, ...] = (255.0, 65535.0)) -> Image.Image:
    """16-bit, 32-bit and float grey -> mode "L".

    A file does not say what its white is: 1 for floats, else the smallest of ``whites`` that holds the values; 16-bit
    modes are of the largest one alone, unless ``whites`` begin with 1, as a mask's do.
    """
    top = max(float(values.max(initial=0)) for _, values in strips(image))
    if image.mode.startswith("I;16") and whites[0] > 1:
        white = whites[-1]
    elif image.mode == "F" and top <= 1:
        white = 1.0
    else:
        white = next((w for w in whites if top <= w), top)
    out = Image.new("L", image.size)
    for row, values in strips(image):
        share = np.clip(values.astype(np.float64) / white, 0, 1)
        out.paste(Image.fromarray((share * 255 + 0.5).astype(np.uint8)), (0, row))
    return out
