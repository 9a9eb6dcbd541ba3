"""Batches of prompts: put together without a copy where that can be, and their gradients sent on once."""

import torch

from singleinsert.models.condition import Condition, GradientCut


def condition(value: float, **changes: torch.Tensor) -> Condition:
    tensors = {
        "states": torch.full((1, 3, 2), value),
        "pooled": torch.full((1, 4), value),
        "mask": torch.ones(1, 3).long(),
    }
    return Condition(tensors | changes)


def test_expand_sees_one_prompt_many_times_without_a_copy():
    one = condition(2.0)
    many = one.expand(5)
    assert (one.batch, many.batch) == (1, 5) and many.tensors["pooled"].shape == (5, 4)
    for name, tensor in many.tensors.items():
        assert tensor.data_ptr() == one.tensors[name].data_ptr() and tensor.stride(0) == 0
        assert torch.equal(tensor, one.tensors[name].repeat(5, *[1] * (tensor.ndim - 1)))


def test_concatenate_keeps_the_order_and_does_not_copy_what_is_one():
    a, b = condition(1.0), condition(2.0)
    mixed = Condition.concatenate([a, a, b, a])
    assert mixed.tensors["pooled"][:, 0].tolist() == mixed.states[:, 0, 0].tolist() == [1, 1, 2, 1]
    assert mixed.tensors["mask"].dtype == torch.int64 and mixed.tensors["mask"].shape == (4, 3)
    assert Condition.concatenate([a]) is a
    assert Condition.concatenate([a] * 3).states.data_ptr() == a.states.data_ptr()
    # equal numbers in another object are another prompt; a batch beside a prompt keeps its rows
    assert Condition.concatenate([mixed, b]).states[:, 0, 0].tolist() == [1, 1, 2, 1, 2]


def test_to_changes_the_dtype_of_what_is_no_whole_number():
    half = condition(1.0).to(dtype=torch.float16)
    assert {name: x.dtype for name, x in half.tensors.items()} == {
        "states": torch.float16, "pooled": torch.float16, "mask": torch.int64,
    }  # fmt: skip


def test_a_cut_adds_up_what_every_micro_batch_leaves_and_sends_it_on_once():
    """states = 3 w, twice in the first micro-batch and once in the second: dL/dw = 3 (2 * 5 + 7) for each element."""
    weight = torch.ones(1, 3, 2, requires_grad=True)
    walks = []
    encoded = 3 * weight
    encoded.register_hook(lambda grad: walks.append(grad.clone()))
    cut = GradientCut(torch.device("cpu"))
    leaf = cut.cut(condition(0.0, states=encoded))
    assert leaf.states.is_leaf and leaf.states.requires_grad and not leaf.tensors["pooled"].requires_grad
    unused = cut.cut(condition(0.0, states=2 * weight))
    (5 * Condition.concatenate([leaf, leaf]).states).sum().backward()
    (7 * leaf.states).sum().backward()
    assert weight.grad is None
    cut.backward()
    assert len(walks) == 1 and torch.equal(weight.grad, torch.full_like(weight, 51.0))
    assert unused.states.grad is None
