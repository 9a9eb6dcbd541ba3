"""What a run keeps of itself: checkpoints whole or not at all, and losses that are numbers."""

from types import SimpleNamespace

import pytest
import torch

from singleinsert.errors import InputError, SingleInsertError
from singleinsert.training.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from singleinsert.training.progress import LossLog


def test_only_the_newest_checkpoints_are_kept_and_a_failed_one_harms_none(tmp_path, monkeypatch):
    nested = {"a": [1, 2.5, None, {"b": torch.arange(3)}], 7: {"step": torch.tensor(3.0)}, "empty": {}}
    for step in (5, 10, 100):
        save_checkpoint(tmp_path, step, nested, limit=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["step_000010.safetensors", "step_000100.safetensors"]
    loaded = load_checkpoint(checkpoints(tmp_path)[0])
    assert loaded["a"][:3] == [1, 2.5, None] and torch.equal(loaded["a"][3]["b"], torch.arange(3))
    assert loaded[7]["step"] == 3 and loaded["empty"] == {}

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(InputError, match="the disk is full"):
        save_checkpoint(tmp_path, 200, nested, limit=1)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_loss_that_is_no_number_ends_the_run_with_advice():
    accelerator = SimpleNamespace(device=torch.device("cpu"), num_processes=1, log=lambda *a, **k: None)
    log = LossLog(accelerator)
    log.add("stage2", 7, 1e-4, {"foreground": torch.tensor(float("nan"))})
    with pytest.raises(SingleInsertError, match=r"loss is nan at stage2 step 7: lower stage2.learning_rate"):
        log.flush()
