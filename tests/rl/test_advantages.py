"""Advantages against loops."""

import math
import statistics
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl.advantages import GROUP_ADVANTAGES, STD_EPSILON, advantages, group_centered, verified

NAMES = GROUP_ADVANTAGES
REWARD = st.floats(-4, 4, width=32)
ROWS = st.lists(st.tuples(REWARD, st.integers(0, 3)), min_size=1, max_size=9)


def slow(name: str, rewards: Sequence[float], groups: Sequence[int]) -> list[float]:
    out = []
    for i, (reward, group) in enumerate(zip(rewards, groups, strict=True)):
        own = [r for r, g in zip(rewards, groups, strict=True) if g == group]
        others = [r for j, (r, g) in enumerate(zip(rewards, groups, strict=True)) if g == group and j != i]
        if not others:
            out.append(0.0)
        elif name == "leave_one_out":
            out.append(reward - statistics.fmean(others))
        elif name == "best_worst":
            first = {value: own.index(value) for value in (max(own), min(own))}
            place = sum(g == group for g in groups[:i])
            sign = (place == first[max(own)]) - (place == first[min(own)])
            out.append(sign * len(own) / 2 if max(own) > min(own) else 0.0)
        elif name == "softmax_difference":
            plus, minus = (math.exp(s * reward) / sum(math.exp(s * r) for r in own) for s in (1, -1))
            out.append(len(own) * (plus - minus))
        elif name == "group_centered":
            out.append(reward - statistics.fmean(own))
        else:
            out.append((reward - statistics.fmean(own)) / (statistics.stdev(own) + 1e-4))
    return out


def ours(name: str, rewards: Sequence[float], groups: Sequence[int]) -> list[float]:
    reward = torch.tensor(rewards)
    return advantages(name, reward, reward, torch.tensor(groups)).tolist()  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
@given(ROWS)
def test_against_loops(name: str, rows: list[tuple[float, int]]) -> None:
    rewards, groups = [r for r, _ in rows], [10 * g + 1 for _, g in rows]
    assert ours(name, rewards, groups) == pytest.approx(slow(name, rewards, groups), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "best_worst"])
@given(ROWS, st.randoms(use_true_random=False))
def test_order_of_rows_is_immaterial(name: str, rows: list[tuple[float, int]], random) -> None:
    base = ours(name, [r for r, _ in rows], [g for _, g in rows])
    order = list(range(len(rows)))
    random.shuffle(order)
    moved = ours(name, [rows[i][0] for i in order], [rows[i][1] for i in order])
    assert moved == pytest.approx([base[i] for i in order], rel=1e-6, abs=1e-6)


def test_a_small_case_by_hand() -> None:
    rewards, groups = [1.0, 0.0, 0.0, 1.0, 5.0], [7, 7, 7, 2, 2]
    assert ours("group_centered", rewards, groups) == pytest.approx([2 / 3, -1 / 3, -1 / 3, -2.0, 2.0])
    assert ours("leave_one_out", rewards, groups) == pytest.approx([1.0, -0.5, -0.5, -4.0, 4.0])
    deviation = [math.sqrt(1 / 3) + STD_EPSILON, math.sqrt(8.0) + STD_EPSILON]
    expected = [2 / 3 / deviation[0], -1 / 3 / deviation[0], -1 / 3 / deviation[0], -2 / deviation[1], 2 / deviation[1]]
    assert ours("group_normalized", rewards, groups) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_no_spread_and_groups_of_one_are_exactly_zero(name: str) -> None:
    """Exactly: such groups are counted as carrying no signal."""
    rewards = [0.1] * 7 + [1 / 3] * 3 + [9.0]
    assert ours(name, rewards, [0] * 7 + [1] * 3 + [2]) == [0.0] * 11


@given(st.lists(REWARD, min_size=2, max_size=6))
def test_leave_one_out_is_a_multiple_of_centred(rewards: list[float]) -> None:
    n, group = len(rewards), [0] * len(rewards)
    centred = ours("group_centered", rewards, group)
    assert ours("leave_one_out", rewards, group) == pytest.approx([n / (n - 1) * a for a in centred], abs=1e-5)


def test_leave_one_out_baseline_is_unbiased() -> None:
    """E[A_i grad log p(r_i)] is the gradient of E[r], by enumeration of two draws from a three-way law; the mean with
    one's own reward shrinks it by (n - 1) / n."""
    logits = torch.tensor([0.2, -0.5, 0.9], dtype=torch.float64, requires_grad=True)
    values = [1.0, 3.0, -2.0]
    p = logits.softmax(-1)
    (truth,) = torch.autograd.grad((p * torch.tensor(values).double()).sum(), logits, retain_graph=True)
    for name, shrink in (("leave_one_out", 1.0), ("group_centered", 0.5)):
        total = torch.zeros(3, dtype=torch.float64)
        for i in range(3):
            for j in range(3):
                pair = ours(name, [values[i], values[j]], [0, 0])
                term = pair[0] * p[i].log() + pair[1] * p[j].log()
                (slope,) = torch.autograd.grad(term / 2, logits, retain_graph=True)
                total += (p[i] * p[j]).detach() * slope
        torch.testing.assert_close(total, truth * shrink, rtol=0, atol=1e-6)


def test_large_rewards_keep_their_differences() -> None:
    centred = group_centered(torch.tensor([100_000.0, 100_001.0]), torch.tensor([0, 0]))
    assert centred.tolist() == [-0.5, 0.5]


def test_verified() -> None:
    outcome = torch.tensor([1.0, 0.999, 0.0, 2.0, float("nan")])
    assert verified(outcome).tolist() == [1.0, 0.0, 0.0, 1.0, 0.0]
    assert verified(outcome, threshold=0.5).tolist() == [1.0, 1.0, 0.0, 1.0, 0.0]
    reward = torch.full((5,), 7.0)  # the outcome decides, not the shaped reward
    assert advantages("verified", reward, outcome, torch.zeros(5)).tolist() == [1.0, 0.0, 0.0, 1.0, 0.0]
