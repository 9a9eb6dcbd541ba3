"""Passes as CUDA graphs, on a CPU: replayed by a stand-in with a graph's traps, a run has the same numbers to the bit.

The stand-in computes what was recorded; like a graph it reads its inputs from one place, and writes outputs and
gradients always to the same.
"""

from types import SimpleNamespace

import pytest
import torch
from runs import QUIET, small_settings
from torch.utils import _pytree as pytree

from singleinsert.config import load_settings
from singleinsert.errors import ConfigError
from singleinsert.training import loop as loops
from singleinsert.training.graphs import MOST, StepGraphs, build_graphs
from singleinsert.training.run import train
from singleinsert.training.stages import stages_of


class Recorder:
    """Counts recordings and replays, forward and backward."""

    def __init__(self):
        self.recorded = self.forward = self.backward = 0

    def __call__(self, function, arguments, pool):
        counts, trained = self, [i for i, a in enumerate(arguments) if a.requires_grad]
        self.recorded += 1
        with torch.random.fork_rng():
            spec = pytree.tree_flatten(function(*arguments))[1]
        place = SimpleNamespace(outputs=None, gradients=None, graph=None)

        class Replay(torch.autograd.Function):
            @staticmethod
            def forward(ctx, *inputs):
                counts.forward += 1
                for own, given in zip(arguments, inputs, strict=True):
                    if own.data_ptr() != given.data_ptr():
                        own.data.copy_(given)
                with torch.set_grad_enabled(bool(place.with_grad)):
                    place.graph = pytree.tree_leaves(function(*arguments))
                if place.outputs is None:
                    place.outputs = [torch.empty_like(out) for out in place.graph]
                for kept, out in zip(place.outputs, place.graph, strict=True):
                    kept.data.copy_(out.detach())
                return tuple(out.detach() for out in place.outputs)

            @staticmethod
            def backward(ctx, *gradients):
                counts.backward += 1
                outs = [(o, g) for o, g in zip(place.graph, gradients, strict=True) if o.requires_grad]
                found = torch.autograd.grad(
                    [o for o, _ in outs], [arguments[i] for i in trained], [g for _, g in outs], allow_unused=True
                )
                if place.gradients is None:
                    place.gradients = [None if g is None else torch.empty_like(g) for g in found]
                for kept, gradient in zip(place.gradients, found, strict=True):
                    if kept is not None:
                        kept.copy_(gradient)
                given = dict(zip(trained, place.gradients, strict=True))
                kept = [given.get(i) for i in range(len(arguments))]
                return tuple(None if g is None else g.detach() for g in kept)

        def replay(*inputs):
            place.with_grad = torch.is_grad_enabled()
            return pytree.tree_unflatten(list(Replay.apply(*inputs)), spec)

        return replay


def trained_with(monkeypatch, record, settings):
    lines = []
    with monkeypatch.context() as patch:
        patch.setattr(loops, "build_graphs", lambda settings, device, say: StepGraphs(lines.append, record))
        artifact = train(settings, watch=QUIET).artifact
    return artifact, lines


def same(a, b):
    assert torch.equal(a.embedding, b.embedding)
    for part, layers in a.lora.items():
        for path, weights in layers.items():
            assert torch.equal(weights.up, b.lora[part][path].up) and torch.equal(weights.down, b.lora[part][path].down)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="whole batches, one prompt after the other"),
        pytest.param({"run__micro_batch_size": 1}, id="gradients of several micro-batches add up"),
        pytest.param({"run__mixed_precision": "bf16"}, id="bf16"),
        pytest.param(
            {"stage2__trains": ["denoiser"], "concept__type": "vector"},
            id="prompts encoded once a stage, no image encoder",
        ),
    ],
)
def test_a_run_by_replayed_passes_is_the_same_to_the_bit(tiny_sd, tmp_path, monkeypatch, changes):
    steps = {"stage1__batch_size": 2, "stage2__batch_size": 2, **changes}
    record = Recorder()
    artifact, lines = trained_with(monkeypatch, record, small_settings(tmp_path / "graphs", tiny_sd, **steps))
    eager = train(small_settings(tmp_path / "eager", tiny_sd, **steps), watch=QUIET).artifact
    same(artifact, eager)
    assert lines == [] and record.recorded and record.forward >= 2 * record.recorded and record.backward


def test_what_is_seen_once_stays_eager_and_a_failed_recording_is_said(tiny_sd, tmp_path, monkeypatch):
    """A step of 3 samples, of which 2 are a micro-batch and 1 is another: two shapes a pass. After an error of the card
    the run goes on without, to the same numbers."""

    def fails(function, arguments, pool):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    steps = {"stage1__steps": 2, "stage2__steps": 2}
    artifact, lines = trained_with(monkeypatch, fails, small_settings(tmp_path / "graphs", tiny_sd, **steps))
    same(artifact, train(small_settings(tmp_path / "eager", tiny_sd, **steps), watch=QUIET).artifact)
    assert lines == [
        "CUDA graphs do not run here (CUDA out of memory. Tried to allocate 2.00 GiB): going on without them"
    ]
    record = Recorder()
    trained_with(monkeypatch, record, small_settings(tmp_path / "once", tiny_sd, stage1__steps=1, stage2__steps=1))
    assert record.recorded == 0


def test_a_second_pass_before_the_backward_pass_stays_eager():
    """A replay's activations are gone with the next one; so is a frozen pass in between, which shares their memory."""
    layer, record = torch.nn.Linear(2, 2), Recorder()
    graphs = StepGraphs(print, record)
    graphs.begin([layer])
    x, y = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 5.0]])
    with graphs.open():
        for _ in range(2):
            layer(x).sum().backward()
        layer.zero_grad()
        before = record.forward
        first, second = layer(x), layer(y)
        with torch.no_grad():
            layer(x)
        (first.sum() + 10 * second.sum()).backward()
    assert record.forward == before + 1
    assert layer.weight.grad.tolist() == [[31, 52], [31, 52]]  # x + 10 y
    assert layer(y).equal(torch.nn.functional.linear(y, layer.weight, layer.bias)) and record.forward == before + 1
    graphs.end()
    assert "forward" not in vars(layer)


def test_a_module_has_so_many_graphs_at_most():
    layer, record = torch.nn.Linear(2, 2), Recorder()
    graphs = StepGraphs(print, record)
    graphs.begin([layer])
    with graphs.open(), torch.no_grad():
        for rows in [*range(1, MOST + 3)] * 3:
            layer(torch.ones(rows, 2))
    assert record.recorded == MOST and record.forward == 2 * MOST


def test_without_a_card_it_is_said_once(capsys):
    settings = load_settings(None, None, {"run.cuda_graphs": True})
    lines = []
    assert build_graphs(settings, torch.device("cpu"), lines.append).record is None
    assert lines == ["run.cuda_graphs: this run is not on a CUDA card, going on without"]
    assert build_graphs(settings, torch.device("cuda"), lines.append).record is not None
    assert build_graphs(load_settings(None, None, {}), torch.device("cuda"), lines.append).record is None


@pytest.mark.parametrize(
    ("other", "value"),
    [("gradient_checkpointing", True), ("offload", True), ("compile", True), ("quantize", "nf4"),
     ("blocks_to_swap", 2), ("swap_text_encoders", True)],
)  # fmt: skip
def test_what_cannot_be_recorded_is_refused(other, value):
    values = {"run.cuda_graphs": True, f"run.{other}": value, "run.gradient_checkpointing": True}
    if other == "offload":
        values["run.gradient_checkpointing"] = False
    with pytest.raises(ConfigError, match="run.cuda_graphs and run.*do not go together"):
        stages_of(load_settings(None, None, values))


def test_adapters_that_make_weights_anew_are_refused():
    values = {"run.cuda_graphs": True, "adapter.type": "full"}
    with pytest.raises(ConfigError, match="goes with adapter.type lora alone: full"):
        stages_of(load_settings(None, None, values))
