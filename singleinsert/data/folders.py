"""What a folder of photos holds: the pictures, the mask of each, and what is left out and why. Names only, no pixels.

The one rule for where the mask of ``rex.jpg`` lies, whatever the case of its letters: ``rex_mask.png`` beside it, or
OneTrainer's ``rex-masklabel.png``, or, in a folder called like the picture's with ``_masks`` at its end, ``rex.png``,
which is where ``python -m singleinsert.masks batch`` puts it. Any suffix of a picture will do. kohya's folder of masks
(``conditioning_data_dir``) can be anywhere, so that it is given: ``--mask FOLDER``.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from singleinsert.data.captions import CAPTION_SUFFIXES, METADATA
from singleinsert.data.opening import HEIF_SUFFIXES, INSTALL_HEIF, heif_is_read, is_picture
from singleinsert.errors import InputError, first_line

PICTURE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".webp", ".avif", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".jp2",
    ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".psd", ".qoi", ".pcx", ".sgi", ".ico", ".mpo",
    *HEIF_SUFFIXES,
)  # fmt: skip
"""Of the formats that :mod:`singleinsert.data.opening` reads."""

MASK_END = "_mask"
"""What is written: NAME_mask.png beside NAME.jpg."""
MASK_ENDS = (MASK_END, "-masklabel")
"""What is read: ours, and OneTrainer's."""
FOLDER_END = "_masks"
MASK_FOLDERS = ("mask", "masks")
SET_OF_MASKS = "masks.toml"
"""Marks a folder of several named masks of one picture (masks/collection.py)."""
NO_CONCEPTS = {"_mask_overlay": "a picture of a mask, to look at", "-condlabel": "OneTrainer's conditioning picture"}
"""Ends of names beside a picture's that are made from it."""

TEXT_SUFFIXES = (*CAPTION_SUFFIXES, ".json", ".toml", ".csv", ".npz")
"""Texts and notes about pictures, which nobody takes for pictures."""
UNSEEN = ("thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r")
"""Written by file managers; they are passed over without a word, as are names that begin with a dot."""

NAMED = 3
"""So many names are said of each kind that is left out."""


def same_name(name: str) -> str:
    """One spelling for all cases of a name, and for both ways of writing its accents (macOS takes them apart)."""
    return unicodedata.normalize("NFC", name).casefold()


def of_one_name(pictures: Iterable[Path]) -> Iterator[tuple[Path, Path]]:
    """Pairs (the first, a later one) of pictures in one folder whose mask or caption would be the same file: both go by
    the name without its suffix."""
    firsts: dict[Path, Path] = {}
    for path in pictures:
        first = firsts.setdefault(path.with_name(same_name(path.stem)), path)
        if first != path:
            yield first, path


@dataclass(frozen=True)
class PictureFolder:
    """What a folder holds.

    Attributes:
        pictures: by name. folders: to look into, by name.
        left_out: reason -> names, of all that is neither.
    """

    folder: Path
    pictures: tuple[Path, ...]
    folders: tuple[Path, ...]
    left_out: dict[str, tuple[str, ...]]

    def lines(self) -> list[str]:
        """What is left out and why, a line for each reason."""
        return [f"{self.folder}: left out: {some(names)}: {reason}" for reason, names in self.left_out.items()]


def some(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def list_folder(folder: Path) -> PictureFolder:
    """Look through a folder.

    Raises:
        InputError: it is no folder, or cannot be read.
    """
    entries = _entries(folder)
    left_out: dict[str, list[str]] = defaultdict(list)
    files, folders = [], []
    for path in entries:
        if path.name.startswith(".") or same_name(path.name) in UNSEEN:
            continue
        if not path.name.isprintable():
            left_out["its name holds letters that are not UTF-8 or cannot be printed: rename it"].append(
                path.name.encode("utf-8", "backslashreplace").decode()
            )
        elif path.is_dir():
            folders.append(path)
        elif reason := _no_picture(path):
            left_out[reason].append(path.name)
        elif not _is_text(path):
            files.append(path)
    stems = {same_name(path.stem) for path in files}
    pictures = []
    for path in files:
        if _is_mask_of_one(path, stems):
            continue
        if reason := next((text for end, text in NO_CONCEPTS.items() if _without(path, end) in stems), ""):
            left_out[reason].append(path.name)
        else:
            pictures.append(path)
    kept = [path for path in folders if not _is_mask_folder(path, stems, folders)]
    if masks := [f"{path.name}/" for path in folders if path not in kept]:
        left_out["masks, no photos"] += masks
    return PictureFolder(folder, tuple(pictures), tuple(kept), {key: tuple(names) for key, names in left_out.items()})


def picture_paths(given: Sequence[str]) -> list[Path]:
    """The files behind paths of which each is a picture, or a folder of them.

    Raises:
        InputError: a folder without a picture.
    """
    return [path for text in given for path in _of_file_or_folder(Path(text))]


def _of_file_or_folder(path: Path) -> Sequence[Path]:
    if not path.is_dir():
        return (path,)
    found = list_folder(path)
    if not found.pictures:
        raise InputError(f"folder {path} holds no picture that can be read")
    return found.pictures


def _entries(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"folder of pictures not found: {folder}")
    try:
        return sorted(folder.iterdir())
    except OSError as problem:
        raise InputError(f"{folder} cannot be read: {problem.strerror or first_line(problem)}") from problem


def _is_text(path: Path) -> bool:
    """Is it words for pictures, by its name?"""
    return path.suffix.lower() in TEXT_SUFFIXES or path.name == METADATA


def _no_picture(path: Path) -> str:
    """Why a file is none of the pictures; "" where it is one, or a text beside one."""
    suffix = path.suffix.lower()
    if _is_text(path):
        return ""
    if not path.is_file():
        return "no file (a link that leads nowhere?)"
    if suffix in HEIF_SUFFIXES and not heif_is_read():
        return f"HEIC pictures need pillow-heif: {INSTALL_HEIF}, or save them as JPEG"
    if suffix in PICTURE_SUFFIXES or (not suffix and is_picture(path)):
        return ""
    return f"no picture that is read, by the end of its name ({suffix or 'none'})"


def _without(path: Path, end: str) -> str | None:
    """The stem without ``end``; None where it has another end."""
    stem = same_name(path.stem)
    return stem.removesuffix(end) if stem.endswith(end) else None


def _is_mask_of_one(path: Path, stems: set[str]) -> bool:
    return any(_without(path, end) in stems for end in MASK_ENDS)


def _is_mask_folder(path: Path, stems: set[str], folders: list[Path]) -> bool:
    """Called like masks; or like a picture or folder beside it with _masks at its end; or written as a set of masks."""
    name = same_name(path.name)
    owners = stems | {same_name(folder.name) for folder in folders} | {same_name(path.parent.resolve().name)}
    owned = name.endswith(FOLDER_END) and name.removesuffix(FOLDER_END) in owners
    return name in MASK_FOLDERS or owned or (path / SET_OF_MASKS).is_file()


def mask_of(picture: str | Path) -> Path | None:
    """The mask that lies where a picture's mask lies; None where none does.

    Raises:
        InputError: there are several.
    """
    picture = Path(picture)
    return only_mask(picture, masks_for(picture.parent))


def set_beside(picture: Path) -> Path:
    """Where the named masks of a picture of several things are written, and looked for: the folder called like it, with
    _masks at its end."""
    return picture.with_name(picture.stem + FOLDER_END)


def masks_for(folder: Path) -> dict[str, list[Path]]:
    """The masks of all pictures of a folder, by :func:`same_name` of the picture's stem."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in _pictures_in(folder):
        for end in MASK_ENDS:
            if stem := _without(path, end):
                found[stem].append(path)
    whole = folder.resolve()
    sibling = same_name(whole.name + FOLDER_END)
    for other in _entries_or_none(whole.parent):
        if same_name(other.name) == sibling and other.is_dir() and not (other / SET_OF_MASKS).is_file():
            for path in _pictures_in(other):
                found[same_name(path.stem)].append(path)
    return found


def only_mask(picture: Path, masks: dict[str, list[Path]]) -> Path | None:
    """The picture's among ``masks_for`` its folder. InputError where there are several."""
    return _only_one(picture, masks.get(same_name(picture.stem), []), "keep one, or name one with --mask")


def mask_in(picture: str | Path, folder: str | Path) -> Path:
    """The mask of a picture in a folder of masks: the file with the same name, whatever its suffix.

    kohya's ``conditioning_data_dir``, except that two masks for one picture are refused instead of one being taken in
    silence, and that case does not matter. The names that a mask has beside its picture are taken as well.

    Raises:
        InputError: no folder, no mask of that name, or several.
    """
    picture, folder = Path(picture), Path(folder)
    if not folder.is_dir():
        raise InputError(f"mask folder not found: {folder}")
    mask = find_in(picture, folder)
    if mask is None:
        raise InputError(f"no mask for {picture.name} in {folder}: expected {picture.stem}.png there")
    return mask


def find_in(picture: Path, folder: Path) -> Path | None:
    """The same; None where it is not there. InputError where there are several."""
    stem = same_name(picture.stem)
    names = {stem, *(stem + end for end in MASK_ENDS)}
    found = [path for path in _pictures_in(folder) if same_name(path.stem) in names and not _same_file(path, picture)]
    return _only_one(picture, found, "keep one")


def _only_one(picture: Path, found: list[Path], remedy: str) -> Path | None:
    if len(found) > 1:
        folders = {path.parent for path in found}
        names = ", ".join(path.name if len(folders) == 1 else str(path) for path in found)
        raise InputError(f"several masks for {picture.name} in {found[0].parent}: {names}; {remedy}")
    return found[0] if found else None


def _pictures_in(folder: Path) -> list[Path]:
    return [
        path
        for path in _entries_or_none(folder)
        if path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]


def _entries_or_none(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (OSError, ValueError):
        return []


def _same_file(a: Path, b: Path) -> bool:
    return b.exists() and a.samefile(b)
