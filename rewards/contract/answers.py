"""What is asked of a reward and what comes back: tasks, answers, and rows that must not be used."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rewards.contract.reward import Reward, needs_groups


class InfrastructureError(Exception):
    """Raise it in a reward function when grading itself failed (a judge that cannot be reached, a sandbox that died).

    The rows of that call are dropped with a counted reason: a crash in grading is not a wrong answer. To drop single
    rows, return an instance in their place in the list.
    """


@dataclass(frozen=True)
class Drop:
    """In the place of a score: the row must not be used.

    kind: "infrastructure_failures" (the function said so), "errors" (it raised, and its entry says drop), "lost" (its process hung
    or died).
    """

    kind: str
    reason: str


Score = float | Drop | None


@dataclass(frozen=True)
class Task:
    """One reward and the rows it is to score.

    rows      every argument that has a value per row, by name: prompts, completions, completion_ids, columns, what is asked of rollouts
    numbers   the rows' places in the whole batch, for messages
    state     trainer_state
    """

    reward: Reward
    rows: Mapping[str, list[Any]]
    numbers: Sequence[int]
    state: Any = None

    def __len__(self) -> int:
        return len(self.numbers)

    def part(self, places: Sequence[int]) -> Task:
        """These rows of it only."""
        rows = {name: [values[i] for i in places] for name, values in self.rows.items()}
        return replace(self, rows=rows, numbers=[self.numbers[i] for i in places])

    def units(self) -> list[list[int]]:
        """Places of the rows that must not be parted: each row by itself, or all that share a prompt, for a reward that needs groups.

        In the order of their first rows.
        """
        if not needs_groups(self.reward):
            return [[place] for place in range(len(self))]
        groups: dict[str, list[int]] = defaultdict(list)
        for place, prompt in enumerate(self.rows["prompts"]):
            groups[repr(prompt)].append(place)
        return list(groups.values())


@dataclass(frozen=True)
class Answer:
    """What came of a task of n rows.

    scores    n numbers, None where the reward does not apply, or a Drop
    extras    what was logged by log_extra: n values per column
    metrics   what was logged by log_metric: (value, rows of the call that logged it) per name
    """

    scores: list[Score]
    extras: dict[str, list[Any]] = field(default_factory=dict)
    metrics: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    seconds: float = 0.0


def assembled(size: int, parts: Sequence[tuple[Sequence[int], Answer]]) -> Answer:
    """One answer for `size` rows from answers for some of them, each with the places of its rows; a later one replaces an earlier.

    Seconds are the longest: parts run side by side.
    """
    scores: list[Score] = [None] * size
    extras: dict[str, list[Any]] = {}
    metrics: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for places, part in parts:
        for name in part.extras:
            extras.setdefault(name, [None] * size)
        for i, place in enumerate(places):
            scores[place] = part.scores[i]
            for name, values in part.extras.items():
                extras[name][place] = values[i]
        for name, values in part.metrics.items():
            metrics[name].extend(values)
    return Answer(scores, extras, dict(metrics), max((part.seconds for _, part in parts), default=0.0))
