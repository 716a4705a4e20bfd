"""Log-probabilities of a row's tokens under every mask, and what the estimators' laws say of them, by enumeration."""

import itertools
import math
from collections.abc import Sequence

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


def moments(noise: Noise, table: Table, cells: Cells = ()) -> tuple[float, float]:
    """Mean and variance of the estimate over every plan."""
    length, chance, mean, square = length_of(table), 0.0, 0.0, 0.0
    plans = outcomes(lambda every: subsets(noise, [every] * noise.draws, length), cells)  # type: ignore[arg-type]
    for probability, views in plans:
        value = weighted_sum(views, table)
        chance, mean, square = (chance + probability, mean + probability * value, square + probability * value**2)
    assert abs(chance - 1) < 1e-9
    return mean, square - mean**2
