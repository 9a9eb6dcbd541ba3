"""Masks for a folder of pictures: goes on where it was stopped, and past pictures that fail."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from singleinsert.atomic import write_atomically, write_text
from singleinsert.config import Settings
from singleinsert.data.folders import FOLDER_END, find_in, list_folder, mask_of, of_one_name, some
from singleinsert.data.opening import open_picture
from singleinsert.data.pictures import load_picture
from singleinsert.errors import ConfigError, InputError, MissingPackageError, ModelError, first_line, shown
from singleinsert.masks import Backends, find_mask
from singleinsert.masks.overlay import captioned, contact_sheet
from singleinsert.reading import read_toml

SHOWN = "overlays"
"""Subfolder of what is only to be looked at: the masks' own folder pairs by name with the pictures."""


def batch(args: argparse.Namespace, settings: Settings, options: dict[str, Any]) -> int:
    """Writes STEM.png per picture, overlays/STEM.png, overlays/contact_sheet.png and overlays/report.tsv.

    Returns:
        0, or 1 where pictures have no mask.
    """
    images = args.images
    pictures, left_out = list_pictures(images)
    words = class_words(args.class_words, args.class_word or " ".join(settings.data.class_word), pictures)
    folder = args.output_dir or images.with_name(images.resolve().name + FOLDER_END)
    if folder.resolve() == images.resolve():
        raise ConfigError("--output_dir is the folder of the pictures: masks have the pictures' names, give another")
    there = {path: _mask_there(path, folder) for path in pictures}
    kept = sum(mask is not None for mask in there.values())
    print(f"pictures: {len(pictures)}; with a mask, which is kept: {kept}; the others' masks go to {folder}")
    print(*(f"note: {line}" for line in left_out), sep="\n", end="\n" * bool(left_out))
    models = {key: options.pop(key) for key in ("threshold", "detector", "segmenter")}
    rows, failed = [], 0
    with Backends(options.pop("backend"), **models) as backends:
        for number, path in enumerate(pictures, start=1):
            status, text = _one(path, words[path], there[path], folder, options, backends)
            failed += status == "failed"
            print(f"[{number}/{len(pictures)}] {path.name}: {status}, {text}", flush=True)
            rows.append(f"{path.name}\t{words[path]}\t{status}\t{' '.join(text.split())}")
    write_text(folder / SHOWN / "report.tsv", "\n".join(["picture\tclass_word\tstatus\tsource", *rows]) + "\n")
    sheet = contact_sheet([_shown(path, there[path], folder) for path in pictures])
    write_atomically(folder / SHOWN / "contact_sheet.png", sheet.save)
    print(f"{len(pictures) - failed} of {len(pictures)} pictures have a mask in {folder}; see {folder / SHOWN}")
    if failed:
        advice = "put masks drawn by hand beside them (NAME_mask.png), or give other settings, and run again"
        print(f"{failed} failed: {advice}", file=sys.stderr)
    return 1 if failed else 0


def list_pictures(folder: Path) -> tuple[list[Path], list[str]]:
    """(pictures of a folder by name, what is left out and why).

    Raises:
        InputError: no folder, no pictures, or two that would share a mask's name.
    """
    listing = list_folder(folder)
    left_out = listing.lines()
    if listing.folders:
        names = some(f"{path.name}/" for path in listing.folders)
        left_out.append(f"{folder}: left out: {names}: folders in it are not looked into")
    if not listing.pictures:
        raise InputError(f"{folder} holds no pictures" + "".join(f" ({line})" for line in left_out[:1]))
    for first, other in of_one_name(listing.pictures):
        raise InputError(f"{first.name} and {other.name} in {folder} would share one mask: rename one")
    return list(listing.pictures), left_out


def class_words(file: Path | None, default: str, pictures: list[Path]) -> dict[Path, str]:
    """The class word of every picture, from the file by name or stem, else the default.

    Raises:
        InputError: the file cannot be read or names no picture. ConfigError: a picture without a word.
    """
    by_name: dict[str, Any] = read_toml(file, InputError) if file else {}
    known = {name for path in pictures for name in (path.name, path.stem)}
    for name, word in by_name.items():
        if not isinstance(word, str):
            raise InputError(f'--class_words {file}: write "{name}" = "class word", names with a dot in quotes')
        if name not in known:
            raise InputError(f"--class_words {file}: there is no picture {shown(name)}")
    words = {path: by_name.get(path.name, by_name.get(path.stem, default)) for path in pictures}
    if missing := [path.name for path, word in words.items() if not word]:
        raise ConfigError(f"no class word for {some(missing)}: give --class_word, or a line in --class_words")
    return words


def _mask_there(path: Path, folder: Path) -> Path | InputError | None:
    """The picture's mask, where training looks or in ``folder``; the error of two is the picture's, not the batch's."""
    try:
        return mask_of(path) or find_in(path, folder)
    except InputError as problem:
        return problem


def _one(
    path: Path, word: str, mask: Path | InputError | None, folder: Path, options: dict[str, Any], backends: Backends
) -> tuple[str, str]:
    """("done" | "kept" | "failed", a sentence)."""
    drawn = folder / SHOWN / f"{path.stem}.png"
    try:
        if isinstance(mask, InputError):
            raise mask
        # A mask that is there is checked, not made again: it may have been drawn by hand since.
        result = find_mask(load_picture(path), word, file=mask, beside=False, backends=backends, **options)
        if mask is None:
            write_atomically(folder / f"{path.stem}.png", result.mask.save)
        if mask is None or not drawn.exists() or drawn.stat().st_mtime < mask.stat().st_mtime:
            write_atomically(drawn, result.overlay().save)
        notes = "".join(f"; {note}" for note in result.picture.notes)
        return "done" if mask is None else "kept", f"{result.share:.1%} of the picture, by {result.source}{notes}"
    except (ConfigError, MissingPackageError, ModelError):
        raise  # of the batch, not of this picture
    except InputError as problem:
        return "failed", str(problem)
    except Exception as problem:  # out of memory, or a library's own, on one picture is no reason to stop
        return "failed", f"{type(problem).__name__}: {first_line(problem)}"


def _shown(path: Path, mask: Path | InputError | None, folder: Path) -> Image.Image:
    """The overlay for the contact sheet, or the picture with a word that it failed."""
    drawn = folder / SHOWN / f"{path.stem}.png"
    has_mask = isinstance(mask, Path) or (folder / f"{path.stem}.png").exists()
    try:
        if has_mask and drawn.exists():
            return captioned(open_picture(drawn).convert("RGB"), path.name)
        failed = load_picture(path).image
    except InputError:
        failed = Image.new("RGB", (256, 256), (120, 0, 0))
    failed.thumbnail((384, 384))
    return captioned(failed, f"NO MASK: {path.name}")
