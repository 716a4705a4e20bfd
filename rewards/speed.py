"""How much computing a completion took: passes through the network while it was denoised. Shaping.

A sampler that decides by itself how many positions to reveal (a confidence threshold) needs fewer passes for text it is sure
of, and a policy can learn to be. With a fixed number of steps every completion of a group scores alike: no signal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def forwards(completions: Sequence[Any], forwards: Sequence[int | None], limit: int, **_: Any) -> list[float | None]:
    """1.0 for no pass, falling in a straight line to 0.0 at `limit` passes: max(0, 1 - forwards / limit); None where unknown.

    forwards  passes that each completion took
    limit     most passes a completion can take, as a rule `rollout.steps`
    """
    if limit < 1:
        raise ValueError(f"limit must be 1 or more, got {limit}")
    return [None if count is None else max(0.0, 1 - count / limit) for count in forwards]


REWARDS = (forwards,)
