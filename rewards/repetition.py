"""Text that repeats itself, as policies under a length or format reward, and samplers that reveal too much at once, come to write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rewards.extract import text_of


def ngrams(completions: Sequence[Any], n: int = 4, **_: Any) -> list[float]:
    """Share of different n-grams of words among all n-grams, in (0, 1]; 1.0 for fewer than n words. Shaping.

    That is 1 - seq-rep-n of Welleck et al. (arXiv:1908.04319, section 6.1), on words (split at whitespace, without regard to
    capitals) in place of tokens. As a penalty of `1 - share` times a constant it keeps long reasoning from looping in
    Yeo et al. (arXiv:2502.03373). An empty text earns all of it.
    """
    if n < 1:
        raise ValueError(f"n must be 1 or more, got {n}")
    return [_share(text_of(completion).casefold().split(), n) for completion in completions]


def _share(words: Sequence[str], n: int) -> float:
    count = len(words) - n + 1
    return len({tuple(words[i : i + n]) for i in range(count)}) / count if count > 0 else 1.0


REWARDS = (ngrams,)
