"""The command: everything once, nothing twice, killed and gone on, alone and with others."""

from __future__ import annotations

import csv
import json
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from batches import same_to_the_bit, until
from evaluations import arguments, start
from PIL import Image
from runs import QUIET

from singleinsert.artifact import Artifact
from singleinsert.data.subject import Frame, Subject, TrainingPicture
from singleinsert.evaluate.__main__ import main
from singleinsert.evaluate.prompt_lists import load_prompts
from singleinsert.evaluate.protocol import Protocol
from singleinsert.evaluate.results import Results
from singleinsert.evaluate.scoring import Scorer

UNITS = [(concept, method) for concept in ("a", "b") for method in ("first", "plain", "whole")]


@pytest.fixture(scope="module")
def done(tiny_sd, tmp_path_factory) -> Path:
    """A folder with a whole evaluation under out/."""
    folder = tmp_path_factory.mktemp("evaluation")
    assert main(arguments(folder, tiny_sd)) == 0
    return folder


def forbid(monkeypatch, *names: str) -> None:
    def never(*args, **kwargs):
        raise AssertionError("done again")

    for name in names:
        monkeypatch.setattr(f"singleinsert.evaluate.studio.{name}", never)


def test_every_method_concept_prompt_and_seed(done):
    results = Results.load(done / "out")
    assert Counter((s.concept, s.method) for s in results.samples) == dict.fromkeys(UNITS, 4)
    assert {(s.prompt, s.seed) for s in results.samples} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert len({s.picture for s in results.samples}) == 24  # no two rows have drawn the same
    assert results.columns == ["ESR"] and all(len(s.targets) == s.prompt + 1 for s in results.samples)
    for sample in results.samples:
        assert sample.values["ESR"] == sum(sample.targets) / len(sample.targets)
    assert results.facts["packages"]["torch"] and results.facts["protocol"]["seeds"] == 2
    assert results.methods[0]["settings"]["stage2.steps"] == 0
    rows = list(csv.DictReader((done / "out" / "samples.csv").open()))
    assert len(rows) == 24 and rows[0]["prompt"] == "{concept} in the snow"
    report = done / "out" / "report"
    assert {p.name for p in report.iterdir()} >= {"index.html", "table.png", "samples-a.png", "attention-a.png"}
    assert not (report / "attention-b.png").exists()  # --attention 1
    assert not [p for p in (done / "out" / ".work").iterdir() if p.name != "state"]


def test_the_concepts_are_those_of_train_singleinsert(done, tiny_sd, tmp_path):
    """Stage I was trained once for three rows: each is what training alone makes of its settings, to the bit."""
    from runs import small_settings

    from singleinsert.training.run import train

    changes = {"stage2__objective": "full_image", "stage2__loss_space": "epsilon"}
    changes |= {"stage1__timestep_importance": 0.5, "stage1__stratified_timesteps": True}  # as preset mini+plain has it
    image = str(done / "input" / "pic.png")
    settings = small_settings(
        tmp_path, tiny_sd, data__image=image, data__mask=image.replace(".png", "_mask.png"), **changes
    )  # fmt: skip
    alone = train(settings, watch=QUIET).artifact
    cached = [Artifact.load(path) for path in (done / "cache" / "concepts").iterdir()]
    assert len(cached) == 6 and sum(same_to_the_bit(artifact, alone) for artifact in cached) == 1


def test_again_nothing_is_done(done, tiny_sd, monkeypatch):
    before = (done / "out" / "samples.csv").read_bytes()
    forbid(monkeypatch, "train", "ConceptPipeline")
    assert main(arguments(done, tiny_sd)) == 0
    assert (done / "out" / "samples.csv").read_bytes() == before


def test_what_another_evaluation_made_is_taken(done, tiny_sd, monkeypatch):
    """Another folder, other prompts and rows: pictures and concepts come from the cache."""
    forbid(monkeypatch, "train", "ConceptPipeline")
    more = ("--rows", "plain,first", "--prompt_limit", "1", "--only", "b", "--attention", "0")
    assert main(arguments(done, tiny_sd, *more, out="less")) == 0
    less, all_of_it = Results.load(done / "less"), Results.load(done / "out")
    assert {(s.concept, s.method) for s in less.samples} == {("b", "first"), ("b", "plain")}
    assert {s.picture for s in less.samples} <= {s.picture for s in all_of_it.samples}
    counts = less.facts["last_run"]["of_this_process"]["counts"]
    assert counts == {"concepts": 2, "pictures": 4}


def test_what_is_missing_is_made_again_and_the_rest_is_not(done, tiny_sd, monkeypatch):
    results = Results.load(done / "out")
    (score,) = (done / "out" / "scores").glob("a-*/plain.json")
    lost = [s for s in results.samples if (s.concept, s.method) == ("a", "plain")][2]
    picture = done / "cache" / "pictures" / lost.picture[:2] / f"{lost.picture}.png"
    before = np.asarray(Image.open(picture))
    score.unlink()
    picture.unlink()
    forbid(monkeypatch, "train")
    assert main(arguments(done, tiny_sd)) == 0
    # drawn alone, and not among others: how a processor adds up may depend on that
    assert np.abs(np.asarray(Image.open(picture)).astype(int) - before).max() <= 1
    again = Results.load(done / "out")
    for sample, first in zip(again.samples, results.samples, strict=True):
        assert replace(sample, values={}) == replace(first, values={})
        assert sample.values == pytest.approx(first.values, abs=0 if sample.picture != lost.picture else 0.01)
    assert again.facts["last_run"]["of_this_process"]["counts"]["drawn"] == 1


def test_killed_gone_on_and_shared(done, tiny_sd, tmp_path):
    """SIGKILL after the first row, SIGTERM after the second, which reports what is there; then two processes finish it.
    The table is that of the undisturbed evaluation."""
    words = arguments(tmp_path, tiny_sd)
    process = start(*words)
    until(process, "[1/6]")
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    assert not (tmp_path / "out" / "results.json").exists()
    trained = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "cache" / "concepts").iterdir()}
    assert trained
    process = start(*words)
    until(process, "[2/6]")
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 143 and "Traceback" not in said and "stopped" in said, said
    assert [c["name"] for c in Results.load(tmp_path / "out").concepts] == ["a"]
    assert (tmp_path / "out" / "report" / "index.html").is_file()
    workers = [start(*words), start(*words)]
    for worker in workers:
        said, _ = worker.communicate(timeout=1800)
        assert worker.returncode == 0, said
    kept = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "cache" / "concepts").iterdir()}
    assert len(kept) == 6 and trained.items() <= kept.items()
    assert (tmp_path / "out" / "samples.csv").read_bytes() == (done / "out" / "samples.csv").read_bytes()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--rows", "furst"], "no method 'furst'; did you mean first"),
        (["--only", "c"], "--only c: no such concept; there are: a, b"),
        (["--concepts", "python:nowhere:f"], "No module named 'nowhere'"),
        (["--judge", "python:evaluations:dark"], "has no function or judge 'dark'"),
        (["--prompts", "mini", "--class_word", "x"], "--class_word belongs to one concept"),
        (["--methods", "tabel2"], "unknown set of methods 'tabel2'; did you mean table2"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_done(tiny_sd, tmp_path, capsys, monkeypatch, more, message):
    forbid(monkeypatch, "train")
    assert main(arguments(tmp_path, tiny_sd, *more)) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error


def test_a_judge_that_waits_stops_nothing_else(tiny_sd, tmp_path, capsys, monkeypatch):
    """Everything is trained and drawn, the exit code says that something is missing, and the next start scores."""
    import evaluations

    from singleinsert.errors import InputError

    judge = evaluations.bright

    def waits(pictures, targets):
        raise InputError("12 questions wait for people")

    monkeypatch.setattr(evaluations, "bright", waits)
    words = arguments(tmp_path, tiny_sd, concepts=["a"])
    assert main(words) == 2
    assert "a failed: 12 questions wait for people" in capsys.readouterr().err
    assert len(list((tmp_path / "cache" / "pictures").rglob("*.png"))) == 12
    monkeypatch.setattr(evaluations, "bright", judge)
    forbid(monkeypatch, "train")
    assert main(words) == 0
    assert len(Results.load(tmp_path / "out").samples) == 12


class Encoder:
    """Mean colours as vectors, for pictures and for the words red and blue."""

    name = "colours"

    def images(self, pictures):
        import torch

        means = [np.asarray(p.convert("RGB")).reshape(-1, 3).mean(0) for p in pictures]
        return torch.nn.functional.normalize(torch.tensor(np.stack(means), dtype=torch.float32), dim=-1)

    def texts(self, prompts):
        words = {"red": (1.0, 0.0, 0.0), "blue": (0.0, 0.0, 1.0)}
        import torch

        return torch.tensor([next(v for w, v in words.items() if w in text) for text in prompts])


def test_a_scorer_fills_every_column(tmp_path, monkeypatch):
    """Red and blue pictures for a red and a blue prompt: CLIP-T is 1, DIV the distance within a prompt."""
    (tmp_path / "p.toml").write_text(
        'title = "t"\n' + "".join(
            f'[[prompt]]\ntext = "{{concept}} in {c}"\ntarget = [{{ question = "{c}?" }}]\n' for c in ("red", "blue")
        )
    )  # fmt: skip
    prompts = [p for p in load_prompts(tmp_path / "p.toml").prompts for _ in range(2)]
    pictures = [Image.new("RGB", (8, 8), color) for color in ("red", "red", "blue", "blue")]
    scorer = Scorer(Protocol(), "cpu")
    scorer.__dict__ |= {"clip": Encoder(), "dino": Encoder(), "backends": object()}  # as if they were loaded
    scorer.__dict__ |= {
        "lpips": lambda a, b: __import__("torch").full((len(a),), 0.25),
        "judge": lambda pictures, targets: [[True], [False], [True], [True]][: len(pictures)],
    }
    masks = [np.ones((8, 8), np.float32)] * 3 + [None]
    monkeypatch.setattr(
        "singleinsert.metrics.regions.generated_masks", lambda pictures, *a, **k: masks[: len(pictures)]
    )
    half = np.zeros((8, 8), np.float32)
    half[:4] = 1
    mask = Image.fromarray((half * 255).astype(np.uint8))
    shown = TrainingPicture(
        Image.new("RGB", (8, 8), "red"), Frame.whole((8, 8)), (Subject("cat", "cat", mask, 0.5),)
    )  # fmt: skip
    scores = scorer.score(pictures, prompts, shown)
    columns = [score.values for score in scores]
    assert {"CLIP-I-f", "CLIP-I-b", "DINO-f", "DINO-b", "CLIP-T", "DIV", "ESR", "SA", "NSD", "found"} == set(columns[0])
    assert [round(c["CLIP-T"], 5) for c in columns] == [1, 1, 1, 1]
    assert [c["DIV"] for c in columns] == [0.25] * 4 and [c["ESR"] for c in columns] == [1, 0, 1, 1]
    assert [c["found"] for c in columns] == [1, 1, 1, 0] and columns[3]["DINO-f"] == 0
    assert columns[0]["DINO-f"] > columns[2]["DINO-f"] and scores[1].targets == [False]
    assert json.dumps(columns)  # plain numbers
    # one picture of a prompt has no diversity
    assert "DIV" not in scorer.score(pictures[::2], prompts[::2], shown)[0].values
