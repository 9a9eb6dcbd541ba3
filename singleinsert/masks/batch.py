"""Masks for a folder of pictures: goes on where it was stopped, and past pictures that fail."""

from __future__ import annotations

import argparse
import sys
import tomllib
from pathlib import Path
from typing import Any

from PIL import Image

from singleinsert.atomic import write_atomically, write_text
from singleinsert.config import Settings
from singleinsert.data.pictures import load_picture
from singleinsert.errors import ConfigError, InputError
from singleinsert.masks import Backends, find_mask
from singleinsert.masks.overlay import captioned, contact_sheet

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
SHOWN = "overlays"
"""Subfolder of what is only to be looked at: the masks' own folder pairs by name with the pictures."""


def batch(args: argparse.Namespace, settings: Settings, options: dict[str, Any]) -> int:
    """Writes STEM.png per picture, overlays/STEM.png, overlays/contact_sheet.png and overlays/report.tsv.

    Returns:
        0, or 1 where pictures have no mask.
    """
    images = Path(args.images)
    pictures = list_pictures(images)
    words = class_words(args.class_words, args.class_word or " ".join(settings.data.class_word), pictures)
    folder = Path(args.output_dir) if args.output_dir else images.with_name(images.resolve().name + "_masks")
    if folder.resolve() == images.resolve():
        raise ConfigError("--output_dir is the folder of the pictures: masks have the pictures' names, give another")
    models = {key: options.pop(key) for key in ("threshold", "detector", "segmenter")}
    rows, failed = [], 0
    with Backends(options.pop("backend"), **models) as backends:
        for number, path in enumerate(pictures, start=1):
            status, text = _one(path, words[path], folder, options, backends)
            failed += status == "failed"
            print(f"[{number}/{len(pictures)}] {path.name}: {status}, {text}", flush=True)
            rows.append(f"{path.name}\t{words[path]}\t{status}\t{' '.join(text.split())}")
    write_text(folder / SHOWN / "report.tsv", "\n".join(["picture\tclass_word\tstatus\tsource", *rows]) + "\n")
    sheet = contact_sheet([_shown(path, folder) for path in pictures])
    write_atomically(folder / SHOWN / "contact_sheet.png", sheet.save)
    print(f"{len(pictures) - failed} of {len(pictures)} pictures have a mask in {folder}; see {folder / SHOWN}")
    if failed:
        print(
            f"{failed} failed: give them masks by hand (STEM.png in {folder}) or other settings, and run again",
            file=sys.stderr,
        )
    return 1 if failed else 0


def list_pictures(folder: Path) -> list[Path]:
    """Pictures of a folder by name.

    Raises:
        InputError: no folder, no pictures, or two that would share a mask's name.
    """
    if not folder.is_dir():
        raise InputError(f"folder of pictures not found: {folder}")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file())
    if not found:
        raise InputError(f"{folder} holds no pictures ({', '.join(PICTURE_SUFFIXES)})")
    stems: dict[str, Path] = {}
    for path in found:
        if path.stem in stems:
            raise InputError(f"{stems[path.stem].name} and {path.name} in {folder} would share one mask: rename one")
        stems[path.stem] = path
    return found


def class_words(file: str | None, default: str, pictures: list[Path]) -> dict[Path, str]:
    """The class word of every picture, from the file by name or stem, else the default.

    Raises:
        InputError: the file cannot be read or names no picture. ConfigError: a picture without a word.
    """
    by_name: dict[str, Any] = {}
    if file:
        try:
            by_name = tomllib.loads(Path(file).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
            raise InputError(f"--class_words {file} cannot be read: {problem}") from problem
        known = {name for path in pictures for name in (path.name, path.stem)}
        for name, word in by_name.items():
            if not isinstance(word, str):
                raise InputError(f'--class_words {file}: write "{name}" = "class word", names with a dot in quotes')
            if name not in known:
                raise InputError(f"--class_words {file}: there is no picture {name}")
    words = {path: by_name.get(path.name, by_name.get(path.stem, default)) for path in pictures}
    if missing := [path.name for path, word in words.items() if not word]:
        raise ConfigError(f"no class word for {', '.join(missing[:3])}: give --class_word, or a line in --class_words")
    return words


def _one(path: Path, word: str, folder: Path, options: dict[str, Any], backends: Backends) -> tuple[str, str]:
    """("done" | "kept" | "failed", a sentence)."""
    mask, shown = folder / f"{path.stem}.png", folder / SHOWN / f"{path.stem}.png"
    try:
        picture = load_picture(path)
        # A mask that is there is checked, not made again: it may have been drawn by hand since.
        result = find_mask(picture, word, file=mask if mask.exists() else None, backends=backends, **options)
        if mask.exists():
            if not shown.exists() or shown.stat().st_mtime < mask.stat().st_mtime:
                write_atomically(shown, result.overlay().save)
            return "kept", f"{result.share:.1%} of the picture"
        write_atomically(mask, result.mask.save)
        write_atomically(shown, result.overlay().save)
        return "done", f"{result.share:.1%} of the picture, by {result.source}"
    except InputError as problem:
        return "failed", str(problem)
    except (RuntimeError, OSError, MemoryError) as problem:  # out of memory on one huge picture is no reason to stop
        return "failed", f"{type(problem).__name__}: {str(problem).splitlines()[0] if str(problem) else ''}"


def _shown(path: Path, folder: Path) -> Image.Image:
    """The overlay for the contact sheet, or the picture with a word that it failed."""
    shown, mask = folder / SHOWN / f"{path.stem}.png", folder / f"{path.stem}.png"
    if mask.exists() and shown.exists():
        with Image.open(shown) as file:
            return captioned(file.convert("RGB"), path.name)
    try:
        failed = load_picture(path).image
    except InputError:
        failed = Image.new("RGB", (256, 256), (120, 0, 0))
    failed.thumbnail((384, 384))
    return captioned(failed, f"NO MASK: {path.name}")
