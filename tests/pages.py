"""The page's server in this process or as a program, and requests to it as a browser sends them."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from singleinsert.ui.api import Api
from singleinsert.ui.place import OWN, Place
from singleinsert.ui.server import PageServer
from singleinsert.ui.session import Gate, read_secret


class Page:
    """A served folder, and the session of its browser."""

    def __init__(self, folder: Path, password: str = "", **place: Any) -> None:
        self.place = Place(folder, starts_workers=False, **place)
        self.api = Api(self.place)
        self.gate = Gate(read_secret(folder / OWN), 0, password=password)
        self.server = PageServer(self.api, self.gate, "127.0.0.1", 0)
        self.port = self.server.server_port

    def headers(self, **more: str) -> dict[str, str]:
        """Those of the page's own script."""
        own = {"Cookie": f"{self.gate.cookie}={self.gate.value()}", "Origin": f"http://127.0.0.1:{self.port}",
               "X-SingleInsert": "1"}  # fmt: skip
        return own | {name.replace("_", "-"): value for name, value in more.items()}

    def raw(
        self, method: str, path: str, headers: dict[str, str], body: bytes = b"", host: str | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body); ``host``: of the Host header, in place of the server's own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in ({"Host": host or f"127.0.0.1:{self.port}"} | headers).items():
                connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """As the page asks: JSON, or bytes of a picture; (status, JSON or bytes)."""
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        status, headers, answer = self.raw(method, f"/api/{path}", self.headers(Content_Type=kind), content)
        return status, json.loads(answer) if headers["Content-Type"] == "application/json" else answer

    def get(self, path: str) -> Any:
        status, found = self.ask("GET", path)
        assert status == 200, found
        return found

    def post(self, path: str, body: Any = None) -> Any:
        status, found = self.ask("POST", path, {} if body is None else body)
        assert status == 200, found
        return found


@contextmanager
def served(folder: Path, **options: Any) -> Iterator[Page]:
    page = Page(folder, **options)
    thread = threading.Thread(target=page.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield page
    finally:
        page.server.shutdown()
        page.server.server_close()
