"""Scores kept by content: a row that was graded before, in this batch or an earlier one, is not graded again.

A recipe says `cache: true` of a function whose score is decided by what it receives for the row alone; then a hit gives what a call
would have given. The key is a digest of all of that: every argument of the row, the kwargs, and the function's source.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import pickle
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rewards.contract.answers import Answer, Drop, Score, Task
from rewards.contract.reward import Reward

ROWS = 200_000  # about 40 MB; the scores unused for the longest time go first


@dataclass(frozen=True)
class Known:
    """What of a task was known. unknown: places of rows to be graded, no two of them alike; hits: rows that are not."""

    keys: Sequence[bytes | None]
    scores: dict[bytes, Score]
    unknown: list[int]
    store: Callable[[bytes, Score], None]

    @property
    def hits(self) -> int:
        return len(self.keys) - len(self.unknown)

    def completed(self, graded: Answer) -> Answer:
        """The answer for all rows, from that for the unknown ones, which is remembered; what could not be graded is not."""
        by_place = dict(zip(self.unknown, graded.scores, strict=True))
        by_key = dict(self.scores)
        for place, score in by_place.items():
            key = self.keys[place]
            if key is not None:
                by_key[key] = score
                if not isinstance(score, Drop):
                    self.store(key, score)
        scores = [by_place[i] if i in by_place else by_key[key] for i, key in enumerate(self.keys)]  # type: ignore[index]
        return replace(graded, scores=scores)


class ScoreCache:
    """In memory, for one run. It stays with the driver, so it is one for all processes that grade."""

    def __init__(self, rows: int = ROWS) -> None:
        self.rows = rows
        self._scores: OrderedDict[bytes, Score] = OrderedDict()

    def look_up(self, task: Task) -> Known:
        source = _source_of(task.reward)
        keys = [
            _key(task.reward, source, {name: values[i] for name, values in task.rows.items()}) for i in range(len(task))
        ]
        scores, unknown, asked = {}, [], set()
        for place, key in enumerate(keys):
            if key is None or (key not in self._scores and key not in asked):
                unknown.append(place)
                asked.add(key)
            elif key in self._scores:
                self._scores.move_to_end(key)
                scores[key] = self._scores[key]
        return Known(keys, scores, unknown, self._store)

    def _store(self, key: bytes, score: Score) -> None:
        self._scores[key] = score
        while len(self._scores) > self.rows:
            self._scores.popitem(last=False)


def _key(reward: Reward, source: bytes, row: dict[str, Any]) -> bytes | None:
    """None: the row or the kwargs hold something whose content cannot be told."""
    try:
        return hashlib.sha256(source + _canonical([reward.name, reward.kwargs, row])).digest()
    except Exception:  # noqa: BLE001  a data column may hold any object, and pickling runs its code
        return None


def _canonical(value: Any) -> bytes:
    """Different bytes for different values, the same for equal ones of the same types."""
    if value is None or type(value) in (bool, int, float, str, bytes):
        text = value if isinstance(value, bytes) else repr(value).encode(errors="surrogatepass")
        return b"%s:%d:%s" % (type(value).__name__.encode(), len(text), text)
    if type(value) in (list, tuple):
        parts = [_canonical(item) for item in value]
        return b"%s:%d:%s" % (type(value).__name__.encode(), len(parts), b"".join(parts))
    if type(value) is dict:
        parts = [_canonical(key) + _canonical(item) for key, item in value.items()]
        return b"dict:%d:%s" % (len(parts), b"".join(parts))
    data = pickle.dumps(value)
    return b"pickle:%d:%s" % (len(data), data)


def _source_of(reward: Reward) -> bytes:
    """Digest of the file that the function stands in, helpers and all, and its place there."""
    fn: Any = reward.fn
    while isinstance(fn, functools.partial):
        fn = fn.func
    fn = fn if inspect.isfunction(fn) or inspect.ismethod(fn) else type(fn)
    try:
        file = inspect.getsourcefile(inspect.unwrap(fn))
        source = Path(file).read_bytes() if file else b""
    except (OSError, TypeError):  # made in a shell, or no Python: its name is what is known of it
        source = b""
    return hashlib.sha256(source + getattr(fn, "__qualname__", "").encode()).digest()
