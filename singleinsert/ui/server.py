"""The page's server: the standard library's, with every request looked at before anything answers it."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from singleinsert.errors import ConfigError, SingleInsertError, first_line
from singleinsert.ui.api import Api
from singleinsert.ui.replies import Reply, Request, html, not_found, problem_reply, text
from singleinsert.ui.session import Gate

ASSETS = Path(__file__).resolve().parents[1] / "assets" / "ui"
KINDS = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}  # fmt: skip
LARGEST_BODY = 64 * 2**20
"""Bytes of a photo that is dropped; anything else is far smaller."""
TIMEOUT = 60
"""Seconds that a request may take to arrive."""
CALLED_BY_SCRIPT = "X-SingleInsert"
"""A header that no form and no picture of another site can send along."""
REFUSED = "refused: this page answers only under the address that was printed when it was started\n"
POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
ALWAYS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer browsers call a form's own page "Origin: null"
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class PageServer(ThreadingHTTPServer):
    """Serves one folder."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, api: Api, gate: Gate, listen: str, port: int) -> None:
        """
        Raises:
            ConfigError: nothing can listen there.
        """
        self.api, self.gate = api, gate
        try:
            super().__init__((listen, port), Handler)
        except (OSError, OverflowError) as problem:
            raise ConfigError(
                f"--listen {listen} --port {port} cannot be used ({first_line(problem)}): give another --port, or 0 "
                "for any"
            ) from problem
        gate.port = self.server_port

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A tab that was closed is no error to show; any other is."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "singleinsert", ""
    timeout = TIMEOUT

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    def _answer(self, method: str) -> None:
        body = self._body()
        if body is None:
            return
        path, query = self._address()
        try:
            reply = self._reply(method, path, query, body)
        except SingleInsertError as problem:
            reply = problem_reply(str(problem))
        except OSError as problem:
            reply = problem_reply(f"the folder cannot be read or written: {first_line(problem)}", 500)
        except Exception as problem:  # a bug of ours: whole in the terminal, in a line on the page, and the form stays
            traceback.print_exc()
            reply = problem_reply(f"{type(problem).__name__}: {first_line(problem)} (the terminal says more)", 500)
        self._send(reply, method)

    def _reply(self, method: str, path: str, query: Mapping[str, str], body: bytes) -> Reply:
        gate = self.server.gate
        if not gate.is_trusted(self.headers.items()):
            return text(REFUSED, 403)
        if path == "/open" and method == "GET":
            return self._open(query.get("token", ""))
        if path == "/login" and method == "POST":
            return self._login(body)
        if path.startswith("/assets/") and method in ("GET", "HEAD"):  # the program's own, the same for everyone
            return asset(path.removeprefix("/assets/"))
        if not gate.has_session(self.headers.get("Cookie", "")):
            page = "login.html" if gate.password else "closed.html"
            return html((ASSETS / page).read_bytes(), 401)
        if path.startswith("/api/"):
            if method not in ("GET", "HEAD") and (CALLED_BY_SCRIPT not in self.headers or "Origin" not in self.headers):
                return text(REFUSED, 403)
            kind = self.headers.get_content_type()
            return self.server.api.answer(Request(method, path, query, body, kind))
        if method not in ("GET", "HEAD"):
            return text("there is no such address\n", 405)
        return html((ASSETS / "index.html").read_bytes())

    def _open(self, token: str) -> Reply:
        if not self.server.gate.opens(token):
            return text(REFUSED, 403)
        return self._with_session("/")

    def _login(self, body: bytes) -> Reply:
        given = parse_qs(body.decode("utf-8", "replace")).get("password", [""])[0]
        if not self.server.gate.accepts(given):
            return html((ASSETS / "login.html").read_bytes().replace(b"<!--said-->", b"That is not the password."), 401)
        return self._with_session("/")

    def _with_session(self, where: str) -> Reply:
        gate = self.server.gate
        secure = "; Secure" if gate.scheme == "https" else ""
        cookie = f"{gate.cookie}={gate.value()}; Path=/; HttpOnly; SameSite=Strict; Max-Age=31536000{secure}"
        return Reply(303, "text/plain", b"", {"Location": where, "Set-Cookie": cookie})

    def _address(self) -> tuple[str, dict[str, str]]:
        parts = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        return unquote(parts.path, errors="replace"), query

    def _body(self) -> bytes | None:
        """The request's body; None, and answered, where it is too large or its length is not said."""
        try:
            length = int(self.headers.get("Content-Length", "0"))
        except ValueError:
            length = -1
        if length < 0 or length > LARGEST_BODY or "Transfer-Encoding" in self.headers:
            self.close_connection = True
            self._send(problem_reply(f"too large: {LARGEST_BODY // 2**20} MB at the most", 413), self.command)
            return None
        return self.rfile.read(length)

    def _send(self, reply: Reply, method: str) -> None:
        self.send_response(reply.status)
        for name, value in (ALWAYS | {"Content-Type": reply.kind} | dict(reply.headers)).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if method != "HEAD":
            self.wfile.write(reply.body)

    def log_message(self, *_: object) -> None:
        """Nothing: the printed address holds the token."""


def asset(name: str) -> Reply:
    """A file of the page itself, by its name in the package's folder."""
    known = {path.relative_to(ASSETS).as_posix(): path for path in ASSETS.rglob("*") if path.is_file()}
    path = known.get(name)
    if path is None or path.suffix not in KINDS or path.suffix == ".html":
        return not_found()
    return Reply(200, KINDS[path.suffix], path.read_bytes(), {"Cache-Control": "no-cache"})
