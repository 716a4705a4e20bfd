"""Metrics travel as (sum, count) and are divided once, after the reduction over ranks."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Metrics:
    """Named sums and counts of one update, plus plain values that are not means."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}
        self._values: dict[str, Any] = {}

    def add(self, entries: Mapping[str, tuple[Tensor | float, Tensor | float]], prefix: str = "") -> None:
        """Add (sum, count) pairs; pairs of one name accumulate."""
        for name, (total, count) in entries.items():
            old_total, old_count = self._sums.get(prefix + name, (0.0, 0.0))
            self._sums[prefix + name] = (old_total + float(total), old_count + float(count))

    def mean(self, name: str, values: Tensor, where: Tensor | None = None) -> None:
        """Add the entries of a tensor (those under ``where``) to a mean."""
        values = values.float() if where is None else values.float()[where]
        self.add({name: (values.sum(), values.numel())})

    def set(self, name: str, value: Any) -> None:
        self._values[name] = value

    def largest(self, name: str, value: float) -> None:
        self._values[name] = max(float(value), self._values.get(name, float("-inf")))

    def smallest(self, name: str, value: float) -> None:
        self._values[name] = min(float(value), self._values.get(name, float("inf")))

    def result(self) -> dict[str, Any]:
        """Name -> number, sorted by name; means of nothing are left out."""
        means = {name: total / count for name, (total, count) in self._sums.items() if count}
        return dict(sorted({**means, **self._values}.items()))


def nan_mean(values: Tensor) -> tuple[Tensor, Tensor]:
    """(sum, count) of the entries that are not NaN."""
    seen = ~torch.isnan(values)
    return values[seen].sum(), seen.sum()
