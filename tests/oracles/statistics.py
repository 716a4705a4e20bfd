"""Corrections for several tests, the slow way."""

import itertools
from collections.abc import Sequence


def by_closure(values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values by closed testing (Marcus, Peritz and Gabriel, 1976): a hypothesis falls with all sets that hold it, each
    tested by Bonferroni. Exponential in their number."""
    sets = [one for size in range(1, len(values) + 1) for one in itertools.combinations(range(len(values)), size)]
    of_set = {one: min(1.0, len(one) * min(values[i] for i in one)) for one in sets}
    return [max(p for one, p in of_set.items() if i in one) for i in range(len(values))]
