"""Means, intervals, fronts and comparisons, against numbers that nobody here made up."""

from __future__ import annotations

import csv
import io
import math

import numpy as np
import pytest

from singleinsert.errors import InputError
from singleinsert.evaluate.bootstrap import Interval, bootstrap, paired, pareto_front
from singleinsert.evaluate.results import Results, Sample
from singleinsert.evaluate.table import agreement, best, check_claims, concept_means, markdown, summarise, summary_csv


def test_bootstrap_of_two_values_by_hand():
    """Of (0, 1), a resample's mean is 0, 1/2 or 1 with probability 1/4, 1/2, 1/4: the 2.5 and 97.5 percentiles are 0
    and 1, those of a 40 percent interval (30 and 70) both 1/2."""
    found = bootstrap([0.0, 1.0], resamples=20000)
    assert found == Interval(0.5, 0.0, 1.0, 2)
    assert bootstrap([0.0, 1.0], resamples=20000, level=0.4) == Interval(0.5, 0.5, 0.5, 2)
    assert bootstrap([0.3]) == Interval(0.3, 0.3, 0.3, 1)
    with pytest.raises(ValueError, match="no values"):
        bootstrap([])


def test_bootstrap_against_scipy_and_the_normal_law():
    """scipy's percentile method on the same data; and for many values, the mean +- 1.96 standard errors."""
    values = np.random.default_rng(5).normal(3.0, 2.0, 400)
    found = bootstrap(values.tolist(), resamples=20000)
    error = values.std() / math.sqrt(len(values))
    assert abs(found.low - (values.mean() - 1.96 * error)) < 0.02
    assert abs(found.high - (values.mean() + 1.96 * error)) < 0.02
    stats = pytest.importorskip("scipy.stats")
    reference = stats.bootstrap((values,), np.mean, n_resamples=20000, method="percentile", rng=1).confidence_interval
    assert abs(found.low - reference.low) < 0.02 and abs(found.high - reference.high) < 0.02


def test_the_same_seed_gives_the_same_interval_and_pairs_are_kept():
    values = [0.1, 0.5, 0.2, 0.9, 0.4]
    assert bootstrap(values, seed=1) == bootstrap(values, seed=1)
    assert bootstrap(values, seed=1, resamples=9) != bootstrap(values, seed=2, resamples=9)
    shifted = paired([v + 0.25 for v in values], values)  # concepts differ, the difference never does
    assert shifted.low == pytest.approx(0.25) == shifted.high
    with pytest.raises(ValueError, match="same concepts"):
        paired([1.0], [1.0, 2.0])


def test_the_front_is_what_no_point_beats_in_both():
    points = [(1, 5), (2, 4), (2, 3), (3, 3), (0, 5), (4, 0), (3, 3)]
    assert pareto_front(points) == [0, 1, 3, 6, 5]
    assert pareto_front([]) == []
    brute = [
        i for i, p in enumerate(points)
        if not any(all(np.array(q) >= p) and any(np.array(q) > p) for q in points)
    ]  # fmt: skip
    assert sorted(pareto_front(points)) == brute


PAPERS = {"good": {"ESR": 0.9, "DINO-b": 0.1}, "bad": {"ESR": 0.2, "DINO-b": 0.5}, "new": {}}


def results(values: dict[tuple[str, str], dict[str, float]]) -> Results:
    """``values``: (method, concept) -> columns, one picture each."""
    methods = [
        {
            "name": name,
            "label": name,
            "group": "G" if name == "good" else "",
            "note": "",
            "paper": paper,
            "settings": {},
        }
        for name, paper in PAPERS.items()
    ]
    claim = {"says": "it works", "column": "ESR", "of": "good", "against": "bad", "direction": "up"}
    concepts = [
        {"name": name, "class_word": "cat", "picture": "x.png", "prompts": [{"text": "* a, b", "questions": []}]}
        for name in dict.fromkeys(concept for _, concept in values)
    ]
    samples = [Sample(m, c, 0, 7, "key", columns, [True, False]) for (m, c), columns in values.items()]
    return Results("T", {"cache": "c"}, methods, [claim], concepts, samples)


def test_means_are_over_concepts_not_pictures():
    found = results({("good", "a"): {"ESR": 1.0}})
    found.samples.extend(Sample("good", "b", 0, i, "k", {"ESR": 0.0}) for i in range(9))
    assert concept_means(found)["good"]["ESR"] == {"a": 1.0, "b": 0.0}
    assert summarise(found)["good"]["ESR"].mean == 0.5 and summarise(found)["bad"] == {}


def test_better_is_more_or_less_as_the_column_says():
    found = results({("good", "a"): {"DINO-b": 0.2, "ESR": 0.8}, ("bad", "a"): {"DINO-b": 0.6, "ESR": 0.3}})
    summary = summarise(found)
    assert best(summary, "DINO-b") == "good" == best(summary, "ESR") and best(summary, "DIV") is None
    text = markdown(found, summary)
    assert "DINO-b \u2193" in text and "ESR \u2191" in text and "| G: good | **0.200**" in text
    rows = list(csv.DictReader(io.StringIO(summary_csv(found, summary))))
    assert {(r["method"], r["column"], r["paper"]) for r in rows} >= {("good", "ESR", "0.9")}


@pytest.mark.parametrize(
    ("differences", "verdict", "right", "wrong"),
    [
        ([0.2, 0.3, 0.25], "holds", 1, []),
        ([-0.2, -0.3, -0.25], "does not hold", 0, [("G: good", "bad")]),
        ([0.5, -0.4, 0.1], "not beyond chance (as claimed)", 1, []),
        ([-0.5, 0.4, -0.1], "not beyond chance (against the claimed)", 0, []),
    ],
)
def test_claims_and_order_by_paired_differences(differences, verdict, right, wrong):
    values = {}
    for i, difference in enumerate(differences):
        values |= {("good", str(i)): {"ESR": 0.5 + difference}, ("bad", str(i)): {"ESR": 0.5}}
    found = results(values)
    assert check_claims(found)[0]["verdict"] == verdict
    assert agreement(found, "ESR") == (right, 1, wrong)
    assert agreement(found, "DIV") is None


def test_results_come_back_from_their_files(tmp_path):
    found = results({("good", "a"): {"ESR": 1.0, "DIV": 0.1}, ("bad", "a"): {"ESR": 0.0}})
    found.save(tmp_path)
    assert Results.load(tmp_path) == found
    rows = list(csv.DictReader((tmp_path / "samples.csv").open()))
    assert rows[0]["prompt"] == "* a, b" and rows[0]["targets"] == "1 0" and rows[1]["DIV"] == ""
    with pytest.raises(InputError, match="file not found: .*nowhere/results.json"):
        Results.load(tmp_path / "nowhere")
