"""The mask page answers its own machine alone: which hosts and origins pass; and by plain HTTP, the page itself."""

from __future__ import annotations

import asyncio
import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runs import draw_subject

from singleinsert.masks.guard import LocalOnly, is_local

PASSED = [
    {"host": "127.0.0.1:7861"},
    {"host": "localhost:7861"},
    {"host": "LOCALHOST"},
    {"host": "[::1]:7861"},
    {"host": "127.0.0.1:7861", "origin": "http://127.0.0.1:7861"},
    {"host": "localhost:7861", "origin": "http://localhost:7861"},
]
REFUSED = [
    {},
    {"host": ""},
    {"host": "evil.example"},
    {"host": "evil.example:7861"},
    {"host": "127.0.0.1.evil.example"},
    {"host": "localhost.evil.example:7861"},
    {"host": "evil.example@127.0.0.1"},
    {"host": "127.0.0.1@evil.example"},
    {"host": "127.0.0.1:port"},
    {"host": "127.0.0.1/evil"},
    {"host": "192.168.0.5:7861"},
    {"host": "0.0.0.0:7861"},
    {"host": "127.0.0.1:7861", "origin": "http://evil.example"},
    {"host": "127.0.0.1:7861", "origin": "http://127.0.0.1.evil.example:7861"},
    {"host": "127.0.0.1:7861", "origin": "null"},
    {"host": "127.0.0.1:7861", "origin": ""},
    {"host": "127.0.0.1:7861", "origin": "https://127.0.0.1:7861"},
    {"host": "127.0.0.1:7861", "origin": "http://localhost:3000"},  # another program's page on this machine
]


def raw(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


@pytest.mark.parametrize("headers", PASSED)
def test_this_machine_passes(headers):
    assert is_local(raw(headers))


@pytest.mark.parametrize("headers", REFUSED)
def test_others_are_refused(headers):
    assert not is_local(raw(headers))


def test_two_hosts_are_refused():
    assert not is_local(raw({"host": "127.0.0.1"}) * 2)


def answers(kind: str, headers: dict[str, str]) -> tuple[list[dict[str, Any]], bool]:
    """(what was sent, whether the inner application was asked)."""
    sent, asked = [], []

    async def inner(scope, receive, send):
        asked.append(scope)

    async def send(message):
        sent.append(message)

    asyncio.run(LocalOnly(inner)({"type": kind, "headers": raw(headers)}, None, send))  # type: ignore[arg-type]
    return sent, bool(asked)


def test_every_kind_of_request_is_looked_at():
    assert answers("http", PASSED[0]) == ([], True) and answers("websocket", PASSED[0]) == ([], True)
    sent, asked = answers("http", {"host": "evil.example"})
    assert [message.get("status") for message in sent] == [403, None] and not asked
    sent, asked = answers("websocket", {"host": "127.0.0.1", "origin": "http://evil.example"})
    assert sent == [{"type": "websocket.close", "code": 1008}] and not asked
    assert answers("lifespan", {}) == ([], True)


# --- the page, by plain HTTP ------------------------------------------------------------------------------------------


@pytest.fixture
def page(tmp_path: Path) -> Iterator[int]:
    """The port of the running page."""
    pytest.importorskip("gradio")
    image, _ = draw_subject(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "singleinsert.masks", "edit", "--image", str(image), "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        for _ in range(240):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, server.stdout.read() if server.stdout else ""
            time.sleep(0.5)
        yield port
    finally:
        server.terminate()
        server.wait(20)


def ask(port: int, method: str, path: str, **headers: str) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    return answer.status, answer.read().decode("utf-8", "replace"), {k.lower(): v for k, v in answer.getheaders()}


def test_the_page_by_plain_http(page: int):
    status, text, headers = ask(page, "GET", "/")
    assert status == 200 and "gradio" in text and "access-control-allow-origin" not in headers
    for path in ("/", "/config", "/gradio_api/info", "/gradio_api/queue/join", "/nowhere"):
        for method in ("GET", "POST", "OPTIONS"):
            for wrong in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
                status, text, headers = ask(page, method, path, **wrong)
                assert status == 403 and "refused" in text and "access-control-allow-origin" not in headers
