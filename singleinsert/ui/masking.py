"""Masks of a draft: found by a word, by a box or by clicks, or painted; and what is said of them."""

from __future__ import annotations

import io
import threading
from typing import Any

import numpy as np
from PIL import Image

from singleinsert.errors import InputError
from singleinsert.ui.drafts import Draft, Drafts

ONE_AT_A_TIME = threading.Lock()
"""A segmenter takes memory; two of them twice that."""


def bands() -> list[dict[str, Any]]:
    """The verdicts on a mask's share, for the page to say while it is painted."""
    from singleinsert.masks.verdict import BANDS

    return [{"below": band.below, "level": band.level, "text": band.text} for band in BANDS]


def find(drafts: Drafts, draft: Draft, number: int, told: dict[str, Any]) -> dict[str, Any]:
    """Find the mask of a subject, and keep it.

    Args:
        told: "box" [left, top, right, bottom] and "points" [[x, y, on the subject], ...] in the photo's pixels, and
            "choice", one of the candidates of an earlier answer; all of them may be left out.

    Raises:
        InputError, ModelError, MissingPackageError, ConfigError: nothing was found; one line.
    """
    from dataclasses import asdict, replace

    from singleinsert.data.pictures import load_picture
    from singleinsert.masks import find_mask

    word = draft.subjects[number].class_word if 0 <= number < len(draft.subjects) else ""
    if not word:
        raise InputError("say first what it is: face, cat, mug ...")
    options = asdict(drafts.settings(draft).mask)
    options |= {"box": _numbers(told.get("box"), 4), "points": _points(told.get("points"))}
    options["mask_index"] = int(told.get("choice", -1)) if str(told.get("choice", "")).lstrip("-").isdigit() else -1
    photo = load_picture(drafts.photo_path(draft))
    if len(draft.subjects) > 1:
        photo = replace(photo, alpha=None)  # it would be all subjects' at once
    with ONE_AT_A_TIME:
        result = find_mask(photo, word, beside=False, **options)
    path = str(drafts.photo_path(draft))
    notes = [note.replace(path, "the photo") for note in result.notes]
    drafts.write_mask(draft, number, result.mask, result.source, notes)
    candidates = [
        {"text": candidate.score_text, "share": candidate.share, "taken": index in result.chosen}
        for index, candidate in enumerate(result.candidates)
    ]
    return describe(drafts, draft, number) | {"candidates": candidates}


def paint(drafts: Drafts, draft: Draft, number: int, content: bytes) -> dict[str, Any]:
    """Keep a mask that was painted on the page: a PNG of the photo's size, or of the size at which it was shown."""
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as file:
            if file.width * file.height > 4096 * 4096:
                raise InputError("that mask is too large")
            mask = (file.getchannel("A") if file.mode == "RGBA" else file.convert("L")).copy()
    except InputError:
        raise
    except Exception as problem:  # Pillow's readers raise two dozen kinds
        raise InputError("that is no mask: load the page again") from problem
    size = _size(drafts, draft)
    if mask.size != size:
        mask = mask.resize(size, Image.Resampling.BILINEAR)
    drafts.write_mask(draft, number, mask, "paint")
    return describe(drafts, draft, number)


def describe(drafts: Drafts, draft: Draft, number: int) -> dict[str, Any]:
    """What is known of a subject's mask: its share, the verdict, the square that will be trained."""
    from singleinsert.data.pictures import Picture, crop_to_square
    from singleinsert.masks.files import share_of
    from singleinsert.masks.verdict import verdict_of

    path, subject = drafts.mask_path(draft, number), draft.subjects[number]
    if not path.exists():
        return {"mask": False, "share": 0.0, "level": "bad", "verdict": "no mask yet", "source": "", "notes": []}
    with Image.open(path) as file:
        mask = file.convert("L")
    level, text = verdict_of(mask)
    photo = Image.new("RGB", mask.size)
    square = crop_to_square(Picture(photo, None, path), mask).box if level != "bad" else (0, 0, *mask.size)
    return {
        "mask": True, "share": share_of(mask), "level": level, "verdict": text, "source": subject.source,
        "certain": is_certain(subject.source), "notes": subject.notes, "square": list(square),
        "changed": path.stat().st_mtime_ns,
    }  # fmt: skip


def is_certain(source: str) -> bool:
    """Whether what found the mask knows what it was looking for: GrabCut only parts colours within a box."""
    return "grabcut" not in source.lower()


def overlaps(drafts: Drafts, draft: Draft) -> list[str]:
    """Which subjects' masks overlap, in words."""
    found: list[str] = []
    masks: dict[str, np.ndarray] = {}
    for number, subject in enumerate(draft.subjects):
        path = drafts.mask_path(draft, number)
        if path.exists():
            with Image.open(path) as file:
                masks[subject.name or subject.class_word or f"concept {number + 1}"] = (
                    np.asarray(file.convert("L")) >= 128
                )
    names = list(masks)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            both, least = int((masks[a] & masks[b]).sum()), min(int(masks[a].sum()), int(masks[b].sum()))
            if least and both / least > 0.05:
                found.append(f"{a} and {b} overlap by {both / least:.0%} of the smaller one, which gets those pixels")
    return found


def _size(drafts: Drafts, draft: Draft) -> tuple[int, int]:
    with Image.open(drafts.photo_path(draft)) as file:
        return file.size


def _numbers(value: Any, count: int) -> tuple[float, ...]:
    fits = isinstance(value, list) and len(value) == count and all(type(v) in (int, float) for v in value)
    return tuple(float(number) for number in value) if fits else ()


def _points(value: Any) -> tuple[str, ...]:
    """As the settings have them: "x,y,1" on the subject, "x,y,0" not."""
    points = [_numbers(point, 3) for point in value] if isinstance(value, list) else []
    return tuple(f"{x:g},{y:g},{1 if on else 0}" for x, y, on in (point for point in points if len(point) == 3))
