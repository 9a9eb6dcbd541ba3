"""The frozen model's predictions for several steps in one pass, as on a GPU: fewer operators, the same run."""

from __future__ import annotations

import csv

import pytest
import torch
from runs import Said, small_settings

from singleinsert.models.families.sd import StableDiffusion
from singleinsert.training.run import train
from singleinsert.training.source import STEPS_AHEAD, SampleSource


@pytest.fixture
def frozen_batches(monkeypatch):
    """How many samples each pass without a graph has."""
    seen, predict = [], StableDiffusion.predict

    def record(self, x_t, t, condition):
        if not torch.is_grad_enabled():
            seen.append(len(x_t))
        return predict(self, x_t, t, condition)

    monkeypatch.setattr(StableDiffusion, "predict", record)
    return seen


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    begin = SampleSource.__init__

    def begin_ahead(self, run):
        begin(self, run)
        self.steps_ahead = STEPS_AHEAD

    monkeypatch.setattr(SampleSource, "__init__", begin_ahead)


def losses_of(folder, model, say=str):
    settings = small_settings(folder, model, stage1__steps=STEPS_AHEAD + 2, stage2__steps=2)
    train(settings, watch=Said(say))
    with open(settings.output_dir / "logs" / settings.name / "losses.csv") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_a_cpu_asks_the_frozen_model_step_by_step(tiny_sd, tmp_path, frozen_batches):
    losses_of(tmp_path, tiny_sd)
    assert frozen_batches == [4] * (STEPS_AHEAD + 2)  # stage II draws from the bank


def test_one_pass_serves_several_steps_and_the_bank(tiny_sd, tmp_path, frozen_batches, as_on_a_gpu, monkeypatch):
    ahead = losses_of(tmp_path / "ahead", tiny_sd)
    assert frozen_batches == [4 * STEPS_AHEAD, 4 * 2]  # of the last steps no more than there are
    monkeypatch.undo()
    assert ahead == pytest.approx(losses_of(tmp_path / "steps", tiny_sd), rel=1e-5)


def test_where_memory_does_not_hold_several_steps_it_goes_on_step_by_step(
    tiny_sd, tmp_path, frozen_batches, as_on_a_gpu, monkeypatch
):
    predict, said = StableDiffusion.predict, []

    def run_out(self, x_t, t, condition):
        if len(x_t) > 4 and not torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return predict(self, x_t, t, condition)

    with monkeypatch.context() as patched:
        patched.setattr(StableDiffusion, "predict", run_out)
        found = losses_of(tmp_path / "little", tiny_sd, said.append)
    assert frozen_batches == [4] * (STEPS_AHEAD + 2)
    assert sum("several steps do not fit" in line for line in said) == 1
    monkeypatch.undo()
    assert found == losses_of(tmp_path / "steps", tiny_sd)
