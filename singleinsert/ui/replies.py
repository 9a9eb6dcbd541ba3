"""What comes in and what goes out, as plain data, so that every answer can be tested without a socket."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from singleinsert.errors import InputError


@dataclass(frozen=True)
class Request:
    """A request that was let in. ``kind``: its body's content type."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    kind: str = ""

    def json(self) -> dict[str, Any]:
        """The body's JSON object; {} of an empty body. InputError where it is none."""
        if not self.body:
            return {}
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError) as problem:
            raise InputError("the page's request cannot be read: load the page again") from problem
        if not isinstance(found, dict):
            raise InputError("the page's request cannot be read: load the page again")
        return found


@dataclass(frozen=True)
class Reply:
    status: int
    kind: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def json_reply(value: Any, status: int = 200) -> Reply:
    return Reply(status, "application/json", json.dumps(value, ensure_ascii=False).encode())


def problem_reply(line: str, status: int = 422) -> Reply:
    """What a user can mend, in one line."""
    return json_reply({"error": line}, status)


def not_found(what: str = "there is no such thing here; it may have been deleted") -> Reply:
    return problem_reply(what, 404)


def html(page: bytes, status: int = 200) -> Reply:
    return Reply(status, "text/html; charset=utf-8", page)


def text(line: str, status: int = 200) -> Reply:
    return Reply(status, "text/plain; charset=utf-8", line.encode())


def picture(content: bytes, suffix: str = ".png") -> Reply:
    kind = {".png": "image/png", ".jpg": "image/jpeg"}[suffix]
    return Reply(200, kind, content)


def download(content: bytes, name: str, kind: str = "application/octet-stream") -> Reply:
    """A file to be saved; ``name`` is a name that passed as a concept's, with an ending."""
    plain = name.encode("ascii", "replace").decode().replace("?", "_").replace('"', "_")
    return Reply(200, kind, content, {"Content-Disposition": f'attachment; filename="{plain}"'})
