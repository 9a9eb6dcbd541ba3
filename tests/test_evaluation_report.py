"""The report: what the page and its pictures say; and the page itself, in a headless browser.

The browser test needs selenium, chromium and chromedriver, see tests/test_mask_editor.py.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from evaluations import made_up
from PIL import Image

from singleinsert.evaluate.bootstrap import bootstrap
from singleinsert.evaluate.report import Figure, write_report
from singleinsert.evaluate.report.plots import scatter
from singleinsert.evaluate.table import best, summarise


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    results, load = made_up(folder)
    return write_report(results, folder, load), results


def test_the_page_needs_nothing_else(report):
    page, results = report
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["'](?!data:)""", text) and "url(http" not in text and "@@" not in text
    assert text.count("</script>") == 2  # the data and the script: a label with it in has not ended them
    assert "{concept} in the &lt;snow&gt; &amp; ice" in text
    for column in results.columns:
        assert column in text
    assert "ours obeys" in text and "too few to say (as claimed)" in text  # two concepts
    files = {path.name for path in page.parent.glob("*.png")}
    assert files == {"table.png", "scatter.png", "samples-anna.png", "samples-rex.png", "attention-anna.png"}
    assert (page.parent.parent / "summary.csv").read_text().startswith("method,label,column,mean,low,high")


def test_the_papers_values_stand_beside_ours_where_model_and_backbones_are_the_papers(tmp_path):
    from singleinsert.config import load_settings
    from singleinsert.evaluate.protocol import load_protocol, to_values

    results, load = made_up(tmp_path)
    facts = {"base_model": load_settings("paper").model.pretrained_model_name_or_path,
             "protocol": to_values(load_protocol("paper"))}  # fmt: skip
    like, other = (replace(results, facts=results.facts | facts | more) for more in ({}, {"base_model": "mini-sd"}))
    assert "paper 0.900" in write_report(like, tmp_path, load).read_text(encoding="utf-8")
    assert "paper 0.900" not in write_report(other, tmp_path, load).read_text(encoding="utf-8")


def test_too_few_concepts_have_no_interval_and_one_row_is_not_the_best():
    three, two = bootstrap([0.1, 0.2, 0.3]), bootstrap([0.1, 0.2])
    assert re.fullmatch(r"0\.1\d\d to 0\.\d{3}", three.ends) and two.ends == ""
    assert three.signed.startswith("+0.200 (+0.1") and two.signed == "+0.150"
    assert [three.side, two.side] == [1, 0]
    assert [bootstrap([-0.1, -0.2, -0.3]).side, bootstrap([0.5, -0.4, 0.1]).side] == [-1, 0]
    assert best({"a": {"ESR": three}}, "ESR") is None
    assert best({"a": {"ESR": three}, "b": {"ESR": two}}, "ESR") == "a"


def test_the_sample_sheet_shows_each_picture_in_its_place(report):
    from singleinsert.evaluate.report.sheets import GAP, LABEL, MARGIN, TILE

    page, _ = report
    _, load = made_up(page.parent.parent)
    with Image.open(page.parent / "samples-anna.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    first = MARGIN + LABEL + TILE // 2
    top = MARGIN + TILE + GAP + TILE // 2
    for row, method in enumerate(("plain", "ours")):
        for column in range(2):
            wanted = load(f"{method}-anna-{column}-7").getpixel((0, 0))
            assert tuple(pixels[top + row * (TILE + GAP), first + column * (TILE + GAP)]) == wanted


def test_the_front_and_the_dots_of_the_scatter(tmp_path):
    results, _ = made_up(tmp_path)
    figure = scatter(results, summarise(results))
    assert figure is not None
    svg = figure.svg()
    assert svg.count("<circle") == 4 and "stroke-dasharray" in svg  # two dots, two in the legend
    assert "plain &lt;/script&gt;" in svg
    only = replace(results, samples=[replace(s, values={"ESR": 1.0}) for s in results.samples])
    assert scatter(only, summarise(only)) is None


def test_svg_and_png_are_the_same_drawing():
    figure = Figure(100, 60)
    figure.line((10, 10), (90, 10), color="#ff0000", width=4)
    figure.dot((50, 40), "#0000ff", radius=8, title="a & b")
    figure.line((10, 50), (90, 50), color="#00ff00", width=2, dashed=True)
    pixels = np.asarray(figure.png(2))
    assert tuple(pixels[20, 100]) == (255, 0, 0) and tuple(pixels[80, 100]) == (0, 0, 255)
    green = (pixels[100, 20:180] == (0, 255, 0)).all(-1)
    assert 0.3 < green.mean() < 0.8  # dashes
    assert "<title>a &amp; b</title>" in figure.svg() and 'cx="50.0"' in figure.svg()


@pytest.mark.browser
def test_in_a_browser(report):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select, WebDriverWait

    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    assert chromium and chromedriver, "apt-get install chromium chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,1200"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    try:
        page, _ = report
        driver.get(page.as_uri())
        wait = WebDriverWait(driver, 60)
        tiles = wait.until(lambda d: d.find_elements(By.CSS_SELECTOR, "#grid .tile"))
        assert len(tiles) == 4  # two methods, two prompts
        tiles[3].click()
        shown = wait.until(lambda d: d.find_element(By.ID, "shown")).text
        assert "a sketch of {concept}" in shown and "SingleInsert" in shown and "seed 7" in shown
        assert "Is it a sketch? yes" in shown and "no" in shown and "0.410" in shown  # 0.3 + 0.1 + 0.01
        driver.find_element(By.CSS_SELECTOR, "dialog form button").click()
        Select(driver.find_element(By.ID, "concept")).select_by_visible_text("rex")
        Select(driver.find_element(By.ID, "seed")).select_by_visible_text("seed 8")
        driver.find_elements(By.CSS_SELECTOR, "#grid .tile")[0].click()
        shown = driver.find_element(By.ID, "shown").text
        assert "rex (dog)" in shown and "seed 8" in shown and "plain </script>" in shown
        assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []
    finally:
        driver.quit()


def test_the_docs_are_filled_by_a_command(tmp_path, monkeypatch, capsys):
    from testbed import evaluation_docs

    folder = tmp_path / "table2"
    results, load = made_up(folder)
    facts = {"methods": "table2", "protocol": {"seeds": 2}, "model_digest": "0123456789abcdef",
             "sampling": {"steps": 25, "guidance_scale": 4.0}}  # fmt: skip
    results.facts.update(facts)
    results.save(folder)
    write_report(results, folder, load)
    docs = tmp_path / "ablation.md"
    docs.write_text("# Title\n<!-- table2 -->\nNot measured yet.\n<!-- /table2 -->\nend\n")
    monkeypatch.setattr(evaluation_docs, "PAGES", (docs,))
    monkeypatch.setattr(evaluation_docs, "IMAGES", tmp_path / "images")
    monkeypatch.setattr(evaluation_docs, "KEPT", tmp_path)
    monkeypatch.setattr("sys.argv", ["evaluation_docs", str(folder)])
    assert evaluation_docs.main() == 0
    text = docs.read_text()
    assert "Not measured" not in text and text.startswith("# Title") and text.endswith("end\n")
    assert "2 concepts (1 face, 1 dog), 2 prompts, 2 pictures of each, 25 DDIM steps, guidance 4" in text
    assert (
        "| Ours: SingleInsert |" in text and "| ours obeys | ESR" in text and "| too few to say (as claimed) |" in text
    )
    images = {path.name for path in (tmp_path / "images").iterdir()}
    assert images == {"ablation-table2-scatter.png", "ablation-table2-samples.png", "ablation-table2-attention.png"}


def test_every_set_of_methods_has_its_block_in_the_docs():
    from singleinsert.evaluate.methods import set_names
    from testbed.evaluation_docs import PAGES

    def blocks(*paths):
        return {name for path in paths for name in re.findall(r"<!-- ([\w-]+) -->", path.read_text(encoding="utf-8"))}

    assert set(set_names()) <= blocks(*PAGES[0].parent.glob("*.md"))
    # the same at other settings, and other rows of the same
    assert blocks(*PAGES) - set(set_names()) == {"table2-long", "scenes-baselines"}
