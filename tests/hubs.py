"""A folder of models served as the hub serves them, for the hub's own client: HF_ENDPOINT points to it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Models OWNER/NAME under ``root``.

    Attributes:
        address: of it. sent: bytes of each file that was fetched whole.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.root, self.address, self.sent = root, f"http://127.0.0.1:{self.server_port}", dict[str, int]()


class _Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self._tell("/".join(parts[2:4]), "tree" in parts[4:], "blobs=true" in self.path.lower())
        elif len(parts) > 4 and parts[2] == "resolve":
            self._send(self.server.root / parts[0] / parts[1] / "/".join(parts[4:]), "/".join(parts[4:]))
        else:
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def _tell(self, model: str, tree: bool, with_sizes: bool) -> None:
        folder = self.server.root / model
        if not folder.is_dir():
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        sizes = {name: path.stat().st_size for name, path in files.items()}
        told: object = [{"type": "file", "path": name, "size": size, "oid": "0"} for name, size in sizes.items()]
        if not tree:
            siblings = [{"rfilename": name} | ({"size": sizes[name]} if with_sizes else {}) for name in files]
            told = {"id": model, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings}
        self._answer(200, json.dumps(told).encode(), {"Content-Type": "application/json"})

    def _send(self, path: Path, name: str) -> None:
        if not path.is_file():
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        content = path.read_bytes()
        if self.command == "GET":
            self.server.sent[name] = len(content)
        self._answer(200, content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT})

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(root: Path) -> Iterator[Hub]:
    hub = Hub(root)
    threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
