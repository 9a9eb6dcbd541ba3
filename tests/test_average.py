"""The mean of the last steps: of what, when, and after a resume."""

from __future__ import annotations

import torch
from batches import same_to_the_bit
from runs import QUIET, small_settings

from singleinsert.training.checkpoint import checkpoints, load_checkpoint
from singleinsert.training.run import train


def test_what_is_kept_is_the_mean_of_the_last_steps(tmp_path, tiny_sd):
    """The steps themselves are those of a run without it: checkpoints hold them, before the last one."""
    every = {"run__checkpointing_steps": 1, "run__checkpoints_total_limit": 0, "concept__type": "vector"}
    plain = small_settings(tmp_path / "plain", tiny_sd, **every)
    train(plain, watch=QUIET)
    averaged = small_settings(tmp_path / "mean", tiny_sd, stage2__average_steps=2, **every)
    artifact = train(averaged, watch=QUIET).artifact
    states = [
        load_checkpoint(path)["parameters"] for path in checkpoints(plain.output_dir / "checkpoints" / "pic")[-2:]
    ]
    layers = [(part, path, w) for part, found in artifact.lora.items() for path, w in found.items()]
    assert layers
    for part, path, weights in layers:
        for name, tensor in (("down", weights.down), ("up", weights.up)):
            one, other = (state[f"{part}.{path}.{name}"] for state in states)
            assert torch.allclose(tensor, (one.double() + other.double()).div(2).float(), atol=0, rtol=1e-7)
            assert not torch.equal(one, other)
    resumed = small_settings(
        tmp_path / "on", tiny_sd, stage2__average_steps=2, concept__type="vector",
        run__resume_from_checkpoint=str(checkpoints(averaged.output_dir / "checkpoints" / "pic")[-2]),
    )  # fmt: skip
    assert same_to_the_bit(train(resumed, watch=QUIET).artifact, artifact)
