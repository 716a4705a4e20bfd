"""Intervals by their coverage, votes by enumeration, tests by their size and power. Simulations are seeded."""

import itertools
import math
from collections import Counter
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.evaluate import interval, pass_at_k
from rl.statistics import (
    holm,
    majority_at_k,
    mcnemar,
    proportion,
    sign_flip,
    smallest_seen,
    t_cdf,
    t_quantile,
    wilson,
)

NAN = math.nan


def chances(n: int, p: float) -> np.ndarray:
    """Binomial probabilities of 0..n."""
    return np.array([math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)])


# ---- intervals


def test_wilson_is_where_the_score_test_stops_rejecting() -> None:
    """The ends solve |p_hat - p| = z sqrt(p(1-p)/n), which is how Wilson defined them."""
    z = NormalDist().inv_cdf(0.975)
    for n, k in itertools.product((5, 50, 1319), (0, 1, 3, 5)):
        for end in wilson(k, n):
            assert abs(k / n - end) == pytest.approx(z * math.sqrt(end * (1 - end) / n), abs=1e-9)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 7)[0] == 0.0
    assert wilson(7, 7)[1] == 1.0
    # Figures of d1's tables: 12.9 of 100 at n = 256, 76.4 at n = 1,130.
    assert wilson(33, 256) == pytest.approx((0.0932, 0.1755), abs=2e-4)
    assert wilson(863, 1130) == pytest.approx((0.7381, 0.7876), abs=2e-4)


@pytest.mark.parametrize("n", [20, 50, 164, 256, 500])
def test_wilsons_coverage_computed_exactly(n: int) -> None:
    """Over all outcomes, not simulated. The exact coverage swings about 95 % and does not fall below 92 % where n p >= 1."""
    ends = np.array([wilson(k, n) for k in range(n + 1)])
    rates = np.arange(0.02, 0.99, 0.01)
    covered = [
        float((chances(n, p) * ((ends[:, 0] <= p) & (p <= ends[:, 1]))).sum()) for p in rates if n * min(p, 1 - p) >= 1
    ]
    assert min(covered) >= 0.92
    assert max(covered) <= 0.985
    assert np.mean(covered) == pytest.approx(0.951, abs=0.004)


def clustered(p: float, rho: float, groups: int, count: int) -> tuple[float, float]:
    """Coverage of the clustered interval and of the one that takes all entries for independent; beta-binomial clusters of 1 to 7."""
    generator = np.random.default_rng([groups, int(100 * p), int(100 * rho)])
    labels = np.repeat(np.arange(groups), generator.integers(1, 8, groups))
    hits = np.zeros(2)
    for _ in range(count):
        rates = generator.beta(p * (1 - rho) / rho, (1 - p) * (1 - rho) / rho, groups) if rho else np.full(groups, p)
        values = (generator.random(len(labels)) < rates[labels]).astype(float)
        found, naive = proportion(values, labels.tolist()), wilson(values.sum(), len(values))
        hits += [found.low <= p <= found.high, naive[0] <= p <= naive[1]]
    return float(hits[0] / count), float(hits[1] / count)


@pytest.mark.parametrize(
    ("groups", "p", "rho", "least"),
    [
        (229, 0.05, 0.5, 0.92),  # as d1's Sudoku: 229 solution grids
        (229, 0.3, 0.5, 0.93),
        (229, 0.3, 0.1, 0.93),
        (100, 0.8, 0.5, 0.92),
        (100, 0.3, 0.0, 0.93),
        (30, 0.3, 0.1, 0.93),
        (10, 0.3, 0.5, 0.92),
    ],
)
def test_the_clustered_intervals_coverage(groups: int, p: float, rho: float, least: float) -> None:
    """Simulated, 600 data sets each (standard error about 0.9 points)."""
    covered, naive = clustered(p, rho, groups, 600)
    assert least <= covered <= 0.995
    if rho == 0.5:
        assert naive < 0.85  # what the same data look like to who ignores the clusters


def test_clusters_of_copies_are_worth_one_entry_each() -> None:
    generator = np.random.default_rng(1)
    once = (generator.random(60) < 0.3).astype(float)
    labels = np.repeat(np.arange(60), 5).tolist()
    copied = proportion(np.repeat(once, 5), labels)
    assert copied.effective == pytest.approx(60 * 59 / 60, rel=1e-9)  # G - 1 of G: the unbiased variance
    assert (copied.n, copied.clusters, copied.value) == (300, 60, once.mean())
    alone = proportion(once)
    assert (alone.low, alone.high) == wilson(once.sum(), 60)
    assert copied.low == pytest.approx(alone.low, abs=0.01)
    assert copied.high == pytest.approx(alone.high, abs=0.01)


def test_where_nothing_or_all_is_right_a_cluster_counts_once() -> None:
    labels = np.repeat(np.arange(12), 8).tolist()
    none, every = proportion(np.zeros(96), labels), proportion(np.ones(96), labels)
    assert (none.low, none.effective, every.high) == (0.0, 12.0, 1.0)
    assert none.high == pytest.approx(1 - every.low)
    assert none.high > wilson(0, 96)[1]
    single = proportion(np.zeros(5), ["a"] * 5)
    assert (single.low, single.high) == wilson(0, 1)


def test_what_was_not_graded_is_left_out() -> None:
    found = proportion(np.array([1.0, NAN, 0.0, NAN]), ["a", "a", "b", "c"])
    assert (found.n, found.clusters, found.value) == (2, 2, 0.5)
    empty = proportion(np.array([NAN, NAN]))
    assert math.isnan(empty.value)
    assert (empty.n, empty.effective) == (0, 0.0)


def test_shares_get_an_interval_that_is_wide_enough() -> None:
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(400):
        values = generator.beta(2.0, 5.0, 80)
        found = proportion(values)
        covered += found.low <= 2 / 7 <= found.high
    assert covered / 400 >= 0.99  # the variance of a share is below p(1-p)


def test_students_t_against_the_table() -> None:
    table = {1: 12.706, 2: 4.303, 3: 3.182, 5: 2.571, 10: 2.228, 30: 2.042, 120: 1.980}
    for freedom, value in table.items():
        assert t_quantile(0.975, freedom) == pytest.approx(value, abs=6e-4)
        assert t_cdf(t_quantile(0.9, freedom), freedom) == pytest.approx(0.9, abs=1e-12)
        assert t_quantile(0.025, freedom) == -t_quantile(0.975, freedom)
    assert t_quantile(0.975, 5000) == pytest.approx(1.95996, abs=1e-5)


# ---- several answers


def slow_majority(answers: list[int | None], right: list[float], k: int) -> float:
    """Every subset, every tie."""
    good = {answer for answer, score in zip(answers, right, strict=True) if score >= 1 and answer is not None}
    chance = []
    for subset in itertools.combinations(range(len(answers)), k):
        votes = Counter(answers[i] for i in subset if answers[i] is not None)
        most = max(votes.values(), default=0)
        elected = [answer for answer, count in votes.items() if count == most]
        chance.append(sum(answer in good for answer in elected) / len(elected) if elected else 0.0)
    return float(np.mean(chance))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.none() | st.integers(0, 3), min_size=1, max_size=8), st.sets(st.integers(0, 3), max_size=3))
def test_a_majority_vote_is_the_mean_over_all_subsets(answers: list[int | None], good: set[int]) -> None:
    right = [float(answer in good) for answer in answers]
    for k in range(1, len(answers) + 1):
        assert majority_at_k(answers, right, k) == pytest.approx(slow_majority(answers, right, k), abs=1e-12)


def test_votes_by_hand() -> None:
    assert majority_at_k(["7", "7", "8"], [1.0, 1.0, 0.0], 3) == 1.0
    assert majority_at_k(["7", "8"], [1.0, 0.0], 2) == 0.5  # a tie is drawn
    assert majority_at_k([None, None, "7"], [0.0, 0.0, 1.0], 3) == 1.0  # who abstains does not vote
    assert majority_at_k([None, None], [0.0, 0.0], 2) == 0.0
    assert majority_at_k(["7", "9"], [1.0, NAN], 1) == 1.0  # the second was not graded
    assert math.isnan(majority_at_k(["7"], [1.0], 2))
    assert majority_at_k(["7", "8", "9"], [1.0, 0.0, 0.0], 1) == pytest.approx(1 / 3)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=9))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(right: list[bool]) -> None:
    row = np.array([right], dtype=float)
    for k, found in pass_at_k(row).items():
        subsets = [any(subset) for subset in itertools.combinations(right, int(k))]
        assert found[0] == pytest.approx(np.mean(subsets), abs=1e-12)


# ---- paired


def test_mcnemar_is_the_sign_test_of_the_pairs_that_differ() -> None:
    before = np.array([0.0] * 8 + [1.0] * 2 + [1.0] * 30 + [NAN])
    after = np.array([1.0] * 8 + [0.0] * 2 + [1.0] * 30 + [1.0])
    tail = sum(chances(10, 0.5)[:3])
    assert mcnemar(before, after) == pytest.approx(2 * tail)
    assert mcnemar(before, before) == 1.0
    assert mcnemar(before, after) == mcnemar(after, before)


def test_mcnemars_size_computed_exactly_and_its_power() -> None:
    """Given d pairs that differ, the chance of p < 0.05 under the hypothesis is at most 5 %: summed, not simulated."""
    for differ in range(1, 60):
        outcomes = []
        for gained in range(differ + 1):
            before = np.array([0.0] * gained + [1.0] * (differ - gained))
            outcomes.append(mcnemar(before, 1 - before))
        rejected = chances(differ, 0.5)[np.array(outcomes) < 0.05].sum()
        assert rejected <= 0.05
    gained = np.array(
        [mcnemar(np.array([0.0] * k + [1.0] * (40 - k)), np.array([1.0] * k + [0.0] * (40 - k))) for k in range(41)]
    )
    assert chances(40, 0.75)[gained < 0.05].sum() > 0.85


def pairs(generator: np.random.Generator, groups: int, size: int, gain: float) -> np.ndarray:
    """Differences -1, 0, 1 by cluster ``[groups, size]``; clusters lean to one side, by chance as often to either."""
    lean = np.clip(generator.normal(gain, 0.25, groups), -0.45, 0.45)
    draws = generator.random((groups, size))
    up, down = 0.25 + lean[:, None] / 2, 0.25 - lean[:, None] / 2
    return (draws < up).astype(float) - (draws > 1 - down)


def test_sign_flips_by_cluster_keep_their_size_where_mcnemar_does_not() -> None:
    generator = np.random.default_rng(5)
    flips, naive, powerful, reps = 0, 0, 0, 300
    for i in range(reps):
        moved = pairs(generator, 40, 6, 0.0)
        flips += sign_flip(moved.sum(1), np.random.default_rng(i), 400) < 0.05
        flat = moved.ravel()
        naive += mcnemar((flat < 0).astype(float), (flat > 0).astype(float)) < 0.05
        powerful += sign_flip(pairs(generator, 40, 6, 0.22).sum(1), np.random.default_rng(i), 400) < 0.05
    assert flips / reps <= 0.08  # 5 % and three standard errors
    assert naive / reps > 0.09
    assert powerful / reps > 0.8


def test_sign_flips_of_single_pairs_are_mcnemar() -> None:
    moved = np.array([1.0] * 9 + [-1.0] * 2 + [0.0] * 50)
    exact = mcnemar((moved < 0).astype(float), (moved > 0).astype(float))
    assert sign_flip(moved, np.random.default_rng(0), 60_000) == pytest.approx(exact, abs=0.004)
    assert sign_flip(np.zeros(5), np.random.default_rng(0)) == 1.0


def test_the_paired_interval_covers_the_true_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bootstrap over prompts, 200 pairs that are correlated, 300 data sets; fewer resamples, which only adds noise to the ends."""
    monkeypatch.setattr("rl.evaluate.RESAMPLES", 800)
    generator = np.random.default_rng(8)
    covered = 0
    for seed in range(300):
        hard = generator.random(200)
        before = (generator.random(200) < 0.2 + 0.4 * hard).astype(float)
        after = (generator.random(200) < 0.25 + 0.4 * hard).astype(float)
        found = interval(after - before, seed=seed, span=(-1.0, 1.0))
        covered += found["low"] <= 0.05 <= found["high"]
    assert 0.915 <= covered / 300 <= 0.98


def test_the_smallest_difference_seen_is_seen_four_times_in_five() -> None:
    generator = np.random.default_rng(2)
    moved = generator.choice([-1.0, 0.0, 1.0], p=[0.1, 0.8, 0.1], size=256)
    least = smallest_seen(moved)
    assert least == pytest.approx((1.960 + 0.8416) * moved.std(ddof=1) / 16, rel=1e-3)
    found = 0
    for _ in range(400):
        again = generator.choice([-1.0, 0.0, 1.0], p=[0.1 - least / 2, 0.8, 0.1 + least / 2], size=256)
        found += mcnemar((again < 0).astype(float), (again > 0).astype(float)) < 0.05
    assert 0.7 <= found / 400 <= 0.9
    copies = np.repeat(moved, 4)
    assert smallest_seen(copies, np.repeat(np.arange(256), 4).tolist()) == pytest.approx(least, rel=0.01)
    leaning = generator.choice([-1.0, 0.0, 1.0], p=[0.05, 0.45, 0.5], size=256)
    assert smallest_seen(leaning) == pytest.approx((1.960 + 0.8416) * leaning.std(ddof=1) / 16, rel=1e-3)
    assert math.isnan(smallest_seen(np.array([1.0])))
    assert 0 < smallest_seen(np.zeros(100)) < 0.06


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5]) == [0.5]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
