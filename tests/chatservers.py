"""Chat-completions servers on this machine that answer as the true ones do, their errors too."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, Any]


class Cut(str):
    """A reply that ends before the length that its header says."""


def say(text: Any, finish: str = "stop", **message: Any) -> Reply:
    """A chat completion."""
    return 200, {"choices": [{"finish_reason": finish, "message": {"role": "assistant", "content": text} | message}]}


def refuse(status: int, message: str, **more: Any) -> Reply:
    return status, {"error": {"message": message, **more}}


class ChatServer:
    """Answers by ``reply(body)``; ``requests`` holds (path, headers, body) of all."""

    def __init__(self, reply: Callable[[dict[str, Any]], Reply]) -> None:
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append((self.path, dict(self.headers), body))
                status, value = reply(body)
                text = value if isinstance(value, str) else json.dumps(value)
                self.send_response(status)
                if status in (301, 302, 307):
                    self.send_header("Location", "http://127.0.0.1:9/")
                if isinstance(value, Cut):
                    self.send_header("Content-Length", str(len(value) + 999))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [body for _, _, body in self.requests]

    def __enter__(self) -> ChatServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def picture_of(body: dict[str, Any]) -> str:
    """The address of the picture in a request."""
    return str(body["messages"][0]["content"][0]["image_url"]["url"])


def text_of(body: dict[str, Any]) -> str:
    return str(body["messages"][0]["content"][1]["text"])


# --- the five, by what their documentation and issues say of them -----------------------------------------------------


def openai_gpt5(body: dict[str, Any]) -> Reply:
    """Models that think: no max_tokens, no temperature but 1."""
    if "max_tokens" in body:
        return refuse(400, "Unsupported parameter: 'max_tokens' is not supported with this model. "
                      "Use 'max_completion_tokens' instead.", param="max_tokens")  # fmt: skip
    if body.get("temperature", 1) != 1:
        return refuse(400, "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) "
                      "value is supported.", param="temperature")  # fmt: skip
    unknown = set(body) - {"model", "messages", "max_completion_tokens", "temperature"}
    if unknown:
        return refuse(400, f"Unrecognized request argument supplied: {unknown.pop()}")
    return say("A photo of a face wearing a red hat on a beach.")


def vllm_thinking(body: dict[str, Any]) -> Reply:
    """Thinks until its tokens are gone, unless it is told not to."""
    if body.get("chat_template_kwargs", {}).get("enable_thinking") is False:
        return say("A photo of a face wearing a red hat on a beach.")
    return say(None, "length", reasoning_content="The user wants " * 300)


def llama_cpp_blind(body: dict[str, Any]) -> Reply:
    return refuse(500, "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj",
                  code=500, type="server_error")  # fmt: skip


def lm_studio(body: dict[str, Any]) -> Reply:
    """PNG and JPEG in data addresses only; answers an error with a text of its own."""
    if not picture_of(body).startswith(("data:image/png;base64,", "data:image/jpeg;base64,")):
        return 400, {"error": "'url' field must be a base64 encoded image."}
    return say(
        [{"type": "text", "text": "A photo of a face wearing a red hat"}, {"type": "text", "text": "on a beach."}]
    )


def ollama(body: dict[str, Any]) -> Reply:
    """Any key; thoughts in the text."""
    if not picture_of(body).startswith("data:image/"):
        return refuse(400, "invalid image input")
    return say("<think>\nA hat. A beach.\n</think>\n\nA photo of a face wearing a red hat on a beach.")
