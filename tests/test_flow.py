"""Weights of an x0 error in every space, against the long way in float64; and the straight lines of flow matching."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from tinymodels import hashed

from singleinsert.models.flow import LARGEST_SIGMA, FlowSchedule
from singleinsert.models.schedule import NoiseSchedule, Schedule
from singleinsert.terms import LossSpace

ROWS = torch.tensor([3, 120, 500, 870, 990])
X0, NOISE, ERROR = (hashed((5, 4, 3, 3), seed).double() for seed in (1, 2, 3))
SIGNS = pytest.mark.parametrize("sign", [1, -1])


def alphas() -> torch.Tensor:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0).float()


def column(x: torch.Tensor) -> torch.Tensor:
    return x.double().reshape(-1, 1, 1, 1)


def squares(error: torch.Tensor) -> torch.Tensor:
    return error.square().mean(dim=(1, 2, 3))


def assert_weights(schedule: Schedule, x0_error, epsilon_error, v_error, snr) -> None:
    """A squared error in a space is the x0 error, squared, times the schedule's weight."""
    errors: dict[LossSpace, torch.Tensor] = {"x0": x0_error, "epsilon": epsilon_error, "v": v_error}
    for space, error in errors.items():
        weight = schedule.weight(ROWS, space)
        assert weight.dtype == torch.float32
        assert torch.allclose(weight.double() * squares(x0_error), squares(error), rtol=1e-5), space
        clamped = schedule.weight(ROWS, space, 5.0)  # Min-SNR, whatever the space
        assert torch.allclose(clamped.double(), snr.clamp_max(5.0), rtol=1e-5), space


@pytest.mark.parametrize("output", ["epsilon", "v_prediction"])
def test_weights_of_a_table_the_long_way(output):
    """x_t = a x0 + s eps and v = a eps - s x0, with a^2 + s^2 = 1; the network is wrong by ERROR in its own output.

    From eps_hat: x0_hat = (x_t - s eps_hat) / a, v_hat = a eps_hat - s x0_hat.
    From v_hat: x0_hat = a x_t - s v_hat, eps_hat = s x_t + a v_hat.
    """
    schedule = NoiseSchedule(alphas(), output)
    abar = column(schedule.alphas_cumprod[ROWS])
    a, s = abar.sqrt(), (1 - abar).sqrt()
    x_t, v = a * X0 + s * NOISE, a * NOISE - s * X0
    if output == "epsilon":
        eps_hat = NOISE + ERROR
        x0_hat = (x_t - s * eps_hat) / a
        v_hat = a * eps_hat - s * x0_hat
    else:
        v_hat = v + ERROR
        x0_hat, eps_hat = a * x_t - s * v_hat, s * x_t + a * v_hat
    assert_weights(schedule, x0_hat - X0, eps_hat - NOISE, v_hat - v, (abar / (1 - abar)).flatten())


@SIGNS
def test_weights_of_a_flow_the_long_way(sign):
    """x_s = (1 - s) x0 + s eps, u = sign (eps - x0) is what the network says, wrong by ERROR.

    x0_hat = x_s - s sign u_hat, eps_hat = x_s + (1 - s) sign u_hat, v_hat = eps_hat - x0_hat.
    """
    schedule = FlowSchedule.shifted(2.0, sign=sign)
    s = column(schedule.sigmas[ROWS])
    x_s, u_hat = (1 - s) * X0 + s * NOISE, sign * (NOISE - X0) + ERROR
    x0_hat, eps_hat = x_s - s * sign * u_hat, x_s + (1 - s) * sign * u_hat
    v_error = eps_hat - x0_hat - (NOISE - X0)
    assert torch.allclose(v_error, sign * ERROR)  # the network's own space
    assert_weights(schedule, x0_hat - X0, eps_hat - NOISE, v_error, (((1 - s) / s) ** 2).flatten())
    # and the schedule recovers what it is shown: x0_hat and eps_hat from u_hat, in float32 of magnitudes near 4
    t = ROWS
    assert torch.allclose(schedule.add_noise(X0, NOISE, t).double(), x_s, atol=1e-6)
    assert torch.allclose(schedule.x0_from(u_hat, x_s, t).double(), x0_hat, atol=3e-6)
    assert torch.allclose(schedule.epsilon_from(u_hat, x_s, t).double(), eps_hat, atol=3e-6)


@pytest.mark.parametrize("shift", [1.0, 2.0, 3.0])
def test_the_shifts_rows_are_diffusers_and_divide_the_snr(shift):
    """Middles of 500 parts of [0, 1] are (2 k + 1) / 1000: every second row of diffusers' 1000, but for the clamp.

    s' = f s / (1 + (f - 1) s), so (1 - s') / s' = (1 - s) / (f s): the SNR is divided by f^2.
    """
    ours = FlowSchedule.shifted(shift, 500).sigmas
    theirs = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift).sigmas.flip(0)[::2]
    assert torch.allclose(ours, theirs.clamp_max(LARGEST_SIGMA), atol=1e-6) and ours.diff().min() >= 0
    t, plain = torch.arange(490), FlowSchedule.shifted(1.0, 500)  # the last rows may be clamped
    ratio = plain.snr(t).double() / FlowSchedule.shifted(shift, 500).snr(t).double()
    assert torch.allclose(ratio, torch.full_like(ratio, shift**2), rtol=1e-3)


@SIGNS
def test_an_euler_step_is_the_line_between_x0_and_epsilon(sign):
    """x' = x + (s' - s) v for ANY output, right or wrong, is (1 - s') x0_hat + s' eps_hat."""
    schedule = FlowSchedule.shifted(2.0, sign=sign)
    t, later = torch.tensor([999, 870, 500, 120, 3]), torch.tensor([870, 500, 120, 3, 0])
    output = hashed(tuple(X0.shape), 7)
    x = schedule.add_noise(X0, NOISE, t)
    x0_hat, eps_hat = schedule.x0_from(output, x, t), schedule.epsilon_from(output, x, t)
    s, s_later = schedule.sigmas[t].reshape(-1, 1, 1, 1), schedule.sigmas[later].reshape(-1, 1, 1, 1)
    assert torch.allclose(x + (s_later - s) * sign * output, (1 - s_later) * x0_hat + s_later * eps_hat, atol=3e-6)
    # along the true velocity one such step, however long, is the picture with less of the same noise
    v = (NOISE - X0).float()
    assert torch.allclose(x + (s_later - s) * v, schedule.add_noise(X0, NOISE, later), atol=3e-6)


def test_what_the_network_is_told_of_the_time():
    t = torch.tensor([0, 499, 999])
    plain = FlowSchedule.shifted(1.0)
    assert plain.network_time(t).tolist() == pytest.approx([0.0005, 0.4995, LARGEST_SIGMA])
    scaled = FlowSchedule.shifted(1.0, time="1-s", time_scale=1000.0)
    assert scaled.network_time(t).tolist() == pytest.approx([999.5, 500.5, 1.0], rel=1e-4)
    assert plain.num_timesteps == 1000 and plain.prediction_type == "flow"
    assert torch.equal(NoiseSchedule(alphas(), "epsilon").network_time(t), t)
