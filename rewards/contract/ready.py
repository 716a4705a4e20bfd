"""What can be said of rewards before anything is sampled: whether they can grade on this machine, and which rows they never can.

A function says so by two attributes, both optional: `function.ready(**kwargs)` raises RewardError, and
`function.unfit(columns, **kwargs)` gives a reason or None for each row. `kwargs` are those of the recipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rewards.contract.reward import Reward, RewardError


def check_ready(rewards: Sequence[Reward]) -> None:
    """Ask each reward that can say so whether it can grade on this machine: `function.ready(**kwargs)` raises RewardError if not.

    Before a model is loaded, so that a run does not end at its first grading.
    """
    problems: list[tuple[str, str]] = []
    for index, reward in enumerate(rewards):
        try:
            getattr(reward.fn, "ready", lambda **_: None)(**reward.kwargs)
        except RewardError as error:
            problems.append((f"rewards[{index}].kwargs", str(error)))
    if problems:
        messages = {message: key for key, message in reversed(problems)}  # two rewards may want the same sandbox
        raise RewardError("\n".join(f"{key}: {message}" for message, key in reversed(messages.items())), problems)


def unfit_rows(rewards: Sequence[Reward], columns: Mapping[str, Sequence[Any]]) -> list[str | None]:
    """For each row, why some reward could never grade it, or None: what `function.unfit(columns, **kwargs)` says, where it has one."""
    reasons: list[str | None] = [None] * max(map(len, columns.values()), default=0)
    for reward in rewards:
        unfit = getattr(reward.fn, "unfit", None)
        if unfit is not None:
            said = unfit(columns, **reward.kwargs)
            reasons = [first or second for first, second in zip(reasons, said, strict=True)]
    return reasons
