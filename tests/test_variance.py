"""The benchmark of the draws: its figures against algebra, and a whole pass of it with the tiny model."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import small_settings

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import variance


def test_figures_are_the_trace_of_the_covariance_and_the_square_of_the_mean():
    """Rows of mean (3, 0) and of variance 1 and 4 per element: 5 in all, and 9 of signal."""
    rows = torch.tensor([3.0, 0.0]) + torch.randn(20000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [1.0, 2.0]
    )
    found = variance.figures(rows)
    assert found["variance"] == pytest.approx(5, rel=0.03) and found["signal"] == pytest.approx(9, rel=0.03)
    # |g - mean|^2 = x^2 + 4 y^2 has variance 2 + 2 * 16 = 34
    assert found["error"] == pytest.approx((34 / 20000) ** 0.5, rel=0.1)
    # of four rows in two places: mean 1, sum of squares 4, over n - 1
    assert variance.figures(torch.tensor([[0.0], [0.0], [2.0], [2.0]]))["variance"] == pytest.approx(4 / 3)


def results(**factors):
    """Of two instances, whose ways other than uniform have these variances against it."""

    def found(scale):
        parts = {way: scale * factors.get(way, 1.0) for way in variance.WAYS}
        ways = {
            way: {
                part: {"variance": value, "error": 0.03 * value, "signal": scale / 4, "batches": 8}
                for part in ("concept", "lora")
            }
            for way, value in parts.items()
        }
        return {"stage1": ways, "stage2": ways}

    return {"one": found(1.0), "two": found(10.0)}


def test_the_table_compares_with_uniform_draws_of_the_same_instance():
    text = variance.table(results(stratified=0.25))
    # 0.03 of each variance: sqrt(4) 0.03 / 2 = 0.03 of the mean of two logarithms
    assert "| stratified | 0.25 (0.24 to 0.26) | 0.25 (0.24 to 0.26) | 0.25 (0.24 to 0.26) |" in text
    assert "| noise to signal, uniform | 4.0 | 4.0 | 4.0 |" in text and "2 instances (one, two), 8 batches" in text


def test_the_error_is_the_larger_one_of_instances_and_batches():
    found = results(stratified=0.25)
    found["two"]["stage1"]["stratified"]["concept"] |= {"variance": 2.5 * 4}
    value, factor = variance.ratio(found, "stage1", "concept", "stratified")
    # logarithms of 1/4 and 1: half of their difference is the error of their mean
    assert (value, factor) == (pytest.approx(0.5), pytest.approx(2))
    del found["two"]
    assert variance.ratio(found, "stage1", "concept", "stratified")[1] == pytest.approx(2.718281828 ** (0.03 * 2**0.5))
    assert variance.table(found).startswith("1 instance (one)")


def test_every_way_is_measured_in_both_stages_and_the_run_trains_on_as_if_it_were_not(tiny_sd, tmp_path, monkeypatch):
    monkeypatch.setattr(variance, "BEFORE", {"stage1": 1, "stage2": 1})
    monkeypatch.setattr(variance, "WAYS", {"uniform": {}, "both": {"stratified_timesteps": True,
                                                                    "timestep_importance": 1.0}})  # fmt: skip
    seen = []
    original = variance.Loop._apply_gradients

    def watch(loop, stage):
        seen.append([p.grad.norm().item() for p in loop.trainables(stage).values() if p.grad is not None])
        original(loop, stage)

    monkeypatch.setattr(variance.Loop, "_apply_gradients", watch)
    settings = small_settings(tmp_path, tiny_sd, stage1__steps=2, stage2__steps=2, run__teacher_bank=False)
    found = variance.measure(settings, 3)
    assert list(found) == ["stage1", "stage2"] and list(found["stage1"]["both"]) == ["concept"]
    assert set(found["stage2"]["uniform"]) == {"concept", "lora"}
    assert all(found[stage]["both"]["concept"]["variance"] > 0 for stage in found)
    assert found["stage1"]["flops"] > found["stage1"]["steps_before"] == 1
    measured = [*seen]
    seen.clear()
    monkeypatch.setattr(variance, "WAYS", {})
    variance.measure(replace(settings), 3)
    assert seen == measured and len(seen) == 3


def test_what_was_measured_is_kept(tmp_path, monkeypatch, capsys):
    file = tmp_path / "variance.json"
    file.write_text(json.dumps(results()))
    monkeypatch.setattr(variance, "measure", lambda *_: pytest.fail("measured again"))
    assert variance.main(["--instances", "one", "two", "--json", str(file)]) == 0
    assert "| uniform | 1.00 | 1.00 | 1.00 |" in capsys.readouterr().out
