"""The schedule: every prediction type leads back to the same x0, epsilon and v."""

import pytest
import torch
from diffusers import DDPMScheduler

from singleinsert.errors import ModelError
from singleinsert.models.schedule import NoiseSchedule

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def drawn(kind: str) -> tuple[NoiseSchedule, torch.Tensor, torch.Tensor, torch.Tensor]:
    schedule = NoiseSchedule.from_scheduler(DDPMScheduler(**SD), kind)
    t, noise = schedule.draw((8, 4, 4, 4), torch.Generator().manual_seed(0))
    x0 = torch.randn(noise.shape, generator=torch.Generator().manual_seed(1))
    return schedule, t, noise, x0


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_perfect_output_gives_back_x0_noise_and_velocity(kind):
    schedule, t, noise, x0 = drawn(kind)
    abar = schedule.alphas_cumprod[t].reshape(-1, 1, 1, 1)
    velocity = abar.sqrt() * noise - (1 - abar).sqrt() * x0
    output = {"epsilon": noise, "v_prediction": velocity, "sample": x0}[kind]
    x_t = schedule.add_noise(x0, noise, t)
    # each division by sqrt(abar) >= 0.068 or sqrt(1 - abar) >= 0.029 magnifies float32's rounding
    assert torch.allclose(schedule.x0_from(output, x_t, t), x0, atol=1e-5)
    assert torch.allclose(schedule.epsilon_from(output, x_t, t), noise, atol=1e-5)
    assert torch.allclose(schedule.v_from(output, x_t, t), velocity, atol=1e-5)


def test_it_agrees_with_diffusers():
    schedule, t, noise, x0 = drawn("v_prediction")
    reference = DDPMScheduler(**SD)
    assert torch.allclose(schedule.add_noise(x0, noise, t), reference.add_noise(x0, noise, t), atol=1e-6)
    velocity = reference.get_velocity(x0, noise, t)
    x_t = schedule.add_noise(x0, noise, t)
    assert torch.allclose(schedule.v_from(velocity, x_t, t), velocity)
    assert torch.allclose(schedule.x0_from(velocity, x_t, t), x0, atol=1e-5)


def test_by_hand_and_in_float32_from_half():
    # abar 0.25: x_t = 0.5*2 + sqrt(0.75)*0 = 1; eps_hat 1 -> x0 = (1 - sqrt(0.75)) / 0.5; snr = 1/3
    schedule = NoiseSchedule(torch.tensor([0.25]), "epsilon")
    one, t = torch.ones(1, 1, 1, 1), torch.tensor([0])
    assert schedule.add_noise(2 * one, 0 * one, t).item() == 1.0
    x0 = schedule.x0_from(one.half(), one.half(), t)
    assert x0.dtype == torch.float32 and x0.item() == pytest.approx((1 - 0.75**0.5) / 0.5)
    assert schedule.snr(t).item() == pytest.approx(1 / 3)


def test_draws_cover_all_timesteps_and_repeat():
    schedule, *_ = drawn("epsilon")
    t, _ = schedule.draw((20000, 1, 1, 1), torch.Generator().manual_seed(3))
    assert t.min() == 0 and t.max() == 999 and len(t.unique()) == 1000
    again, _ = schedule.draw((20000, 1, 1, 1), torch.Generator().manual_seed(3))
    assert torch.equal(t, again)


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(ModelError, match="flow"):
        NoiseSchedule.from_scheduler(DDPMScheduler(**SD), "flow")
    zero_snr = DDPMScheduler(**SD, rescale_betas_zero_snr=True)
    with pytest.raises(ModelError, match="zero terminal SNR"):
        NoiseSchedule.from_scheduler(zero_snr, "epsilon")
    assert NoiseSchedule.from_scheduler(zero_snr, "v_prediction").prediction_type == "v_prediction"
