"""Seconds by kind of work: of a row of ``timing.jsonl``, and in all."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """row: what the next row of timing.jsonl will hold, seconds and other numbers; total: seconds by kind of work, since the start.

    Parts may lie within one another; each second counts once, for the inner one. One thread at a time.
    """

    def __init__(self, total: dict[str, float] | None = None) -> None:
        self.row: dict[str, float] = {}
        self.total: dict[str, float] = {} if total is None else total
        self._inside = 0.0  # seconds of the timed parts within the one that is running
        self._running: dict[str, float] = {}  # start of each that is timed now

    @contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        start, before, self._inside = time.perf_counter(), self._inside, 0.0
        self._running[kind] = start
        try:
            yield
        finally:
            del self._running[kind]
        whole = time.perf_counter() - start
        spent, self._inside = whole - self._inside, before + whole
        self.total[kind] = self.total.get(kind, 0.0) + spent
        self.add(f"seconds/{kind}", spent)

    def add(self, key: str, value: float) -> None:
        """To a number of the row."""
        self.row[key] = self.row.get(key, 0.0) + value

    def merge(self, other: "Clock") -> None:
        """What another clock counted."""
        self.row |= other.row
        for kind, seconds in other.total.items():
            self.total[kind] = self.total.get(kind, 0.0) + seconds

    def so_far(self) -> dict[str, float]:
        """`total`, with what is going on now."""
        now, found = time.perf_counter(), dict(self.total)
        for kind, start in self._running.items():
            found[kind] = found.get(kind, 0.0) + now - start
        return found
