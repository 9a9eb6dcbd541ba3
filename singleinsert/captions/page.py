"""The page on which a person reads a picture's caption, phrase by phrase, corrects it and saves it.

It is served to this machine only. Other pages in the browser must not reach it, so every request is looked at: the Host
(no name that was pointed at 127.0.0.1 by others), the Origin, and a token that only the printed address has.
"""

from __future__ import annotations

import argparse
import html
import io
import json
import secrets
import sys
import threading
import webbrowser
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from singleinsert.atomic import write_text
from singleinsert.captions.ask import Ask, load_ask, shrink
from singleinsert.captions.commands import class_word
from singleinsert.captions.critic import criticize
from singleinsert.captions.describe import WORDS, compose, of_user, tell_where
from singleinsert.captions.form import Room, clip_room
from singleinsert.captions.further import best_device
from singleinsert.captions.phrases import without_phrase
from singleinsert.captions.verdicts import Verdict, judge
from singleinsert.config import Settings
from singleinsert.data.captions import CONCEPT, caption_file, read_caption, with_concept
from singleinsert.data.pictures import Picture, load_picture
from singleinsert.errors import ConfigError, InputError, SingleInsertError

TEMPLATE = Path(__file__).resolve().parents[1] / "assets" / "captions" / "edit.html"
LARGEST_BODY, LONGEST_CAPTION = 20_000, 2_000
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
            InputError: nothing in it stands for the concept.
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
            write_text(self.file, caption + "\n")
            self.text, self._on_disk = caption, self._disk()
        return f"saved {self.file}"

    def load(self) -> None:
        """Reads the file again, as a page that is loaded anew does."""
        if self._disk() != self._on_disk:
            self.text, self._on_disk = read_caption(self.picture.path) or STARTING, self._disk()

    def _caption(self, text: str) -> str:
        if len(text) > LONGEST_CAPTION:
            raise InputError(f"a caption of {len(text)} letters: one sentence is meant")
        return with_concept(text, self.word)

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


class Server(ThreadingHTTPServer):
    """Serves one session on 127.0.0.1, at an address that holds the token."""

    daemon_threads = True

    def __init__(self, session: Session, port: int) -> None:
        """
        Raises:
            ConfigError: the port is taken.
        """
        self.session, self.token = session, secrets.token_urlsafe(24)
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except (OSError, OverflowError) as problem:
            raise ConfigError(f"--port {port} cannot be used ({problem}): give another, or 0 for any") from problem
        self.hosts = {f"127.0.0.1:{self.server_port}", f"localhost:{self.server_port}"}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A tab that was closed is no error to show; any other is."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/{self.token}/"


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version, sys_version = "singleinsert", ""
    timeout = 30

    def do_GET(self) -> None:
        path = self._own_path(needs_origin=False)
        if path == "":
            self.server.session.load()
            nonce = secrets.token_urlsafe(16)
            self._reply(200, "text/html; charset=utf-8", _page(self.server.session, nonce).encode(), nonce)
        elif path == "picture":
            file = io.BytesIO()
            shrink(self.server.session.picture.image).save(file, "JPEG", quality=92)
            self._reply(200, "image/jpeg", file.getvalue())
        elif path is not None:
            self._reply(404, "text/plain", b"not here")

    def do_POST(self) -> None:
        path = self._own_path(needs_origin=True)
        if path is None:
            return
        if path not in ("check", "save"):
            return self._reply(404, "text/plain", b"not here")
        text = self._text()
        if text is None:
            return self._reply(400, "text/plain", b"not a caption")
        try:
            session = self.server.session
            said: Mapping[str, Any] = session.checked(text) if path == "check" else {"said": session.save(text)}
            self._json(200, said)
        except SingleInsertError as problem:
            self._json(422, {"error": str(problem)})

    def _own_path(self, needs_origin: bool) -> str | None:
        """The path behind the token; None, and answered, where the request is not from this page."""
        origin = self.headers.get("Origin")
        ours = {f"http://{host}" for host in self.server.hosts}
        _, token, *rest = f"{self.path.partition('?')[0]}/".split("/")
        wrong = (
            self.headers.get("Host") not in self.server.hosts
            or (origin is None and needs_origin)
            or (origin is not None and origin not in ours)
            or not secrets.compare_digest(token.encode(), self.server.token.encode())
        )
        if wrong:
            self._reply(403, "text/plain", b"this page is for the address that was printed when it was started")
            return None
        return "/".join(rest).rstrip("/")

    def _text(self) -> str | None:
        """The caption out of a request's JSON; None where it holds none."""
        try:
            length = int(self.headers.get("Content-Length", ""))
            if not 0 <= length <= LARGEST_BODY or self.headers.get_content_type() != "application/json":
                return None
            text = json.loads(self.rfile.read(length))["text"]
        except (ValueError, KeyError, TypeError):
            return None
        return text if isinstance(text, str) else None

    def _json(self, status: int, value: Mapping[str, Any]) -> None:
        self._reply(status, "application/json", json.dumps(value).encode())

    def _reply(self, status: int, kind: str, body: bytes, nonce: str = "") -> None:
        source = f"'nonce-{nonce}'" if nonce else "'none'"
        policy = (f"default-src 'none'; script-src {source}; style-src {source}; img-src 'self' data:; "
                  "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")  # fmt: skip
        self.send_response(status)
        for name, value in (("Content-Type", kind), ("Content-Length", str(len(body))), ("Cache-Control", "no-store"),
                            ("Content-Security-Policy", policy), ("X-Content-Type-Options", "nosniff"),
                            ("Referrer-Policy", "no-referrer"), ("Cross-Origin-Resource-Policy", "same-origin"),
                            ("Connection", "close")):  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: the address in a log would hold the token."""


def _page(session: Session, nonce: str) -> str:
    data = {"text": session.text, "word": session.word, "file": str(session.file)}
    text = TEMPLATE.read_text(encoding="utf-8")
    text = text.replace("NONCE", nonce).replace("NAME", html.escape(session.picture.path.name))
    return text.replace('"DATA"', json.dumps(data).replace("<", "\\u003c"))


def edit(args: argparse.Namespace, settings: Settings) -> int:
    """Serves the page until Ctrl-C. Where there is no caption, the model or the words that were given write the first.

    Raises:
        InputError, ConfigError, ModelError: as they say, before the page is served.
    """
    word, room = class_word(settings), clip_room(settings.concept.num_vectors)
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
    print(f"open {server.url} (for this machine only); Ctrl-C ends it", flush=True)
    if args.open:
        webbrowser.open(server.url)
    try:
        server.serve_forever(poll_interval=0.1)
    except KeyboardInterrupt:
        print(
            f"\nnext: train; {session.file} is taken from beside the picture"
            if session.file.exists()
            else "\nnothing was saved"
        )
    finally:
        server.server_close()
        if ask is not None:
            ask.close()
    return 0
