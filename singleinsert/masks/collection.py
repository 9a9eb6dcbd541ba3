"""Several named masks of one picture in one folder: a face, its hair and its clothes, or the objects of a scene.

The folder holds `masks.toml` and one PNG per mask. The masks may overlap; `MaskSet.disjoint` cuts them apart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops

from singleinsert.atomic import write_atomically, write_text
from singleinsert.data.folders import SET_OF_MASKS
from singleinsert.data.pictures import Picture, solid
from singleinsert.data.subject import plain_name
from singleinsert.errors import ConfigError, InputError, shown
from singleinsert.masks.backends import Backends
from singleinsert.masks.candidates import GIVE_A_MASK
from singleinsert.masks.cleanup import cut_away, union
from singleinsert.masks.files import check_mask, read_mask, share_of
from singleinsert.masks.find import FewerFoundError, MaskResult, find_mask
from singleinsert.masks.overlay import captioned, contact_sheet, overlay
from singleinsert.reading import read_toml

INDEX = SET_OF_MASKS
FORMAT_VERSION = 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class NamedMask:
    """One of a picture's masks.

    Attributes:
        name: letters, digits, - and _; its file is `NAME.png`.
        class_word: what the subject is one of.
        mask: mode "L", the picture's size.
        source: where it came from, in words.
    """

    name: str
    class_word: str
    mask: Image.Image
    source: str = ""


@dataclass(frozen=True)
class MaskSet:
    """The named masks of one picture, in order.

    Attributes:
        picture: the picture's file name, for the reader.
        size: (width, height) of the picture and of every mask.
        masks: at least one.
    """

    picture: str
    size: tuple[int, int]
    masks: tuple[NamedMask, ...]

    def __post_init__(self) -> None:
        names = [each.name for each in self.masks]
        if not names:
            raise InputError(f"no masks for {self.picture}")
        for each in self.masks:
            if not NAME.fullmatch(each.name):
                raise InputError(f"mask name {each.name!r}: letters, digits, - and _ only, it becomes a file name")
            if each.mask.size != self.size:
                (mw, mh), (w, h) = each.mask.size, self.size
                raise InputError(f"mask {each.name} is {mw}x{mh}, the picture {w}x{h}")
        if double := next((name for name in names if [n.lower() for n in names].count(name.lower()) > 1), None):
            raise InputError(f"two masks are named {double}: give each its own name")

    def __getitem__(self, name: str) -> NamedMask:
        """The mask of that name, as handles write it too ("my_cat" for "my-cat"); InputError with the names there
        are."""
        for each in self.masks:
            if name in (each.name, plain_name(each.name)):
                return each
        raise InputError(f"no mask {name!r}, only {', '.join(each.name for each in self.masks)}")

    def union(self) -> Image.Image:
        """All masks together, mode "L"."""
        return union([each.mask for each in self.masks])

    def background(self) -> Image.Image:
        """What no mask covers, mode "L"."""
        return ImageChops.invert(self.union())

    def overlaps(self) -> dict[tuple[str, str], float]:
        """Pairs of masks that share pixels, with the shared part of the smaller one, in (0, 1]."""
        out = {}
        for i, a in enumerate(self.masks):
            for b in self.masks[i + 1 :]:
                shared = share_of(ImageChops.darker(a.mask, b.mask))
                if shared > 0:
                    out[a.name, b.name] = shared / min(share_of(a.mask), share_of(b.mask))
        return out

    def disjoint(self) -> MaskSet:
        """The same masks without what an EARLIER one covers: order face before hair before clothes.

        Raises:
            InputError: nothing worth training is left of one.
        """
        out: list[NamedMask] = []
        for each in self.masks:
            cut = cut_away(each.mask, [earlier.mask for earlier in out])
            check_mask(cut, f"mask {each.name} without {', '.join(e.name for e in out) or 'anything'}")
            out.append(replace(each, mask=cut))
        return replace(self, masks=tuple(out))

    def sheet(self, picture: Picture) -> Image.Image:
        """Every mask over the picture with its name and share, as a contact sheet."""
        return contact_sheet(
            [
                captioned(
                    overlay(picture.image, each.mask), f"{each.name}: {each.class_word}, {share_of(each.mask):.1%}"
                )
                for each in self.masks
            ],
            side=384,
        )


def save_masks(masks: MaskSet, folder: Path) -> None:
    """Writes the PNGs, then the index; a folder without its index is not read."""
    lines = [f"version = {FORMAT_VERSION}", f"picture = {_toml(masks.picture)}", f"size = {list(masks.size)}"]
    for each in masks.masks:
        write_atomically(folder / f"{each.name}.png", each.mask.save)
        lines += ["", "[[mask]]", f"name = {_toml(each.name)}", f"class_word = {_toml(each.class_word)}"]
        lines += [f"source = {_toml(each.source)}", f"share = {share_of(each.mask):.6f}"]
    write_text(folder / INDEX, "\n".join(lines) + "\n")


def _toml(text: str) -> str:
    # A JSON string without escaped surrogates is a TOML basic string.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def load_masks(folder: str | Path) -> MaskSet:
    """The masks of a folder that `save_masks` wrote; PNGs edited since are taken as they are now.

    Raises:
        InputError: no index, an index that says something else, a PNG missing, empty or of another size.
    """
    index = Path(folder) / INDEX
    if not index.is_file():
        raise InputError(f"{folder} holds no {INDEX}: it is not a folder of masks")
    content = read_toml(index, InputError)
    if content.get("version") != FORMAT_VERSION:
        raise InputError(f"{index} is of version {shown(content.get('version'))}; this program reads {FORMAT_VERSION}")
    size, entries = content.get("size"), content.get("mask")
    if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)):
        raise InputError(f"{index}: size is {shown(size)}, not [width, height] in pixels")
    if not isinstance(entries, list):
        raise InputError(f"{index}: write [[mask]], twice bracketed, for each mask")
    named = tuple(_load_one(index, entry, (size[0], size[1])) for entry in entries)
    loaded = MaskSet(_text(index, content, "picture"), (size[0], size[1]), named)
    for each in loaded.masks:
        check_mask(each.mask, f"mask {Path(folder) / each.name}.png")
    return loaded


def _load_one(index: Path, entry: Any, size: tuple[int, int]) -> NamedMask:
    if not isinstance(entry, dict):
        raise InputError(f"{index}: a mask is {shown(entry)}, not a table [[mask]]")
    name, class_word = _text(index, entry, "name"), _text(index, entry, "class_word")
    if not NAME.fullmatch(name):
        raise InputError(f"{index}: mask name {shown(name)} is not a plain file name")
    return NamedMask(name, class_word, read_mask(index.parent / f"{name}.png", size), _text(index, entry, "source", ""))


def _text(index: Path, table: Mapping[str, Any], key: str, default: str | None = None) -> str:
    text = table.get(key, default)
    if not isinstance(text, str):
        raise InputError(f"{index}: {key} is {shown(text)}, not a text in quotes")
    return text


def find_masks(picture: Picture, words: Mapping[str, str], **options: Any) -> MaskSet:
    """One mask per name, as :func:`find_each` finds them.

    Args:
        words: mask name -> class word (or "class word|part to cut away|...").
    """
    texts = [[part.strip() for part in text.split("|")] for text in words.values()]
    results = find_each(picture, [word for word, *_ in texts], parts=[parts for _, *parts in texts], **options)
    found = zip(words, texts, results, strict=True)
    masks = tuple(NamedMask(name, word, result.mask, result.source) for name, (word, *_), result in found)
    return MaskSet(picture.path.name, picture.image.size, masks)


def find_each(
    picture: Picture, words: Sequence[str], *, files: Sequence[str | Path] = (), parts: Sequence[Sequence[str]] = (),
    **options: Any,
) -> list[MaskResult]:  # fmt: skip
    """A mask for each of several things, all by one backend, which is opened once and freed.

    Of what is asked for twice the first has the best candidate, the second the next best. A mask beside the picture
    and its alpha channel are passed over: they would be everything's at once.

    Args:
        picture: as `load_picture` gives it.
        files: a mask file for each word, where they are known.
        parts: what to cut away from each, besides `subtract`.
        options: the [mask] section, as of `find_mask`.

    Raises:
        ConfigError: an option that points at one thing. InputError: one of them was not found.
    """
    refuse_pointing(words, options)
    opaque = replace(picture, alpha=None)
    opening = {key: options[key] for key in ("threshold", "detector", "segmenter", "device") if key in options}
    asked = [(word, *(parts[i] if parts else ())) for i, word in enumerate(words)]
    results = []
    with Backends(options.pop("backend", "auto"), **opening) as backends:
        for i, (word, *cut) in enumerate(asked):
            own = options | {"subtract": (*options.get("subtract", ()), *cut)}
            if not files and asked.count(asked[i]) > 1:  # two cats: the best, and the next best
                own["mask_index"] = asked[:i].count(asked[i])
            file = files[i] if files else None
            try:
                results.append(find_mask(opaque, word, file=file, beside=False, **own, backends=backends))
            except FewerFoundError as problem:
                raise InputError(
                    f"{asked.count(asked[i])} concepts are {word}, and in {picture.path} {problem.found} "
                    f"{'was' if problem.found == 1 else 'were'} found: {GIVE_A_MASK}"
                ) from problem
    return [replace(result, picture=picture) for result in results]


def refuse_pointing(words: Sequence[str], options: Mapping[str, Any]) -> None:
    """ConfigError where an option that points at one thing would be taken for each of several."""
    told = [name for name in ("box", "points", "prompt") if options.get(name)]
    told += ["mask_index"] if options.get("mask_index", -1) >= 0 else []
    told += ["merge"] if options.get("merge") and len(set(words)) < len(words) else []
    if told and len(words) > 1:
        raise ConfigError(
            f"mask.{told[0]} is for a single concept, and there are {len(words)} ({', '.join(words)}): leave it "
            "out, or give a mask for each"
        )


def disjoint(masks: dict[str, Image.Image]) -> dict[str, Image.Image]:
    """Masks cut apart: where two overlap, the smaller one has it (a hat on a head, a shirt on a dog).

    Raises:
        InputError: nothing worth training is left of one.
    """
    smallest_first = sorted(masks, key=lambda name: share_of(masks[name]))
    taken: list[str] = []
    cut: dict[str, Image.Image] = {}
    for name in smallest_first:
        cut[name] = cut_away(masks[name], [cut[other] for other in taken])
        if taken and not solid(cut[name]).getbbox():
            raise InputError(
                f"the mask of {name} is covered wholly by {' and '.join(taken)}: paint them apart, or let both have "
                "what they share with --set data.overlap=keep"
            )
        if taken:
            check_mask(cut[name], f"the mask of {name} without {', '.join(taken)}")
        taken.append(name)
    return {name: cut[name] for name in masks}
