"""Quotas, choices of positions, and the probability of a choice, against loops."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rollouts.schedule import fixed_quota
from rollouts.select import (
    LOG_NOTHING,
    keep_top,
    log_mass_below,
    position_score,
    random_choice_logprob,
    threshold,
)
from tests.oracles.sampling import quotas, rule_score, softmax

INF = float("inf")


@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.integers(1, 9))
def test_fixed_quota(masked: list[int], steps: int) -> None:
    shares = fixed_quota(torch.tensor(masked), steps)
    assert shares.tolist() == [quotas(m, steps) for m in masked]
    assert shares.sum(1).tolist() == masked
    assert (shares.diff(dim=1) <= 0).all()  # remainders first


def best(score: list[float], masked: list[bool], quota: int) -> list[bool]:
    """The highest scores among the masked positions, lowest position first on ties."""
    places = sorted((i for i, m in enumerate(masked) if m), key=lambda i: (-score[i], i))
    return [i in places[:quota] for i in range(len(score))]


@given(st.data())
def test_keep_top(data: st.DataObject) -> None:
    width = data.draw(st.integers(1, 7))
    score = data.draw(st.lists(st.sampled_from([-INF, -2.0, -1.0, 0.0, 0.5]), min_size=width, max_size=width))
    masked = data.draw(st.lists(st.booleans(), min_size=width, max_size=width))
    quota = data.draw(st.integers(0, sum(masked)))
    kept = keep_top(torch.tensor([score]), torch.tensor([masked]), torch.tensor([quota]))
    assert kept[0].tolist() == best(score, masked, quota)


def test_keep_top_treats_rows_apart() -> None:
    score = torch.tensor([[0.1, 0.9, 0.5], [0.9, 0.1, 0.5]])
    masked = torch.tensor([[True, False, True], [True, True, True]])
    kept = keep_top(score, masked, torch.tensor([1, 2]))
    assert kept.tolist() == [[False, False, True], [True, False, True]]


@given(st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=6), st.sampled_from(["max_prob", "margin", "entropy"]))
def test_position_score(logits: list[float], rule: str) -> None:
    score = position_score(rule, torch.log_softmax(torch.tensor([logits]), -1)).item()
    expected = rule_score(rule, softmax(logits))
    assert score == pytest.approx(math.log(expected) if rule == "max_prob" else expected, abs=1e-5)


@pytest.mark.parametrize("rule", ["max_prob", "margin", "entropy"])
def test_the_surer_position_goes_first(rule: str) -> None:
    logp = torch.tensor([[0.4, 0.35, 0.25], [0.9, 0.06, 0.04], [0.5, 0.3, 0.2]]).log()
    assert position_score(rule, logp).argsort(descending=True).tolist() == [1, 2, 0]


def test_rules_differ() -> None:
    """One pair of laws that margin and maximum rank one way, entropy the other."""
    logp = torch.tensor([[0.5, 0.25, 0.25, 1e-9], [0.48, 0.22, 0.15, 0.15], [0.49, 0.489, 0.02, 0.001]]).log()
    assert position_score("max_prob", logp).argmax().item() == 0
    assert position_score("margin", logp).argsort(descending=True).tolist() == [1, 0, 2]
    assert position_score("entropy", logp).argmax().item() == 2


def test_unknown_rule() -> None:
    with pytest.raises(ValueError, match="position-first"):
        position_score("confidence", torch.zeros(1, 2))


@given(st.integers(0, 12), st.integers(0, 12))
def test_random_choice(masked: int, quota: int) -> None:
    quota = min(quota, masked)
    subsets = len(list(itertools.combinations(range(masked), quota)))
    value = random_choice_logprob(torch.tensor([masked]), torch.tensor([quota])).item()
    assert value == pytest.approx(-math.log(subsets), abs=1e-6)


def test_threshold() -> None:
    confidence = torch.tensor([[-1.0, -3.0, -2.0, -3.0, -9.0], [-1.0, -2.0, -3.0, -4.0, -5.0]])
    kept = torch.tensor([[True, True, True, True, False], [False] * 5])
    tau, last = threshold(confidence, kept)
    assert tau.tolist() == [-3.0, INF]
    assert last[0].item() == 3


def brute_order_mass(p: list[list[float]], q: list[list[float]], kept: dict[int, int]) -> float:
    """Probability of exactly this kept set and these kept tokens, over every draw, divided by the kept tokens' own."""
    places = range(len(p))
    total = 0.0
    for drawn in itertools.product(*(range(len(row)) for row in q)):
        chosen = sorted(places, key=lambda i: (-p[i][drawn[i]], i))[: len(kept)]
        if {i: drawn[i] for i in chosen} == kept:
            total += math.prod(q[i][drawn[i]] for i in places)
    return total / math.prod(q[i][v] for i, v in kept.items())


# Weights from a coarse grid that sum to one: ties within and across positions, zeros under q only.
P_ROWS = st.sampled_from([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.625, 0.25, 0.125], [0.125, 0.375, 0.5]])
Q_ROWS = st.sampled_from([[0.5, 0.25, 0.25], [0.0, 0.75, 0.25], [1.0, 0.0, 0.0], [0.2, 0.3, 0.5]])


@given(st.data())
def test_order_mass_is_the_probability_that_the_rest_drew_worse(data: st.DataObject) -> None:
    width = data.draw(st.integers(1, 4))
    p = [data.draw(P_ROWS) for _ in range(width)]
    q = [data.draw(Q_ROWS) for _ in range(width)]
    places = data.draw(st.sets(st.integers(0, width - 1), min_size=1, max_size=width))
    kept = {i: data.draw(st.sampled_from([v for v in range(3) if q[i][v] > 0])) for i in sorted(places)}
    logp, logq = torch.tensor(p).log(), torch.tensor(q).log()
    confidence, is_kept = torch.full((1, width), -99.0), torch.zeros(1, width, dtype=torch.bool)
    for i, v in kept.items():
        confidence[0, i], is_kept[0, i] = logp[i, v], True
    tau, last = threshold(confidence, is_kept)
    left = torch.tensor([i for i in range(width) if i not in kept], dtype=torch.int64)
    mass = log_mass_below(logq[left], logp[left], tau.expand(len(left)), left > last)
    expected = brute_order_mass(p, q, kept)
    if expected == 0:
        assert mass.sum().item() <= LOG_NOTHING
    else:
        assert mass.sum().item() == pytest.approx(math.log(expected), abs=1e-5)


def test_order_mass_gradient_is_that_of_the_log_of_the_sum() -> None:
    logits = torch.tensor([[0.3, -0.2, 0.9, 0.0]], requires_grad=True)
    logq = torch.log_softmax(logits, -1)
    logp = logq.detach()
    tau = logp[:, 3]  # ids 1 and 3 are not above it; 3 ties
    log_mass_below(logq, logp, tau, torch.tensor([True])).backward()
    q = softmax(logits[0].tolist())
    inside = q[1] + q[3]
    expected = [(q[v] / inside if v in (1, 3) else 0.0) - q[v] for v in range(4)]
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_order_mass_of_nothing_is_finite_with_zero_gradient() -> None:
    logits = torch.tensor([[0.3, -0.2]], requires_grad=True)
    logq = torch.log_softmax(logits, -1)
    value = log_mass_below(logq, logq.detach(), torch.tensor([-50.0]), torch.tensor([True]))
    value.backward()
    assert value.item() == LOG_NOTHING
    assert logits.grad is not None
    assert logits.grad.tolist() == [[0.0, 0.0]]
