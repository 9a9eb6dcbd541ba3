"""An OpenAI-compatible endpoint as the judge of edits: a picture and a yes/no question at a time, over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from singleinsert.drawing.dataurl import data_url
from singleinsert.errors import InputError, SingleInsertError
from singleinsert.metrics.esr import yes_or_no
from singleinsert.metrics.targets import Target

ASK = "{question} Answer with yes or no only."
TRIES, TIMEOUT, LONGEST_WAIT = 5, 120.0, 60.0
LARGEST_SIDE = 768
"""Larger pictures are shrunk before they are sent: services charge by the pixel, and shrink them themselves."""


class EndpointError(SingleInsertError):
    """The endpoint refused, or gave nothing that can be read, after all tries."""


class _Temporary(Exception):
    """Worth another try, after `wait` seconds where the service asked for that."""

    def __init__(self, text: str, wait: float | None = None) -> None:
        super().__init__(text)
        self.wait = wait


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


class EndpointJudge:
    """Judges by :attr:`Target.question` through POST URL/chat/completions."""

    def __init__(
        self, url: str, model: str, *, tries: int = TRIES, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """
        Args:
            url: up to and without "/chat/completions", such as "http://localhost:8000/v1".
            tries: for failures that may pass: no connection, 408, 409, 429, 5xx, an answer that is neither yes nor no.

        Raises:
            InputError: no http(s) address.
        """
        if not url.startswith(("http://", "https://")):
            raise InputError(f"judge address {url!r} does not begin with http:// or https://")
        self.url, self.model = url.rstrip("/") + "/chat/completions", model
        self.name = f"openai:{url}#{model}"
        self._tries, self._sleep = tries, sleep
        self._open = urllib.request.build_opener(_NoRedirects).open

    @staticmethod
    def from_spec(spec: str) -> EndpointJudge:
        """ "URL#MODEL"."""
        url, _, model = spec.rpartition("#")
        if not url or not model:
            raise InputError(f"judge 'openai:{spec}' is not openai:URL#MODEL: openai:http://localhost:8000/v1#name")
        return EndpointJudge(url, model)

    def __call__(self, pictures: Sequence[Image.Image], targets: Sequence[Sequence[Target]]) -> list[list[bool]]:
        """As :class:`singleinsert.metrics.esr.EditJudge`.

        Raises:
            EndpointError: one line: what the service said.
        """
        return [
            [self.ask(picture, target.question) for target in wanted]
            for picture, wanted in zip(pictures, targets, strict=True)
        ]

    def ask(self, picture: Image.Image, question: str) -> bool:
        """One question; tried again where that may help, with growing pauses."""
        body = json.dumps(request_body(self.model, picture, ASK.format(question=question))).encode()
        for number in range(self._tries):
            try:
                answer = self._post(body)
                verdict = yes_or_no(answer)
                if verdict is None:
                    raise _Temporary(f"answered {answer[:60]!r}, which is neither yes nor no")
                return verdict
            except _Temporary as problem:
                if number + 1 == self._tries:
                    raise EndpointError(f"judge {self.name}: {problem} ({self._tries} tries)") from problem
                self._sleep(min(LONGEST_WAIT, 2.0**number if problem.wait is None else problem.wait))
        raise AssertionError("unreachable")

    def _post(self, body: bytes) -> str:
        """The model's text. EndpointError for what no other try would mend."""
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("OPENAI_API_KEY", "").strip():
            headers["Authorization"] = f"Bearer {key}"
        try:
            with self._open(urllib.request.Request(self.url, body, headers), timeout=TIMEOUT) as response:
                text = response.read().decode("utf-8", "replace")
        except urllib.error.HTTPError as problem:
            said = f"HTTP {problem.code}: {_message(problem.read().decode('utf-8', 'replace'))}"
            if problem.code in (408, 409, 429) or problem.code >= 500:
                raise _Temporary(said, _seconds(problem.headers.get("Retry-After"))) from problem
            hint = " (the key is read from OPENAI_API_KEY)" if problem.code in (401, 403) else ""
            raise EndpointError(f"judge {self.name}: {said}{hint}") from problem
        except (urllib.error.URLError, http.client.HTTPException, OSError) as problem:
            reason = getattr(problem, "reason", None) or problem
            raise _Temporary(f"cannot be reached ({reason or type(problem).__name__})") from problem
        try:
            return str(json.loads(text)["choices"][0]["message"]["content"] or "")
        except (ValueError, KeyError, IndexError, TypeError) as problem:
            raise _Temporary(f"answered no chat completion: {_message(text)}") from problem


def request_body(model: str, picture: Image.Image, text: str) -> dict[str, Any]:
    """A chat completion with one picture, as a PNG in a data address."""
    address = data_url(picture, largest_side=LARGEST_SIDE)
    content = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": text}]
    return {"model": model, "temperature": 0, "messages": [{"role": "user", "content": content}]}


def _message(text: str) -> str:
    """The error's text out of a service's JSON, or the start of whatever it sent; one line."""
    try:
        error = json.loads(text)["error"]
        text = error["message"] if isinstance(error, dict) else str(error)
    except (ValueError, KeyError, TypeError):
        pass
    return " ".join(str(text).split())[:200] or "no text"


def _seconds(value: str | None) -> float | None:
    try:
        return max(0.0, float(value)) if value else None
    except ValueError:
        return None
