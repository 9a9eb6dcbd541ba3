"""A second stage from another run's first: the same numbers as training both at once."""

from __future__ import annotations

import pytest
from batches import same_to_the_bit
from runs import QUIET, small_settings

from singleinsert.errors import ConfigError
from singleinsert.training.run import train


@pytest.fixture(scope="module")
def first(tmp_path_factory, tiny_sd):
    """Checkpoints of a run with the paper's losses: one at the end of stage I, one within stage II."""
    folder = tmp_path_factory.mktemp("first")
    settings = small_settings(folder, tiny_sd, run__checkpointing_steps=1, run__checkpoints_total_limit=0)
    train(settings, watch=QUIET)
    return settings.output_dir / "checkpoints" / "pic"


@pytest.mark.parametrize(
    "changes",
    [
        {"stage2__objective": "full_image", "stage2__loss_space": "epsilon"},
        {"stage2__semantic_weight": 0.0, "stage2__learning_rate": 1e-3, "stage2__steps": 2},
        {"adapter__network_dim": 2, "stage2__trains": ["concept", "denoiser"]},
        {"stage2__steps": 0},
        {"run__teacher_bank": False},
    ],
)
def test_another_second_stage_goes_on_from_a_first(first, tmp_path, tiny_sd, changes):
    whole = train(small_settings(tmp_path / "whole", tiny_sd, **changes), watch=QUIET).artifact
    shared = str(first / "step_000003.safetensors")
    settings = small_settings(tmp_path / "on", tiny_sd, run__resume_from_checkpoint=shared, **changes)
    assert same_to_the_bit(train(settings, watch=QUIET).artifact, whole)


def test_only_what_the_checkpoint_has_not_reached_may_differ(first, tmp_path, tiny_sd):
    for step, changes, message in (
        (3, {"stage1__learning_rate": 1e-3}, "stage1.learning_rate was 0.0001 there and is 0.001 here"),
        (4, {"stage2__learning_rate": 1e-3}, "stage2.learning_rate was 5e-05 there and is 0.001 here"),
        (4, {"adapter__network_dim": 2}, "adapter.network_dim was 4 there and is 2 here"),
    ):
        shared = str(first / f"step_{step:06d}.safetensors")
        with pytest.raises(ConfigError, match=message):
            train(small_settings(tmp_path, tiny_sd, run__resume_from_checkpoint=shared, **changes), watch=QUIET)


def test_a_first_stage_without_the_teachers_predictions_does_not_serve_a_bank(tmp_path, tiny_sd):
    """Its missing predictions would be taken for zeros."""
    alone = small_settings(tmp_path, tiny_sd, stage2__steps=0, run__checkpointing_steps=3)
    train(alone, watch=QUIET)
    shared = str(alone.output_dir / "checkpoints" / "pic")
    with pytest.raises(ConfigError, match="has no predictions of the frozen model for stage2"):
        train(small_settings(tmp_path / "on", tiny_sd, run__resume_from_checkpoint=shared), watch=QUIET)
