"""Timesteps, noise, and the ways to draw them that leave every expectation what it is."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from runs import QUIET, small_settings
from test_step import NONE, SHAPE, concept, conditions_of, step
from tinymodels import hashed

from singleinsert.config import StageSettings
from singleinsert.losses import SingleInsert
from singleinsert.models.loading import load_base_model
from singleinsert.models.schedule import NoiseSchedule
from singleinsert.models.timesteps import TimestepDensity
from singleinsert.training.bank import TeacherBank
from singleinsert.training.draws import Draws, Sampling, draw
from singleinsert.training.run import train


@pytest.fixture
def schedule():
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return NoiseSchedule((1 - betas).cumprod(0).float(), "epsilon")


def stage(**changes):
    return replace(StageSettings(), **changes)


def grid(n):
    """Midpoints of n equal parts of [0, 1): a uniform u by quadrature."""
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


def test_a_density_draws_each_timestep_as_often_as_it_says_and_weighs_it_by_the_inverse():
    density = TimestepDensity.proportional_to(torch.tensor([0.0, 1.0, 3.0, 4.0]))
    p = torch.tensor([0.025, 0.1375, 0.3625, 0.475])  # 0.9 * (0, 1, 3, 4) / 8 + 0.1 / 4
    t, weight = density.at(grid(4000))
    assert torch.equal(torch.bincount(t, minlength=4), (4000 * p).round().long())
    assert torch.allclose(density.weights, 1 / (4 * p)) and torch.equal(weight, density.weights[t])
    assert density.weights.max() == pytest.approx(10)  # however small the importance
    assert density.at(torch.tensor([0.0, 1 - 1e-16], dtype=torch.float64))[0].tolist() == [0, 3]


@pytest.mark.parametrize("space", ["x0", "epsilon", "v"])
@pytest.mark.parametrize("power", [0.5, 1.0])
def test_importance_sampling_keeps_the_mean_of_any_function_of_t(schedule, space, power):
    """sum_t p(t) w(t) f(t) = sum_t f(t) / T, whatever f."""
    sampling = Sampling.of_stage(stage(timestep_importance=power, loss_space=space), 4, schedule)
    weights = sampling.density.weights.double()
    p = 1 / (1000 * weights)
    f = hashed((1000,), 3).double() ** 2
    assert p.sum().item() == pytest.approx(1) and weights.max() <= 10
    assert (p * weights * f).sum().item() == pytest.approx(f.mean().item())
    if space == "x0":  # the loss weighs an error in epsilon by 212 at the last timestep, by 1/80 at the hundredth
        assert p[999] > (5 if power == 0.5 else 50) * p[100]
    if space == "epsilon":
        assert torch.allclose(p, torch.full_like(p, 1e-3))


def test_the_gradient_of_the_step_keeps_its_mean(tiny_sd):
    """Over all timesteps of a short schedule, each drawn with p(t) and weighed: the uniform mean of the gradients."""
    model = load_base_model(tiny_sd)
    model.schedule = NoiseSchedule(model.schedule.alphas_cumprod[100::300], "epsilon")
    assert model.schedule.num_timesteps == 3
    density = Sampling.of_stage(stage(timestep_importance=1.0), 1, model.schedule).density

    def gradient(t, weight):
        part = concept()
        conditions = conditions_of(model, part, NONE)
        noise = hashed((1, *SHAPE), 7)
        draws = Draws(torch.tensor([t]), noise, noise, None if weight is None else torch.tensor([weight]))
        for terms in step(draws, conditions, model, NONE, SingleInsert()):
            torch.stack(list(terms.values())).sum().backward()
        conditions.backward()
        return part.weight.grad

    p = 1 / (3 * density.weights)
    uniform = sum(gradient(t, None) for t in range(3)) / 3
    weighed = sum(p[t] * gradient(t, density.weights[t].item()) for t in range(3))
    assert torch.allclose(weighed, uniform, rtol=1e-4, atol=1e-6 * uniform.abs().max())
    assert p.max() > 0.8 > 0.1 > p.min()


@pytest.mark.parametrize("importance", [0.0, 1.0])
def test_strata_of_a_batch_make_up_the_whole_distribution(schedule, importance):
    """The t of all u in the i-th of b parts, for i = 0..b-1, are those of all u: the mean over a batch is unbiased."""
    section = stage(timestep_importance=importance, stratified_timesteps=True)
    whole = Sampling.of_stage(replace(section, stratified_timesteps=False), 8, schedule).timestep(
        grid(8000), 0, schedule
    )
    parts = [Sampling.of_stage(section, 8, schedule).timestep(grid(1000), sample, schedule) for sample in range(16, 24)]
    assert torch.equal(torch.cat([t for t, _ in parts]), whole[0])
    if importance:
        assert torch.equal(torch.cat([weight for _, weight in parts]), whole[1])


def test_drawn_batches_have_one_timestep_in_each_stratum(schedule):
    sampling = Sampling.of_stage(stage(stratified_timesteps=True), 8, schedule)
    for first in (0, 8, 80):
        drawn = draw(schedule, SHAPE, 0, "stage1", range(first, first + 8), sampling)
        assert (drawn.t // 125).tolist() == list(range(8)) and drawn.weight is None
    again = draw(schedule, SHAPE, 0, "stage1", [83], sampling)
    assert again.t == draw(schedule, SHAPE, 0, "stage1", range(80, 88), sampling).t[3]  # in any micro-batch


def test_the_bank_hands_on_what_its_samples_count(schedule):
    sampling = Sampling.of_stage(stage(timestep_importance=0.5), 4, schedule)
    bank = TeacherBank(0, "stage1", 8, sampling)
    for first in (0, 4):
        bank.keep(range(first, first + 4), torch.arange(first, first + 4.0).reshape(4, 1, 1, 1).expand(-1, *SHAPE))
    drawn = bank.draw(schedule, SHAPE, bank.entries(range(8)))
    order = drawn.frozen[:, 0, 0, 0].long()
    assert sorted(order.tolist()) == list(range(8))
    every = draw(schedule, SHAPE, 0, "stage1", range(8), sampling)
    assert torch.equal(drawn.weight, every.weight[order]) and torch.equal(drawn.t, every.t[order])


def test_each_of_the_banks_predictions_serves_twice_and_never_part_of_a_step():
    bank = TeacherBank(0, "stage1", 10)
    assert not bank.serves(range(0, 4), 4)  # nothing is known yet
    bank.keep(range(10), torch.zeros(10, *SHAPE))
    # 20 samples in steps of 6: three whole ones, 0 to 17; the fourth would want 18 to 23
    for start, stop in ((0, 6), (12, 18), (17, 18), (18, 24), (18, 19), (24, 30)):
        assert bank.serves(range(start, stop), 6) == (stop <= 18), start


def test_two_processes_halves_of_the_bank_add_up(schedule):
    class Accelerator:
        num_processes, is_main_process, device = 2, True, torch.device("cpu")

    banks = [TeacherBank(0, "stage1", 4) for _ in range(2)]
    for rank, bank in enumerate(banks):
        for first in (0, 2):
            samples = range(first + rank, first + rank + 1)
            bank.keep(samples, torch.full((1, 2, 2, 2), 1.0 + samples[0]))
    accelerator, total = Accelerator(), banks[0].outputs + banks[1].outputs
    accelerator.reduce = lambda tensor, how: total
    assert banks[0].gathered(accelerator)[:, 0, 0, 0].tolist() == [1, 2, 3, 4]
    banks[0].gather(accelerator)
    accelerator.reduce = partial(pytest.fail, "a whole bank is not summed again")
    assert torch.equal(banks[0].gathered(accelerator), total)
    accelerator.is_main_process = False
    banks[1].restore(total, accelerator)
    assert not banks[1].outputs.any()


def test_a_run_draws_as_its_settings_say(tiny_sd, tmp_path):
    changes = {"timestep_importance": 0.5, "stratified_timesteps": True}
    settings = small_settings(tmp_path, tiny_sd, **{f"stage1__{key}": value for key, value in changes.items()})
    assert train(settings, watch=QUIET).artifact.embedding.isfinite().all()
