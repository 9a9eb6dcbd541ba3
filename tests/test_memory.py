"""The micro-batch: cut to the memory that is free, halved where that was not enough, and never a change of numbers."""

import pytest
import torch
from runs import QUIET, Said, small_settings

from singleinsert.errors import SingleInsertError
from singleinsert.models.families.sd import StableDiffusion
from singleinsert.training.accelerator import choose_precision
from singleinsert.training.memory import MicroBatch
from singleinsert.training.run import train
from singleinsert.training.switches import set_tf32

OUT = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 0 bytes free"


def sizes(micro_batch, samples, most):
    return [len(piece) for piece in micro_batch.pieces(range(samples), most)]


def test_pieces_are_of_like_size_and_whole():
    micro_batch = MicroBatch(3, torch.device("cpu"), print)
    assert list(micro_batch.pieces(range(5, 15), 8)) == [range(5, 8), range(8, 11), range(11, 13), range(13, 15)]
    assert sizes(MicroBatch(0, torch.device("cpu"), print), 16, 16) == [16]
    assert sizes(MicroBatch(0, torch.device("cpu"), print), 8, 4) == [4, 4]  # two accumulated batches


class Card:
    """torch.cuda's figures of a card: 1 GB fixed, 0.5 GB a sample."""

    free = 4.0e9

    def __init__(self, monkeypatch):
        self.peak = 1e9
        for name in ("reset_peak_memory_stats", "memory_allocated", "max_memory_allocated", "memory_reserved"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(self.free), int(12e9)))

    def reset_peak_memory_stats(self, device):
        self.peak = 1e9

    def memory_allocated(self, device):
        return 1e9

    def memory_reserved(self, device):
        return 1.2e9

    def max_memory_allocated(self, device):
        return self.peak

    def take(self, samples):
        self.peak = max(self.peak, 1e9 + 0.5e9 * samples)


def test_a_stage_on_a_gpu_tries_one_sample_and_takes_what_fits(monkeypatch):
    card, lines = Card(monkeypatch), []
    micro_batch = MicroBatch(0, torch.device("cuda"), lines.append)

    def step(samples):
        taken = []
        for piece in micro_batch.pieces(range(samples), samples):
            taken.append(len(piece))
            card.take(len(piece))
        return taken

    micro_batch.begin(trainable_bytes=0)
    # 0.9 * (4.0 free + 0.2 cached) GB / 0.5 GB a sample = 7.56
    assert step(16) == [1, 5, 5, 5] and step(16) == [6, 5, 5]
    assert lines == ["7 samples at a time fit the free memory"]
    card.free = 2.8e9
    micro_batch.begin(trainable_bytes=500_000_000)  # 1.5 GB of gradients and moments are to come: 1.5 GB are left
    assert step(4) == [1, 2, 1] and step(4) == [2, 2]
    card.free = 40e9
    micro_batch.begin(trainable_bytes=0)
    assert step(16) == [1, 15] and step(16) == [16] and len(lines) == 2


def test_memory_that_runs_out_halves_the_micro_batch_and_changes_no_number(tiny_sd, tmp_path, monkeypatch):
    whole = train(small_settings(tmp_path / "whole", tiny_sd), watch=QUIET).artifact
    lines, original = [], StableDiffusion.predict

    def short(model, x_t, t, condition):
        if len(x_t) > 1 and condition.states.requires_grad:  # after the frozen pass, in the midst of the step
            raise torch.OutOfMemoryError(OUT)
        return original(model, x_t, t, condition)

    monkeypatch.setattr(StableDiffusion, "predict", short)
    artifact = train(small_settings(tmp_path / "short", tiny_sd), watch=Said(lines.append)).artifact
    assert [line for line in lines if line.startswith("out of")] == [
        "out of memory with 4 samples at a time: going on with 2",
        "out of memory with 2 samples at a time: going on with 1",
        "out of memory with both prompts of a sample at a time: going on with one after the other",  # stage II
    ]
    assert torch.allclose(artifact.embedding, whole.embedding, atol=2e-5)


def test_memory_that_one_sample_does_not_fit_into_is_one_line_with_advice(tiny_sd, tmp_path, monkeypatch):
    def short(*_):
        raise torch.OutOfMemoryError(OUT)

    monkeypatch.setattr(StableDiffusion, "predict", short)
    with pytest.raises(SingleInsertError, match="one sample at a time: use --low_vram") as error:
        train(small_settings(tmp_path, tiny_sd), watch=QUIET)
    assert "\n" not in str(error.value) and isinstance(error.value.__cause__, torch.OutOfMemoryError)


def test_other_errors_are_not_taken_for_memory():
    assert not MicroBatch(4, torch.device("cpu"), print).halve(RuntimeError("shapes differ"))


@pytest.mark.parametrize(
    ("launched", "cuda", "has_bf16", "chosen"),
    [
        ("no", False, False, "no"),
        ("bf16", False, False, "bf16"),
        ("no", True, True, "bf16"),
        ("no", True, False, "fp16"),
        ("fp16", True, True, "fp16"),
    ],
)
def test_precision_is_chosen_where_nobody_says_it(monkeypatch, launched, cuda, has_bf16, chosen):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    assert choose_precision() == chosen
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert choose_precision() == launched


def test_tf32_is_what_the_switch_says():
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [flag.allow_tf32 for flag in flags]
    for allowed in (True, False):
        set_tf32(allowed)
        assert [flag.allow_tf32 for flag in flags] == [allowed] * 2
    for flag, value in zip(flags, before, strict=True):
        flag.allow_tf32 = value
