"""Statistics of accuracies: intervals, majority votes, paired tests. Pure functions of arrays.

Everywhere: ``values`` are scores, 1 right, 0 wrong, or shares between; NaN was not graded and is left out. ``labels`` name the cluster
of each entry; entries of one cluster may depend on each other, clusters do not.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from rewards.grading.intervals import LEVEL, wilson

POWER = 0.80
FLIPS = 10_000  # random signs of the permutation test


@dataclass(frozen=True)
class Proportion:
    """A mean in [0, 1] with its interval. n: entries graded; effective: independent entries they are worth."""

    value: float
    low: float
    high: float
    n: int
    clusters: int
    effective: float


def proportion(values: np.ndarray, labels: Sequence[Hashable] | None = None) -> Proportion:
    """The mean of ``values`` with a 95 % interval: Wilson's, on the number of independent entries that the clusters are worth.

    With N entries in G clusters, mean p and residuals summed by cluster r_g, the variance of the mean is

        V = G / (G - 1) * sum_g r_g^2 / N^2          (ratio estimator; Cochran, Sampling Techniques, 3rd ed., sec. 9)

    the design effect V / (p(1-p)/N), and N* = N / max(1, design effect) replaces N in Wilson's formula, with Student's t of G - 1
    degrees of freedom in place of z where there are clusters (after Korn and Graubard, Survey Methodology 24, 1998, on
    Clopper and Pearson's interval). Where all entries are 0, or all are 1, V says nothing, and N* = G: a cluster counts as one entry.
    For shares between 0 and 1 the interval is at least as wide as needed, as their variance is at most p(1-p).
    """
    kept, names = _graded(values, labels)
    if not len(kept):
        return Proportion(math.nan, math.nan, math.nan, 0, 0, 0.0)
    count, p = len(kept), float(kept.mean())
    groups = int(names.max()) + 1
    if groups == count:  # each entry its own
        return Proportion(p, *wilson(p * count, count), count, groups, float(count))
    sums = np.bincount(names, weights=kept - p)
    spread = p * (1 - p) / count
    if spread <= 0 or groups == 1:
        effective = float(groups)
    else:
        variance = groups / (groups - 1) * float(sums @ sums) / count**2
        effective = count / max(1.0, variance / spread)
    critical = t_quantile(0.5 + LEVEL / 2, groups - 1) if groups > 1 else None
    return Proportion(p, *wilson(p * effective, effective, critical), count, groups, effective)


def _graded(values: np.ndarray, labels: Sequence[Hashable] | None) -> tuple[np.ndarray, np.ndarray]:
    """Entries that were graded, and their clusters numbered from 0."""
    seen = ~np.isnan(values)
    seats: dict[Hashable, int] = {}
    names = range(len(values)) if labels is None else labels
    numbers = [seats.setdefault(name, len(seats)) for name, keep in zip(names, seen, strict=True) if keep]
    return values[seen], np.array(numbers, dtype=int)


@lru_cache(maxsize=256)
def t_quantile(probability: float, freedom: int) -> float:
    """Of Student's t with a whole number of degrees of freedom, by bisection of `t_cdf`."""
    low, high = 0.0, 1.0
    upper = max(probability, 1 - probability)
    while t_cdf(high, freedom) < upper:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, freedom) < upper else (low, middle)
    return math.copysign((low + high) / 2, probability - 0.5)


def t_cdf(t: float, freedom: int) -> float:
    """P(T <= t), by the finite sums of Abramowitz and Stegun, 26.7.3 and 26.7.4; the normal law from 1,000 degrees on."""
    if freedom > 1000:
        return NormalDist().cdf(t)
    angle = math.atan2(abs(t), math.sqrt(freedom))
    cosine, odd = math.cos(angle), freedom % 2
    term = total = 0.0
    for power in range(1 if odd else 0, freedom - 1, 2):
        term = (cosine if odd else 1.0) if power < 2 else term * cosine**2 * (power - 1) / power
        total += term
    inside = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
    return 0.5 + math.copysign(inside / 2, t)


# -------------------------------------------------------------------------------------------------------- several answers


def majority_at_k(answers: Sequence[Hashable | None], right: Sequence[float], k: int) -> float:
    """The chance that a vote among k of these n answers, drawn without replacement, elects a right one.

    Exact: the mean over all C(n, k) subsets. None abstains. Of answers tied for most votes one is drawn, each as likely; where all
    abstain nothing is elected, and the vote is wrong. An answer is right if one that was given is (a score of at least 1).
    NaN where fewer than k answers were given.

    For each right answer and each number j of its votes, the number of ways in which the other answers get at most j is the
    coefficient of a product of polynomials, with the number of ties carried along.
    """
    graded = [(answer, score) for answer, score in zip(answers, right, strict=True) if not math.isnan(score)]
    if len(graded) < k or k < 1:
        return math.nan
    votes = Counter(answer for answer, _ in graded if answer is not None)
    silent = sum(answer is None for answer, _ in graded)
    good = {answer for answer, score in graded if answer is not None and score >= 1.0}
    ways = sum(_elections(votes, answer, silent, k) for answer in good)
    return ways / math.comb(len(graded), k)


def _elections(votes: Counter, answer: Hashable, silent: int, k: int) -> float:
    """Subsets of k answers, each weighted with the chance that ``answer`` is elected by it."""
    total = 0.0
    others = [count for other, count in votes.items() if other != answer]
    for own in range(1, min(votes[answer], k) + 1):
        # ways[ties][size]: choices from the other answers of this size, no answer more than own times, so many of them exactly own
        ways = [[0] * (k + 1) for _ in range(len(others) + 1)]
        for size in range(min(silent, k - own) + 1):
            ways[0][size] = math.comb(silent, size)
        for seen, count in enumerate(others):
            ways = _with_answer(ways, count, own, k - own, seen)
        chosen = math.comb(votes[answer], own)
        total += chosen * sum(row[k - own] / (ties + 1) for ties, row in enumerate(ways))
    return total


def _with_answer(ways: list[list[int]], count: int, most: int, room: int, seen: int) -> list[list[int]]:
    """The table after one more answer, given ``count`` times, of which at most ``most`` may be chosen."""
    after = [[0] * len(ways[0]) for _ in ways]
    for taken in range(min(count, most, room) + 1):
        factor, tie = math.comb(count, taken), int(taken == most)
        for ties in range(seen + 1):
            for size in range(room - taken + 1):
                if ways[ties][size]:
                    after[ties + tie][size + taken] += factor * ways[ties][size]
    return after


# ----------------------------------------------------------------------------------------------------------------- paired


def mcnemar(before: np.ndarray, after: np.ndarray) -> float:
    """Two-sided exact p-value of McNemar's test (Psychometrika 12, 1947): of the pairs that differ, either way is as likely.

    Entries are right from 1 on. Pairs must be independent.
    """
    seen = ~(np.isnan(before) | np.isnan(after))
    first, second = before[seen] >= 1.0, after[seen] >= 1.0
    gained, lost = int((~first & second).sum()), int((first & ~second).sum())
    differ, least = gained + lost, min(gained, lost)
    tail = sum(math.comb(differ, i) for i in range(least + 1))
    return min(1.0, 2 * tail / 2**differ)


def sign_flip(sums: np.ndarray, generator: np.random.Generator, flips: int = FLIPS) -> float:
    """Two-sided p-value of the permutation test that flips the sign of each cluster's sum of differences.

    Under the hypothesis that the two models may be exchanged in every cluster, each sign is as likely (Fisher's randomisation test).
    Random signs, the observed ones included, so that the size is exact: (1 + as extreme) / (1 + flips) (Phipson and Smyth, 2010).
    """
    moved = sums[sums != 0]
    if not len(moved):
        return 1.0
    observed, extreme = abs(float(moved.sum())), 0
    rows = max(1, 4_000_000 // len(moved))
    for start in range(0, flips, rows):
        signs = generator.integers(0, 2, size=(min(rows, flips - start), len(moved)), dtype=np.int8) * 2 - 1
        extreme += int((np.abs(signs @ moved) >= observed - 1e-12).sum())
    return (1 + extreme) / (1 + flips)


def smallest_seen(differences: np.ndarray, labels: Sequence[Hashable] | None = None, looks: int = 1) -> float:
    """The smallest true difference that a two-sided test at 5 % of such pairs finds with 80 % chance.

        (z_(1 - 0.025 / looks) + z_0.8) * standard error of the mean difference, clustered as in `proportion`

    looks: of how many comparisons it is one. Holm's first step asks for p below 0.05 / looks, and later steps for less, so that this is
    what a comparison finds wherever it stands in the order of p.

    NaN with fewer than two clusters. Where no pair differs, the rate of differing pairs is taken as its upper 95 % limit, 1 - 0.05^(1/G).
    """
    kept, names = _graded(differences, labels)
    groups = int(names.max()) + 1 if len(names) else 0
    if groups < 2:
        return math.nan
    if not kept.any():
        rate = 1 - 0.05 ** (1 / groups)
        error = math.sqrt(rate / groups)
    else:
        sums = np.bincount(names, weights=kept - kept.mean())
        error = math.sqrt(groups / (groups - 1) * float(sums @ sums)) / len(kept)
    law = NormalDist()
    return (law.inv_cdf(1 - (1 - LEVEL) / 2 / looks) + law.inv_cdf(POWER)) * error


def holm(values: Sequence[float]) -> list[float]:
    """p-values adjusted for being several (Holm, Scand. J. Stat. 6, 1979): reject where at most alpha, and with all hypotheses true any
    is rejected with chance at most alpha, however they depend on each other."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    adjusted, least = [0.0] * len(values), 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, (len(values) - rank) * values[i]))
        adjusted[i] = least
    return adjusted
