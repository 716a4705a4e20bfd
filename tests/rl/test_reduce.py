"""Reductions against loops: denominators come from the batch, never from what was scored."""

import functools
import itertools
import operator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from rl.reduce import Constant, Reduction, reduce_loss, row_scale

REDUCTIONS = ["token_mean", "sequence_mean", Constant(constant=5.0)]


def slow(reduction: Reduction, loss: list[list[float]], has_unit: list[list[bool]]) -> float:
    """Written with the definitions, over every unit of the batch."""
    rows, units = len(loss), sum(sum(row) for row in has_unit)
    total = 0.0
    for row, present in zip(loss, has_unit, strict=True):
        own = [x for x, there in zip(row, present, strict=True) if there]
        if reduction == "token_mean":
            total += sum(own) / max(units, 1)
        elif reduction == "sequence_mean":
            total += sum(own) / max(len(own), 1) / rows
        else:
            total += sum(own) / reduction.constant / rows  # type: ignore[union-attr]
    return total


def ours(reduction: Reduction, loss: torch.Tensor, weight: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    scale = row_scale(reduction, count, float(count.sum()), float(len(count)))
    return reduce_loss(loss, weight, scale)


@pytest.mark.parametrize("reduction", REDUCTIONS, ids=str)
@given(st.data())
def test_against_loops(reduction: Reduction, data: st.DataObject) -> None:
    rows, width = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    numbers = st.lists(st.floats(-3, 3, width=32), min_size=width, max_size=width)
    loss = [data.draw(numbers) for _ in range(rows)]
    present = [data.draw(st.lists(st.booleans(), min_size=width, max_size=width)) for _ in range(rows)]
    mask = torch.tensor(present)
    value = ours(reduction, torch.tensor(loss), mask.float(), mask.sum(1))
    assert value.item() == pytest.approx(slow(reduction, loss, present), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("reduction", REDUCTIONS, ids=str)
def test_micro_batches_add_up(reduction: Reduction) -> None:
    """Each part uses the whole step's denominators, so any split gives the same scalar."""
    generator = torch.Generator().manual_seed(0)
    loss = torch.randn(6, 5, generator=generator).double()
    mask = torch.rand(6, 5, generator=generator) < 0.6
    count = mask.sum(1)
    whole = ours(reduction, loss, mask.double(), count)
    for size in (1, 2, 4):
        parts = [
            reduce_loss(loss[i], mask[i].double(), row_scale(reduction, count[i], float(count.sum()), 6.0))
            for i in torch.arange(6).split(size)
        ]
        torch.testing.assert_close(sum(parts), whole, rtol=0, atol=1e-9)


@pytest.mark.parametrize("reduction", REDUCTIONS, ids=str)
def test_sub_sampled_units_average_to_the_full_loss(reduction: Reduction) -> None:
    """Four units in strata of sizes 3 and 1; the denominator stays four, the weights are 3 and 1."""
    loss = torch.tensor([[0.3, -1.0, 2.0, 0.7], [1.0, 1.5, -0.2, 0.1]])
    count = torch.tensor([4, 4])
    full = ours(reduction, loss, torch.ones(2, 4), count)
    mean = 0.0
    for first, second in itertools.product(range(3), range(3)):
        weight = torch.zeros(2, 4)
        weight[0, first], weight[1, second], weight[:, 3] = 3.0, 3.0, 1.0
        mean += ours(reduction, loss, weight, count).item() / 9
    assert mean == pytest.approx(full.item(), abs=1e-6)


@pytest.mark.parametrize("reduction", REDUCTIONS, ids=str)
def test_entries_without_weight_contribute_nothing(reduction: Reduction) -> None:
    weight = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    count = torch.tensor([1, 2])
    clean = torch.tensor([[0.5, 0.0], [0.25, 0.0]], requires_grad=True)
    dirty = torch.tensor([[0.5, 1e30], [0.25, float("inf")]], requires_grad=True)
    values = []
    for loss in (clean, dirty):
        value = ours(reduction, loss, weight, count)
        value.backward()
        values.append(value.item())
    assert values[0] == values[1]
    assert clean.grad is not None
    assert dirty.grad is not None
    assert torch.equal(clean.grad, dirty.grad)
    assert dirty.grad[:, 1].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("reduction", REDUCTIONS, ids=str)
def test_gradient_is_weight_times_scale(reduction: Reduction) -> None:
    loss = torch.zeros(2, 3, requires_grad=True)
    weight = torch.tensor([[1.0, 0.0, 2.0], [1.0, 1.0, 1.0]])
    count = torch.tensor([2, 3])
    ours(reduction, loss, weight, count).backward()
    own = {"token_mean": [1 / 5, 1 / 5], "sequence_mean": [1 / 4, 1 / 6]}
    scale = own[reduction] if isinstance(reduction, str) else [1 / 10, 1 / 10]
    expected = [[w * s for w in row] for row, s in zip(weight.tolist(), scale, strict=True)]
    assert loss.grad is not None
    assert loss.grad.flatten().tolist() == pytest.approx(functools.reduce(operator.iadd, expected, []))


@pytest.mark.parametrize("reduction", REDUCTIONS, ids=str)
def test_an_empty_row_and_an_empty_batch_are_finite(reduction: Reduction) -> None:
    value = ours(reduction, torch.ones(2, 3), torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]), torch.tensor([3, 0]))
    assert torch.isfinite(value)
    assert ours(reduction, torch.ones(2, 3), torch.zeros(2, 3), torch.tensor([0, 0])).item() == 0.0


def test_the_forms_a_recipe_may_write() -> None:
    adapter = TypeAdapter(Reduction)
    assert adapter.validate_python("token_mean") == "token_mean"
    assert adapter.validate_python({"constant": 256}) == Constant(constant=256.0)
    for bad in ("mean", {"constant": 0}, {"length": 3}):
        with pytest.raises(ValidationError):
            adapter.validate_python(bad)
