"""Endpoints: what the five servers are sent, what becomes of their errors, and where a picture never goes."""

from __future__ import annotations

import base64
import io
import json
import socket

import pytest
from chatservers import (
    ChatServer,
    Cut,
    llama_cpp_blind,
    lm_studio,
    ollama,
    openai_gpt5,
    picture_of,
    refuse,
    say,
    text_of,
    vllm_thinking,
)
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from singleinsert.captions.ask import RefusedError, load_ask
from singleinsert.captions.endpoint import MAX_TOKENS, TOKENS_TO_THINK, Endpoint, EndpointError
from singleinsert.errors import ConfigError, InputError, SingleInsertError

PICTURE = Image.new("RGB", (40, 30), (10, 200, 30))


def ask(server: ChatServer, text: str = "What is it?", **more) -> str:
    return Endpoint(server.url, "m", sleep=lambda _: None, **more)(PICTURE, text)


@pytest.mark.parametrize("reply", [openai_gpt5, vllm_thinking, lm_studio, ollama])
def test_every_server_gives_the_sentence(reply):
    with ChatServer(reply) as server:
        answer = ask(server)
    assert answer == "A photo of a face wearing a red hat on a beach."
    sent = Image.open(io.BytesIO(base64.b64decode(picture_of(server.bodies[-1]).split(",", 1)[1])))
    assert sent.format == "PNG" and sent.tobytes() == PICTURE.tobytes() and text_of(server.bodies[-1]) == "What is it?"


def test_a_refused_field_is_left_out_and_remembered():
    with ChatServer(openai_gpt5) as server:
        endpoint = Endpoint(server.url, "m")
        endpoint(PICTURE, "a")
        sent = [sorted(set(body) - {"model", "messages"}) for body in server.bodies]
        assert sent == [
            ["max_tokens", "temperature"],
            ["max_completion_tokens", "temperature"],
            ["max_completion_tokens"],
        ]
        endpoint(PICTURE, "b")
    assert len(server.bodies) == 4 and server.bodies[-1]["max_completion_tokens"] == MAX_TOKENS


def test_a_message_that_names_both_fields_is_no_loop():
    """As vLLM refuses a limit that is beyond the model's context."""

    def small(body):
        named = [name for name in ("max_tokens", "max_completion_tokens") if name in body]
        long = refuse(400, "'max_tokens' or 'max_completion_tokens' is too large: 1024. The context is 512 tokens.")
        return long if named else say("A face.")

    with ChatServer(small) as server:
        assert ask(server) == "A face."
    limits = [[name for name in body if name.startswith("max_")] for body in server.bodies]
    assert limits == [["max_tokens"], ["max_completion_tokens"], []]


def test_an_error_whose_words_break_off_is_tried_again():
    def cut(_):
        return (503, Cut("busy"))

    with ChatServer(cut) as server, pytest.raises(EndpointError, match=r"HTTP 503: its words broke off \(Incomplete"):
        ask(server, tries=2)
    assert len(server.bodies) == 2


def test_a_model_that_thinks_gets_more_room_once():
    with ChatServer(vllm_thinking) as server:
        ask(server)
    assert [body["max_tokens"] for body in server.bodies] == [MAX_TOKENS, TOKENS_TO_THINK]
    with ChatServer(lambda body: say("", "length")) as server, pytest.raises(EndpointError, match="spent 4096 tokens"):
        ask(server)
    assert len(server.bodies) == 2


def test_a_server_without_a_picture_part_is_not_asked_again():
    with (
        ChatServer(llama_cpp_blind) as server,
        pytest.raises(EndpointError, match="takes no pictures.*mmproj") as error,
    ):
        ask(server)
    assert len(server.bodies) == 1 and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("reply", "said", "requests"),
    [
        (say(None, refusal="I can't help with that."), "declined to answer: I can't help", 1),
        (say("", "content_filter"), "declined to answer: content_filter", 1),
        (refuse(400, "model 'm' not found"), "HTTP 400: model 'm' not found", 1),
        (refuse(401, "no key"), "HTTP 401: no key .*OPENAI_API_KEY", 1),
        (refuse(404, "model not found, try pulling it first"), "HTTP 404: model not found", 1),
        (refuse(503, "loading"), "HTTP 503: loading \\(2 tries\\)", 2),
        ((307, "elsewhere"), "HTTP 307: elsewhere", 1),
        (say(""), "answered nothing \\(2 tries\\)", 2),
        ((200, {"error": "Unexpected endpoint"}), "no chat completion: Unexpected endpoint", 2),
        ((200, {"choices": [{"message": "text"}]}), "no chat completion", 2),
    ],
)
def test_their_errors_are_one_line(reply, said, requests, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "very-secret")
    with ChatServer(lambda _: reply) as server, pytest.raises(SingleInsertError, match=said) as error:
        ask(server, tries=2)
    assert len(server.bodies) == requests and "\n" not in str(error.value) and "very-secret" not in str(error.value)


def test_where_nothing_listens_the_error_says_what_to_look_at():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(EndpointError, match=r"\(2 tries\): is the server started, and are the address and the port"):
        Endpoint(url, "m", tries=2, sleep=lambda _: None)(PICTURE, "What is it?")


def test_a_refusal_has_its_own_kind():
    with ChatServer(lambda _: say(None, refusal="no")) as server, pytest.raises(RefusedError):
        ask(server)


def test_the_first_answer_may_take_long_and_then_it_is_over():
    """ollama loads a model for minutes: the limit is long, and what exceeds it is not waited for five times."""
    import threading

    release = threading.Event()

    def slow(_):
        release.wait(20)
        return say("late")

    with ChatServer(slow) as server:
        with pytest.raises(EndpointError, match="no answer within 0 seconds: load the model there first"):
            ask(server, first_timeout=0.3)
        release.set()
        assert len(server.requests) == 1
    assert Endpoint("http://localhost:1/v1", "m")._timeout == 600


def test_the_key_of_ones_own_goes_before_openais(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "for-openai")
    monkeypatch.setenv("SINGLEINSERT_API_KEY", "for-mine")
    with ChatServer(ollama) as server:
        ask(server)
    assert server.requests[0][1]["Authorization"] == "Bearer for-mine"
    monkeypatch.setenv("SINGLEINSERT_API_KEY", "broken\nkey")
    with ChatServer(ollama) as server, pytest.raises(EndpointError, match="characters that it must not have"):
        ask(server)
    assert not server.requests


def test_a_picture_for_this_machine_goes_through_no_proxy(monkeypatch):
    with ChatServer(lambda _: say("the proxy saw it")) as proxy, ChatServer(ollama) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        assert ask(server).startswith("A photo")
    assert not proxy.requests and len(server.requests) == 1


def test_a_picture_goes_nowhere_but_to_the_address_given(monkeypatch):
    """No redirect is followed, and no address is taken from the environment."""
    with ChatServer(lambda _: say("stolen")) as other:
        for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE", "OLLAMA_HOST"):
            monkeypatch.setenv(name, other.url)
        with ChatServer(lambda _: (307, "moved")) as server, pytest.raises(EndpointError):
            ask(server)
    assert not other.requests


@pytest.mark.parametrize("spec", ["", "vlm", "vlm:", "openai:", "gpt:x", "python:m:a"])
def test_what_names_no_model_is_one_line(spec):
    with pytest.raises(ConfigError, match="write vlm:MODEL"):
        load_ask(spec)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000/v1",
        "ftp://x/v1",
        "http://",
        "http:///v1",
        "http://a b/v1",
        "http://h:port/v1",
        "http://me:pw@h/v1",
        "https://[1/",
    ],
)
def test_what_is_no_address_is_one_line(url):
    with pytest.raises(InputError, match="is not http://HOST") as error:
        load_ask(f"openai:{url}#m")
    assert "\n" not in str(error.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["choices", "message", "content", "refusal", "error", "finish_reason", "text"]),
                      inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


@given(reply=st.text(max_size=20) | json_values.map(json.dumps))
def test_every_reply_is_an_answer_or_one_line(reply):
    endpoint = Endpoint("http://localhost:1/v1", "m", tries=1)
    endpoint._post = lambda _: reply
    try:
        assert endpoint(PICTURE, "x")
    except SingleInsertError as problem:
        assert "\n" not in str(problem)
