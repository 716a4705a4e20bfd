"""What the scores of the user's own completions say: whether they differ, and how long they take. Pure functions of calls already made."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence

from rewards.bench.calls import Answer
from rewards.bench.checks import EPSILON, Pair, Tried
from rewards.bench.report import Finding

_SLOW_ROW, _SLOW_TEXT, _SLOW_RATE = 1.0, 5.0, 10.0  # seconds, seconds, samples/s


def signal(
    own: Answer | None, groups: Sequence[int], first: Answer, battery: Sequence[Tried], measured: Mapping[str, Pair]
) -> Finding:
    """Whether scores differ, on the user's completions and at all: mean, spread, share at the top, groups with a spread.

    first: the call with several completions of each prompt. A reward that compares them may be constant everywhere else.
    """
    made = [score for score in first.scores if score is not None]
    made += [score for one in battery if one.answer for score in one.answer.scores if score is not None]
    made += [score for pair in measured.values() for score in (*pair.right, *pair.wrong) if score is not None]
    values = [] if own is None else [score for score in own.scores if score is not None]
    if not values and not any(pair.right for pair in measured.values()):
        why = "neither right answers nor completions of yours were tried: name their columns with --gold, --completions"
        return Finding("skip", "signal", why)
    if len(set(values + made)) == 1:
        seen = f"{(values + made)[0]:.4g} for every text tried"
        return Finding(
            "fail", "signal", seen, "a constant reward has no advantage", "it is constant and gives no signal"
        )
    if not values:
        return Finding("skip", "signal", "the data has no completions of yours: name their column with --completions")
    top = sum(value >= max(values) - EPSILON for value in values) / len(values)
    seen = f"mean {statistics.fmean(values):.3g}, std {statistics.pstdev(values):.3g}, {top:.0%} at the top ({max(values):.4g})"
    if max(values) - min(values) <= EPSILON:
        remedy = "no advantage on these completions: try easier data, shaping, or another parser"
        return Finding(
            "warn",
            "signal",
            f"{values[0]:.4g} for all {len(values)} of your completions",
            remedy,
            "it gives no signal on your completions",
        )
    by_group: dict[int, set[float]] = defaultdict(set)
    sizes: dict[int, int] = defaultdict(int)
    for group, score in zip(groups, own.scores if own else (), strict=True):
        if score is not None:
            by_group[group].add(score)
            sizes[group] += 1
    several = [group for group, size in sizes.items() if size > 1]
    if several:
        share = sum(len(by_group[group]) > 1 for group in several) / len(several)
        seen += f"; {share:.0%} of {len(several)} groups have a spread"
        if not share:
            return Finding("warn", "signal", seen, "groups of one score have no advantage", "no group has a signal")
    return Finding("pass", "signal", seen)


def speed(count: int, timed: Answer, alone: Sequence[Answer], battery: Sequence[Tried]) -> Finding:
    """Samples per second of a warm batch, the slowest row by itself, and the slowest long text."""
    long = [one.answer for one in battery if "100 kB" in one.entry.name and one.answer and not one.answer.failed]
    rate = count / max(timed.seconds, 1e-6)
    row, text = (max((one.seconds for one in of if not one.failed), default=0.0) for of in (alone, long))
    seen = f"{_round(rate)} samples/s in a batch of {count}, slowest row {_time(row)}, slowest 100 kB {_time(text)}"
    if rate < _SLOW_RATE or row > _SLOW_ROW or text > _SLOW_TEXT:
        remedy = f"a batch of 512 takes {_time(512 / rate)}: bound the text it reads, or make it async if it waits"
        return Finding("warn", "speed", seen, remedy, "it is slow")
    return Finding("pass", "speed", seen)


def _round(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.2g} ms" if seconds < 0.1 else f"{seconds:.1f} s"
