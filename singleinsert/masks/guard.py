"""Keeps a page on this machine to this machine: trusted hosts and origins, on every request, whatever serves the page.

A page on 127.0.0.1 can be reached by any web site that the user has open: by a request of its own (the browser says
where from, in Origin), or, with a host name that it lets point to 127.0.0.1, as if it were the page (the browser says
that name, in Host). Both are refused here, before the page's framework sees the request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, MutableMapping, Sequence
from typing import Any
from urllib.parse import urlsplit

TRUSTED = ("127.0.0.1", "localhost", "::1")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
"""An ASGI application: ``await app(scope, receive, send)``."""

REFUSED = b"refused: this page answers only to the machine that it runs on, as http://127.0.0.1\n"


class LocalOnly:
    """An ASGI application around another one, which it hands on what comes from this machine's own page."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Hand the request on, or answer 403 (close a web socket)."""
        if scope["type"] == "lifespan" or is_local(scope["headers"]):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(REFUSED)).encode())]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": REFUSED})


def is_local(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether a request names this machine as its host, once, and comes from no other site, nor from another port.

    Args:
        headers: names in lower case, and values.
    """
    return trusts(headers, TRUSTED)


def trusts(
    headers: Sequence[tuple[bytes, bytes]], hosts: Collection[str], schemes: Collection[str] = ("http",)
) -> bool:
    """As :func:`is_local`, of a server that answers under the names ``hosts``, without ports."""
    named = [value for name, value in headers if name == b"host"]
    origins = [value for name, value in headers if name == b"origin"]
    # a page that was opened by a link sends no Origin; "null" is what a sandboxed or local file's page sends
    scheme = next(iter(schemes)).encode()
    addresses = (*(scheme + b"://" + host for host in named), *origins)
    ports = {_trusted_port(address, hosts, schemes) for address in addresses}
    return len(named) == 1 and len(ports) == 1 and None not in ports


def _trusted_port(address: bytes, hosts: Collection[str], schemes: Collection[str]) -> int | None:
    """The port of SCHEME://HOST:PORT where HOST is one of ``hosts``; None for any other address."""
    try:
        parts = urlsplit(address.decode("ascii"))
        port = parts.port or {"https": 443}.get(parts.scheme, 80)
    except ValueError:
        return None
    plain = parts.scheme in schemes and parts.username is None and not (parts.path or parts.query or parts.fragment)
    return port if plain and parts.hostname in hosts else None
