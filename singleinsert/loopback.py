"""A page for this machine only: served on 127.0.0.1, at an address that nobody else knows.

Any web site that a user has open can send requests to 127.0.0.1, or point a name of its own there. So every request is
looked at: the Host (no foreign name), the Origin (no foreign page), and a token that only the printed address holds.
"""

from __future__ import annotations

import json
import secrets
import sys
import webbrowser
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

from singleinsert.errors import ConfigError, SingleInsertError

LARGEST_BODY = 20_000
"""Bytes of a request's JSON."""


class NotUnderstood(Exception):
    """A request that no page of ours sends."""


@dataclass(frozen=True)
class Content:
    """What a path shows. A page names its own scripts and styles by ``nonce``: no others run."""

    kind: str
    body: bytes
    nonce: str = ""


class Site(Protocol):
    """What is served, path by path; paths come without the token and without slashes at their ends."""

    def show(self, path: str) -> Content | None:
        """What is at ``path``, "" for the page itself; None where nothing is."""

    def act(self, path: str) -> Callable[[Any], Mapping[str, Any]] | None:
        """What a POST of JSON to ``path`` calls, with that JSON; None where nothing is.

        It answers with what becomes JSON. It raises NotUnderstood where it cannot make sense of what it is given, and
        a SingleInsertError for what the person at the page can mend.
        """


class LoopbackServer(ThreadingHTTPServer):
    """Serves a site on 127.0.0.1, at an address that holds a token."""

    daemon_threads = True

    def __init__(self, site: Site, port: int) -> None:
        """
        Args:
            port: 0 for any that is free.

        Raises:
            ConfigError: the port is taken.
        """
        self.site, self.token = site, secrets.token_urlsafe(24)
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

    def serve(self, open_browser: bool = False) -> None:
        """Print the address, and serve until Ctrl-C."""
        print(f"open {self.url} (for this machine only); Ctrl-C ends it", flush=True)
        if open_browser:
            webbrowser.open(self.url)
        try:
            self.serve_forever(poll_interval=0.1)
        except KeyboardInterrupt:
            print()
        finally:
            self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: LoopbackServer
    server_version, sys_version = "singleinsert", ""
    timeout = 30

    def do_GET(self) -> None:
        path = self._own_path(needs_origin=False)
        if path is None:
            return
        content = self.server.site.show(path)
        if content is None:
            return self._reply(404, Content("text/plain", b"not here"))
        self._reply(200, content)

    def do_POST(self) -> None:
        path = self._own_path(needs_origin=True)
        if path is None:
            return
        act = self.server.site.act(path)
        if act is None:
            return self._reply(404, Content("text/plain", b"not here"))
        try:
            said = act(self._json_body())
        except SingleInsertError as problem:
            return self._answer(422, {"error": str(problem)})
        except NotUnderstood:
            return self._reply(400, Content("text/plain", b"not understood"))
        self._answer(200, said)

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
            self._reply(
                403, Content("text/plain", b"this page is for the address that was printed when it was started")
            )
            return None
        return "/".join(rest).rstrip("/")

    def _json_body(self) -> Any:
        """A request's JSON. NotUnderstood where it holds none, or too much of it."""
        try:
            length = int(self.headers.get("Content-Length", ""))
            if 0 <= length <= LARGEST_BODY and self.headers.get_content_type() == "application/json":
                return json.loads(self.rfile.read(length))
        except ValueError:
            pass
        raise NotUnderstood

    def _answer(self, status: int, value: Mapping[str, Any]) -> None:
        self._reply(status, Content("application/json", json.dumps(value).encode()))

    def _reply(self, status: int, content: Content) -> None:
        source = f"'nonce-{content.nonce}'" if content.nonce else "'none'"
        policy = (f"default-src 'none'; script-src {source}; style-src {source}; img-src 'self' data:; "
                  "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")  # fmt: skip
        self.send_response(status)
        for name, value in (("Content-Type", content.kind), ("Content-Length", str(len(content.body))),
                            ("Cache-Control", "no-store"), ("Content-Security-Policy", policy),
                            ("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "no-referrer"),
                            ("Cross-Origin-Resource-Policy", "same-origin"), ("Connection", "close")):  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content.body)

    def log_message(self, *_: object) -> None:
        """Nothing: the address in a log would hold the token."""


def fill_page(template: str, title: str, data: Any) -> Content:
    """A page from its template: NAME is the title, NONCE names its scripts and styles, "DATA" is JSON for them."""
    import html

    nonce = secrets.token_urlsafe(16)
    text = template.replace("NONCE", nonce).replace("NAME", html.escape(title))
    # no "<": "</script" in a text of a user's would end the script
    text = text.replace('"DATA"', json.dumps(data).replace("<", "\\u003c"))
    return Content("text/html; charset=utf-8", text.encode(), nonce)
