"""Grading in processes of its own: rewards that are slow, that hang, or that may take their process down with them.

A call of all rewards is cut into pieces of adjacent rows, one for each worker that is free. A worker that dies or takes too long is
replaced, and its piece is halved and graded again, until the row that does it is alone: that row is dropped, and counted.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray  # type: ignore[import-not-found]
from ray.exceptions import GetTimeoutError, RayTaskError  # type: ignore[import-not-found]

from rewards.contract import Grades, Reward, TrainerState
from rl.placement import LOST
from rl.reward_worker import RewardWorker

DIED = "grading: the worker died"
HUNG = "grading: took longer than cluster.reward_timeout"


@dataclass(frozen=True)
class Piece:
    """Adjacent rows."""

    low: int
    high: int

    def halves(self) -> "list[Piece]":
        middle = (self.low + self.high) // 2
        return [Piece(self.low, middle), Piece(middle, self.high)]


class RayGraders:
    """Stands in for `rewards.contract.grade`."""

    def __init__(self, cluster: Any, entries: Sequence[Any]) -> None:
        self.cluster, self.entries = cluster, list(entries)
        self.replaced = 0
        self.workers = [self._start(number) for number in range(cluster.recipe.cluster.reward_workers)]
        self._wait(range(len(self.workers)))

    def _start(self, number: int) -> Any:
        return self.cluster.free_actor(RewardWorker, f"grader-{number}", self.entries, str(Path.cwd()))

    def _wait(self, numbers: Sequence[int]) -> None:
        """Until they are there: starting is no grading, and not in its time. Raises ClusterError."""
        self.cluster.started(
            [self.workers[one].ready.remote() for one in numbers], [f"grader-{one}" for one in numbers]
        )

    def __call__(
        self,
        rewards: Sequence[Reward],
        *,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        columns: Mapping[str, Sequence[Any]],
        trainer_state: Any,
    ) -> Grades:
        """As `rewards.contract.grade`, also in what it raises."""
        rows = {"prompts": prompts, "completions": completions, "completion_ids": completion_ids, "columns": columns}
        wanted = [(reward.name, reward.weight) for reward in rewards]
        found = self._graded(wanted, rows, len(prompts), trainer_state)
        order = sorted(found, key=lambda piece: piece.low)
        return join([found[piece] for piece in order], [piece.high - piece.low for piece in order])

    def _graded(
        self, wanted: Sequence[tuple[str, float]], rows: Mapping[str, Any], count: int, state: TrainerState
    ) -> dict[Piece, Grades]:
        size = max(1, -(-count // len(self.workers)))
        waiting = deque(Piece(low, min(low + size, count)) for low in range(0, count, size))
        free, found = deque(range(len(self.workers))), {}
        busy: dict[Any, tuple[Piece, int]] = {}
        seconds = self.cluster.recipe.cluster.reward_timeout
        while waiting or busy:
            while waiting and free:
                piece, who = waiting.popleft(), free.popleft()
                call = self.workers[who].grade.remote(wanted, _cut(rows, piece), state)
                busy[call] = (piece, who)
            ready, _ = ray.wait(list(busy), num_returns=1, timeout=seconds)
            for call in ready or list(busy):  # nothing for so long: all that is under way hangs
                piece, who = busy.pop(call)
                free.append(who)
                try:
                    found[piece] = ray.get(call, timeout=0 if ready else 0.001)
                except RayTaskError as error:
                    raise getattr(error, "cause", error) from None
                except LOST:
                    self._lost(who, piece, DIED, waiting, found, wanted)
                except GetTimeoutError:
                    self._lost(who, piece, HUNG, waiting, found, wanted)
        return found

    def _lost(
        self,
        who: int,
        piece: Piece,
        reason: str,
        waiting: "deque[Piece]",
        found: dict[Piece, Grades],
        wanted: Sequence[tuple[str, float]],
    ) -> None:
        """A new worker; the piece in halves, or given up where it is one row."""
        ray.kill(self.workers[who])
        self.workers[who] = self._start(who)
        self._wait([who])
        self.replaced += 1
        if piece.high - piece.low > 1:
            waiting.extendleft(reversed(piece.halves()))
            return
        self.cluster.say(f"one completion is dropped: {reason}")
        nothing = {name: [None] for name, _ in wanted}
        found[piece] = Grades(nothing, [None], {}, {}, {}, [reason])  # type: ignore[arg-type]


def _cut(rows: Mapping[str, Any], piece: Piece) -> dict[str, Any]:
    part = slice(piece.low, piece.high)
    columns = {name: list(values[part]) for name, values in rows["columns"].items()}
    return {name: list(rows[name][part]) for name in ("prompts", "completions", "completion_ids")} | {
        "columns": columns
    }


def join(parts: Sequence[Grades], sizes: Sequence[int]) -> Grades:
    """Grades of adjacent rows as those of all. What was logged by name is a mean over rows, failures add up, seconds are the longest."""
    if len(parts) == 1:
        return parts[0]
    metrics: dict[str, tuple[float, int]] = {}
    seconds: dict[str, float] = {}
    for part, size in zip(parts, sizes, strict=True):
        for name, value in part.metrics.items():
            total, count = metrics.get(name, (0.0, 0))
            counted = name.endswith("/infrastructure_failures")
            metrics[name] = (total + (value if counted else value * size), 1 if counted else count + size)
        for name, value in part.seconds.items():
            seconds[name] = max(value, seconds.get(name, 0.0))
    names = dict.fromkeys(name for part in parts for name in part.extras)
    extras = {
        name: [value for part, size in zip(parts, sizes, strict=True) for value in part.extras.get(name, [None] * size)]
        for name in names
    }
    components = {name: [score for part in parts for score in part.components[name]] for name in parts[0].components}
    return Grades(
        components=components,
        total=[value for part in parts for value in part.total],
        seconds=seconds,
        metrics={name: total / count for name, (total, count) in metrics.items()},
        extras=extras,
        dropped=[reason for part in parts for reason in part.dropped],
    )
