"""Log-probabilities of a row's tokens under every mask, and what the estimators' laws say of them, by enumeration."""

import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np

from rl.noise import Noise, Subset, subsets
from tests.oracles.draws import Cells, outcomes
from tests.oracles.sampling import softmax
from tests.oracles.tabular import TabularPolicy, row_logits

Mask = tuple[bool, ...]
Table = dict[Mask, np.ndarray]  # which of the L tokens are hidden -> log p of each token, float64 [L]


def masks_of(length: int) -> list[Mask]:
    return list(itertools.product([False, True], repeat=length))


def table_of(policy: TabularPolicy, prompt: Sequence[int], tokens: Sequence[int]) -> Table:
    """Of a policy: log p(tokens[i] | prompt, tokens with the hidden ones masked)."""
    table = {}
    for mask in masks_of(len(tokens)):
        shown = [*prompt, *(policy.mask_id if hide else token for hide, token in zip(mask, tokens, strict=True))]
        logits = row_logits(policy, shown)[len(prompt) :]
        table[mask] = np.array([math.log(softmax(row)[token]) for row, token in zip(logits, tokens, strict=True)])
    return table


def by_count(values: Sequence[float]) -> Table:
    """A model that looks only at how many tokens are hidden: log p = values[count - 1]."""
    return {mask: np.full(len(values), values[max(sum(mask), 1) - 1]) for mask in masks_of(len(values))}


def by_place(values: Sequence[float]) -> Table:
    """A model that looks at nothing: log p of token i is values[i]."""
    return {mask: np.array(values, dtype=float) for mask in masks_of(len(values))}


def length_of(table: Table) -> int:
    return len(next(iter(table)))


def order_sums(table: Table) -> list[float]:
    """sum_i log p(x_i | those before) for every order of the tokens."""
    sums = []
    for order in itertools.permutations(range(length_of(table))):
        hidden, total = set(order), 0.0
        for place in order:
            total += table[tuple(i in hidden for i in range(len(order)))][place]
            hidden.remove(place)
        sums.append(total)
    return sums


def exact_bound(table: Table) -> float:
    """The order-agnostic ELBO, by orders."""
    return float(np.mean(order_sums(table)))


def log_likelihood(table: Table) -> float:
    """log of the likelihood under one-token-a-step decoding in random order."""
    return math.log(np.mean(np.exp(order_sums(table))))


def weighted_sum(views: Sequence[Subset], table: Table) -> float:
    return sum(view.weight * float(table[tuple(view.hidden.tolist())] @ view.hidden) for view in views)


Law = dict[float, float]  # value of an estimate -> probability


def law_of(noise: Noise, table: Table) -> Law:
    """Every value that an estimate can take, over every plan."""
    plans = outcomes(lambda every: subsets(noise, [every] * noise.draws, length_of(table)))  # type: ignore[arg-type]
    return _collected((weighted_sum(views, table), probability) for probability, views in plans)


def mean_of(law: Law, count: int) -> Law:
    """The law of the mean of ``count`` independent draws."""
    total: Law = {0.0: 1.0}
    for _ in range(count):
        total = _collected((a + b, p * q) for a, p in total.items() for b, q in law.items())
    return {value / count: chance for value, chance in total.items()}


def _collected(pairs: Iterable[tuple[float, float]]) -> Law:
    law: Law = {}
    for value, chance in pairs:
        law[round(value, 10)] = law.get(round(value, 10), 0.0) + chance
    assert abs(sum(law.values()) - 1) < 1e-9
    return law


def mean_and_variance(law: Law) -> tuple[float, float]:
    mean = sum(value * chance for value, chance in law.items())
    return mean, sum((value - mean) ** 2 * chance for value, chance in law.items())


def moments(noise: Noise, table: Table, cells: Cells = ()) -> tuple[float, float]:
    """Mean and variance of the estimate over every plan."""
    length, chance, mean, square = length_of(table), 0.0, 0.0, 0.0
    plans = outcomes(lambda every: subsets(noise, [every] * noise.draws, length), cells)  # type: ignore[arg-type]
    for probability, views in plans:
        value = weighted_sum(views, table)
        chance, mean, square = (chance + probability, mean + probability * value, square + probability * value**2)
    assert abs(chance - 1) < 1e-9
    return mean, square - mean**2
