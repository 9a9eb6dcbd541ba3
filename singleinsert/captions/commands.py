"""write, check and show: what `python -m singleinsert.captions` does beside the page."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from singleinsert.atomic import check_folder_to_write, write_atomically
from singleinsert.captions.ask import Ask, RefusedError, asked_once
from singleinsert.captions.critic import criticize, forgotten_remarks, remarks_on
from singleinsert.captions.describe import WORDS, compose, of_user, tell_where
from singleinsert.captions.files import read_description, refuse_existing, write_caption
from singleinsert.captions.form import Room, room_of
from singleinsert.captions.further import Further
from singleinsert.captions.verdicts import judge
from singleinsert.config import Settings
from singleinsert.data.captions import read_caption, unread_lines
from singleinsert.data.pictures import Picture, load_picture
from singleinsert.errors import ConfigError, InputError
from singleinsert.masks.batch import list_pictures


def write(args: argparse.Namespace, settings: Settings) -> int:
    """photo.txt for each picture, with what the checks say; 1 where a picture of a folder got none."""
    word, paths = class_word(settings), _paths(args)
    if not settings.caption.describe:
        raise ConfigError(
            "who writes the caption? --describe vlm:MODEL or openai:URL#MODEL, or, without a model, "
            '--scene_words "red hat, beach"'
        )
    if args.image:
        refuse_existing(paths[0], args.metadata, args.overwrite)
    for folder in dict.fromkeys(path.parent for path in paths):
        check_folder_to_write(folder, "captions")  # before a model is asked for them
    room, failed = room_of(settings), 0
    with _model(settings, args.device) as ask:
        for number, path in enumerate(paths, start=1):
            try:
                if not args.overwrite and read_caption(path) is not None:
                    line = "kept, it has one"
                else:
                    line = _write_one(path, word, settings, args, room, ask)
            except InputError as problem:
                if args.image:
                    raise
                failed, line = failed + 1, f"FAILED, {problem}"
            print(f"[{number}/{len(paths)}] {path.name}: {line}" if args.images else line, flush=True)
    _say_next(args, failed)
    return 1 if failed else 0


def _write_one(path: Path, word: str, settings: Settings, args: argparse.Namespace, room: Room, ask: Ask | None) -> str:
    found = compose(load_picture(path), word, settings.caption, room, ask=ask)
    file = write_caption(path, found.text, metadata=args.metadata, overwrite=args.overwrite)
    tokens = room.tokens(found.text, word)
    return "\n".join([*found.lines(), f"  {file}, {tokens} of {room.limit} tokens"])


def check(args: argparse.Namespace, settings: Settings) -> int:
    """Every phrase of captions that are there, with all that was asked for; nothing is written."""
    word, room = class_word(settings), room_of(settings)
    paths = _paths(args)
    with _model(settings, args.device) as ask, Further(args, settings) as further:
        failed = _print_each(paths, args, lambda path: _check_one(path, word, room, ask, further))
    print(f"next: `{_edit_command(args)}` to change one; training takes it from there")
    return 1 if failed else 0


def _print_each(paths: Sequence[Path], args: argparse.Namespace, lines_of: Callable[[Path], list[str]]) -> int:
    """Prints the lines of each picture; how many of a folder failed, which a line says of each."""
    failed = 0
    for path in paths:
        try:
            lines = lines_of(path)
        except (InputError, RefusedError) as problem:
            if args.image:
                raise
            failed, lines = failed + 1, [f"{path.name}: FAILED, {problem}"]
        print("\n".join(lines), flush=True)
    return failed


def _check_one(path: Path, word: str, room: Room, ask: Ask | None, further: Further) -> list[str]:
    caption = read_description(path, word)
    if caption is None:
        raise InputError(f"{path} has no caption: `python -m singleinsert.captions write` makes one")
    if ask is not None:
        tell_where(ask, path, print)
    return [*_checked(load_picture(path), caption, word, room, ask, further), *_unread(path)]


def _unread(path: Path) -> list[str]:
    return [f"  note: {more}"] if (more := unread_lines(path)) else []


def _checked(
    picture: Picture, caption: str, word: str, room: Room, ask: Ask | None, further: Further
) -> list[str]:  # fmt: skip
    plain = of_user(caption, word, picture.path.name, room)
    phrases = tuple(verdict.phrase for verdict in plain.verdicts)
    letters = [criticize(ask, picture.image, each, word) if ask else None for each in phrases]
    places, rhos = further.places(picture, phrases, word), further.rhos(picture, caption, phrases, word)
    lines = [f"{picture.path.name}: {caption}  ({room.tokens(caption, word)} of {room.limit} tokens)"]
    for phrase, letter, placement, rho in zip(phrases, letters, places, rhos, strict=True):
        lines.append(f"  {judge(phrase, letter, placement, rho).line()}")
    lines += [f"  note: it {warning}" for warning in plain.warnings]
    lines += [f"  note: it {remark}" for remark in (remarks_on(letters, ask) if ask else ())]
    if further.looks_for_places and not any(places):
        lines.append("  note: --places: the mask backend finds none of its things, or cannot look for them")
    if ask is not None:
        lines += [f"  note: it {remark}" for remark in forgotten_remarks(ask, picture.image, caption, word)]
    return lines


def show(args: argparse.Namespace, settings: Settings) -> int:
    """Prints the captions of pictures; with --sheet also one picture of all; 1 where one of a folder is unreadable."""
    paths, captions = _paths(args), dict[Path, str]()

    def show_one(path: Path) -> list[str]:
        captions[path] = read_caption(path) or "(no caption)"
        return [f"{path.name}: {captions[path]}", *_unread(path)]

    failed = _print_each(paths, args, show_one)
    if args.sheet:
        from singleinsert.drawing.grid import make_grid

        labels = [f"{path.name}: {captions.get(path, '(unreadable)')}" for path in paths]
        sheet = make_grid([[load_picture(path).image] for path in paths], labels)
        write_atomically(Path(args.sheet), sheet.save)
        print(args.sheet)
    return 1 if failed else 0


def class_word(settings: Settings) -> str:
    """ConfigError where there is none."""
    if not settings.data.class_word:
        raise ConfigError("--class_word is missing: what does the picture show, such as face or cat?")
    return settings.data.class_word[0]


@contextmanager
def _model(settings: Settings, device: str) -> Iterator[Ask | None]:
    """The model of caption.describe, open for all pictures; None where words were given, or nothing."""
    spec = settings.caption.describe.strip()
    if not spec or spec.startswith(WORDS):
        yield None
        return
    with asked_once(spec, device) as load:
        yield load()


def _paths(args: argparse.Namespace) -> list[Path]:
    if args.images:
        pictures, left_out = list_pictures(Path(args.images))
        for line in left_out:
            print(line)
        return pictures
    load_picture(args.image)  # says what is wrong with it before a model is loaded
    return [Path(args.image)]


def _say_next(args: argparse.Namespace, failed: int) -> None:
    if failed:
        print(f"{failed} failed: write their captions by hand, or run again with another model", file=sys.stderr)
    print(f"next: `{_edit_command(args)}` to correct it; train_singleinsert.py takes it from there")


def _edit_command(args: argparse.Namespace) -> str:
    given = {"image": args.image or "PICTURE"}
    given |= {name: value for name in ("class_word", "preset", "config_file") if (value := getattr(args, name, None))}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    return shlex.join(["python", "-m", "singleinsert.captions", "edit", *words])
