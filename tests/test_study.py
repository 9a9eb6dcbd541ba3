"""People as judges: what they are asked, their answers on disk, the statistics, the page, and the page in a browser."""

from __future__ import annotations

import csv
import http.client
import io
import json
import math
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from singleinsert.errors import ConfigError, InputError
from singleinsert.evaluate.__main__ import main
from singleinsert.evaluate.cache import Cache
from singleinsert.evaluate.results import Results, Sample
from singleinsert.evaluate.study.answers import COLUMNS, Answer, AnswerFile, read_answers
from singleinsert.evaluate.study.page import Study
from singleinsert.evaluate.study.questions import COMPARISON, RATING, make_items
from singleinsert.evaluate.study.statistics import compare_methods, rate_methods
from singleinsert.loopback import LoopbackServer

METHODS, CONCEPTS = ("plain", "masked", "whole"), ("anna", "rex")
COLOURS = {"plain": (200, 60, 60), "masked": (60, 160, 60), "whole": (60, 60, 200)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An evaluation of three methods, two concepts, two prompts; each method's pictures have a colour of their own."""
    out, samples = tmp_path / "table", []
    cache = Cache(tmp_path / "cache")
    for c, concept in enumerate(CONCEPTS):
        (out / "references").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (48, 48), (90 + 60 * c, 90, 90)).save(out / "references" / f"{concept}.png")
        for prompt in range(2):
            for method in METHODS:
                key = f"{concept}{prompt}{method}"
                cache.save_picture(key, Image.new("RGB", (48, 48), COLOURS[method]))
                samples.append(Sample(method, concept, prompt, 0, key))
    prompts = [{"text": "{concept} in the snow", "questions": []}, {"text": "a painting of {concept}", "questions": []}]
    concepts = [
        {"name": name, "class_word": word, "picture": f"references/{name}.png", "prompts": prompts}
        for name, word in zip(CONCEPTS, ("face", "dog"), strict=True)
    ]
    methods = [{"name": m, "label": m.title(), "group": "", "note": "", "paper": {}, "settings": {}} for m in METHODS]
    Results("Three methods", {"cache": "../cache"}, methods, [], concepts, samples).save(out)
    return out


def items_of(folder: Path, kind: str, **more: Any) -> list:
    given: dict[str, Any] = {"methods": (), "seed": "study", "rater": "me", "count": 0}
    return make_items(Results.load(folder), kind, **given | more)


# --- what is asked ----------------------------------------------------------------------------------------------------
def test_every_screen_once_in_an_order_that_the_names_decide(folder):
    rating, comparison = items_of(folder, RATING), items_of(folder, COMPARISON)
    assert len(rating) == 4 and len(comparison) == 4 * 3  # two concepts and prompts; three pairs of methods
    assert all(set(item.methods) == {*METHODS} for item in rating)
    assert {item.text for item in rating} == {
        "face in the snow", "a painting of face", "dog in the snow", "a painting of dog"
    }  # fmt: skip
    assert items_of(folder, RATING) == rating
    others = [items_of(folder, RATING, seed=f"s{k}") for k in range(10)]
    assert any([i.key for i in other] != [i.key for i in rating] for other in others)
    assert {i.key for other in others for i in other} == {i.key for i in rating}
    # who stands first is even over many seeds: 40 screens, three methods, about 13 each
    first = [item.methods[0] for other in others for item in other]
    assert all(4 <= first.count(method) <= 24 for method in METHODS)
    for item in rating:
        assert [picture.removeprefix(f"{item.concept}{item.prompt}") for picture in item.pictures] == [*item.methods]


def test_a_part_is_spread_over_the_concepts(folder):
    assert sorted(item.concept for item in items_of(folder, COMPARISON, count=4)) == ["anna", "anna", "rex", "rex"]
    pairs = {frozenset(item.methods) for item in items_of(folder, COMPARISON, methods=("plain", "whole"))}
    assert pairs == {frozenset(("plain", "whole"))}
    with pytest.raises(ConfigError, match="--methods who: the results have plain, masked, whole"):
        items_of(folder, RATING, methods=("who",))
    with pytest.raises(ConfigError, match="at least two"):
        items_of(folder, RATING, methods=("plain",))


# --- the answers ------------------------------------------------------------------------------------------------------
def answer(method: str, value: str, question: str = "prompt", item: str = "a/0/0/x", rater: str = "me", **more: str):
    given = {"concept": item.partition("/")[0], "text": "a face, in snow", "methods": "plain|masked", "time": "now"}
    return Answer(rater=rater, item=item, method=method, question=question, answer=value, **given | more)


def test_answers_are_on_disk_at_once_and_the_last_one_counts(tmp_path):
    file = AnswerFile(tmp_path, RATING, "me")
    for value in ("3", "5"):
        file.add(answer("plain", value))
    rows = list(csv.reader(file.path.open(encoding="utf-8")))
    assert rows[0] == COLUMNS and [row[7] for row in rows[1:]] == ["3", "5"] and len(rows) == 3
    again = AnswerFile(tmp_path, RATING, "me")
    assert [each.answer for each in again.answers.values()] == ["5"]
    # a crash has cut the last row: it is not counted, and the next one does not go into it
    with file.path.open("ab") as stream:
        stream.write(b'me,a/0/0/x,a,"a face')
    again = AnswerFile(tmp_path, RATING, "me")
    assert len(again.answers) == 1
    again.add(answer("masked", "1"))
    assert [each.answer for each in read_answers(file.path)] == ["5", "1"]


def test_files_and_names_that_are_none(tmp_path):
    for rater in ("", "../me", "a b", ".hidden", "x" * 61):
        with pytest.raises(InputError, match="--rater"):
            AnswerFile(tmp_path, RATING, rater)
    (tmp_path / "rate-me.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="was not written by a study"):
        AnswerFile(tmp_path, RATING, "me")


# --- the statistics ---------------------------------------------------------------------------------------------------
def test_ratings_by_hand_and_by_scipy():
    given = {"plain": [1, 2, 2, 3], "masked": [4, 4, 5, 5], "whole": [2, 3, 3, 4]}
    answers = [
        answer(method, str(value), item=f"{'ab'[k // 2]}/{k}/0/x") for method, values in given.items()
        for k, value in enumerate(values)
    ]  # fmt: skip
    found = rate_methods(answers, [*given, "nobody"], "prompt")
    assert found.methods["plain"].mean == 2 and found.methods["plain"].count == 4
    assert found.methods["plain"].deviation == pytest.approx(math.sqrt(2 / 3))  # (1 + 0 + 0 + 1) / 3
    assert found.kruskal == pytest.approx(stats.kruskal(*given.values()).pvalue)
    assert [(d.a, d.b) for d in found.differences] == [("plain", "masked"), ("plain", "whole"), ("masked", "whole")]
    tukey = stats.tukey_hsd(*given.values()).pvalue
    assert [d.tukey for d in found.differences] == pytest.approx([tukey[0, 1], tukey[0, 2], tukey[1, 2]])
    # paired by screen, mean of each concept: a (1 + 2) - (4 + 4) = -5 of two, b (2 + 3) - (5 + 5) = -5 of two
    interval = found.differences[0].interval
    assert (interval.mean, interval.low, interval.high, interval.count) == (-2.5, -2.5, -2.5, 2)
    assert found.differences[1].interval.mean == -1  # every screen: one less
    assert rate_methods(answers, ["plain", "nobody"], "prompt") is None and not rate_methods(answers, [*given], "who")
    same = [answer(method, "3", item=f"a/{k}/0/x") for method in ("plain", "masked") for k in range(3)]
    found = rate_methods(same, ["plain", "masked"], "prompt")
    assert found.kruskal == 1 and math.isnan(found.differences[0].tukey)


def test_the_published_ratings_have_the_p_that_the_paper_prints():
    """Ratings drawn to Table 4's means and deviations, 1215 of each method: "p < 1e-213"."""
    rng, answers = np.random.default_rng(0), []
    for method, mean, deviation in (
        ("TI-m", 2.69, 1.3), ("DB-m", 3.97, 0.95), ("CD-m", 2.47, 1.3), ("ELITE", 3.05, 1.31), ("Ours", 3.56, 1.27)
    ):  # fmt: skip
        values = np.clip(np.rint(rng.normal(mean, deviation, 1215)), 1, 5).astype(int)
        answers += [answer(method, str(v), "identity", f"c{k % 50}/{k}/0/x") for k, v in enumerate(values)]
    found = rate_methods(answers, ["TI-m", "DB-m", "CD-m", "ELITE", "Ours"], "identity")
    assert found.kruskal < 1e-150


def test_comparisons_by_hand():
    rows = [("a", "plain|masked", "left"), ("a", "masked|plain", "right"), ("a", "plain|masked", "cannot say"),
            ("b", "masked|plain", "left"), ("c", "masked|plain", "right"), ("d", "plain|masked", "left"),
            ("e", "masked|plain", "right"), ("f", "plain|whole", "left")]  # fmt: skip
    answers = [
        answer("", value, "text", f"{concept}/{k}/0/x", methods=methods)
        for k, (concept, methods, value) in enumerate(rows)
    ]
    found = compare_methods(answers, "plain", "masked", "text")
    # plain: a twice, c, d, e; masked: b. Concepts: a, c, d, e against b: p = 2 * (1 + 5) / 2^5
    assert (found.wins_a, found.ties, found.wins_b) == (5, 1, 1)
    assert (found.concepts_a, found.concepts_b, found.sign) == (4, 1, pytest.approx(2 * (1 + 5) / 32))
    mirrored = compare_methods(answers, "masked", "plain", "text")
    assert (mirrored.wins_a, mirrored.wins_b, mirrored.sign) == (1, 5, found.sign)
    assert compare_methods(answers, "plain", "masked", "overall") is None
    undecided = [answer("", "cannot say", "text")]
    assert compare_methods(undecided, "plain", "masked", "text").sign == 1


# --- the page ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def server(folder) -> Iterator[LoopbackServer]:
    cache = Cache(folder.parent / "cache")
    file = AnswerFile(folder / "study", RATING, "me")
    running = LoopbackServer(Study(RATING, items_of(folder, RATING), file, folder, cache.load_picture), 0)
    threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


def request(server: LoopbackServer, method: str, path: str, value: Any = None, **headers: str) -> tuple[int, bytes]:
    host = f"127.0.0.1:{server.server_port}"
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    given = {"Host": host, "Origin": f"http://{host}", "Content-Type": "application/json"} | headers
    connection.request(method, f"/{server.token}/{path}", json.dumps(value) if value is not None else None, given)
    reply = connection.getresponse()
    out = reply.status, reply.read()
    connection.close()
    return out


def test_the_page_names_no_method_and_keeps_each_answer(server, folder):
    status, body = request(server, "GET", "")
    page, study = body.decode(), server.site
    assert status == 200 and not any(re.search(rf"\b{method}\b", page, re.IGNORECASE) for method in METHODS)
    state = json.loads(re.search(r"const data = (\{.*?\}), at", page)[1])
    assert len(state["screens"]) == 4 and state["screens"][0]["answers"] == [{}, {}, {}]
    assert state["screens"][0]["questions"]["identity"].startswith("Does it show the same ")
    for place, item in enumerate(study.items):
        status, body = request(server, "GET", f"picture/{place}/1")
        assert status == 200 and Image.open(io.BytesIO(body)).getpixel((0, 0)) == COLOURS[item.methods[1]]
        assert request(server, "GET", f"reference/{place}")[0] == 200
    for path in ("picture/0/3", "picture/9/0", "picture/0", "picture/-1/0", "reference/x", "reference/0/0", "answer"):
        assert request(server, "GET", path)[0] == 404
    wanted = {"screen": 2, "picture": 1, "question": "identity", "answer": "4"}
    assert json.loads(request(server, "POST", "answer", wanted)[1]) == {"answers": 1}
    (kept,) = read_answers(folder / "study" / "rate-me.csv")
    item = study.items[2]
    assert (kept.item, kept.method, kept.answer) == (item.key, item.methods[1], "4")
    assert study.state()["screens"][2]["answers"] == [{}, {"identity": "4"}, {}] and study.answered == 0


@pytest.mark.parametrize(
    "wrong",
    [{"screen": 4}, {"screen": -1}, {"screen": True}, {"picture": 3}, {"question": "who"}, {"answer": "6"},
     {"answer": 4}, {"answer": "left"}],
)  # fmt: skip
def test_what_no_page_of_ours_sends_is_refused(server, folder, wrong):
    wanted: dict[str, Any] = {"screen": 0, "picture": 0, "question": "prompt", "answer": "4"}
    assert request(server, "POST", "answer", wanted | wrong)[0] == 400
    assert request(server, "POST", "answer", [wanted])[0] == 400 and request(server, "POST", "who", wanted)[0] == 404
    assert request(server, "POST", "answer", wanted, Origin="http://evil.example")[0] == 403
    assert request(server, "GET", "picture/0/0", Host="evil.example")[0] == 403
    assert not (folder / "study").exists()


# --- the command ------------------------------------------------------------------------------------------------------
def test_the_report_and_its_errors(folder, capsys):
    study = ["study", "report", "--results", str(folder)]
    assert main(study) == 2 and "holds no answers yet" in capsys.readouterr().err
    rated, compared = AnswerFile(folder / "study", RATING, "me"), AnswerFile(folder / "study", COMPARISON, "you")
    for k, item in enumerate(items_of(folder, RATING)):
        for method, value in zip(METHODS, ("1", "3", str(4 + k % 2)), strict=True):
            for question in ("prompt", "identity"):
                rated.add(answer(method, value, question, item.key, concept=item.concept))
    for item in items_of(folder, COMPARISON, methods=("plain", "whole")):
        side = "left" if item.methods[0] == "whole" else "right"
        given = {"concept": item.concept, "methods": "|".join(item.methods), "rater": "you"}
        compared.add(answer("", side, "overall", item.key, **given))
    assert main([*study, "--published", "break-a-scene,sid"]) == 0
    said = capsys.readouterr().out
    assert "| Plain | 1.00 ± 0.00 | 1.00 ± 0.00 | 4 |" in said and "| Whole | 4.50 ± 0.58 | 4.50 ± 0.58 | 4 |" in said
    assert "| Plain less Masked | -2.00 | -2.00 to -2.00 | 2 |" in said and "Kruskal-Wallis p " in said
    assert "24 answers by 1 person about 2 concepts." in said
    assert "| overall | 0.0% | 0.0% | 100.0% | 4 | 0 : 2 | 0.5000 |" in said
    assert "| Break-A-Scene | 3.56 ± 1.27 | 3.85 ± 1.21 |" in said and "| cannot say | 23.2 |" in said
    assert (folder / "study" / "report.md").read_text(encoding="utf-8") in said
    assert main([*study, "--published", "who"]) == 2
    assert "--published who: there is break-a-scene, sid" in capsys.readouterr().err
    wrong = {
        "--methods plain": "at least two", "--rater a/b": "--rater 'a/b'", "--count -1": "--count -1",
        "--published sid": "--published is for the report",
    }  # fmt: skip
    for more, line in wrong.items():
        assert main(["study", "rate", "--results", str(folder), *more.split()]) == 2
        assert line in capsys.readouterr().err
    key = Results.load(folder).samples[0].picture
    Cache(folder.parent / "cache").picture(key).unlink()
    assert main(["study", "rate", "--results", str(folder)]) == 2
    assert key in capsys.readouterr().err


# --- in a browser -----------------------------------------------------------------------------------------------------
class Page:
    """The true command and a selenium driver on its page."""

    def __init__(self, folder: Path, *more: str, size: str = "1300,1000", dark: bool = False) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
        assert chromium and chromedriver, "apt-get install chromium chromium-driver"
        command = [sys.executable, "-u", "-m", "singleinsert.evaluate", "study", *more, "--results", str(folder)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self.process.stdout
        lines = [self.process.stdout.readline() for _ in range(2)]
        address = re.search(r"open (http://127\.0\.0\.1:\d+/[\w-]+/)", lines[1])
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--window-size={size}",
                     *(["--blink-settings=preferredColorScheme=0"] if dark else [])):  # fmt: skip
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(chromedriver))
        assert address, lines
        self.driver.get(address[1])

    def choose(self, picture: int, question: str, option: str) -> None:
        """Click one answer of the screen that is shown."""
        script = """const [number, name, option] = arguments;
            document.querySelector(`input[name$="-${number}-${name}"][value="${option}"]`).closest("label").click()"""
        self.driver.execute_script(script, picture, question, option)

    def text(self, name: str) -> str:
        return self.driver.execute_script("return document.getElementById(arguments[0]).textContent", name)

    def wait(self, until: Any) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, 60).until(lambda _: until())

    def close(self) -> None:
        self.driver.quit()
        self.process.terminate()
        self.process.wait(20)


@pytest.mark.browser
def test_a_person_rates_leaves_comes_back_and_ends(folder, tmp_path):
    file = folder / "study" / "rate-ann.csv"
    page = Page(folder, "rate", "--rater", "ann", "--count", "2")
    try:
        page.wait(lambda: page.driver.execute_script("return [...document.images].every(i => i.naturalWidth === 48)"))
        assert page.text("count") == "screen 1 of 2, 0 answered"
        for picture in range(3):
            for question in ("prompt", "identity"):
                page.choose(picture, question, str(2 + picture))
        page.wait(lambda: file.is_file() and len(read_answers(file)) == 6)
        page.wait(lambda: page.text("count") == "screen 1 of 2, 1 answered")
        page.driver.save_screenshot(str(tmp_path / "rate.png"))
        page.driver.find_element("id", "on").click()
        page.choose(0, "prompt", "5")
        page.wait(lambda: len(read_answers(file)) == 7)
        assert page.text("said") == "5 questions of this screen are open."
        page.process.terminate()  # the program is gone: an answer is not kept, and the page says so
        page.process.wait(20)
        page.choose(0, "identity", "5")
        page.wait(lambda: "not kept" in page.text("said"))
        script = "return document.querySelectorAll('input:checked').length"
        assert page.driver.execute_script(script) == 1 and len(read_answers(file)) == 7
    finally:
        page.close()
    page = Page(folder, "rate", "--rater", "ann", "--count", "2", size="520,1100", dark=True)
    try:
        page.wait(lambda: page.text("count") == "screen 2 of 2, 1 answered")  # where it was left
        for picture in range(3):
            for question in ("prompt", "identity"):
                page.choose(picture, question, "3")
        page.wait(lambda: page.text("said").startswith("All screens are answered."))
        page.driver.save_screenshot(str(tmp_path / "rate-dark.png"))
        assert not [entry for entry in page.driver.get_log("browser") if entry["level"] == "SEVERE"]
    finally:
        page.close()
    assert len(read_answers(file)) == 12


@pytest.mark.browser
def test_a_person_compares(folder, tmp_path):
    file = folder / "study" / "compare-bob.csv"
    page = Page(folder, "compare", "--rater", "bob", "--methods", "plain,whole", "--count", "1")
    try:
        for question in ("subject", "non-subject", "text"):
            page.choose(0, question, "left")
        page.choose(0, "overall", "cannot say")
        page.wait(lambda: page.text("said").startswith("All screens are answered."))
        page.wait(lambda: file.is_file() and len(read_answers(file)) == 4)
        page.driver.save_screenshot(str(tmp_path / "compare.png"))
        # by the keyboard, as a form has it: an arrow moves the choice
        from selenium.webdriver.common.keys import Keys

        page.driver.find_element("css selector", "input[name$='-subject'][value=left]").send_keys(Keys.ARROW_RIGHT)
        page.wait(lambda: len(file.read_text().splitlines()) == 6)
        assert not [entry for entry in page.driver.get_log("browser") if entry["level"] == "SEVERE"]
    finally:
        page.close()
    found = {each.question: each.answer for each in read_answers(file)}
    assert found == {"subject": "cannot say", "non-subject": "left", "text": "left", "overall": "cannot say"}
