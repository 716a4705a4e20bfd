"""What a reward function is, how it is found, and how it is called: exactly as TRL 1.16's GRPOTrainer calls its own.

A reward function is called once per batch, by keyword:

    f(prompts=[...], completions=[...], completion_ids=[...], <each data column>=[...], trainer_state=...,
      log_extra=f(column, values), log_metric=f(name, value), **kwargs of the recipe) -> list[float | None]

`completions` are strings, or `[{"role": "assistant", "content": ...}]` where prompts are messages. None means "does not
apply to this row". It may be `async def`: such functions run together, after the others. Finding functions is
`rewards/load.py`.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rewards.calls import WITHHELD, Call, InfrastructureError, prepare, run, sample, shorten, storable
from rewards.load import FIXED_ARGUMENTS, Reward, RewardError, available, load_rewards, missing_columns

__all__ = [
    "Grades",
    "InfrastructureError",
    "Reward",
    "RewardError",
    "TrainerState",
    "available",
    "grade",
    "load_rewards",
    "missing_columns",
]


MAX_REASON_CHARS = 80
# Hexadecimal ids and digits, but not what may be a status (HTTP 503): those are few.
_CHANGING = re.compile(
    r"\b(?=[a-f]*[0-9])[0-9a-f-]{8,}\b|\b(?![1-5][0-9]{2}\b)[0-9]+|(?<=[^\W0-9])[0-9]+", re.IGNORECASE
)


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
    seconds: dict[str, float]  # per reward name, wall time of its call
    metrics: dict[str, float]  # what log_metric reported, averaged over the batch's calls
    extras: dict[str, list[Any]]  # what log_extra reported, n values per column
    dropped: list[str | None]  # per row, why the row must not be used; None for a good row


def grade(
    rewards: Sequence[Reward],
    *,
    prompts: Sequence[Any],
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]],
    columns: Mapping[str, Sequence[Any]],
    trainer_state: Any,
) -> Grades:
    """Score n rows with every reward function. All sequences have length n, row i belonging to completion i.

    Functions run one after the other in the order of `rewards`, then all async ones together. A row's total is the
    weighted sum of the rewards that apply to it; weight 0 is logged and never part of it, and its infrastructure
    failures drop nothing.

    Raises RewardError, with the reward's name, the row and the sample, when a function raises, returns another number
    of scores than rows, or something that is no finite number (NaN included: return None for "not applicable").
    """
    _check_lengths(prompts, completions, completion_ids, columns)
    calls = [prepare(reward, prompts, completions, completion_ids, columns, trainer_state) for reward in rewards]
    if prompts:
        run(calls)
    components: dict[str, list[float | None]] = {}
    dropped: list[str | None] = [None] * len(prompts)
    failures: dict[str, float] = {}
    for call in calls:
        scores, reasons = _scores(call, len(prompts))
        components[call.reward.name] = scores
        if call.reward.weight:
            dropped = [old or new for old, new in zip(dropped, reasons, strict=True)]
        if failed := sum(reason is not None for reason in reasons):
            failures[f"{call.reward.name}/infrastructure_failures"] = float(failed)
    return Grades(
        components=components,
        total=[None if dropped[i] else _total(rewards, components, i) for i in range(len(prompts))],
        seconds={call.reward.name: call.seconds for call in calls},
        metrics=_merged_metrics(calls) | failures,
        extras=_merged_extras(calls, len(prompts)),
        dropped=dropped,
    )


def _check_lengths(
    prompts: Sequence[Any], completions: Sequence[Any], ids: Sequence[Any], columns: Mapping[str, Sequence[Any]]
) -> None:
    lengths = {"completions": len(completions), "completion_ids": len(ids)}
    lengths |= {f"column {name!r}": len(values) for name, values in columns.items()}
    wrong = [f"{what}: {n}" for what, n in lengths.items() if n != len(prompts)]
    if wrong:
        raise ValueError(f"grade needs one value per row everywhere; prompts: {len(prompts)}, {', '.join(wrong)}")
    clash = sorted(set(columns) & set(FIXED_ARGUMENTS) - WITHHELD)
    if clash:
        raise RewardError(
            f"the data columns {clash} have names that the trainer passes to reward functions; rename them in the data"
        )


# --------------------------------------------------------------------------------------------------------------- scores


def _scores(call: Call, rows: int) -> tuple[list[float | None], list[str | None]]:
    if isinstance(call.outcome, InfrastructureError):
        return [None] * rows, [_reason(call.reward, call.outcome)] * rows
    if len(call.outcome) != rows:
        raise RewardError(
            f"reward {call.reward.name} returned {len(call.outcome)} scores for {rows} completions; it must return "
            f"exactly one per completion, None where it does not apply\n{sample(call, 0)}"
        )
    scores: list[float | None] = []
    reasons: list[str | None] = []
    for row, value in enumerate(call.outcome):
        failed = isinstance(value, InfrastructureError)
        scores.append(None if failed else _number(call, row, value))
        reasons.append(_reason(call.reward, value) if failed else None)
    return scores, reasons


def _number(call: Call, row: int, value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, (str, bytes)) and hasattr(value, "__float__"):
        try:
            number = float(value)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:  # an array or tensor of several elements
            raise _not_a_number(call, row, value) from error
        if math.isfinite(number):
            return number
    raise _not_a_number(call, row, value)


def _not_a_number(call: Call, row: int, value: Any) -> RewardError:
    return RewardError(
        f"reward {call.reward.name} returned {shorten(value)} ({type(value).__name__}) for row {row}; scores are "
        f"finite numbers, or None where the reward does not apply\n{sample(call, row)}"
    )


def _reason(reward: Reward, error: InfrastructureError) -> str:
    """Why a row was dropped. It names a metric, so it is short, and what differs from request to request is left out."""
    first_line = storable(str(error)).strip().split("\n", 1)[0]
    alike = _CHANGING.sub("#", first_line[: 4 * MAX_REASON_CHARS])[:MAX_REASON_CHARS]
    return f"reward {reward.name}: {alike or 'infrastructure error'}"


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


def _merged_metrics(calls: Sequence[Call]) -> dict[str, float]:
    merged: dict[str, list[float]] = defaultdict(list)
    for call in calls:
        for name, values in call.metrics.items():
            try:
                merged[name].extend(map(float, values))
            except (TypeError, ValueError, RuntimeError, OverflowError) as error:  # as for scores
                raise RewardError(
                    f"reward {call.reward.name}: log_metric({name!r}, ...) needs a number, got {shorten(values)}"
                ) from error
    return {name: _mean(values) for name, values in merged.items() if values}


def _mean(values: Sequence[float]) -> float:
    try:
        return math.fsum(values) / len(values)
    except (ValueError, OverflowError):  # infinities of both signs, or a sum that is too large
        return sum(values) / len(values)


def _merged_extras(calls: Sequence[Call], rows: int) -> dict[str, list[Any]]:
    merged: dict[str, list[Any]] = {}
    for call in calls:
        if isinstance(call.outcome, InfrastructureError):
            continue  # it may have stopped half-way through its log
        for column, values in call.extras.items():
            if len(values) != rows:
                raise RewardError(
                    f"reward {call.reward.name}: log_extra({column!r}, ...) got {len(values)} values for {rows} "
                    "completions; it needs one per completion"
                )
            merged[f"{call.reward.name}.{column}" if column in merged else column] = values
    return merged
