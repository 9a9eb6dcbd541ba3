"""The one way to a mask: a file, the alpha channel, what the user points at, or a backend that looks for a word."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from singleinsert.atomic import write_atomically
from singleinsert.data.folders import MASK_END, mask_in, mask_of
from singleinsert.data.pictures import Picture
from singleinsert.errors import InputError
from singleinsert.masks.backends import Backends
from singleinsert.masks.candidates import GIVE_A_MASK, THRESHOLD, Box, Candidate, Point, Segmenter, scale_box
from singleinsert.masks.cascade import FaceCascade, is_face
from singleinsert.masks.cleanup import Cleanup, clean, cut_away, enlarged, pad_and_feather, reduced, union
from singleinsert.masks.files import (
    check_mask,
    has_alpha_mask,
    mask_from_alpha,
    mask_from_file,
    read_mask,
)
from singleinsert.masks.grabcut import GrabCut
from singleinsert.masks.overlay import overlay, shown_size
from singleinsert.names import LONGEST_FILE_NAME


class FewerFoundError(InputError):
    """There is no candidate of the wanted number. ``found``: how many there are."""

    def __init__(self, text: str, found: int) -> None:
        super().__init__(text)
        self.found = found


@dataclass(frozen=True)
class MaskResult:
    """A mask that can train, and how it came about.

    Attributes:
        mask: mode "L", the picture's size, 255 on the subject.
        picture: what it belongs to; its pixels may be fewer than the mask's, see :meth:`without_pixels`.
        candidates: everything that was found, best first, with masks of the size at which it was looked for; empty
            for a mask file and the alpha channel.
        chosen: places in `candidates` that became the mask.
        source: where the mask came from, in words.
        share: covered share of the picture in (0, 1).
        notes: what the user should know, a sentence each.
        file: the mask file, where it is one.
    """

    mask: Image.Image
    picture: Picture
    candidates: tuple[Candidate, ...]
    chosen: tuple[int, ...]
    source: str
    share: float
    notes: tuple[str, ...] = ()
    file: Path | None = None

    def overlay(self, square: Box | None = None) -> Image.Image:
        """The mask over the picture, with boxes, scores and a caption that says the share; ``square``: what trains."""
        caption = f"mask from {self.source}: {self.share:.1%} of the picture"
        return overlay(self.picture.image, self.mask, self.candidates, self.chosen, caption, square)

    def without_pixels(self) -> MaskResult:
        """The same, of the picture only what :meth:`overlay` draws: for runs, which keep it to the end."""
        small, image = shown_size(self.mask.size), self.picture.image
        if max(image.size) <= max(small):
            return self
        return replace(self, picture=replace(self.picture, image=image.resize(small, Image.Resampling.BOX), alpha=None))

    def lines(self) -> list[str]:
        """What was found and taken, for the log."""
        out = [f"mask: from {self.source}, covers {self.share:.1%} of the picture"]
        for index, candidate in enumerate(self.candidates):
            box = ",".join(f"{v:.0f}" for v in candidate.box)
            taken = "  <- taken" if index in self.chosen else ""
            out.append(f"  {index}: {candidate.score_text}, {candidate.share:.1%} of the picture, box {box}{taken}")
        return out + [f"  {note}" for note in self.notes]


def find_mask(
    picture: Picture,
    class_word: str,
    *,
    file: str | Path | None = None,
    beside: bool = True,
    backend: str = "auto",
    prompt: str = "",
    subtract: Sequence[str] = (),
    mask_index: int = -1,
    merge: bool = False,
    box: Sequence[float] = (),
    points: Sequence[str | Point] = (),
    threshold: float = THRESHOLD,
    detector: str = "",
    segmenter: str = "",
    smooth: float = Cleanup.smooth,
    fill_holes: bool = Cleanup.fill_holes,
    min_part: float = Cleanup.min_part,
    padding: float = Cleanup.padding,
    feather: float = Cleanup.feather,
    device: str = "auto",
    backends: Backends | None = None,
) -> MaskResult:
    """The mask of the picture's subject, checked. The keywords up to `feather` are the keys of the [mask] section.

    Args:
        picture: as `load_picture` gives it.
        class_word: what the subject is one of.
        file: a mask file, or a folder in which the mask has the picture's name. It is taken as it is: of the
            clean-up only `padding` and `feather` apply to it, and to the alpha channel.
        beside: without `file`, take the mask that lies where the picture's mask lies (`data.folders.mask_of`), unless
            the user points (box, points) or chooses (mask_index, merge).
        backend: "auto", or a name of `backends.BACKENDS`, or "alpha".
        prompt: what to look for, where that is not the class word ("hair. wig.").
        subtract: parts to cut away ("face" for hair).
        mask_index: which candidate, from 0; -1 is the best.
        merge: all candidates together.
        box: left, top, right, bottom in pixels: no search, the subject in it is outlined.
        points: ("x,y" or "x,y,0"): on the subject, and with 0 not on it.
        threshold: candidates of lower score are not even candidates.
        detector, segmenter: models of the grounded backends; "" is their default.
        smooth, fill_holes, min_part, padding, feather: see `Cleanup`.
        backends: used and left open, in place of `backend` and its models; what is opened here is freed here.

    Raises:
        InputError: nothing was found with confidence, or a mask that cannot train. One line that says what to do.
        ModelError, MissingPackageError, ConfigError: as they say.
    """
    cleanup = Cleanup(smooth, fill_holes, min_part, padding, feather)
    search = not beside or wants_search(box, points, mask_index, merge)
    if (path := mask_file(picture.path, file, search)) is not None:
        return replace(_given(picture, mask_from_file(path, picture), f"file {path}", cleanup), file=path)
    region, dots = parse_box(box), parse_points(points)
    pointed, method = region is not None or bool(dots), backends.name if backends else backend
    if method == "alpha" or (not pointed and has_alpha_mask(picture)):
        return _given(picture, mask_from_alpha(picture), "the picture's alpha channel", cleanup)

    if not all(on_subject for _, _, on_subject in dots):
        cleanup = replace(cleanup, fill_holes=False)  # a hole that the user made is meant
    words, notes = prompt or class_word, [*picture.notes]
    own = backends or Backends(backend, threshold=threshold, detector=detector, segmenter=segmenter, device=device)
    try:
        tool, image = own.get(words, pointed=pointed, notes=notes), reduced(picture.image)
        across, down = (a / b for a, b in zip(picture.image.size, image.size, strict=True))
        if pointed:
            dots = [(x / across, y / down, on) for x, y, on in dots]
            candidates = [tool.outline(image, region and scale_box(region, 1 / across, 1 / down), dots)]
        else:
            candidates = tool.find(image, words)
        candidates = [replace(each, box=scale_box(each.box, across, down)) for each in candidates]
        parts = _parts(tool, image, subtract, notes) if candidates else []
    finally:
        if backends is None:
            own.close()
    if not candidates:
        raise InputError(
            f"no {words} was found in {picture.path} ({tool.name}, score {threshold:g} or better): "
            + GIVE_A_MASK
            + "".join(f" ({note})" for note in notes)
        )
    finished = [_finish(candidate.mask, parts, cleanup) for candidate in candidates]
    chosen = _choose(finished, words, mask_index, merge, notes)
    mask = enlarged(union([finished[index] for index in chosen]), picture.image.size)
    share = check_mask(mask, f"the mask of {words} in {picture.path}")
    return MaskResult(mask, picture, tuple(candidates), chosen, tool.name, share, tuple(notes))


def _given(picture: Picture, mask: Image.Image, source: str, cleanup: Cleanup) -> MaskResult:
    mask = pad_and_feather(mask, cleanup)
    return MaskResult(mask, picture, (), (), source, check_mask(mask, f"the mask from {source}"), picture.notes)


def wants_search(box: Sequence[float], points: Sequence[Any], mask_index: int, merge: bool) -> bool:
    """Whether the user points at the subject or chooses among what is found, so that a mask that is there is passed."""
    return bool(len(box) or len(points)) or mask_index >= 0 or merge


def mask_file(picture: Path, file: str | Path | None, search: bool = False) -> Path | None:
    """The file that is a picture's mask: the one rule of training, masks, batch and evaluation.

    Args:
        file: as the user named it, a file or a folder of masks; it goes before all else. None or "": not named.
        search: do not look beside the picture.

    Raises:
        InputError: several masks, or a folder without the picture's.
    """
    if file:
        return mask_in(picture, file) if Path(file).is_dir() else Path(file)
    return None if search else mask_of(picture)


def _finish(mask: Image.Image, parts: Sequence[Image.Image], cleanup: Cleanup) -> Image.Image:
    plain = replace(cleanup, padding=0.0, feather=0.0)
    mask = clean(mask, plain)
    if parts:
        # Without filling holes: the face that is cut out of the hair around it is one.
        mask = clean(cut_away(mask, parts), replace(plain, fill_holes=False))
    return pad_and_feather(mask, cleanup)


def _choose(masks: Sequence[Image.Image], words: str, index: int, merge: bool, notes: list[str]) -> tuple[int, ...]:
    if merge:
        return tuple(range(len(masks)))
    if index >= len(masks):
        raise FewerFoundError(
            f"--mask_index {index}: {words} was found {len(masks)} time(s), the index goes from 0 on", len(masks)
        )
    if index >= 0:
        return (index,)
    chosen = next((i for i, mask in enumerate(masks) if _can_train(mask)), 0)
    if len(masks) > 1:
        notes.append(
            f"{words} was found {len(masks)} times, number {chosen} is taken: another one with --mask_index N, "
            "or --box left,top,right,bottom"
        )
    return (chosen,)


def _can_train(mask: Image.Image) -> bool:
    try:
        check_mask(mask)
    except InputError:
        return False
    return True


def _parts(tool: Segmenter, image: Image.Image, prompts: Sequence[str], notes: list[str]) -> list[Image.Image]:
    """Masks of everything that the prompts find. What the backend cannot look for is said, not passed over."""
    masks: list[Image.Image] = []
    for prompt in prompts:
        try:
            found = (FaceCascade() if isinstance(tool, GrabCut) and is_face(prompt) else tool).find(image, prompt)
        except InputError:
            notes.append(f"{prompt} is not cut away: {tool.name} cannot look for it")
            continue
        masks += [candidate.mask for candidate in found]
        notes.append(f"{prompt} is cut away" if found else f"no {prompt} was found to cut away")
    return masks


def parse_box(values: Sequence[float]) -> Box | None:
    """Four numbers -> a box; none -> None. InputError otherwise."""
    if not values:
        return None
    if len(values) != 4 or not all(map(math.isfinite, values)) or values[0] >= values[2] or values[1] >= values[3]:
        text = ",".join(f"{v:g}" for v in values)
        raise InputError(f"--box {text} is not left,top,right,bottom in pixels, with left < right and top < bottom")
    return (float(values[0]), float(values[1]), float(values[2]), float(values[3]))


def parse_points(points: Sequence[str | Point]) -> list[Point]:
    """ "x,y", "x,y,1" or "x,y,0" -> (x, y, on the subject). InputError for anything else."""
    out: list[Point] = []
    for point in points:
        if not isinstance(point, str):
            out.append(point)
            continue
        parts = point.split(",")
        try:
            x, y = float(parts[0]), float(parts[1])
            on = {"1": True, "0": False}[parts[2].strip()] if len(parts) == 3 else True
            if len(parts) > 3 or not (math.isfinite(x) and math.isfinite(y)):
                raise ValueError
        except (ValueError, IndexError, KeyError) as problem:
            raise InputError(
                f"point {point!r} is not x,y (on the subject) or x,y,0 (not on it), in pixels"
            ) from problem
        out.append((x, y, on))
    return out


def write_mask(
    result: MaskResult, folder: Path, name: str, overwrite: bool = False, square: Box | None = None
) -> tuple[Path, Path]:
    """`NAME_mask.png`, which can be edited and given back with --mask, and `NAME_mask_overlay.png`, to look at.

    A mask that was given back stays as it is, whatever was padded or feathered for training. ``square``: the training
    square, to be shown.

    Raises:
        InputError: another mask is there that is not ours, or was edited since it was written; unless `overwrite`.
    """
    mask, shown = folder / f"{name}{MASK_END}.png", folder / f"{name}{MASK_END}_overlay.png"
    written = mask.stat().st_mtime_ns if mask.exists() else 0
    given = bool(written and result.file and mask.samefile(result.file))
    edited = written and not (shown.exists() and shown.stat().st_mtime_ns >= written)
    if edited and not given and not overwrite and read_mask(mask).tobytes() != result.mask.tobytes():
        raise InputError(f"{mask} was edited or made by hand: use it with --mask {mask}, or move it away")
    if not given:
        write_atomically(mask, result.mask.save)
    write_atomically(shown, result.overlay(square).save)
    if given:  # the user's it remains: newer than what is drawn of it
        os.utime(shown, ns=(written - 1, written - 1))
    return mask, shown


def write_beside(result: MaskResult, overwrite: bool = False) -> tuple[Path, Path]:
    """The mask where training, batch, evaluation and the editor look for it: beside the picture.

    A mask that came from a file stays that file; only what shows it is written.

    Raises:
        InputError: as of `write_mask`, or the picture has a mask under another name already.
    """
    picture = result.picture.path
    if result.file is None:
        refuse_second(picture)
        return write_mask(result, picture.parent, picture.stem, overwrite)
    shown = picture.with_name(f"{picture.stem}{MASK_END}_overlay.png")
    write_atomically(shown, result.overlay().save)
    written = result.file.stat().st_mtime_ns
    os.utime(shown, ns=(written - 1, written - 1))
    return result.file, shown


def place_of(picture: Path) -> Path:
    """The picture's mask if there is one, else where it is written to. InputError where there are several."""
    return mask_of(picture) or picture.with_name(f"{picture.stem}{MASK_END}.png")


def refuse_second(picture: Path) -> None:
    """InputError where no mask can be written beside the picture: it has one under another name, or its name is so long
    that no file system holds its mask's."""
    if len(f"{picture.stem}{MASK_END}_overlay.png".encode()) > LONGEST_FILE_NAME:
        raise InputError(f"the mask of {picture} would have a longer name than files can have: rename the picture")
    there, target = mask_of(picture), picture.with_name(f"{picture.stem}{MASK_END}.png")
    if there is not None and there != target and not (target.exists() and target.samefile(there)):
        raise InputError(f"{there} is the mask of {picture.name} already: move it away, or two would be there")
