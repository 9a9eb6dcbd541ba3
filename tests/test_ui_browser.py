"""The page in headless Chromium on mini-sd, a few steps: from a photo to a zip and a picture, by clicks alone; reloads,
a stop, a server and a worker that are killed, two tabs, a phone, a keyboard. `make test-browser` runs it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batches import ENVIRONMENT, ROOT

from singleinsert.batch.growing import live_workers

pytestmark = pytest.mark.browser
PATIENCE = 300
"""Seconds for a step of a run, on a machine that does much else."""


class Program:
    """``singleinsert ui`` as a process of its own, which can be killed and started again at the same port."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.port, self.options = folder, 0, options
        self.start()

    def start(self) -> None:
        words = [sys.executable, "-m", "singleinsert", "ui", "--folder", str(self.folder), "--port", str(self.port)]
        words += self.options
        self.process = subprocess.Popen(
            words, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, cwd=self.folder.parent
        )
        assert self.process.stdout is not None
        found = re.search(r"http://127.0.0.1:(\d+)/\S*", self.process.stdout.readline())
        assert found is not None
        self.address, self.port = found[0], int(found[1])

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def workers(self) -> list[int]:
        return [int(worker["pid"]) for worker in live_workers(self.folder)]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    program = Program(tmp_path_factory.mktemp("ui") / "place")
    yield program
    program.kill()
    for pid in program.workers():
        os.kill(pid, signal.SIGKILL)


class Browser:
    """Chromium with the page open."""

    def __init__(self, program: Program, downloads: Path, width: int = 1280) -> None:
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--window-size={width},1000"):
            options.add_argument(argument)
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options)
        self.program, self.offline = program, False
        self.driver.get(program.address)

    def go(self, path: str) -> None:
        self.driver.get(f"http://127.0.0.1:{self.program.port}{path}")

    def find(self, css: str) -> Any:
        return self.until(lambda: (self.driver.find_elements("css selector", css) or [None])[0])

    def click(self, css: str) -> None:
        element = self.find(css)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def text(self, css: str) -> str:
        return str(self.script(f"return document.querySelector({json.dumps(css)})?.textContent || ''"))

    def script(self, text: str, *facts: Any) -> Any:
        return self.driver.execute_script(text, *facts)

    def until(self, test: Callable[[], Any], seconds: float = PATIENCE) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = test()
            if found:
                return found
            time.sleep(0.2)
        raise AssertionError(f"it never came: {self.text('main')[:2000]}")

    def until_text(self, css: str, pattern: str) -> str:
        return str(self.until(lambda: (re.search(pattern, self.text(css)) or [None])[0]))

    def refuse_errors(self) -> None:
        """No error in the console; while the server was dead, its silence is none."""
        said = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
        if self.offline:
            said = [line for line in said if "ERR_CONNECTION" not in line and "ERR_EMPTY_RESPONSE" not in line]
        assert not said

    def close(self) -> None:
        self.driver.quit()


@pytest.fixture
def browser(program: Program, tmp_path: Path) -> Iterator[Browser]:
    browser = Browser(program, tmp_path)
    yield browser
    try:
        browser.refuse_errors()
    finally:
        browser.close()


def begin(browser: Browser, name: str) -> str:
    """A draft of the example photo, dropped by the file input; its id."""
    browser.go("/new")
    browser.find("#photo-file").send_keys(str(ROOT / "examples" / "face.png"))
    browser.find("#name").send_keys(name)
    browser.click('[data-value="face"]')
    browser.until_text("#judged", "free")
    draft = re.search(r"/new/(\w+)/", browser.driver.current_url)
    assert draft is not None
    browser.until(lambda: draft_facts(browser, draft[1])["name"] == name)
    browser.until(lambda: draft_facts(browser, draft[1])["subjects"][0]["class_word"] == "face")
    return draft[1]


def draft_facts(browser: Browser, draft: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((browser.program.folder / "drafts" / draft / "draft.json").read_text())
    return told


def has_setting(browser: Browser, draft: str, key: str, value: float) -> bool:
    return bool(draft_facts(browser, draft)["settings"].get(key) == value)


def value_at(path: Path, x: int, y: int) -> int:
    """Of a mask."""
    from PIL import Image

    with Image.open(path) as file:
        return int(np.asarray(file.convert("L"))[y, x])


def choose_mini(browser: Browser, draft: str, **settings: float) -> None:
    choose(
        browser, draft, "mini-sd", {"stage1.steps": 3, "stage2.steps": 3, "sample.num_inference_steps": 4, **settings}
    )


def choose(browser: Browser, draft: str, base: str, settings: Mapping[str, float]) -> None:
    """A base model, and settings of the form."""
    browser.go(f"/new/{draft}/train")
    from selenium.webdriver.common.keys import Keys

    chosen = "const s = arguments[0]; s.value = arguments[1]; s.dispatchEvent(new Event('change'))"
    browser.script(chosen, browser.find("#base"), base)
    browser.until(lambda: draft_facts(browser, draft)["base"] == base)
    browser.click("#all summary")
    for key, value in settings.items():
        for css, text in (("#search", key), (f"[id='s-{key}']", f"{value}\t")):
            browser.find(css).send_keys(Keys.CONTROL, "a", Keys.NULL, text)
        browser.until(partial(has_setting, browser, draft, key, value))
        browser.find(f".changed[data-key='{key}']")


def test_a_new_user_comes_to_a_zip_and_a_picture_by_clicks_alone(browser: Browser, program: Program, tmp_path: Path):
    """No key is pressed and no setting changed; a run of the page's own length is ended by its button."""
    browser.go("/")
    browser.click("#example")
    browser.click("#next")
    browser.until_text("#verdict", "good share")
    browser.click("#next")
    browser.click("#next")
    browser.click('[data-value="quick"]')
    browser.until_text("#checks", r"steps: 30 \+ 60")
    browser.click("#start")
    browser.until_text("#told", r"step \d+ of 30")
    browser.click("#finish")
    browser.find("#to-get")
    assert browser.text("#longer") == "Go on to its end"
    browser.click("#to-get")
    browser.click("#zip-a1111")
    browser.until((tmp_path / "mexyz_a1111.zip").is_file)
    with zipfile.ZipFile(tmp_path / "mexyz_a1111.zip") as content:
        assert content.testzip() is None and "embeddings/mexyz.safetensors" in content.namelist()
    browser.click('a[href="/runs/mexyz/try"]')
    browser.click("#draw")
    browser.until_text("#result", "^done")
    drawn = "return [...document.querySelectorAll('#result .strip img')].filter(i => i.naturalWidth).length"
    browser.until(lambda: browser.script(drawn) == 4)


def test_from_a_photo_to_a_zip_and_a_picture(browser: Browser, program: Program, tmp_path: Path):
    from selenium.webdriver.common.actions.action_builder import ActionBuilder

    draft = begin(browser, "annaxy")
    choose_mini(browser, draft, **{"stage1.steps": 12})  # long enough to be looked at while it trains
    browser.go(f"/new/{draft}/mask")
    browser.until_text("#verdict", "good share")  # found at once
    path = program.folder / "drafts" / draft / "mask_00.png"
    assert value_at(path, 3, 3) == 0
    canvas = browser.find("#canvas")
    box = browser.script("arguments[0].scrollIntoView(); return arguments[0].getBoundingClientRect().toJSON()", canvas)
    left, top = round(box["left"]) + 30, round(box["top"]) + 30
    # a stroke along the upper edge, from the left to the middle
    actions = ActionBuilder(browser.driver)
    mouse = actions.pointer_action
    mouse.move_to_location(left, top).pointer_down().move_to_location(left + round(box["width"] / 2), top).pointer_up()
    actions.perform()
    browser.until(lambda: value_at(path, 3, 3) > 200)
    assert value_at(path, 20, 3) > 200 and value_at(path, 3, 60) == 0
    browser.click("#undo")
    browser.until(lambda: value_at(path, 3, 3) < 50)
    browser.click("#next")
    browser.find("#caption")
    browser.click("#next")
    browser.until_text("#checks", "good share")
    browser.click("#start")
    browser.until(lambda: browser.driver.current_url.endswith("/runs/annaxy"))
    browser.until_text("#told", r"stage I, step \d+ of 12")
    browser.driver.refresh()
    browser.until_text("#told", r"step \d+ of (12|3)")
    browser.driver.refresh()
    browser.find("#to-try")
    assert browser.script("return document.querySelectorAll('#curve polyline').length") >= 4
    browser.until(lambda: browser.script(
        "const all = [...document.querySelectorAll('#samples img')]; for (const i of all) i.loading = 'eager';"
        "return all.length >= 18 && all.every(i => i.naturalWidth > 0)"))  # fmt: skip
    browser.click("#to-get")
    browser.click("#zip-a1111")
    file = tmp_path / "annaxy_a1111.zip"
    browser.until(file.is_file)
    with zipfile.ZipFile(file) as content:
        assert content.testzip() is None and "embeddings/annaxy.safetensors" in content.namelist()
    browser.go("/runs/annaxy/try")
    browser.script("for (const [id, n] of [['steps', 4], ['count', 1]]) document.getElementById(id).value = n",
                   browser.find("#steps"))  # fmt: skip
    browser.click("#draw")
    browser.until_text("#result", "^done")
    assert browser.script("return [...document.querySelectorAll('#result .strip img')].length") == 2


def test_a_scene_of_two_things_and_its_background(browser: Browser, program: Program):
    """Two class words, a mask for each, one of them painted, the background as a third; the sheet, and prompts."""
    browser.go("/new")
    browser.find("#photo-file").send_keys(str(ROOT / "examples" / "scene.png"))
    browser.find("#name").send_keys("duoxy")
    draft = re.search(r"/new/(\w+)/", browser.driver.current_url)
    assert draft is not None
    browser.click("details summary")
    # at once after the word: what is kept a moment after typing must not come after the new thing, and take it away
    browser.script("const word = document.getElementById('word0'); word.value = 'car';"
                   "word.dispatchEvent(new Event('input')); document.getElementById('more').click()")  # fmt: skip
    browser.find("#word1").send_keys("face")
    browser.find("#handle1").send_keys("bo")
    browser.until(lambda: draft_facts(browser, draft[1])["subjects"][1]["name"] == "bo")
    browser.click("details summary")
    browser.click("#background")
    browser.until(lambda: draft_facts(browser, draft[1])["learn_background"])
    few = {"stage1.steps": 3, "stage2.steps": 3, "scene.mixes": 2, "stage1.batch_size": 2, "stage2.batch_size": 2}
    choose(browser, draft[1], "mini-scenes", few | {"sample.num_inference_steps": 4})
    browser.go(f"/new/{draft[1]}/mask")
    folder = program.folder / "drafts" / draft[1]
    browser.until((folder / "mask_01.png").is_file)  # both are looked for, the second one before one asks for it
    assert value_at(folder / "mask_00.png", 20, 58) > 200 > value_at(folder / "mask_00.png", 62, 45)
    browser.click('[aria-label="which thing"] [data-value="1"]')
    browser.until_text("#verdict", "good share")
    assert value_at(folder / "mask_01.png", 62, 45) > 200 and value_at(folder / "mask_01.png", 48, 48) > 200
    browser.find("#canvas").send_keys("e", " ")  # a dab of the eraser where the spot is, in the middle
    browser.until(lambda: value_at(folder / "mask_01.png", 48, 48) < 50)
    browser.go(f"/new/{draft[1]}/train")
    browser.until_text("#checks", "mask of car: .*mask of face: ")
    browser.click("#start")
    browser.find("#to-try")
    browser.until(lambda: browser.script("return document.querySelector('#sheet img').naturalWidth") > 500)
    browser.go("/runs/duoxy/try")
    browser.until_text("main", "{car}, {bo}, {background}")
    browser.script("for (const [id, n] of [['steps', 4], ['count', 1]]) document.getElementById(id).value = n",
                   browser.find("#steps"))  # fmt: skip
    browser.click("#with-maps")
    browser.click("#draw")
    browser.until_text("#result", "^done")
    shown = browser.script(
        "return [...document.querySelectorAll('[aria-label=\"where it acts\"] button')].map(b => b.textContent)"
    )
    assert {"picture", "duoxycar", "duoxybo"} <= set(shown), shown
    browser.go("/runs/duoxy/get")
    browser.until_text("main", "duoxybo face and duoxycar car on the beach")


def test_stop_go_on_and_kills_lose_nothing(browser: Browser, program: Program):
    """The worker outlives the server; who looks again, in another tab too, sees the same."""
    draft = begin(browser, "bertxy")
    choose_mini(browser, draft, **{"stage1.steps": 30, "stage2.steps": 30})
    # through the job's text: a checkpoint after every second step, which is what a kill may cost
    browser.go(f"/new/{draft}/train")
    browser.click("#text summary")
    browser.script("const t = document.getElementById('toml'); t.value = t.value.replace('stage1.steps', "
                   "'run.checkpoints_total_limit = 1\\nstage1.steps')", browser.find("#toml"))  # fmt: skip
    browser.until_text("#checks", "steps: 30")
    browser.click("#start")
    browser.until_text("#told", r"stage I, step \d+ of 30")
    program.kill()
    browser.offline = True
    browser.until_text("#top", "does not answer")
    assert program.workers()  # it goes on by itself
    program.start()
    browser.until_text("#told", r"stage I, step \d+ of 30")  # the same tab, the same session
    other = browser.driver.current_window_handle
    browser.driver.switch_to.new_window("tab")
    browser.go("/runs/bertxy")
    step = int(re.findall(r"step (\d+)", browser.until_text("#told", r"step \d+ of 30"))[0])
    browser.click("#stop")
    browser.until_text(".pill", "stopped")
    browser.driver.switch_to.window(other)
    browser.until_text(".pill", "stopped")  # the other tab says so too
    browser.click("#fix-again")
    again = int(re.findall(r"step (\d+)", browser.until_text("#told", r"step \d+ of 30"))[0])
    assert again >= step  # from its state, and not from the beginning
    for pid in program.workers():
        os.kill(pid, signal.SIGKILL)
    browser.until_text(".pill", "queue|loading")  # another one is started by itself
    browser.until_text("#told", r"step \d+ of 30")
    browser.click("#finish")
    browser.find("#to-get")
    events = [
        json.loads(line) for line in (program.folder / "bertxy/logs/bertxy/events.jsonl").read_text().splitlines()
    ]
    assert events[-1]["event"] == "done" and events[-1]["finished_early"]


def test_a_failure_is_a_line_and_a_button_and_the_form_is_kept(browser: Browser, program: Program):
    draft = begin(browser, "carlxy")
    choose_mini(browser, draft)
    browser.go(f"/new/{draft}/mask")
    browser.until_text("#verdict", "good share")
    browser.click("#clear")
    browser.until_text("#verdict", "empty|too small")
    browser.until(lambda: value_at(program.folder / "drafts" / draft / "mask_00.png", 32, 32) == 0)
    browser.go(f"/new/{draft}/train")
    browser.until_text("#checks", "is empty")
    browser.click("#start")
    browser.until_text(".pill", "failed")
    assert "is empty" in browser.text("#reason") and "Traceback" not in browser.text("main")
    browser.click("#fix-mask")
    browser.until(lambda: browser.driver.current_url.endswith("/mask"))
    browser.click("#find")
    browser.until_text("#verdict", "good share")
    again = re.search(r"/new/(\w+)/", browser.driver.current_url)
    assert again is not None and draft_facts(browser, again[1])["settings"]["stage1.steps"] == 3


def test_a_password_opens_the_page_in_a_browser(tmp_path: Path):
    """Browsers fill in Origin and Referer by their own rules, which requests by hand do not show."""
    (tmp_path / "password.txt").write_text("correct horse\n")
    program = Program(tmp_path / "place", "--password_file", str(tmp_path / "password.txt"))
    browser = Browser(program, tmp_path)
    try:
        browser.find("#password").send_keys("wrong horse\n")
        browser.until_text("[role=alert]", "not the password")
        browser.find("#password").send_keys("correct horse\n")
        browser.until_text("h1", "Concepts")
        browser.until_text("#top", "idle|offline")
    finally:
        browser.close()
        program.kill()


SCREENS = ["/", "/new", "/queue", "/settings", "/compare", "/runs/annaxy", "/runs/annaxy/try", "/runs/annaxy/check",
           "/runs/annaxy/get", "/runs/annaxy/edit", "/runs/nobody"]  # fmt: skip


def test_every_screen_fits_a_phone_and_names_its_controls(program: Program, tmp_path: Path):
    browser = Browser(program, tmp_path, width=500)
    try:
        phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
        browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        for path in SCREENS:
            browser.go(path)
            browser.until(lambda: browser.text("h1") and "Loading" not in browser.text("main"))
            wide = browser.script("return document.documentElement.scrollWidth")
            assert wide <= 390, f"{path} is {wide} pixels wide"
            nameless = browser.script(
                "return [...document.querySelectorAll('button, input, select, textarea, a, [role=application]')]"
                ".filter(e => !(e.textContent.trim() || e.ariaLabel || e.title || e.labels?.length"
                " || e.querySelector('img')?.alt))"  # a link is called what its picture is
                ".map(e => e.outerHTML)"
            )
            assert not nameless, path
            images = browser.script("return [...document.querySelectorAll('img')].filter(i => i.alt === null).length")
            assert images == 0
        logged = [e["message"] for e in browser.driver.get_log("browser") if e["level"] == "SEVERE"]
        assert all("/runs/nobody" in line for line in logged)  # 404, as it should be
    finally:
        browser.close()


def test_a_mask_is_painted_by_keys_alone(browser: Browser, program: Program):
    from selenium.webdriver.common.keys import Keys

    draft = begin(browser, "keyxy")
    choose_mini(browser, draft)
    browser.go(f"/new/{draft}/mask")
    browser.until_text("#verdict", "good share")
    canvas = browser.find("#canvas")
    canvas.send_keys("e")
    canvas.send_keys(" ")
    path = program.folder / "drafts" / draft / "mask_00.png"
    browser.until(lambda: value_at(path, 32, 32) < 50)
    canvas.send_keys(Keys.CONTROL + "z")
    browser.until(lambda: value_at(path, 32, 32) > 200)
