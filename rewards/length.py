"""How long completions are, in tokens (`completion_ids`). Shaping: nothing here looks at what is answered.

An empty text earns all of it. Weigh it below the outcome, or multiply it with one in a function of your own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def within(
    completions: Sequence[Any], completion_ids: Sequence[Sequence[int]], limit: int, margin: int, **_: Any
) -> list[float]:
    r"""1.0 up to `limit - margin` tokens, falling in a straight line to 0.0 at `limit`, and 0.0 beyond.

    With n tokens: min(1, max(0, (limit - n) / margin)). This is one more than DAPO's soft overlong punishment
    (arXiv:2503.14476, eq. 13; L_max = limit, L_cache = margin), which lies in [-1, 0]; a constant changes no advantage.
    """
    if not 1 <= margin <= limit:
        raise ValueError(f"margin must be within 1 and limit ({limit}), got {margin}")
    return [min(1.0, max(0.0, (limit - len(ids)) / margin)) for ids in completion_ids]


def shorter(completions: Sequence[Any], completion_ids: Sequence[Sequence[int]], limit: int, **_: Any) -> list[float]:
    """1.0 for an empty completion, falling in a straight line to 0.0 at `limit` tokens: max(0, 1 - n / limit)."""
    if limit < 1:
        raise ValueError(f"limit must be 1 or more, got {limit}")
    return [max(0.0, 1 - len(ids) / limit) for ids in completion_ids]


REWARDS = (within, shorter)
