"""The page on which a person reads a picture's caption, phrase by phrase, corrects it and saves it."""

from __future__ import annotations

import argparse
import io
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from singleinsert.atomic import write_text
from singleinsert.captions.ask import Ask, best_device, load_ask, shrink
from singleinsert.captions.commands import class_word
from singleinsert.captions.critic import criticize
from singleinsert.captions.describe import WORDS, compose, of_user, tell_where
from singleinsert.captions.files import checked_caption
from singleinsert.captions.form import Room, room_of
from singleinsert.captions.phrases import without_phrase
from singleinsert.captions.verdicts import Verdict, judge
from singleinsert.config import Settings
from singleinsert.data.captions import CONCEPT, caption_file, caption_lines, read_caption
from singleinsert.data.pictures import Picture, load_picture
from singleinsert.errors import InputError
from singleinsert.loopback import Content, LoopbackServer, NotUnderstood, fill_page

TEMPLATE = Path(__file__).resolve().parents[1] / "assets" / "captions" / "edit.html"
LONGEST_CAPTION = 2_000
STARTING = f"a photo of a {CONCEPT}"


class Session:
    """One picture's caption: what is shown, checked and saved. Plain calls, so that tests need no browser."""

    def __init__(self, picture: Picture, word: str, room: Room, ask: Ask | None = None) -> None:
        """
        Args:
            ask: a model that is asked of each phrase, once.

        Raises:
            InputError: the caption that is there cannot be read.
        """
        self.picture, self.word, self.room, self.ask = picture, word, room, ask
        self.file = caption_file(picture.path)
        self.text = read_caption(picture.path) or STARTING
        self._on_disk = self._disk()
        self._letters: dict[str, str | None] = {}
        self._lock = threading.Lock()

    def checked(self, text: str) -> dict[str, Any]:
        """The text as it would be saved; its phrases, their verdicts, the text without each; remarks on the whole.

        Raises:
            InputError: nothing in it stands for the concept, or it is a refusal.
        """
        caption = self._caption(text)
        found = of_user(caption, self.word, self.file.name, self.room)
        verdicts = [judge(each.phrase, self._letter(each)) for each in found.verdicts]
        return {
            "text": caption,
            "tokens": self.room.tokens(caption, self.word),
            "limit": self.room.limit,
            "phrases": [
                {"start": v.phrase.start, "end": v.phrase.end, "text": v.phrase.text, "status": v.status,
                 "why": "; ".join(v.reasons), "without": without_phrase(caption, v.phrase)} for v in verdicts
            ],
            "warnings": list(found.warnings),
        }  # fmt: skip

    def save(self, text: str) -> str:
        """Writes the caption file; returns a line to show.

        Raises:
            InputError: no caption, or the file was changed by others since this page read it.
        """
        caption = self._caption(text)
        with self._lock:
            if self._disk() != self._on_disk:
                raise InputError(f"{self.file} was changed elsewhere since this page read it: load the page again")
            further = caption_lines(self.file)[1:] if self._on_disk else []
            write_text(self.file, "".join(f"{line}\n" for line in (caption, *further)))
            self.text, self._on_disk = caption, self._disk()
        return f"saved {self.file}"

    def load(self) -> None:
        """Reads the file again, as a page that is loaded anew does."""
        if self._disk() != self._on_disk:
            self.text, self._on_disk = read_caption(self.picture.path) or STARTING, self._disk()

    def _caption(self, text: str) -> str:
        if len(text) > LONGEST_CAPTION:
            raise InputError(f"a caption of {len(text)} letters: one sentence is meant")
        return checked_caption(text, self.word, "the caption")

    def _letter(self, verdict: Verdict) -> str | None:
        """What the model says of a phrase; asked once for each text of one."""
        if self.ask is None:
            return None
        with self._lock:
            key = verdict.phrase.text.lower()
            if key not in self._letters:
                self._letters[key] = criticize(self.ask, self.picture.image, verdict.phrase, self.word)
            return self._letters[key]

    def _disk(self) -> bytes | None:
        try:
            return self.file.read_bytes()
        except OSError:
            return None


class Server(LoopbackServer):
    """Serves one session's page."""

    def __init__(self, session: Session, port: int) -> None:
        """
        Raises:
            ConfigError: the port is taken.
        """
        self.session = session
        super().__init__(self, port)

    def show(self, path: str) -> Content | None:
        session = self.session
        if path == "":
            session.load()
            data = {"text": session.text, "word": session.word, "file": str(session.file)}
            return fill_page(TEMPLATE.read_text(encoding="utf-8"), session.picture.path.name, data)
        if path != "picture":
            return None
        file = io.BytesIO()
        shrink(session.picture.image).save(file, "JPEG", quality=92)
        return Content("image/jpeg", file.getvalue())

    def act(self, path: str) -> Callable[[Any], Mapping[str, Any]] | None:
        session = self.session
        if path == "check":
            return lambda value: session.checked(_text(value))
        if path == "save":
            return lambda value: {"said": session.save(_text(value))}
        return None


def _text(value: Any) -> str:
    """The caption that a request holds."""
    text = value.get("text") if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise NotUnderstood
    return text


def edit(args: argparse.Namespace, settings: Settings) -> int:
    """Serves the page until Ctrl-C. Where there is no caption, the model or the words that were given write the first.

    Raises:
        InputError, ConfigError, ModelError: as they say, before the page is served.
    """
    word, room = class_word(settings), room_of(settings)
    picture, spec = load_picture(args.image), settings.caption.describe.strip()
    ask = load_ask(spec, best_device(args.device)) if spec and not spec.startswith(WORDS) else None
    session = Session(picture, word, room, ask)
    if ask is not None:
        tell_where(ask, picture.path, print)
    if spec and not read_caption(picture.path):
        found = compose(picture, word, settings.caption, room, ask=ask, say=lambda _: None)
        session.text = found.text
        print("\n".join(found.lines()))
    server = Server(session, args.port)
    try:
        server.serve(args.open)
        saved = session.file.exists()
        print(f"next: train; {session.file} is taken from beside the picture" if saved else "nothing was saved")
    finally:
        if ask is not None:
            ask.close()
    return 0
