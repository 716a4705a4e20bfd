"""Objectives against scalar arithmetic, and the gradients that the formulas promise."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl.objectives import KL_ESTIMATORS, Clipped, Raft, Units, clip_mask, clipped_surrogate, effective_share, k2, k3

LOW, HIGH = 0.2, 0.3


def t(*values: float, grad: bool = False) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64, requires_grad=grad)


def seen(new: torch.Tensor, old: torch.Tensor, advantage: torch.Tensor, mask: torch.Tensor | None = None) -> Units:
    """What an objective sees; every entry is a unit unless said otherwise."""
    return Units(new, old, advantage, torch.ones_like(new, dtype=torch.bool) if mask is None else mask)


def slow_surrogate(new: float, old: float, advantage: float, low: float, high: float) -> float:
    ratio = math.exp(new - old)
    clipped = max(1 - low, min(1 + high, ratio))
    return -min(ratio * advantage, clipped * advantage)


@given(st.floats(-5, 0), st.floats(-5, 0), st.floats(-3, 3), st.floats(0.01, 0.9), st.floats(0.01, 3))
def test_clipped_surrogate_value(new: float, old: float, advantage: float, low: float, high: float) -> None:
    loss = clipped_surrogate(t(new), t(old), t(advantage), low, high)
    assert loss.item() == pytest.approx(slow_surrogate(new, old, advantage, low, high), rel=1e-12, abs=1e-12)


# ratio, advantage, is the gradient there
CASES = [
    (1.0, 2.0, True),
    (1.0, -2.0, True),
    (1.25, 2.0, True),
    (1.35, 2.0, False),  # already raised enough
    (1.35, -2.0, True),  # moved the wrong way: must be allowed back
    (0.85, -2.0, True),
    (0.75, -2.0, False),  # already lowered enough
    (0.75, 2.0, True),
    (5.0, -2.0, True),
    (1.25, 0.0, True),
]


@pytest.mark.parametrize(("ratio", "advantage", "alive"), CASES)
def test_clipped_surrogate_gradient(ratio: float, advantage: float, alive: bool) -> None:
    old = t(-1.5)
    new = t(-1.5 + math.log(ratio), grad=True)
    clipped_surrogate(new, old, t(advantage), LOW, HIGH).sum().backward()
    assert new.grad is not None
    expected = -advantage * ratio if alive else 0.0
    assert new.grad.item() == pytest.approx(expected, abs=1e-12)
    assert clip_mask((new - old).exp(), t(advantage), LOW, HIGH).item() == (not alive)


@pytest.mark.parametrize(("ratio", "advantage"), [(2.0, 3.0), (0.5, -3.0)])
def test_at_the_bound_exactly_the_unit_still_learns(ratio: float, advantage: float) -> None:
    new, old = t(math.log(ratio), grad=True), t(0.0)
    assert new.exp().item() == ratio  # the bound itself, not its neighbour
    loss = clipped_surrogate(new, old, t(advantage), 0.5, 1.0)
    loss.sum().backward()
    assert new.grad is not None
    assert loss.item() == -ratio * advantage
    assert new.grad.item() == pytest.approx(-ratio * advantage)
    assert not clip_mask((new - old).exp(), t(advantage), 0.5, 1.0).item()


def test_first_pass_gradient_is_the_policy_gradient() -> None:
    advantage = t(0.7, -1.3, 2.0)
    new = t(-0.1, -2.0, -3.0, grad=True)
    clipped_surrogate(new, new.detach(), advantage, LOW, HIGH).sum().backward()
    assert new.grad is not None
    assert new.grad.tolist() == (-advantage).tolist()


def test_inputs_are_left_alone() -> None:
    new, old, advantage = t(-1.0, -2.0), t(-1.1, -1.9), t(1.0, -1.0)
    before = [x.clone() for x in (new, old, advantage)]
    clipped_surrogate(new, old, advantage, LOW, HIGH)
    k2(new, old)
    k3(new, old)
    Clipped(dual=2.0).metrics(seen(new, old, advantage))
    assert all(torch.equal(x, y) for x, y in zip(before, (new, old, advantage), strict=True))


def test_advantage_broadcasts_over_the_units_of_a_row() -> None:
    new, old = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).double(), torch.zeros(3, 4).double()
    advantage = torch.tensor([[1.0], [-2.0], [0.0]], dtype=torch.float64)
    loss = clipped_surrogate(new, old, advantage, LOW, HIGH)
    for row, unit in itertools.product(range(3), range(4)):
        expected = slow_surrogate(new[row, unit].item(), 0.0, advantage[row, 0].item(), LOW, HIGH)
        assert loss[row, unit].item() == pytest.approx(expected)


@given(st.floats(-5, 0), st.floats(-5, 0))
def test_kl_values_and_gradients(new: float, reference: float) -> None:
    d = reference - new
    x = t(new, grad=True)
    value = k2(x, t(reference))
    value.sum().backward()
    assert x.grad is not None
    assert value.item() == pytest.approx(d * d / 2, abs=1e-12)
    assert x.grad.item() == pytest.approx(-d, abs=1e-12)
    x = t(new, grad=True)
    value = k3(x, t(reference))
    value.sum().backward()
    assert x.grad is not None
    assert value.item() == pytest.approx(math.exp(d) - d - 1, abs=1e-9)
    assert x.grad.item() == pytest.approx(1 - math.exp(d), abs=1e-9)
    assert value.item() >= -1e-15


def policies() -> tuple[torch.Tensor, torch.Tensor]:
    new = torch.tensor([0.3, -1.0, 0.8, 0.1], dtype=torch.float64, requires_grad=True)
    reference = torch.log_softmax(torch.tensor([0.0, 0.5, -0.4, 1.0], dtype=torch.float64), -1)
    return new, reference


def true_kl(logits: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    logp = torch.log_softmax(logits, -1)
    return (logp.exp() * (logp - reference)).sum()


def expected_loss(estimator, logits: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Sum over every sample of the policy, the sampling probabilities held fixed as a sampler holds them."""
    logp = torch.log_softmax(logits, -1)
    return sum(logp[v].exp().detach() * estimator(logp[v], reference[v]) for v in range(4))  # type: ignore[return-value]


def test_k2_as_an_on_policy_loss_has_the_gradient_of_the_kl() -> None:
    logits, reference = policies()
    (truth,) = torch.autograd.grad(true_kl(logits, reference), logits)
    (ours,) = torch.autograd.grad(expected_loss(k2, logits, reference), logits)
    torch.testing.assert_close(ours, truth, rtol=0, atol=1e-12)


def test_k3_is_unbiased_as_a_value() -> None:
    logits, reference = policies()
    assert expected_loss(k3, logits, reference).item() == pytest.approx(true_kl(logits, reference).item(), abs=1e-12)
    assert expected_loss(k2, logits, reference).item() != pytest.approx(true_kl(logits, reference).item(), abs=1e-2)


def test_k3_as_a_loss_has_the_gradient_of_the_other_kl() -> None:
    """What the docs must say: as a loss k3 pulls along KL(ref || new), not KL(new || ref)."""
    logits, reference = policies()
    forward = (reference.exp() * (reference - torch.log_softmax(logits, -1))).sum()
    (other,) = torch.autograd.grad(forward, logits)
    (ours,) = torch.autograd.grad(expected_loss(k3, logits, reference), logits)
    torch.testing.assert_close(ours, other, rtol=0, atol=1e-12)


def test_names() -> None:
    assert {"k2": k2, "k3": k3} == KL_ESTIMATORS


def test_clipped_component() -> None:
    new, old = t(0.0, 0.5, -0.5, 9.0), t(0.0, 0.0, 0.0, 0.0)
    advantage = t(1.0, 1.0, -1.0, 1.0)
    component = Clipped(epsilon_low=LOW, epsilon_high=HIGH)
    expected = clipped_surrogate(new, old, advantage, LOW, HIGH)
    assert torch.equal(component.per_unit(seen(new, old, advantage)), expected)
    mask = torch.tensor([[True, True, True, False]])
    found = {name: (s.item(), n.item()) for name, (s, n) in component.metrics(seen(new, old, advantage, mask)).items()}
    ratios = [1.0, math.exp(0.5), math.exp(-0.5)]
    assert found["clip_share"] == (2, 3)
    assert found["ratio"] == (pytest.approx(sum(ratios)), 3)
    assert found["approx_kl_old"] == (pytest.approx(sum(r - 1 - math.log(r) for r in ratios)), 3)


def test_approx_kl_old_is_unbiased_for_kl_of_old_to_new() -> None:
    """Samples come from old, so the logged number estimates KL(old || new)."""
    logits, old = policies()
    new = torch.log_softmax(logits.detach(), -1)
    metric = Clipped().metrics(seen(new[None], old[None], torch.ones(1, 4)))
    assert metric["approx_kl_old"][1].item() == 4
    per_sample = [
        Clipped()
        .metrics(seen(new[None], old[None], torch.ones(1, 4), torch.arange(4)[None] == v))["approx_kl_old"][0]
        .item()
        for v in range(4)
    ]
    truth = (old.exp() * (old - new)).sum().item()
    assert sum(old[v].exp().item() * per_sample[v] for v in range(4)) == pytest.approx(truth, abs=1e-12)


def test_raft() -> None:
    new, advantage = t(-1.0, -2.0, grad=True), t(1.0, 0.0)
    loss = Raft().per_unit(seen(new, torch.zeros(1, 2), advantage))
    loss.sum().backward()
    assert loss.tolist() == [[1.0, 0.0]]
    assert new.grad is not None
    assert new.grad.tolist() == [[-1.0, 0.0]]
    total, count = Raft().metrics(seen(new, new, advantage))["verified_share"]
    assert (total.item(), count.item()) == (1.0, 2)


@pytest.mark.parametrize("bad", [{"epsilon_low": 0.0}, {"epsilon_low": 1.5}, {"epsilon_high": -0.1}, {"epsilon": 0.2}])
def test_bad_components_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        Clipped.model_validate(bad)


def test_effective_share_and_tails() -> None:
    new, old = torch.tensor([[0.0, math.log(2), 9.0], [math.log(0.5), 0.0, 0.0]]), torch.zeros(2, 3)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    ratios = [1.0, 2.0, 0.5]
    expected = sum(ratios) ** 2 / (3 * sum(r * r for r in ratios))
    assert float(effective_share(new, old, mask)) == pytest.approx(expected)
    assert float(effective_share(old, old, mask)) == 1.0
    assert float(effective_share(new, old, mask & False)) == 0.0
    low, high = Clipped().tails(seen(new, old, new, mask))["ratio"]
    assert (low, high) == (pytest.approx(0.5), pytest.approx(2.0))
    assert Clipped().tails(seen(new, old, new, mask & False)) == {}
    share, count = Clipped().metrics(seen(new, old, torch.ones(2, 3), mask))["ess"]
    assert float(share / count) == pytest.approx(expected)
    assert Raft().tails(seen(new, old, new, mask)) == {}
