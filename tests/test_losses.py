"""The losses against numbers worked out by hand. The algebra stands beside each."""

import pytest
import torch

from singleinsert.losses import OBJECTIVES, FullImage, SingleInsert, Views, all_terms
from singleinsert.losses.diffusion import masked_mse
from singleinsert.models.schedule import NoiseSchedule


def latents(*values: float) -> torch.Tensor:
    """(1, 1, 2, 2) from four numbers."""
    return torch.tensor(values, dtype=torch.float32).reshape(1, 1, 2, 2)


def views(**changes) -> Views:
    """Target 0; concept (1, 2, 3, 4); class 2; frozen 1; the left column is half, the right one is not foreground."""
    given = {
        "x0_target": latents(0, 0, 0, 0),
        "x0_concept": latents(1, 2, 3, 4),
        "x0_class": latents(2, 2, 2, 2),
        "x0_frozen": latents(1, 1, 1, 1),
        "mask": latents(0.5, 0, 1, 0),
        "weight": torch.tensor([1.0]),
    }
    return Views(**(given | changes))


def test_terms_by_hand():
    # fg: (0.5*1 + 0*4 + 1*9 + 0*16) / 4 = 9.5/4;  bg: (0.5*0 + 1*1 + 0*4 + 1*9) / 4 = 10/4;  sm: (2-1)^2 = 1
    terms = all_terms(SingleInsert(semantic_weight=1.0), views())
    assert {name: term.item() for name, term in terms.items()} == {
        "foreground": 2.375, "background": 2.5, "semantic": 1.0,
    }  # fmt: skip


def test_weights_multiply_and_zero_leaves_out():
    terms = all_terms(SingleInsert(foreground_weight=2.0, background_weight=0.5, semantic_weight=3.0), views())
    assert [term.item() for term in terms.values()] == [4.75, 1.25, 3.0]
    only_foreground = SingleInsert(background_weight=0.0)
    assert not only_foreground.needs_frozen and not only_foreground.needs_class
    assert set(all_terms(only_foreground, views(x0_frozen=None, x0_class=None))) == {"foreground"}
    assert SingleInsert().needs_frozen and not SingleInsert().needs_class
    assert SingleInsert(background_weight=0.0, semantic_weight=1.0).needs_frozen


def test_area_normalisation_divides_by_the_share_of_the_mask():
    # mask mean 1.5/4 = 0.375, of its complement 0.625: 2.375/0.375 and 2.5/0.625
    terms = all_terms(SingleInsert(mask_normalization="area"), views())
    assert terms["foreground"].item() == pytest.approx(2.375 / 0.375)
    assert terms["background"].item() == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("space", "gamma", "weight"),
    [("x0", 0, 1.0), ("epsilon", 0, 3.0), ("v", 0, 4.0), ("x0", 2.0, 2.0), ("epsilon", 2.0, 2.0), ("v", 5.0, 3.0)],
)
def test_spaces_are_weights_of_the_x0_error(space, gamma, weight):
    # snr 3 is abar 3/4
    given = NoiseSchedule(torch.tensor([0.75]), "epsilon").weight(torch.tensor([0]), space, gamma)
    terms = all_terms(SingleInsert(semantic_weight=1.0), views(weight=given))
    assert [term.item() for term in terms.values()] == pytest.approx([2.375 * weight, 2.5 * weight, weight])


def test_the_space_weights_are_true_of_real_latents():
    """||eps_hat - eps||^2 and ||v_hat - v||^2 computed the long way equal the weighted x0 error, in float64."""
    generator = torch.Generator().manual_seed(0)
    x0, noise, x0_hat = torch.randn(3, 2, 4, 4, 4, generator=generator, dtype=torch.float64)
    abar = torch.tensor([0.9, 0.01], dtype=torch.float64)[:, None, None, None]
    x_t = abar.sqrt() * x0 + (1 - abar).sqrt() * noise
    eps_hat = (x_t - abar.sqrt() * x0_hat) / (1 - abar).sqrt()
    v = abar.sqrt() * noise - (1 - abar).sqrt() * x0
    v_hat = abar.sqrt() * eps_hat - (1 - abar).sqrt() * x0_hat
    error = (x0_hat - x0).square().mean(dim=(1, 2, 3))
    snr = (abar / (1 - abar)).flatten()
    assert torch.allclose((eps_hat - noise).square().mean(dim=(1, 2, 3)), snr * error, rtol=1e-12)
    assert torch.allclose((v_hat - v).square().mean(dim=(1, 2, 3)), (1 + snr) * error, rtol=1e-12)
    schedule, rows = NoiseSchedule(abar.flatten(), "epsilon"), torch.tensor([0, 1])
    assert torch.equal(schedule.weight(rows, "v"), 1 + snr) and torch.equal(schedule.weight(rows, "epsilon"), snr)


def test_full_image_ignores_mask_and_class():
    # (1 + 4 + 9 + 16) / 4 = 7.5, times the weight it is given
    objective = OBJECTIVES["full_image"]()
    assert not objective.needs_class and not objective.needs_frozen
    assert all_terms(objective, views(x0_class=None, x0_frozen=None))["full_image"].item() == 7.5
    assert all_terms(FullImage(), views(weight=torch.tensor([3.0])))["full_image"].item() == 22.5


def test_terms_are_per_sample_and_float32_from_half():
    two = torch.cat([latents(1, 2, 3, 4), latents(0, 0, 0, 0)]).half()
    error = masked_mse(two, torch.zeros_like(two), latents(1, 1, 0, 0).half())
    assert error.dtype == torch.float32 and error.tolist() == [1.25, 0.0]


def test_no_gradient_reaches_the_frozen_prediction():
    frozen = latents(1, 1, 1, 1).requires_grad_()
    concept, class_ = latents(1, 2, 3, 4).requires_grad_(), latents(2, 2, 2, 2).requires_grad_()
    terms = all_terms(SingleInsert(semantic_weight=1.0), views(x0_frozen=frozen, x0_concept=concept, x0_class=class_))
    sum(terms.values()).sum().backward()
    assert frozen.grad is None
    # d/dx of (m x^2 + (1-m)(x-1)^2)/4 = (m x + (1-m)(x-1))/2
    assert concept.grad.flatten().tolist() == [0.25, 0.5, 1.5, 1.5]
    assert class_.grad.flatten().tolist() == [0.5] * 4


def test_a_sample_whose_picture_shows_something_else_has_no_foreground():
    both = {"x0_concept": latents(1, 2, 3, 4).repeat(2, 1, 1, 1), "shown": torch.tensor([1.0, 0.0])}
    terms = all_terms(SingleInsert(), views(x0_target=latents(0, 1, 0, 0), **both))
    assert terms["foreground"][0] > 0
    assert terms["foreground"][1] == 0 and terms["background"][0] == terms["background"][1] > 0
    assert all_terms(FullImage("x0"), views(**both))["full_image"].tolist() == [7.5, 0]


def test_the_prior_of_a_masked_loss_is_of_whole_class_pictures():
    seen = views(x0_concept=None, x0_frozen=None, weight=torch.tensor([3.0]))  # class 2, target 0
    assert SingleInsert(prior_weight=2.0).needs_prior and not SingleInsert().needs_prior
    assert SingleInsert(prior_weight=2.0).prior_terms(seen)["prior"].item() == 2 * 3 * 4
    assert SingleInsert().prior_terms(seen) == {}
