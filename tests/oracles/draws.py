"""Every outcome of a function that draws: its generator answers with each possibility in turn, and the probabilities add up to 1."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

Cells = Sequence[tuple[float, float]]  # (value, probability) of a number drawn from [0, 1)


def even(count: int) -> Cells:
    """Midpoints of equal cells: exact for what is constant on each."""
    return [((index + 0.5) / count, 1 / count) for index in range(count)]


def gauss(count: int) -> Cells:
    """Gauss-Legendre: exact for polynomials of degree below 2 * count."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return [((x + 1) / 2, w / 2) for x, w in zip(nodes.tolist(), weights.tolist(), strict=True)]


class Every:
    """Stands in for all generators of one run."""

    def __init__(self, path: list[int], cells: Cells) -> None:
        self.path, self.cells = path, cells
        self.sizes: list[int] = []
        self.probability = 1.0

    def choose(self, chances: Sequence[float]) -> int:
        at = len(self.sizes)
        if at == len(self.path):
            self.path.append(0)
        self.sizes.append(len(chances))
        self.probability *= chances[self.path[at]]
        return self.path[at]

    def integers(self, low: int, high: int | None = None) -> int:
        low, high = (0, low) if high is None else (low, high)
        return low + self.choose([1 / (high - low)] * (high - low))

    def permutation(self, size: int) -> np.ndarray:
        pick = self.choose([1 / math.factorial(size)] * math.factorial(size))
        return np.array(next(itertools.islice(itertools.permutations(range(size)), pick, None)), dtype=np.int64)

    def random(self, size: int | None = None) -> Any:
        if size is None:
            return self.cells[self.choose([chance for _, chance in self.cells])][0]
        return Coins(self, size)


class Coins:
    """Uniform numbers known only by how they compare with t and with 1 - t."""

    def __init__(self, every: Every, size: int) -> None:
        self.every, self.size = every, size
        self.value: np.ndarray | None = None

    def _drawn(self, bound: Any) -> np.ndarray:
        if self.value is None:
            value = []
            for t in np.broadcast_to(bound, (self.size,)).tolist():
                edges = [0.0, min(t, 1 - t), max(t, 1 - t), 1.0]
                cells = [(a, b) for a, b in itertools.pairwise(edges) if b > a]
                a, b = cells[self.every.choose([b - a for a, b in cells])]
                value.append((a + b) / 2)
            self.value = np.array(value)
        return self.value

    def __lt__(self, bound: Any) -> np.ndarray:
        return self._drawn(bound) < bound

    def __gt__(self, bound: Any) -> np.ndarray:
        return self._drawn(bound) > bound


def outcomes(run: Callable[[Every], Any], cells: Cells = ()) -> Iterator[tuple[float, Any]]:
    """(probability, result) of every way ``run(generator)`` can go."""
    path: list[int] = []
    while True:
        every = Every(path, cells)
        result = run(every)
        yield every.probability, result
        while path and path[-1] + 1 == every.sizes[len(path) - 1]:
            path.pop()
        if not path:
            return
        path[-1] += 1
