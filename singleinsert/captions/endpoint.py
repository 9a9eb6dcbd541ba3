"""A vision-language model behind an OpenAI-compatible address: OpenAI, vLLM, llama.cpp, LM Studio, ollama.

A picture goes to the address that the user wrote and nowhere else: no redirect is followed, no address is read from the
environment, and what is meant for this machine goes through no proxy.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import re
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from PIL import Image

from singleinsert.captions.ask import RefusedError, first_option, shrink, without_thoughts
from singleinsert.errors import InputError, SingleInsertError, one_line

TRIES, LONGEST_WAIT = 5, 60.0
FIRST_TIMEOUT, TIMEOUT = 600.0, 120.0
"""Seconds. ollama and LM Studio load a model when it is first asked, which takes minutes."""

MAX_TOKENS, TOKENS_TO_THINK = 1024, 4096
"""Head room for models that think before they answer; where it was not enough, it is raised once."""

UNREACHED = ": is the server started, and are the address and the port right?"

LONGEST_REPLY = 200
"""Characters of a server's words that an error repeats."""

KEYS = ("SINGLEINSERT_API_KEY", "OPENAI_API_KEY")
"""Environment variables that hold the key, the first that is set: not every server is to see the one for OpenAI."""

T = TypeVar("T")

_RENAMED = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
_OPTIONAL = ("max_tokens", "max_completion_tokens", "temperature", "chat_template_kwargs")
_BLIND = re.compile(
    r"mmproj|image input|images? (?:is|are) not supported|not support (?:images?|vision|multimodal)|"
    r"not a (?:multimodal|vision)|no vision",
    re.IGNORECASE,
)


class EndpointError(SingleInsertError):
    """The endpoint refused, or gave nothing that can be read, after all tries."""


class TryAgainError(Exception):
    """Worth another try, after `wait` seconds where the service asked for that; then `advice` ends the message."""

    def __init__(self, text: str, wait: float | None = None, advice: str = "") -> None:
        super().__init__(text)
        self.wait, self.advice = wait, advice


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the picture and the key to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Endpoint:
    """As :class:`singleinsert.captions.ask.Ask`, through POST URL/chat/completions."""

    captions_only = False

    def __init__(
        self, url: str, model: str, *, tries: int = TRIES, sleep: Callable[[float], None] = time.sleep,
        first_timeout: float = FIRST_TIMEOUT,
    ) -> None:  # fmt: skip
        """
        Args:
            url: up to and without "/chat/completions", such as "http://localhost:8000/v1".
            tries: for failures that may pass: no connection, 408, 409, 429, 5xx, an answer that cannot be read.
            first_timeout: seconds for the first answer, which may wait for the model to be loaded.

        Raises:
            InputError: no http(s) address.
        """
        host = _host(url)
        if host is None:
            raise InputError(f"address {url!r} is not http://HOST... or https://HOST...")
        self.url, self.model = url.rstrip("/") + "/chat/completions", model
        self.name, self.host = f"openai:{url}#{model}", host
        self.is_local = host == "localhost" or host == "::1" or host.startswith("127.")
        self._tries, self._sleep, self._timeout = tries, sleep, first_timeout
        self._fields: dict[str, Any] = {"temperature": 0, "max_tokens": MAX_TOKENS}
        self._refused: set[str] = set()
        handlers = [urllib.request.ProxyHandler({})] if self.is_local else []
        self._open = urllib.request.build_opener(_NoRedirects, *handlers).open

    @staticmethod
    def from_spec(spec: str) -> Endpoint:
        """ "URL#MODEL"."""
        url, _, model = spec.rpartition("#")
        if not url or not model:
            raise InputError(f"'openai:{spec}' is not openai:URL#MODEL, such as openai:http://localhost:8000/v1#name")
        return Endpoint(url, model)

    def __call__(self, picture: Image.Image, text: str) -> str:
        """
        Raises:
            RefusedError: the model declined. EndpointError: one line, what the service said.
        """

        def read(answer: str) -> str:
            if not answer:
                raise TryAgainError("answered nothing")
            return answer

        return self.ask(picture, text, read)

    def choose(self, picture: Image.Image, text: str, options: Sequence[str]) -> str | None:
        return first_option(self(picture, text), options)

    def close(self) -> None:
        """Nothing to free."""

    def ask(self, picture: Image.Image, text: str, read: Callable[[str], T]) -> T:
        """What ``read`` makes of the answer; asked again, with growing pauses, where that may help.

        Args:
            read: raises :class:`TryAgainError` for an answer that it cannot use.
        """
        messages = _messages(picture, text)
        for number in range(self._tries):
            try:
                return read(self._answer(messages))
            except TryAgainError as problem:
                if number + 1 == self._tries:
                    raise EndpointError(f"{self.name}: {problem} ({self._tries} tries){problem.advice}") from problem
                self._sleep(min(LONGEST_WAIT, 2.0**number if problem.wait is None else problem.wait))
        raise AssertionError("unreachable")

    def _answer(self, messages: list[dict[str, Any]]) -> str:
        """One answer. A field that the service does not take is left out or renamed, here and from now on."""
        while True:
            body = {"model": self.model, "messages": messages, **self._fields}
            try:
                answer, cut = self._read(self._post(json.dumps(body).encode()))
            except _BadRequest as problem:
                if not self._without_refused_field(str(problem)):
                    raise EndpointError(f"{self.name}: HTTP 400: {problem}") from problem
                continue
            self._timeout = TIMEOUT
            if answer or not cut:
                return answer
            if not self._raise_limit():
                raise EndpointError(
                    f"{self.name}: spent {TOKENS_TO_THINK} tokens on thoughts and said nothing: take a model that "
                    "does not think, or switch that off at the server"
                )

    def _without_refused_field(self, said: str) -> bool:
        """Whether a 400 names a field that was sent and can be done without."""
        # "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.": the first one named is meant
        sent = [name for name in _OPTIONAL if name in self._fields and re.search(rf"\b{name}\b", said)]
        if not sent:
            return False
        name = min(sent, key=said.index)
        value = self._fields.pop(name)
        self._refused.add(name)
        # a server may name both, as in "max_tokens or max_completion_tokens is too large"
        if (other := _RENAMED.get(name)) and other in said and other not in self._refused:
            self._fields[other] = value
        return True

    def _raise_limit(self) -> bool:
        """More tokens, and the ask not to think; False where that was done before."""
        limits = [name for name in _RENAMED if self._fields.get(name) == MAX_TOKENS]
        for name in limits:
            self._fields[name] = TOKENS_TO_THINK
        self._fields |= {"chat_template_kwargs": {"enable_thinking": False}} if limits else {}
        return bool(limits)

    def _post(self, body: bytes) -> str:
        """The reply's text. EndpointError for what no other try would mend."""
        headers = {"Content-Type": "application/json"}
        if key := next((key for name in KEYS if (key := os.environ.get(name, "").strip())), ""):
            headers["Authorization"] = f"Bearer {key}"
        try:
            with self._open(urllib.request.Request(self.url, body, headers), timeout=self._timeout) as response:
                return str(response.read().decode("utf-8", "replace"))
        except urllib.error.HTTPError as problem:
            raise self._http_problem(problem) from problem
        except ValueError as problem:  # a key or an address with a line break in it
            raise EndpointError(f"{self.name}: cannot be asked: the key or the address has characters that it must "
                                "not have") from problem  # fmt: skip
        except (urllib.error.URLError, http.client.HTTPException, OSError) as problem:
            reason = getattr(problem, "reason", None) or problem
            if isinstance(reason, TimeoutError | socket.timeout) and self._timeout != TIMEOUT:
                raise EndpointError(
                    f"{self.name}: no answer within {self._timeout:.0f} seconds: load the model there first, or take "
                    "a smaller one"
                ) from problem
            raise TryAgainError(
                f"cannot be reached ({reason or type(problem).__name__})", advice=UNREACHED
            ) from problem

    def _http_problem(self, problem: urllib.error.HTTPError) -> Exception:
        try:
            said = _message(problem.read().decode("utf-8", "replace"))
        except (http.client.HTTPException, OSError) as broken:
            said = f"its words broke off ({type(broken).__name__})"
        if _BLIND.search(said):
            return EndpointError(
                f"{self.name}: HTTP {problem.code}: {said}: the model served there takes no pictures: serve a vision "
                "model (llama.cpp: with --mmproj)"
            )
        if problem.code == 400:
            return _BadRequest(said)
        if problem.code in (408, 409, 429) or problem.code >= 500:
            return TryAgainError(f"HTTP {problem.code}: {said}", _seconds(problem.headers.get("Retry-After")))
        hint = f" (the key is read from {' or '.join(KEYS)})" if problem.code in (401, 403) else ""
        if 300 <= problem.code < 400:
            hint = " (redirects are not followed: give the address that it leads to)"
        return EndpointError(f"{self.name}: HTTP {problem.code}: {said}{hint}")

    def _read(self, text: str) -> tuple[str, bool]:
        """(the answer without its thoughts, whether the limit of tokens cut it)."""
        try:
            choice = json.loads(text)["choices"][0]
            message = choice["message"]
            content, refusal = message.get("content"), message.get("refusal")
            finish = choice.get("finish_reason")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as problem:
            raise TryAgainError(f"answered no chat completion: {_message(text)}") from problem
        if isinstance(content, list):  # parts
            content = " ".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
        answer = without_thoughts(str(content or ""))
        if refusal or finish == "content_filter":
            raise RefusedError(
                f"{self.name} declined to answer: {one_line(str(refusal or answer), LONGEST_REPLY) or finish}"
            )
        return answer, finish == "length"


class _BadRequest(Exception):
    """HTTP 400, which may be mended by another body."""


def _messages(picture: Image.Image, text: str) -> list[dict[str, Any]]:
    """One message: the picture as a PNG in a data address, which all five servers take, and the text."""
    file = io.BytesIO()
    shrink(picture).save(file, "PNG")
    address = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    content = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": text}]
    return [{"role": "user", "content": content}]


def _host(url: str) -> str | None:
    """The host of an http(s) address; None where it is no such address."""
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port  # raises where it is no number
    except ValueError:
        return None
    # a password in the address would be printed with it
    usable = parts.scheme in ("http", "https") and "@" not in parts.netloc and not re.search(r"\s", url)
    return parts.hostname if usable else None


def _message(text: str) -> str:
    """The error's text out of a service's JSON, or the start of whatever it sent; one line."""
    try:
        error = json.loads(text)["error"]
        text = error["message"] if isinstance(error, dict) else str(error)
    except (ValueError, KeyError, TypeError):
        pass
    return one_line(str(text), LONGEST_REPLY) or "no text"


def _seconds(value: str | None) -> float | None:
    try:
        return max(0.0, float(value)) if value else None
    except ValueError:
        return None
