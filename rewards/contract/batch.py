"""Rewards for a batch of completions, called exactly as TRL 1.16's GRPOTrainer calls its own.

A reward function is called once per batch, by keyword:

    f(prompts=[...], completions=[...], completion_ids=[...], <each data column>=[...], trainer_state=...,
      log_extra=f(column, values), log_metric=f(name, value), **kwargs of the recipe) -> list[float | None]

`completions` are strings, or `[{"role": "assistant", "content": ...}]` where prompts are messages. None means "does not
apply to this row". It may be `async def`: such functions run together, after the others. Functions that name one of
`ROLLOUT_ARGUMENTS` (`reward.py`) also receive that. Finding functions is `load.py`; one call is `calls.py`; calls in
processes that can be killed are `dealing.py`.
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rewards.contract.answers import Answer, Drop, Task, assembled
from rewards.contract.cache import ScoreCache
from rewards.contract.calls import answer
from rewards.contract.reward import (
    FIXED_ARGUMENTS,
    Reward,
    RewardError,
    asked_for,
    did_you_mean,
    is_async,
    missing_columns,
)

# Columns that TRL keeps from reward functions: they arrive as `prompts`, `completions` and `completion_ids`.
WITHHELD = frozenset({"prompt", "completion", "completion_ids"})
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0  # seconds before failed rows are tried again; each time twice as long

# Who calls the functions of some tasks, those of one list together.
Caller = Callable[[Sequence[Task]], list[Answer]]


@dataclass(frozen=True)
class TrainerState:
    """The part of transformers' TrainerState that reward functions read to follow the progress of training."""

    global_step: int = 0
    max_steps: int = 0
    epoch: float | None = None
    is_world_process_zero: bool = True
    log_history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Grades:
    """The scores of one batch of n rows."""

    components: dict[str, list[float | None]]  # per reward name, n unweighted scores; None: not applicable or dropped
    total: list[float | None]  # n weighted sums; None where no reward of non-zero weight applies, and in dropped rows
    seconds: dict[str, float]  # per reward name, wall time of its calls
    metrics: dict[str, float]  # what log_metric reported, averaged over the batch's calls
    extras: dict[str, list[Any]]  # what log_extra reported, n values per column
    dropped: list[str | None]  # per row, why the row must not be used; None for a good row
    # "name/what" -> rows, of what is not 0: infrastructure_failures, errors, lost (rows without a score: `Drop`), retries, cache_hits
    counts: dict[str, int] = field(default_factory=dict)


def grade(
    rewards: Sequence[Reward],
    *,
    prompts: Sequence[Any],
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]],
    columns: Mapping[str, Sequence[Any]],
    trainer_state: Any,
    rollout: Mapping[str, Sequence[Any]] | None = None,
    caller: Caller = answer,
    cache: ScoreCache | None = None,
) -> Grades:
    """Score n rows with every reward function. All sequences have length n, row i belonging to completion i.

    Functions run one after the other in the order of `rewards`, then all async ones together. A row's total is the
    weighted sum of the rewards that apply to it; weight 0 is logged and never part of it, and its failures drop nothing.

    rollout: what is known of how the completions were drawn, by the names of `ROLLOUT_ARGUMENTS`. caller: who calls the functions;
    default: this process. cache: of scores of rewards that ask for one; it may be shared by many calls.

    Raises RewardError, with the reward's name, the row and the sample, when a function raises, returns another number
    of scores than rows, or something that is no finite number (NaN included: return None for "not applicable").
    """
    given = {"prompts": prompts, "completions": completions, "completion_ids": completion_ids}
    _check_lengths(given, columns, rollout or {})
    nothing = Answer([None] * len(prompts))
    works = [_Work(_task(reward, given, columns, rollout, trainer_state), nothing) for reward in rewards]
    if prompts:
        kept = cache if cache is not None else ScoreCache()
        plain = [[work] for work in works if not is_async(work.task.reward.fn)]
        for together in [*plain, [work for work in works if is_async(work.task.reward.fn)]]:
            _work(together, caller, kept)
    components: dict[str, list[float | None]] = {}
    dropped: list[str | None] = [None] * len(prompts)
    counts: Counter[str] = Counter()
    for work in works:
        name, scores = work.task.reward.name, work.answer.scores
        components[name] = [None if isinstance(score, Drop) else score for score in scores]
        if work.task.reward.weight:
            reasons = [score.reason if isinstance(score, Drop) else None for score in scores]
            dropped = [old or new for old, new in zip(dropped, reasons, strict=True)]
        counts.update(f"{name}/{score.kind}" for score in scores if isinstance(score, Drop))
        counts.update({f"{name}/{what}": count for what, count in work.counts.items()})
    return Grades(
        components=components,
        total=[None if dropped[i] else _total(rewards, components, i) for i in range(len(prompts))],
        seconds={work.task.reward.name: work.answer.seconds for work in works},
        metrics=_merged_metrics([work.answer for work in works]),
        extras=_merged_extras(works),
        dropped=dropped,
        counts={name: count for name, count in counts.items() if count},
    )


# ----------------------------------------------------------------------------------------------------------------- rows


def _check_lengths(
    given: Mapping[str, Sequence[Any]], columns: Mapping[str, Sequence[Any]], rollout: Mapping[str, Sequence[Any]]
) -> None:
    rows = len(given["prompts"])
    lengths = {name: len(values) for name, values in (*given.items(), *rollout.items())}
    lengths |= {f"column {name!r}": len(values) for name, values in columns.items()}
    wrong = [f"{what}: {n}" for what, n in lengths.items() if n != rows]
    if wrong:
        raise ValueError(f"grade needs one value per row everywhere; prompts: {rows}, {', '.join(wrong)}")
    clash = sorted(set(columns) & set(FIXED_ARGUMENTS) - WITHHELD)
    if clash:
        raise RewardError(
            f"the data columns {clash} have names that the trainer passes to reward functions; rename them in the data"
        )


def _task(
    reward: Reward,
    given: Mapping[str, Sequence[Any]],
    columns: Mapping[str, Sequence[Any]],
    rollout: Mapping[str, Sequence[Any]] | None,
    state: Any,
) -> Task:
    """The arguments that TRL would pass, and what the function asks for besides; the rows that the entry routes to it.

    Raises RewardError for what it needs and does not get.
    """
    shown = {name: list(values) for name, values in columns.items() if name not in WITHHELD}
    missing = missing_columns(reward, list(shown))
    if missing:
        raise RewardError(
            f"reward {reward.name}: the data has no column {', '.join(map(repr, missing))} (columns: "
            f"{', '.join(sorted(shown)) or 'none besides the prompt'}); "
            f"map one with data.train.columns: {{{missing[0]}: <name in the file>}}"
        )
    clash = sorted(set(reward.kwargs) & set(shown))
    if clash:
        raise RewardError(f"reward {reward.name}: kwargs {clash} are also data columns; rename the kwarg or the column")
    rows = {name: list(values) for name, values in given.items()} | shown | _asked(reward, shown, rollout)
    return Task(reward, rows, range(len(given["prompts"])), state).part(routed(reward, columns, len(given["prompts"])))


def _asked(
    reward: Reward, columns: Mapping[str, Any], rollout: Mapping[str, Sequence[Any]] | None
) -> dict[str, list[Any]]:
    """What of a rollout the function asks for."""
    names = asked_for(reward.fn)
    clash = sorted(set(names) & set(columns))
    if clash:
        raise RewardError(
            f"reward {reward.name} asks for {clash}, which it is given of the rollout, and the data has columns of that name; "
            "rename them in the data"
        )
    absent = [name for name in names if name not in (rollout or {})]
    if absent:
        raise RewardError(
            f"reward {reward.name} asks for {', '.join(absent)}, which is known of whole rollouts only, and it is given "
            f"{'texts' if rollout is None else 'recorded answers'} here"
        )
    return {name: list((rollout or {})[name]) for name in names}


def routed(reward: Reward, columns: Mapping[str, Sequence[Any]], size: int) -> list[int]:
    """The rows that the reward's `where` leaves to it. Raises RewardError for a column that is not there."""
    places = list(range(size))
    for column, wanted in reward.where.items():
        if column not in columns:
            raise RewardError(
                f"reward {reward.name}: where names a column {column!r} that the data does not have"
                f"{did_you_mean(column, columns)}; columns: "
                f"{', '.join(sorted(columns)) or 'none'}"
            )
        values = wanted if isinstance(wanted, (list, tuple)) else [wanted]
        places = [place for place in places if columns[column][place] in values]
    return places


# ----------------------------------------------------------------------------------------------------------------- work


@dataclass
class _Work:
    """A reward's task in a batch, what is left of it to do, and what has come of it so far."""

    task: Task
    answer: Answer
    counts: dict[str, int] = field(default_factory=dict)


def _work(works: Sequence[_Work], caller: Caller, cache: ScoreCache) -> None:
    """Do what these works ask for, together: look up what is known, call for the rest, try again what failed."""
    looked = [cache.look_up(work.task) if work.task.reward.cache else None for work in works]
    todo = [
        work.task if known is None else work.task.part(known.unknown) for work, known in zip(works, looked, strict=True)
    ]
    found = _persistently(todo, caller, works)
    for work, known, part in zip(works, looked, found, strict=True):
        if known is not None:
            part, work.counts["cache_hits"] = known.completed(part), known.hits
        size = len(work.answer.scores)
        work.answer = replace(assembled(size, [(work.task.numbers, part)]), seconds=part.seconds)


def _persistently(tasks: Sequence[Task], caller: Caller, works: Sequence[_Work]) -> list[Answer]:
    """The answers to some tasks; rows (or groups) whose grading failed are tried again, as often as their reward says."""
    found = [Answer([]) for _ in tasks]
    busy = [i for i, task in enumerate(tasks) if len(task)]
    for i, part in zip(busy, caller([tasks[i] for i in busy]) if busy else [], strict=True):
        found[i] = part
    for attempt in range(max((task.reward.retries for task in tasks), default=0)):
        failed = {i: _failed(tasks[i], found[i]) for i in busy if attempt < tasks[i].reward.retries}
        failed = {i: places for i, places in failed.items() if places}
        if not failed:
            break
        # Not from the global stream, which rewards may draw from: how long was waited must change no result.
        longest = min(LONGEST_WAIT, FIRST_WAIT * 2**attempt)
        time.sleep(longest * random.SystemRandom().uniform(0.5, 1.0))
        parts = caller([tasks[i].part(places) for i, places in failed.items()])
        for (i, places), part in zip(failed.items(), parts, strict=True):
            seconds = found[i].seconds + part.seconds
            whole = assembled(len(tasks[i]), [(range(len(tasks[i])), found[i]), (places, part)])
            found[i] = replace(whole, seconds=seconds)
            works[i].counts["retries"] = works[i].counts.get("retries", 0) + len(places)
    return found


def _failed(task: Task, part: Answer) -> list[int]:
    """Places of what has to be graded again."""
    failed = {
        place
        for place, score in enumerate(part.scores)
        if isinstance(score, Drop) and score.kind == "infrastructure_failures"
    }
    return sorted(place for unit in task.units() if not failed.isdisjoint(unit) for place in unit) if failed else []


# --------------------------------------------------------------------------------------------------------------- totals


def _total(rewards: Sequence[Reward], components: Mapping[str, Sequence[float | None]], row: int) -> float | None:
    parts = [
        reward.weight * score
        for reward in rewards
        if reward.weight and (score := components[reward.name][row]) is not None
    ]
    if not parts:
        return None
    total = sum(parts)
    if not math.isfinite(total):
        raise RewardError(
            f"the weighted rewards of row {row} add up to {total}: {parts}; lower the scores or the weights"
        )
    return math.fsum(parts)


def _merged_metrics(answers: Sequence[Answer]) -> dict[str, float]:
    merged: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for one in answers:
        for name, values in one.metrics.items():
            merged[name].extend(values)
    return {name: _mean(values) for name, values in merged.items() if values}


def _mean(values: Sequence[tuple[float, int]]) -> float:
    """Of what several calls logged, weighted by their rows."""
    alike = len({rows for _, rows in values}) == 1
    parts, count = ([value * (1 if alike else rows) for value, rows in values], len(values))
    count = count if alike else sum(rows for _, rows in values)
    try:
        return math.fsum(parts) / count
    except (ValueError, OverflowError):  # infinities of both signs, or a sum that is too large
        return sum(parts) / count


def _merged_extras(works: Sequence[_Work]) -> dict[str, list[Any]]:
    merged: dict[str, list[Any]] = {}
    for work in works:
        for column, values in work.answer.extras.items():
            merged[f"{work.task.reward.name}.{column}" if column in merged else column] = values
    return merged
