"""What the subject wears, holds or contains, cut out of its mask (SID's tied objects, caption.mode O5).

A mask cannot keep a hat out of a face: it lies inside. A description names it, so that the words explain it; cut out
of the mask, its pixels are the background's, which the frozen model draws from the same words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from PIL import Image

from singleinsert.captions.geometry import Find, place, thing_of
from singleinsert.captions.phrases import Phrase, split_caption
from singleinsert.captions.words import STYLES
from singleinsert.config.fields import MaskSettings, Settings
from singleinsert.data.pictures import Picture, solid
from singleinsert.errors import InputError
from singleinsert.masks import Backends, MaskResult, check_mask
from singleinsert.masks.cleanup import Cleanup, cut_away, pad_and_feather, union
from singleinsert.masks.files import share_of

RIM = 0.02
"""By so much of the picture's shorter side what is cut out is grown: a rim that stayed would teach the hat."""
SOUGHT = ("worn", "thing", "unsure")
"""Roles of phrases whose thing may lie on the subject."""


def without_tied(found: MaskResult, text: str, settings: Settings, say: Callable[[str], None]) -> MaskResult:
    """With caption.mode O5 the mask without what the subject wears; else a line that says that it can be had.

    Args:
        text: the picture's description, "" where there is none.

    Raises:
        InputError: what is left is too small to learn from.
    """
    word = settings.data.class_word[0]
    if not text or word in STYLES:
        return found
    if settings.caption.mode != "O5":
        for line in offer_lines(text, word):
            say(line)
        return found
    cut = cut_tied(found, text, word, settings.mask)
    say(f"mask: {cut.source}, covers {cut.share:.1%} of the picture")
    for note in cut.notes[len(found.notes) :]:
        say(f"  {note}")
    return cut


def offer_lines(text: str, class_word: str) -> list[str]:
    """A line for the log where the description names what the subject wears or holds: a part that can be cut out."""
    worn = [phrase.text for phrase in split_caption(text, class_word) if phrase.role == "worn"]
    if not worn:
        return []
    listed = ", ".join(map(repr, worn))
    return [f"  {listed} may lie inside the mask: `--set caption.mode=O5` looks for it and cuts it out"]


def cut_tied(found: MaskResult, text: str, class_word: str, settings: MaskSettings) -> MaskResult:
    """``found`` without the things of the description ``text`` that lie on the subject, as the mask backend sees them.

    Raises:
        InputError: what is left is too small to learn from.
    """
    with Backends(
        settings.backend, threshold=settings.threshold, detector=settings.detector, segmenter=settings.segmenter
    ) as backends:
        parts, notes = tied_parts(found, split_caption(text, class_word), find_in(found.picture, backends))
    if not parts:
        return replace(found, notes=(*found.notes, *notes, "caption.mode O5: nothing was found to cut out"))
    mask = cut_away(found.mask, list(parts.values()))
    cut = ", ".join(parts)
    share = check_mask(mask, f"the mask without {cut}")
    return replace(found, mask=mask, share=share, source=f"{found.source}, without {cut}", notes=(*found.notes, *notes))


def tied_parts(
    found: MaskResult, phrases: Sequence[Phrase], find: Find
) -> tuple[dict[str, Image.Image], tuple[str, ...]]:
    """Masks of the things that lie on the subject, by name, and a note for each that was worn and not found."""
    parts: dict[str, Image.Image] = {}
    notes: list[str] = []
    for phrase in phrases:
        if phrase.role not in SOUGHT:
            continue
        name, why = thing_of(phrase.text), "was not found"
        try:
            mask = find(name)
        except InputError as problem:
            mask, why = None, f"was not looked for ({problem})"
        if mask is None or solid(mask).getbbox() is None:
            notes += [f"{name} {why}: it stays in the mask"] if phrase.role == "worn" else []
            continue
        kind = place(mask, found.mask).kind
        if kind == "tied" or (kind == "unclear" and phrase.role == "worn"):
            parts[name] = pad_and_feather(mask, Cleanup(padding=RIM, feather=0.0))
    return parts, tuple(notes)


def find_in(picture: Picture, backends: Backends) -> Find:
    """Looks for things in the picture itself: a mask beside it, or its alpha channel, is the subject's alone."""

    def find(thing: str) -> Image.Image | None:
        found = backends.get(thing, pointed=False, notes=[]).find(picture.image, thing)
        return union([candidate.mask for candidate in found]) if found else None

    return find


def whole_picture(picture: Picture) -> MaskResult:
    """The mask of a style: all that is to be seen shows it."""
    mask = Image.new("L", picture.image.size, 255)
    return MaskResult(mask, picture, (), (), "the whole picture, which shows the style", share_of(mask))
