"""The mask editor: what paint and clicks do to the mask; and the page itself, in a headless browser.

The browser test needs gradio, selenium, chromium and chromedriver (`apt-get install chromium chromium-driver`).
`make test-browser` installs the first two and runs it; there it fails where one is missing.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from photos import write_photo
from PIL import Image

from singleinsert.data.pictures import Picture
from singleinsert.errors import InputError
from singleinsert.masks.editor import OPACITY, PAINT, SHOWN_SIDE, Session


def session(tmp_path: Path, size: tuple[int, int] = (100, 80), **options: Any) -> Session:
    return Session(Picture(Image.new("RGB", size, (90, 90, 90)), None, Path("a.png")), tmp_path / "m.png", options)


def painted(edit: Session, box: tuple[int, int, int, int], alpha: int = 255) -> Image.Image:
    """The page's layer after a stroke over `box`; alpha 0 is the eraser."""
    layer = edit.layer()
    layer.paste((*PAINT, alpha), box)
    return layer


def solid(mask: Image.Image) -> np.ndarray:
    return np.asarray(mask) >= 128


def test_it_starts_from_the_file_or_empty(tmp_path):
    assert not solid(session(tmp_path).mask).any()
    mask = Image.new("L", (100, 80))
    mask.paste(255, (10, 10, 50, 50))
    mask.save(tmp_path / "m.png")
    edit = session(tmp_path)
    assert edit.mask == mask
    shown = np.asarray(edit.layer())
    assert shown[20, 20].tolist() == [*PAINT, OPACITY] and shown[60, 60, 3] == 0
    Image.new("L", (9, 9)).save(tmp_path / "m.png")
    with pytest.raises(InputError, match="is 9x9 but the picture is 100x80"):
        session(tmp_path)


def test_brush_and_eraser(tmp_path):
    edit = session(tmp_path)
    edit.take_paint([painted(edit, (10, 10, 60, 60))])
    assert np.count_nonzero(solid(edit.mask)) == 2500
    edit.take_paint([painted(edit, (10, 10, 20, 60), alpha=0)])
    assert np.count_nonzero(solid(edit.mask)) == 2000 and not solid(edit.mask)[30, 15]


def test_nothing_painted_changes_nothing(tmp_path):
    """Soft edges too, though what the page shows of them is coarser."""
    soft = Image.fromarray(np.tile(np.arange(100, dtype=np.uint8) * 2, (80, 1)))
    soft.save(tmp_path / "m.png")
    edit = session(tmp_path)
    edit.take_paint([edit.layer()])
    assert edit.mask == soft


def test_a_large_picture_keeps_its_resolution_where_nobody_painted(tmp_path):
    size = (2 * SHOWN_SIDE + 100, SHOWN_SIDE)
    fine = np.zeros((size[1], size[0]), np.uint8)
    fine[100:400, 100:400:2] = 255  # stripes of one pixel
    Image.fromarray(fine).save(tmp_path / "m.png")
    edit = session(tmp_path, size)
    assert max(edit.shown_size) == SHOWN_SIDE and edit.background().size == edit.shown_size == edit.layer().size
    edit.take_paint([painted(edit, (600, 200, 700, 300))])
    after = np.asarray(edit.mask)
    assert np.array_equal(after[:, :450], fine[:, :450])
    scale = size[0] / SHOWN_SIDE
    assert np.count_nonzero(after[:, 500:] >= 128) == pytest.approx((100 * scale) ** 2, rel=0.02)


def test_clicks(tmp_path):
    """A bright square on dark ground, outlined by GrabCut: SAM is not here."""
    values = np.full((120, 160, 3), 40, np.int16)
    values[40:80, 60:100] = (220, 180, 60)
    values += np.random.default_rng(0).integers(-8, 8, values.shape, dtype=np.int16)
    picture = Picture(Image.fromarray(values.clip(0, 255).astype(np.uint8)), None, Path("a.png"))
    edit = Session(picture, tmp_path / "m.png", {})
    scale = edit.overlay().width / 160
    assert scale > 1, "small pictures are shown larger, clicks come in their pixels"
    assert edit.click(20 * scale, 100 * scale, False) == "now click on the subject"
    assert edit.click(80 * scale, 60 * scale, True) == "2 point(s), outlined by GrabCut"
    square = np.zeros((120, 160), bool)
    square[40:80, 60:100] = True
    mask = solid(edit.mask)
    assert np.count_nonzero(mask & square) / np.count_nonzero(mask | square) > 0.9


def test_saving(tmp_path):
    edit = session(tmp_path)
    with pytest.raises(InputError, match="empty"):
        edit.save()
    assert not (tmp_path / "m.png").exists()
    edit.take_paint([painted(edit, (10, 10, 50, 50))])
    assert edit.save() == f"saved {tmp_path / 'm.png'}: 20.0% of the picture"
    assert Image.open(tmp_path / "m.png").tobytes() == edit.mask.tobytes()


# --- the page, in a browser -------------------------------------------------------------------------------------------


@pytest.fixture
def page(tmp_path) -> Iterator[tuple[Any, Path]]:
    """(selenium driver on the running page of the astronaut, the mask file)."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    assert chromium and chromedriver, "apt-get install chromium chromium-driver"
    photo = write_photo("astronaut", tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "singleinsert.masks", "edit", "--image", str(photo), "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1600,1400"):
        options.add_argument(flag)
    options.add_argument("--enable-unsafe-swiftshader")  # the canvas is WebGL, which headless machines draw in software
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, server.stdout.read() if server.stdout else ""
            time.sleep(1)
        driver.get(f"http://127.0.0.1:{port}/")
        yield driver, tmp_path / "astronaut_mask.png"
    finally:
        driver.quit()
        server.terminate()
        server.wait(20)


@pytest.mark.browser
def test_the_page_paints_erases_clicks_and_saves(page):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    driver, file = page
    wait = WebDriverWait(driver, 300)

    def css(selector: str) -> Any:
        return wait.until(lambda d: d.find_element(By.CSS_SELECTOR, selector))

    def wait_for(text: str) -> str:
        wait.until(lambda d: text in d.find_element(By.CSS_SELECTOR, "#said textarea").get_attribute("value"))
        return driver.find_element(By.CSS_SELECTOR, "#said textarea").get_attribute("value")

    def stroke(dx: int, dy: int) -> None:
        ActionChains(driver).move_to_element(canvas).click_and_hold().move_by_offset(dx, dy).release().perform()
        time.sleep(2)  # the canvas draws and hands its layers over on its own clock

    def save() -> np.ndarray:
        before = file.stat().st_mtime_ns if file.exists() else 0
        css("#save").click()
        wait.until(lambda d: file.exists() and file.stat().st_mtime_ns != before)
        return np.asarray(Image.open(file)) >= 128

    canvas = css("#canvas canvas")
    time.sleep(5)
    css("#save").click()
    assert "not saved: the mask is empty" in wait_for("not saved") and not file.exists()

    stroke(60, 0)
    mask = save()
    assert mask.shape == (512, 512) and mask[256, 256] and 0.001 < mask.mean() < 0.1
    assert f"saved {file}" in wait_for("saved ")

    css("#canvas button[aria-label=Erase]").click()
    time.sleep(1)
    stroke(10, 0)
    erased = save()
    assert not erased[256, 256] and 0 < np.count_nonzero(erased) < np.count_nonzero(mask)
    assert not (erased & ~mask).any()

    shown = css("#shown img")
    ActionChains(driver).move_to_element(shown).click().perform()
    wait_for("1 point(s), outlined by GrabCut")
    time.sleep(2)
    clicked = save()
    assert clicked[256, 256] and clicked.sum() > 3 * mask.sum()
