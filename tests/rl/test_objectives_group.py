"""Dual clip, BGPO's bound, ESPO's penalty and the objectives whose weights come from a group, each against scalars in loops."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl.advantages import group_centered, group_size, group_softmax, softmax_difference
from rl.objectives import (
    Clipped,
    LinearBound,
    PolicyGradient,
    Raft,
    Units,
    WeightedCrossEntropy,
    clip_ratio,
    dual_clip,
    k2,
    k2_sum,
    linear_bound,
    target_weights,
)


def t(*values: float, grad: bool = False) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64, requires_grad=grad)


def rows(*values: float, grad: bool = False) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1).requires_grad_(grad)


def seen(new: torch.Tensor, old: torch.Tensor, advantage: torch.Tensor, **rest: torch.Tensor) -> Units:
    return Units(new, old, advantage, rest.pop("mask", torch.ones_like(new, dtype=torch.bool)), **rest)


def slope(loss: torch.Tensor, new: torch.Tensor) -> list[float]:
    (gradient,) = torch.autograd.grad(loss.sum(), new)
    return gradient.flatten().tolist()


# ---- dual clip


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "derivative"),
    [
        (2.0, -1.5, 3.0, 3.0),  # above the band, below the bound: still pushed down
        (4.0, -1.5, 4.5, 0.0),  # c = 3: the loss stops at -c A
        (3.0, -1.5, 4.5, 4.5),  # at the bound exactly it still learns
        (4.0, 1.5, -1.8, 0.0),  # a positive advantage is clipped at 1.2 as before
        (0.5, -1.5, 1.2, 0.0),
        (1.0, -1.5, 1.5, 1.5),
    ],
)
def test_dual_clip(ratio: float, advantage: float, loss: float, derivative: float) -> None:
    new, old = t(math.log(ratio), grad=True), t(0.0)
    found = Clipped(dual=float(new.detach().exp()) if ratio == 3.0 else 3.0).per_unit(seen(new, old, t(advantage)))
    assert found.item() == pytest.approx(loss)
    assert slope(found, new) == pytest.approx([derivative])


def test_the_clip_share_counts_the_dual_clip() -> None:
    units = seen(t(math.log(4), math.log(2), math.log(4)), t(0, 0, 0), t(-1.0, -1.0, 1.0))
    assert Clipped(dual=3.0).metrics(units)["clip_share"][0].item() == 2
    assert Clipped().metrics(units)["clip_share"][0].item() == 1
    with pytest.raises(ValueError):
        Clipped(dual=1.0)


@given(st.floats(-2, 2), st.floats(-3, 3))
def test_dual_clip_only_ever_lowers_the_loss_of_negative_advantages(difference: float, advantage: float) -> None:
    loss = -difference * t(advantage)
    bounded = dual_clip(loss, t(advantage), 1.5)
    assert bounded.item() <= loss.item()
    if advantage >= 0:
        assert bounded.item() == loss.item()


# ---- GSPO


def test_the_ratio_of_normalised_sequences_is_the_exponential_of_the_mean() -> None:
    """GSPO (2507.18071, eq. 5 to 7): s = (pi / pi_old)^(1/L); its gradient spreads s A / L over the tokens."""
    generator = torch.Generator().manual_seed(2)
    new, old = (torch.randn(1, 5, generator=generator, dtype=torch.float64) * 0.1 for _ in range(2))
    new.requires_grad_()
    objective = Clipped(epsilon_low=0.2, epsilon_high=0.3)
    units = seen(new.mean(1, keepdim=True), old.mean(1, keepdim=True), t(2.0))
    geometric = math.prod(math.exp(a - b) for a, b in zip(new[0].tolist(), old[0].tolist(), strict=True)) ** (1 / 5)
    assert objective.ratio(units).item() == pytest.approx(geometric, rel=1e-12)
    assert slope(objective.per_unit(units), new) == pytest.approx([-2.0 * geometric / 5] * 5)


# ---- BGPO


@pytest.mark.parametrize("advantage", [1.7, -0.6, 0.0])
def test_the_linear_bound_is_ppo_in_value_and_gradient_where_nothing_has_moved(advantage: float) -> None:
    """BGPO == PPO where every log-ratio is 0: mean over the draws of the one, ratio of their mean of the other."""
    new, old = t(-1.0, -2.5, -0.3, grad=True), t(-1.0, -2.5, -0.3)
    bound = LinearBound().per_unit(seen(new, old, t(advantage).expand(1, 3))).mean()
    ppo = Clipped().per_unit(seen(new.mean(1, keepdim=True), old.mean(1, keepdim=True), t(advantage))).sum()
    assert bound.item() == pytest.approx(ppo.item(), abs=1e-12)
    assert slope(bound, new) == pytest.approx(slope(ppo, new), abs=1e-12)


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=5), st.floats(-3, 3))
def test_the_linear_bound_never_flatters(differences: list[float], advantage: float) -> None:
    new, a = t(*differences), t(advantage)
    bound = (linear_bound(new, torch.zeros_like(new), a) * a).mean().item()
    assert bound <= math.exp(sum(differences) / len(differences)) * advantage + 1e-9
    slow = [(1 + d if advantage > 0 else math.exp(d)) * advantage for d in differences]
    assert bound == pytest.approx(sum(slow) / len(slow), abs=1e-9)


def test_each_draw_is_clipped_by_itself_and_far_draws_stay_finite() -> None:
    """The public port takes log(1 + d), which is NaN for d < -1."""
    new, advantage = t(0.1, 0.5, -3.0, -3.0, 2.0, grad=True), t(1.0, 1.0, 1.0, -1.0, -1.0)
    objective = LinearBound(epsilon_low=0.2, epsilon_high=0.2, dual=3.0)
    units = seen(new, torch.zeros_like(new), advantage)
    loss = objective.per_unit(units)
    assert loss[0].tolist() == pytest.approx([-1.1, -1.2, 2.0, 0.8, 3.0])
    assert slope(loss, new) == pytest.approx([-1.0, 0.0, -1.0, 0.0, 0.0])
    assert objective.metrics(units)["clip_share"][0].item() == 3


# ---- ESPO's penalty


def test_k2_of_the_sum_is_divided_by_the_length_once() -> None:
    new, reference, length = t(-1.25, grad=True), t(-1.5), t(8.0)
    value = k2_sum(new, reference, length)
    assert value.item() == pytest.approx((8 * -1.25 - 8 * -1.5) ** 2 / (2 * 8))
    assert slope(value, new) == pytest.approx([8 * 0.25])
    assert k2_sum(new, reference, t(1.0)).item() == k2(new, reference).item()


# ---- groups


def test_softmax_over_a_group_whatever_the_order_of_the_rows() -> None:
    score, group = torch.tensor([1.0, 5000.0, 2.0, 0.0, 4999.0]), torch.tensor([7, 3, 7, 7, 3])
    found = group_softmax(score, group)
    slow = [math.exp(s) / (math.exp(1) + math.exp(2) + 1) for s in (1, 2, 0)]
    assert found[[0, 2, 3]].tolist() == pytest.approx(slow)
    assert found[[1, 4]].tolist() == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.e)])
    order = torch.tensor([4, 2, 0, 3, 1])
    torch.testing.assert_close(group_softmax(score[order], group[order]), found[order], rtol=0, atol=1e-15)
    assert group_size(group).tolist() == [3, 2, 3, 3, 2]


def test_wd1_weights() -> None:
    reward, group = torch.tensor([1.0, 0.0, 0.0, 2.0, 2.0, 0.5]), torch.tensor([0, 0, 0, 1, 1, 2])
    z, y = math.e + 2, math.exp(-1) + 2
    expected = [3 * (math.e / z - math.exp(-1) / y), 3 * (1 / z - 1 / y), 3 * (1 / z - 1 / y), 0, 0, 0]
    found = softmax_difference(reward, group)
    assert found.tolist() == pytest.approx(expected)
    assert found[3:].tolist() == [0.0, 0.0, 0.0]  # no spread, and a group of one: exactly nothing
    assert found[:3].sum().item() == pytest.approx(0.0, abs=1e-6)
    torch.testing.assert_close(softmax_difference(reward + 5, group), found)  # the group's mean does not matter
    assert softmax_difference(2 * reward, group)[0] > found[0]  # its scale does, as published


def test_wd1_as_a_mean_over_rows_is_the_mean_over_prompts_of_the_papers_sums() -> None:
    reward, group = torch.tensor([1.0, 0.0, 0.0, 2.0]), torch.tensor([4, 4, 9, 9])
    new = rows(-1.0, -2.0, -3.0, -0.5)
    advantage = softmax_difference(reward, group).unsqueeze(1)
    ours = PolicyGradient().per_unit(seen(new, new, advantage)).mean().item()
    plus = [math.e / (1 + math.e), 1 / (1 + math.e), 1 / (1 + math.e**2), math.e**2 / (1 + math.e**2)]
    minus = [1 - w for w in plus]
    paper = sum((m - p) * float(x) for p, m, x in zip(plus, minus, new.flatten(), strict=True)) / 2
    assert ours == pytest.approx(paper)


def test_policy_gradient() -> None:
    new, old = t(-1.0, -2.0, grad=True), t(-1.5, -2.0)
    units = seen(new, old, t(2.0, -3.0))
    loss = PolicyGradient().per_unit(units)
    assert loss.tolist() == [[2.0, -6.0]]
    assert slope(loss, new) == [-2.0, 3.0]
    drift, count = PolicyGradient().metrics(units)["log_ratio"]
    assert (drift.item(), count.item()) == (0.5, 2)
    assert PolicyGradient().tails(units) == {}


# ---- DMPO

GROUP = torch.tensor([5, 1, 5, 1, 5])
REWARD = torch.tensor([1.0, 0.0, 0.0, 0.5, 0.2])
OLD, REFERENCE = (-4.0, -6.0, -5.0, -3.0, -2.0), (-4.1, -5.5, -5.2, -3.0, -2.3)


def slow_weights(alpha: float, baseline: str) -> list[float]:
    found = []
    for i in range(5):
        peers = [j for j in range(5) if GROUP[j] == GROUP[i]]

        def share(sign: float, i: int = i, peers: list[int] = peers) -> float:
            terms = {j: math.exp(REFERENCE[j] - OLD[j] + sign * float(REWARD[j]) / alpha) for j in peers}
            return terms[i] / sum(terms.values())

        less = {"none": 0.0, "mean": 1 / len(peers), "negative": share(-1)}[baseline]
        found.append(len(peers) * (share(1) - less))
    return found


def dmpo_units(**changes: torch.Tensor) -> Units:
    advantage = group_centered(REWARD, GROUP).double().unsqueeze(1)
    parts = {"reference": rows(*REFERENCE), "group": GROUP, **changes}
    return seen(rows(-4.0, -6.1, -5.3, -2.8, -2.1, grad=True), rows(*OLD), advantage, **parts)


@pytest.mark.parametrize("baseline", ["none", "mean", "negative"])
def test_weighted_cross_entropy(baseline: str) -> None:
    """The weights are data: no gradient passes through them; the advantage stands for the reward, whose mean drops out."""
    objective = WeightedCrossEntropy.model_validate({"alpha": 0.5, "baseline": baseline})
    units = dmpo_units()
    expected = slow_weights(0.5, baseline)
    assert objective.weights(units).flatten().tolist() == pytest.approx(expected, abs=1e-6)
    loss = objective.per_unit(units)
    assert loss.flatten().tolist() == pytest.approx(
        [-w * n for w, n in zip(expected, units.new.flatten().tolist(), strict=True)], abs=1e-5
    )
    assert slope(loss, units.new) == pytest.approx([-w for w in expected], abs=1e-6)
    assert objective.tails(units)["weight"] == pytest.approx((min(expected), max(expected)), abs=1e-6)


def test_effective_sample_size_of_the_weights() -> None:
    share, groups = WeightedCrossEntropy(alpha=0.5).metrics(dmpo_units())["weight_ess"]
    plain = slow_weights(0.5, "none")  # each carries the size of its group
    expected = [1 / (n * sum((plain[i] / n) ** 2 for i in peers)) for n, peers in ((3, (0, 2, 4)), (2, (1, 3)))]
    assert float(share) == pytest.approx(sum(expected), rel=1e-6)
    assert int(groups) == 2


def test_at_the_reference_the_weights_are_the_softmax_of_the_reward() -> None:
    units = dmpo_units(reference=rows(*OLD))
    found = WeightedCrossEntropy(alpha=0.25, baseline="none").weights(units).flatten()
    expected = group_size(GROUP) * group_softmax(REWARD / 0.25, GROUP)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_equal_rewards_leave_nothing_however_far_the_reference_is() -> None:
    gap = torch.tensor([0.0, 3.0, -40.0])
    one = torch.zeros(3, dtype=torch.int64)
    assert target_weights(torch.zeros(3), gap, one, "negative").tolist() == [0.0] * 3
    assert target_weights(torch.zeros(3), gap, one, "none").sum().item() == pytest.approx(3.0)


def test_rows_without_tokens_are_in_no_group() -> None:
    mask = torch.tensor([[True], [True], [False], [True], [True]])
    found = WeightedCrossEntropy(alpha=0.5, baseline="none").weights(dmpo_units(mask=mask)).flatten()
    assert found[2].item() == 0.0
    assert found[[0, 4]].sum().item() == pytest.approx(2.0)
    nothing = dmpo_units(mask=mask & False)
    assert WeightedCrossEntropy().per_unit(nothing).flatten().tolist() == [0.0] * 5
    assert WeightedCrossEntropy().tails(nothing) == {}


@pytest.mark.parametrize(
    "objective", [Clipped(dual=2.0), LinearBound(), PolicyGradient(), Raft(), WeightedCrossEntropy(alpha=0.5)]
)
def test_each_objective_says_whether_its_slope_at_new_equal_to_old_needs_the_scores(objective: Any) -> None:
    """The on-policy shortcut leaves the scores out only where two sets of them give the same slope."""
    slopes = []
    for values in (OLD, (0.0,) * 5):
        new, advantage = rows(*values, grad=True), group_centered(REWARD, GROUP).double().unsqueeze(1)
        units = seen(new, rows(*values), advantage, reference=rows(*REFERENCE), group=GROUP)
        slopes.append(slope(objective.per_unit(units), new))
    assert (slopes[0] == pytest.approx(slopes[1], abs=1e-9)) == objective.known_on_policy


def test_what_it_cannot_do_without() -> None:
    units = dmpo_units()
    with pytest.raises(ValueError, match="a reference, groups, and one unit per row"):
        WeightedCrossEntropy().per_unit(seen(units.new, units.old, units.advantage, group=GROUP))


def test_clip_ratio_is_the_surrogate_of_any_ratio() -> None:
    assert clip_ratio(t(1.5), t(2.0), 0.2, 0.3).item() == pytest.approx(-2.6)
    assert clip_ratio(t(-2.0), t(1.0), 0.2, 0.3).item() == pytest.approx(2.0)
