"""The caption page: what it shows and saves, whom it answers, and the page itself in a headless browser.

The browser test needs selenium, chromium and chromedriver: see tests/test_mask_editor.py.
"""

from __future__ import annotations

import http.client
import io
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image

from singleinsert.captions.form import Room
from singleinsert.captions.page import Server, Session
from singleinsert.data.pictures import load_picture
from singleinsert.errors import InputError
from singleinsert.loopback import LARGEST_BODY

ROOM = Room(lambda text: len(text.split()))
TEXT = "a photo of an old {concept} wearing a red hat on a beach"
JSON = "application/json"


@pytest.fixture
def photo(tmp_path) -> Path:
    Image.new("RGB", (1200, 900), (200, 40, 40)).save(tmp_path / "me.png")
    return tmp_path / "me.png"


@pytest.fixture
def server(photo) -> Iterator[Server]:
    photo.with_suffix(".txt").write_text("a photo of an old * face wearing a red hat on a beach\n")
    running = Server(Session(load_picture(photo), "face", ROOM), 0)
    threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


def request(
    server: Server, method: str, path: str, body: bytes | str | None = None, **headers: str | None
) -> tuple[int, bytes, dict[str, str]]:
    """With the headers that the page's own requests have, unless told otherwise (None: without)."""
    host = f"127.0.0.1:{server.server_port}"
    given: dict[str, str | None] = {"Host": host, "Origin": f"http://{host}", "Content_Type": JSON}
    given |= headers
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    data = body.encode() if isinstance(body, str) else body or b""
    for name, value in ({"Content_Length": str(len(data))} | given).items():
        if value is not None:
            connection.putheader(name.replace("_", "-"), value)
    connection.endheaders(data)
    reply = connection.getresponse()
    out = reply.status, reply.read(), dict(reply.getheaders())
    connection.close()
    return out


def text_body(text: str) -> str:
    return json.dumps({"text": text})


# --- the session ------------------------------------------------------------------------------------------------------
def test_it_starts_from_the_file_or_from_the_beginning(photo):
    session = Session(load_picture(photo), "face", ROOM)
    assert session.text == "a photo of a {concept}"
    found = session.checked(session.text)
    assert found["phrases"] == [] and "says nothing beside the face" in found["warnings"][0]
    assert session.save("a * face in snow") == f"saved {photo.with_suffix('.txt')}"
    assert photo.with_suffix(".txt").read_text() == "a {concept} in snow\n"
    assert Session(load_picture(photo), "face", ROOM).text == "a {concept} in snow"


def test_further_lines_of_the_file_stay(photo):
    photo.with_suffix(".txt").write_text("a * face in a blue coat\n\nfor later\n")
    Session(load_picture(photo), "face", ROOM).save("a * face in snow")
    assert photo.with_suffix(".txt").read_text() == "a {concept} in snow\nfor later\n"


def test_what_was_changed_elsewhere_is_not_overwritten(photo):
    session = Session(load_picture(photo), "face", ROOM)
    photo.with_suffix(".txt").write_text("by another editor, a * face\n")
    with pytest.raises(InputError, match="was changed elsewhere"):
        session.save("a face in snow")
    assert photo.with_suffix(".txt").read_text() == "by another editor, a * face\n"
    session.load()
    assert session.text == "by another editor, a {concept} face"
    session.save("a face in snow")
    session.save("a face on sand")
    assert photo.with_suffix(".txt").read_text() == "a {concept} on sand\n"


def test_the_model_is_asked_once_for_each_phrase(photo):
    asked: list[str] = []

    class Model:
        captions_only = False

        def choose(self, picture, text, options):
            asked.append(re.search(r'Phrase: "(.*?)"', text)[1])
            return "A" if '"old"' in text else "C"

    session = Session(load_picture(photo), "face", ROOM, Model())
    assert [p["status"] for p in session.checked(TEXT)["phrases"]] == ["look", "keep", "keep"]
    session.checked(TEXT + ", in the rain")
    assert asked == ["old", "wearing a red hat", "on a beach", "in the rain"]


# --- over HTTP --------------------------------------------------------------------------------------------------------
def test_the_page_and_the_picture(server):
    status, body, headers = request(server, "GET", f"/{server.token}/", Origin=None)
    page = body.decode()
    assert status == 200 and json.loads(re.search(r"const data = (\{.*?\}), at", page)[1])["text"] == (
        "a photo of an old {concept} face wearing a red hat on a beach"
    )
    nonce = re.search(r"script-src 'nonce-([\w-]+)'", headers["Content-Security-Policy"])[1]
    assert page.count(f'nonce="{nonce}"') == 2 and "default-src 'none'" in headers["Content-Security-Policy"]
    assert not re.search(r"https?://", page) and headers["Referrer-Policy"] == "no-referrer"
    status, body, headers = request(server, "GET", f"/{server.token}/picture", Origin=None)
    assert status == 200 and Image.open(io.BytesIO(body)).size == (768, 576) and headers["Cache-Control"] == "no-store"


def test_check_and_save(server, photo):
    status, body, _ = request(server, "POST", f"/{server.token}/check", text_body(TEXT))
    found = json.loads(body)
    assert status == 200 and found["text"] == TEXT
    assert [(p["text"], p["status"]) for p in found["phrases"]] == [
        ("old", "look"), ("wearing a red hat", "keep"), ("on a beach", "keep"),
    ]  # fmt: skip
    assert found["phrases"][0]["without"] == "a photo of a {concept} wearing a red hat on a beach"
    status, body, _ = request(server, "POST", f"/{server.token}/save", text_body("a face in snow"))
    assert status == 200 and "saved" in json.loads(body)["said"]
    assert photo.with_suffix(".txt").read_text() == "a {concept} in snow\n"
    assert request(server, "POST", f"/{server.token}/check", '{"text": "a face \\ud800"}')[0] == 200
    for text in ("a red hat", "", "a face " * 400):
        status, body, _ = request(server, "POST", f"/{server.token}/save", text_body(text))
        assert status == 422 and "\n" not in json.loads(body)["error"]
    assert photo.with_suffix(".txt").read_text() == "a {concept} in snow\n"


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "wrong",
    [
        {"Host": "evil.example:80"}, {"Host": "127.0.0.1"}, {"Host": None}, {"Origin": "http://evil.example"},
        {"Origin": "null"}, {"token": "x"}, {"token": ""}, {"token": "\u00fc"},
    ],
)  # fmt: skip
def test_other_pages_and_names_get_nothing(server, photo, method, wrong):
    headers = {name: value for name, value in wrong.items() if name != "token"}
    token = quote(wrong.get("token", server.token))
    for path in ("", "picture", "check", "save"):
        status, body, _ = request(server, method, f"/{token}/{path}", text_body("a face stolen"), **headers)
        assert status == 403 and server.token.encode() not in body and b"old" not in body
    assert "stolen" not in photo.with_suffix(".txt").read_text()


def test_a_post_without_an_origin_is_refused_and_other_methods_are_unknown(server):
    assert request(server, "POST", f"/{server.token}/save", text_body("a face"), Origin=None)[0] == 403
    assert request(server, "POST", f"/{server.token}/", text_body("a face"))[0] == 404
    assert request(server, "GET", f"/{server.token}/../../etc/passwd")[0] == 404
    assert request(server, "PUT", f"/{server.token}/save", text_body("a face"))[0] == 501


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"{", {}), (b"[]", {}), (b'{"text": 3}', {}), (b"{}", {}), (b"\xff", {}),
        (text_body("a face"), {"Content_Type": "text/plain"}), (text_body("a face"), {"Content_Length": "-1"}),
        (text_body("a face"), {"Content_Length": str(LARGEST_BODY + 1)}),
        (text_body("a face"), {"Content_Length": "many"}),
    ],
)  # fmt: skip
def test_what_is_no_caption_is_refused(server, body, headers):
    status, said, _ = request(server, "POST", f"/{server.token}/save", body, **headers)
    assert status == 400 and said == b"not understood"


def test_a_text_cannot_break_out_of_the_page(photo):
    photo.with_suffix(".txt").write_text('a * face </script><b>NAME NONCE "DATA"')
    running = Server(Session(load_picture(photo), "face", ROOM), 0)
    threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
    page = request(running, "GET", f"/{running.token}/", Origin=None)[1].decode()
    running.shutdown()
    running.server_close()
    data = json.loads(re.search(r"const data = (\{.*?\}), at", page)[1])
    assert page.count("</script>") == 1 and data["text"] == 'a {concept} face </script><b>NAME NONCE "DATA"'


# --- in a browser -----------------------------------------------------------------------------------------------------
@pytest.fixture
def browser(photo) -> Iterator[Any]:
    """A selenium driver on the page of the true command."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    assert chromium and chromedriver, "apt-get install chromium chromium-driver"
    photo.with_suffix(".txt").write_text("a photo of an old * face wearing a red hat on a beach\n")
    command = [sys.executable, "-m", "singleinsert.captions", "edit", "--image", str(photo), "--class_word", "face",
               "--port", "0"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout
    address = re.search(r"open (http://127\.0\.0\.1:\d+/[\w-]+/)", process.stdout.readline())
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,1000"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    try:
        assert address
        driver.get(address[1])
        yield driver
    finally:
        driver.quit()
        process.terminate()
        process.wait(20)


@pytest.mark.browser
def test_a_person_reads_drops_edits_and_saves(browser, photo, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    wait = WebDriverWait(browser, 60)

    def chips() -> list[tuple[str, str]]:
        """Read in one go: the page makes them anew after every check."""
        script = (
            "return [...document.querySelectorAll('#chips li')].map(e => [e.className, e.innerText.split('\\n')[0]])"
        )
        return [(kind, text) for kind, text in browser.execute_script(script)]

    def value() -> str:
        return browser.find_element(By.ID, "text").get_attribute("value")

    file = photo.with_suffix(".txt")
    wait.until(lambda _: len(chips()) == 3)
    assert chips() == [("look", "old"), ("keep", "wearing a red hat"), ("keep", "on a beach")]
    assert browser.execute_script("return document.getElementById('picture').naturalWidth") == 768
    browser.find_element(By.CSS_SELECTOR, "#chips li.look button").click()  # leaves "old" out
    wait.until(lambda _: len(chips()) == 2)
    assert value() == "a photo of a {concept} wearing a red hat on a beach" and "old" in file.read_text()
    browser.find_element(By.ID, "text").send_keys(", in evening light <b>x")
    wait.until(lambda _: len(chips()) == 3)
    assert chips()[2] == ("keep", "in evening light <b>x") and not browser.find_elements(By.CSS_SELECTOR, "#chips b")
    browser.find_element(By.ID, "save").click()
    wait.until(lambda _: "saved" in browser.find_element(By.ID, "said").text)
    assert file.read_text() == "a photo of a {concept} wearing a red hat on a beach, in evening light <b>x\n"
    file.write_text("changed elsewhere, a * face\n")
    browser.find_element(By.ID, "save").click()
    wait.until(lambda _: "not saved" in browser.find_element(By.ID, "said").text)
    area = browser.find_element(By.ID, "text")
    area.clear()
    area.send_keys("a red hat")
    wait.until(lambda _: "stands for the concept" in browser.find_element(By.ID, "warnings").text)
    severe = [
        entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE" and "422" not in entry["message"]
    ]
    assert not severe and file.read_text() == "changed elsewhere, a * face\n"
    time.sleep(0.1)
    browser.save_screenshot(str(tmp_path / "page.png"))
