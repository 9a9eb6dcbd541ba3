"""Judges of edits: a tiny random vision-language model, a local server, a page's round trip, one's own."""

from __future__ import annotations

import base64
import io
import json
import random
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import torch
from PIL import Image
from tinybackbones import write_tiny_vlm

from singleinsert.captions.ask import first_option
from singleinsert.captions.endpoint import Endpoint
from singleinsert.errors import InputError, ModelError
from singleinsert.metrics.endpoint import EndpointError, EndpointJudge
from singleinsert.metrics.esr import load_judge
from singleinsert.metrics.page import PageJudge, WaitingForPeople
from singleinsert.metrics.targets import Target

HAT, RED = Target("Is there a hat ?"), Target("Is the hat red ?", {"hat_color": "red"})


def noise(seed: int, side: int = 32) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


# ------------------------------------------------------------------------------------------------------------- VLM
@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    return load_judge(f"vlm:{write_tiny_vlm(tmp_path_factory.mktemp('vlm'))}")


def test_a_vision_language_model_answers_by_its_first_word(vlm):
    judge = vlm.judge
    assert sorted(judge.local.first_tokens("yes") + judge.local.first_tokens("no")) == [6, 7, 8, 9]  # yes, no, Yes, No
    pictures = [noise(k) for k in range(4)]
    found = vlm(pictures, [[HAT, RED], [HAT], [RED], [HAT, RED]])
    assert [len(each) for each in found] == [2, 1, 1, 2]
    inputs = judge.local.inputs(pictures[0], f"{HAT.question} Answer with yes or no only.")
    assert int((inputs["input_ids"] == 3).sum()) == 16  # 4 x 4 patches of the picture in the prompt
    with torch.no_grad():
        scores = judge.local.model(**inputs).logits[0, -1].exp()
    yes, no = float(scores[6] + scores[8]), float(scores[7] + scores[9])
    assert judge.probability(pictures[0], HAT.question) == pytest.approx(yes / (yes + no), rel=1e-4)
    assert found[0][0] == (yes > no)


def test_the_verdict_follows_the_model(vlm):
    """With the rows of yes and no swapped in its last layer, the model says the opposite of everything."""
    pictures, targets = [noise(k) for k in range(6)], [[HAT, RED]] * 6
    before = [[vlm.judge.probability(p, t.question) for t in each] for p, each in zip(pictures, targets, strict=True)]
    weight = vlm.judge.local.model.lm_head.weight
    with torch.no_grad():
        weight[[6, 7, 8, 9]] = weight[[7, 6, 9, 8]].clone()
    after = [[vlm.judge.probability(p, t.question) for t in each] for p, each in zip(pictures, targets, strict=True)]
    assert np.asarray(before) + np.asarray(after) == pytest.approx(1)
    assert np.ptp(np.asarray(before)) > 0  # and it looks at the picture


def test_the_picture_reaches_the_model(vlm):
    assert vlm.judge.probability(noise(1), HAT.question) != vlm.judge.probability(noise(2), HAT.question)


def test_a_model_that_is_none_is_named(tmp_path):
    from tinybackbones import write_tiny_clip

    for spec in (f"vlm:{write_tiny_clip(tmp_path / 'clip')}", "vlm:nowhere", "vlm:some/model-that-is-not-here"):
        with pytest.raises(ModelError) as error:
            load_judge(spec)
        assert "\n" not in str(error.value) and "config.json" in str(error.value)


# -------------------------------------------------------------------------------------------------------- endpoint
class Server:
    """A chat-completions server that gives the prepared replies in turn, the last one for ever."""

    def __init__(self, *replies: tuple[int, object]) -> None:
        self.replies = list(replies)
        self.requests: list[dict] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append((self.path, dict(self.headers), body))
                status, reply = outer.replies.pop(0) if len(outer.replies) > 1 else outer.replies[0]
                text = reply if isinstance(reply, str) else json.dumps(reply)
                self.send_response(status)
                for name, value in ({"Retry-After": "7"} if status == 429 else {}).items():
                    self.send_header(name, value)
                if status == 302:
                    self.send_header("Location", "http://127.0.0.1:9/")
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *args):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def say(text: str) -> tuple[int, object]:
    return 200, {"choices": [{"message": {"role": "assistant", "content": text}}]}


def test_an_endpoint_gets_the_picture_and_the_question(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with Server(say("Yes."), say("No, there is none."), say("**Yes**")) as server:
        judge = load_judge(f"openai:{server.url}#a/model")
        assert judge([noise(0), noise(1)], [[HAT, RED], [HAT]]) == [[True, False], [True]]
    path, headers, body = server.requests[1]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret"
    assert body["model"] == "a/model" and body["temperature"] == 0
    image, text = body["messages"][0]["content"]
    assert text["text"] == "Is the hat red ? Answer with yes or no only."
    sent = Image.open(io.BytesIO(base64.b64decode(image["image_url"]["url"].split(",", 1)[1])))
    assert sent.tobytes() == noise(0).tobytes()


def test_an_endpoint_without_a_key_gets_none_and_large_pictures_are_shrunk(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    picture = noise(0, 1200)
    with Server(say("no")) as server:
        assert EndpointJudge(Endpoint(server.url, "m"))([picture], [[HAT]]) == [[False]]
    _, headers, body = server.requests[0]
    assert "Authorization" not in headers
    address = body["messages"][0]["content"][0]["image_url"]["url"]
    assert Image.open(io.BytesIO(base64.b64decode(address.split(",", 1)[1]))).size == (768, 768)
    assert picture.size == (1200, 1200)


def test_what_may_pass_is_tried_again_with_growing_pauses():
    pauses = []
    busy, slow = (503, "busy"), (429, {"error": {"message": "slow down"}})
    with Server(busy, slow, say("perhaps"), (200, "not json"), say("yes")) as server:
        judge = EndpointJudge(Endpoint(server.url, "m", sleep=pauses.append))
        assert judge([noise(0)], [[HAT]]) == [[True]]
    # 2^0; what the service asked for; 2^2; 2^3
    assert pauses == [1.0, 7.0, 4.0, 8.0] and len(server.requests) == 5


@pytest.mark.parametrize(
    ("reply", "said", "requests"),
    [
        ((500, "boom\nand more"), "HTTP 500: boom and more \\(3 tries\\)", 3),
        (
            (401, {"error": {"message": "bad key"}}),
            "HTTP 401: bad key \\(the key is read from SINGLEINSERT_API_KEY or OPENAI_",
            1,
        ),
        ((404, {"error": "no such model"}), "HTTP 404: no such model", 1),
        ((302, "elsewhere"), "HTTP 302: elsewhere", 1),
        (say("I cannot tell"), "'I cannot tell', which is neither yes nor no", 3),
        ((200, {"choices": []}), "no chat completion", 3),
    ],
)
def test_an_endpoint_that_fails_is_one_line(reply, said, requests, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "very-secret")
    with Server(reply) as server, pytest.raises(EndpointError, match=said) as error:
        EndpointJudge(Endpoint(server.url, "m", tries=3, sleep=lambda _: None))([noise(0)], [[HAT]])
    assert len(server.requests) == requests
    assert "\n" not in str(error.value) and "very-secret" not in str(error.value)


def test_an_endpoint_that_is_not_there():
    with pytest.raises(EndpointError, match="cannot be reached .*2 tries"):
        EndpointJudge(Endpoint("http://127.0.0.1:9/v1", "m", tries=2, sleep=lambda _: None))([noise(0)], [[HAT]])


@pytest.mark.parametrize(
    ("answer", "read"),
    [("Yes", "yes"), ("no.", "no"), ("The answer is: NO", "no"), ("**yes**, it is", "yes"), ("Nobody knows", None),
     ("", None), ("Yesterday no", "no")],
)  # fmt: skip
def test_yes_or_no(answer, read):
    assert first_option(answer, ("yes", "no")) == read


# ------------------------------------------------------------------------------------------------------------ page
def items_of(folder) -> list[dict]:
    """What the page shows, read from its text."""
    text = (folder / "page.html").read_text(encoding="utf-8")
    (data,) = re.findall(r"^const data = (.*);$", text, re.MULTILINE)
    return json.loads(data)["items"]


def answer(folder, name: str, answers: dict[str, bool]) -> None:
    (folder / name).write_text(json.dumps({"page": "x", "answers": answers}))


def test_a_page_asks_and_reads_the_answers_back(tmp_path):
    judge = load_judge(f"page:{tmp_path}")
    pictures, targets = [noise(k) for k in range(3)], [[HAT, RED], [HAT], [RED]]
    with pytest.raises(WaitingForPeople, match="4 questions wait") as error:
        judge(pictures, targets)
    assert "\n" not in str(error.value)
    shown = items_of(tmp_path)
    assert len(shown) == 4
    truth = {}
    for item in shown:
        picture = Image.open(io.BytesIO(base64.b64decode(item["picture"].split(",", 1)[1])))
        number = next(k for k, p in enumerate(pictures) if p.tobytes() == picture.tobytes())
        truth[item["id"]] = (number + (item["question"] == RED.question)) % 2 == 0
    answer(tmp_path, "answers-1.json", truth)
    assert judge(pictures, targets) == [[True, False], [False], [False]]  # 0, 1; 1; 2 + 1


def test_the_page_does_not_say_whose_picture_it_is(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    pictures = [noise(k) for k in range(8)]
    for folder, order in ((first, range(8)), (second, reversed(range(8)))):
        with pytest.raises(WaitingForPeople):
            PageJudge(folder)([pictures[k] for k in order], [[HAT]] * 8)
    shown = [item["picture"] for item in items_of(first)]
    assert shown == [item["picture"] for item in items_of(second)]  # whatever order they were asked in
    from singleinsert.metrics.page import data_address

    assert shown != [data_address(p) for p in pictures]
    assert all(set(item) == {"id", "question", "picture"} for item in items_of(first))
    assert not re.search(r"https?://|src=\"(?!data)", (first / "page.html").read_text())


def test_the_page_gathers_the_questions_of_many_calls_and_keeps_answers(tmp_path):
    judge = PageJudge(tmp_path)
    for k in range(3):
        with pytest.raises(WaitingForPeople, match=f"{k + 1} questions"):
            judge([noise(k)], [[HAT]])
    answer(tmp_path, "answers-1.json", {items_of(tmp_path)[0]["id"]: True})
    with pytest.raises(WaitingForPeople, match="3 questions"):  # two of before and a new one
        judge([noise(9)], [[HAT]])
    assert len(items_of(tmp_path)) == 3
    answer(tmp_path, "answers-2.json", {item["id"]: True for item in items_of(tmp_path)})
    assert judge([noise(k) for k in (0, 1, 2, 9)], [[HAT]] * 4) == [[True]] * 4


def test_more_than_half_must_say_yes(tmp_path):
    judge = PageJudge(tmp_path)
    with pytest.raises(WaitingForPeople):
        judge([noise(0), noise(1)], [[HAT], [HAT]])
    first, second = (item["id"] for item in items_of(tmp_path))
    answer(tmp_path, "answers-1.json", {first: True, second: True})
    answer(tmp_path, "answers-2.json", {first: False, second: True})
    assert judge.answers() == {first: False, second: True}  # a draw is no success
    answer(tmp_path, "answers-3.json", {first: True})
    assert judge.answers()[first] is True


@pytest.mark.parametrize("text", ["{", "[]", '{"answers": {"a": "yes"}}', "{}", '{"answers": []}'])
def test_damaged_answers_are_named(tmp_path, text):
    (tmp_path / "answers-1.json").write_text(text)
    with pytest.raises(InputError, match=r"answers-1\.json"):
        PageJudge(tmp_path).answers()


def test_a_question_cannot_break_out_of_the_page(tmp_path):
    with pytest.raises(WaitingForPeople):
        PageJudge(tmp_path)([noise(0)], [[Target('</script><b>"DATA" COUNT')]])
    assert items_of(tmp_path)[0]["question"] == '</script><b>"DATA" COUNT'
    assert (tmp_path / "page.html").read_text().count("</script>") == 1


# ---------------------------------------------------------------------------------------------------------- others
def test_a_judge_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "ownjudge.py").write_text(
        "def bright(pictures, targets):\n"
        "    return [[p.getpixel((0, 0))[0] > 99 for _ in t] for p, t in zip(pictures, targets)]\n"
        "def short(pictures, targets):\n    return [[True]]\n"
        "number = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    judge = load_judge("python:ownjudge:bright")
    assert judge.name == "python:ownjudge:bright"
    pictures = [Image.new("RGB", (4, 4), (v, 0, 0)) for v in (200, 10)]
    assert judge(pictures, [[HAT, RED], [HAT]]) == [[True, True], [False]]
    assert judge([], []) == []
    for spec, said in (("short", "once per target"), ("number", "no function"), ("missing", "no function")):
        with pytest.raises(InputError, match=said):
            load_judge(f"python:ownjudge:{spec}")(pictures, [[HAT, RED], [HAT]])
    with pytest.raises(InputError, match="2 pictures but 1 lists"):
        judge(pictures, [[HAT]])


@pytest.mark.parametrize(
    ("spec", "said"),
    [("", "none of"), ("vlm", "none of"), ("gpt:x", "none of"), ("openai:http://x", "URL#MODEL"),
     ("openai:ftp://x#m", "http"), ("python:module", "MODULE:ATTRIBUTE"),
     ("python:no.such.module:x", "cannot be imported")],
)  # fmt: skip
def test_other_texts_are_refused(spec, said):
    with pytest.raises(InputError, match=said):
        load_judge(spec)


def test_the_testbeds_judge_reads_drawn_pictures():
    from testbed.world.scene import Instance, Scene, draw, draw_edits

    plain = draw_edits("face", random.Random(0)) | {"hat": "none", "glasses": "none", "scarf": "none"}
    hatted = plain | {"hat": "top hat", "hat_color": "red"}
    face = Instance.from_seed(11, "face")
    pictures = [draw(Scene((face,), (e,), b, "photo", "front", 5), masks=False).image
                for e, b in ((hatted, "snow"), (plain, "beach"))]  # fmt: skip
    hat = Target("?", {"hat": "top hat", "hat_color": "red"})
    snow, face_there = Target("?", {"background": "snow"}), Target("?", {"class": "face", "present": "face"})
    judge = load_judge("python:testbed.esr:judge")
    assert judge(pictures, [[hat, snow, face_there]] * 2) == [[True, True, True], [False, False, True]]
    nose = Target("?", {"shape": "round"})  # a cup has a shape, a face has none: not met, whatever the picture
    assert judge(pictures[:1], [[nose]]) == [[False]]


@pytest.mark.parametrize(
    ("label", "said"),
    [({}, "no label"), ({"hat": "helmet"}, "one of .*top hat"), ({"moustache": "long"}, "no attribute")],
)
def test_the_testbeds_judge_refuses_what_the_world_does_not_have(label, said):
    with pytest.raises(InputError, match=said):
        load_judge("python:testbed.esr:judge")([noise(0, 64)], [[Target("?", label)]])


# --- the page, in a browser -------------------------------------------------------------------------------------------


@pytest.fixture
def browser(tmp_path):
    """A headless chromium that saves what it downloads into tmp_path / "saved"."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    assert chromium and chromedriver, "apt-get install chromium chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=900,1000"):
        options.add_argument(flag)
    (tmp_path / "saved").mkdir()
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path / "saved")})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    yield driver
    driver.quit()


@pytest.mark.browser
def test_a_person_answers_the_page(browser, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    folder = tmp_path / "page"
    judge, pictures, targets = PageJudge(folder), [noise(k, 64) for k in range(3)], [[HAT, RED], [HAT], [RED]]
    with pytest.raises(WaitingForPeople):
        judge(pictures, targets)
    browser.get((folder / "page.html").as_uri())
    shown = items_of(folder)
    body = browser.find_element(By.TAG_NAME, "body")
    given = {}
    for number, item in enumerate(shown):
        assert browser.find_element(By.ID, "question").text == item["question"]
        assert browser.find_element(By.ID, "picture").get_property("naturalWidth") == 64
        given[item["id"]] = number % 2 == 0
        if number < 2:
            body.send_keys("y" if number % 2 == 0 else "n")
        else:
            browser.find_element(By.ID, "yes" if number % 2 == 0 else "no").click()
    body.send_keys("\ue012")  # the arrow key, back to the one before
    body.send_keys("n")  # and another answer to it: the third is a no now
    given[shown[2]["id"]] = False
    browser.refresh()  # answers survive
    assert "4 answered" in browser.find_element(By.ID, "count").text
    browser.save_screenshot(str(tmp_path / "page.png"))
    browser.find_element(By.ID, "save").click()
    WebDriverWait(browser, 60).until(lambda _: list((tmp_path / "saved").glob("answers-*.json")))
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    for file in (tmp_path / "saved").glob("answers-*.json"):
        file.rename(folder / file.name)
    assert judge.answers() == given
    found = judge(pictures, targets)
    assert [len(each) for each in found] == [2, 1, 1] and sum(sum(each) for each in found) == sum(given.values())
