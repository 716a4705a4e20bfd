"""Random projections of gradients: inner products kept, memory bounded."""

import numpy as np
import pytest
import torch

from rl.sketch import Sketch


def parameters(*sizes: int) -> list[torch.Tensor]:
    return [torch.zeros(size, requires_grad=True) for size in sizes]


def fill(own: list[torch.Tensor], values: torch.Tensor) -> None:
    for parameter, part in zip(own, values.split([p.numel() for p in own]), strict=True):
        parameter.grad = part.clone().view_as(parameter)


def test_small_gradients_are_kept_as_they_are() -> None:
    own = [torch.zeros(2, 2, requires_grad=True), torch.zeros(3, requires_grad=True)]
    own[0].grad = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    sketch = Sketch(own, 0, size=7)
    assert sketch.exact
    assert sketch().tolist() == [1, 2, 3, 4, 0, 0, 0]


def test_inner_products_are_unbiased_with_the_stated_variance() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(50, generator=generator)
    y = x + 0.5
    own, size, products = parameters(20, 30), 8, []
    for seed in range(1500):
        sketch = Sketch(own, seed, size=size)
        fill(own, x)
        left = sketch()
        fill(own, y)
        products.append(float(left @ sketch()))
    exact, bound = float(x @ y), float((x @ x) * (y @ y) + (x @ y) ** 2) / size
    assert not sketch.exact
    assert np.var(products) <= 1.15 * bound
    assert np.mean(products) == pytest.approx(exact, abs=4 * np.sqrt(bound / len(products)))


def test_numbers_at_the_same_place_of_all_runs_do_not_always_meet() -> None:
    own, size = parameters(64), 8
    x = (torch.arange(64) % size == 0).float()
    squares = []
    for seed in range(400):
        sketch = Sketch(own, seed, size=size)
        fill(own, x)
        squares.append(float(sketch().square().sum()))
    assert np.mean(squares) == pytest.approx(8, abs=1)
    assert np.var(squares) < 1.5 * 2 * 8 * 8 / size  # were they to meet, it would be seven times as much


def test_it_is_linear_bounded_and_the_same_for_the_same_seed() -> None:
    own = parameters(70_000, 41)
    sketch, again, other = Sketch(own, 3, size=64), Sketch(own, 3, size=64), Sketch(own, 4, size=64)
    x = torch.randn(70_041, generator=torch.Generator().manual_seed(0))
    fill(own, x)
    first = sketch()
    assert first.shape == (64,)
    assert torch.equal(first, again())
    assert not torch.equal(first, other())
    fill(own, 2 * x)
    torch.testing.assert_close(sketch(), 2 * first)
    own[0].grad = own[1].grad = None
    assert not sketch().any()
    # One number: it lands in one bucket, with a sign.
    fill(own, torch.eye(1, 70_041)[0] * 5)
    assert sorted(sketch().abs().tolist())[-2:] == [0.0, 5.0]
