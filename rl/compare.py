"""Two results of one protocol, prompt by prompt: whether they differ, by how much, and what could not have been seen."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rl.compare_sides import MixError, Side, read_side, unlike
from rl.config_errors import nearest
from rl.errors import CommandError
from rl.evaluate import paired_gain
from rl.evaluation_result import scores_of
from rl.protocol_items import by_prompt
from rl.statistics import holm, mcnemar, sign_flip, smallest_seen
from rollouts.streams import Purpose, stream

ALPHA = 0.05


@dataclass(frozen=True)
class Difference:
    """B less A by one parser, over the prompts that both graded.

    difference  mean with its 95 % interval (paired bootstrap over clusters): value, low, high, n
    p_value     of `test`;  adjusted: by Holm, over all parsers
    seen        the smallest true difference that n such pairs find with 80 % chance
    verdict     better, worse, none, or unsettled where interval and test disagree
    """

    a: float
    b: float
    difference: dict[str, float]
    clusters: int
    test: str
    p_value: float
    adjusted: float
    seen: float
    verdict: str
    words: str


@dataclass(frozen=True)
class Comparison:
    a: str
    b: str
    parsers: dict[str, Difference]
    notes: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def compare(a: Path | Side, b: Path | Side, *, mix: bool = False, parsers: Collection[str] = ()) -> Comparison:
    """Whether B differs from A.

    mix      compare what was measured by different protocols or on different rows, too; the notes say what differs
    parsers  only these; none: all that graded both

    Raises MixError where they were measured otherwise and mix is not set; CommandError.
    """
    left, right = (side if isinstance(side, Side) else read_side(side) for side in (a, b))
    notes = [f"NOT MEASURED ALIKE: {what}" for what in check_alike(left, right, mix)]
    shared = shared_parsers(left, right)
    chosen = [parser for parser in shared if parser in parsers] if parsers else shared
    check_names(parsers, shared)
    first, second = by_prompt(left.rows), by_prompt(right.rows)
    both = len(common(first, second))
    if both < max(len(first), len(second)):
        notes.append(f"{both} prompts are in both, of {len(first)} and {len(second)}; the others are left out")
    found = {parser: difference(parser, left, right) for parser in chosen}
    for (parser, one), adjusted in zip(found.items(), holm([one.p_value for one in found.values()]), strict=True):
        found[parser] = replace(one, adjusted=adjusted)
    return Comparison(left.path, right.path, found, notes + _notes(left, right, found))


def check_alike(left: Side, right: Side, mix: bool) -> list[str]:
    """What sets the two apart. Raises MixError if there is something, and mix is not set."""
    told = unlike(left, right)
    if told and not mix:
        lines = "\n    ".join(told)
        raise MixError(
            f"{left.path} and {right.path} were not measured alike:\n    {lines}\n    --mix compares them all the same"
        )
    return told


def shared_parsers(left: Side, right: Side) -> list[str]:
    """In the order of the first; the first is the headline. Raises CommandError where there is none."""
    shared = [parser for parser in left.parsers if parser in right.parsers]
    if not shared:
        raise CommandError(f"no parser graded both: {', '.join(left.parsers)}; {', '.join(right.parsers)}")
    return shared


def check_names(asked: Collection[str], there: Collection[str]) -> None:
    """Raises CommandError for parsers that graded nothing here."""
    for name in asked:
        if name not in there:
            near = nearest(name, there)
            told = f"did you mean {near}?" if near else f"there are {', '.join(there)}"
            raise CommandError(f"--parser {name}: no such parser graded both sides; {told}")


def common(first: Mapping[int, Any], second: Mapping[int, Any]) -> list[int]:
    """Prompts of both. Raises CommandError where there is none."""
    found = [prompt for prompt in first if prompt in second]
    if not found:
        raise CommandError("the two have no prompt in common")
    return found


def difference(parser: str, left: Side, right: Side, looks: int = 1) -> Difference:
    """One parser's verdict, for itself; `adjusted` is filled in where all are known. looks: among how many comparisons `seen` is meant."""
    first, second = by_prompt(left.rows), by_prompt(right.rows)
    prompts = common(first, second)
    labels = [first[prompt][0].get("cluster_label") or prompt for prompt in prompts]
    before, after = (np.array([_mean(side[prompt], parser) for prompt in prompts]) for side in (first, second))
    moved = after - before
    seen = ~np.isnan(moved)
    if not seen.any():
        nothing = {"value": math.nan, "low": math.nan, "high": math.nan, "n": 0}
        words = "nothing to compare: no prompt was graded in both"
        return Difference(math.nan, math.nan, nothing, 0, "none", 1.0, 1.0, math.nan, "none", words)
    kept = [label for label, keep in zip(labels, seen, strict=True) if keep]
    groups = len(set(kept))
    gain = paired_gain(before, after, labels)
    single = all(len(side[prompt]) == 1 for side in (first, second) for prompt in prompts)
    binary = bool(np.isin(np.concatenate([before[seen], after[seen]]), (0.0, 1.0)).all())
    if single and binary and groups == len(kept):
        test, p_value = "McNemar, exact", mcnemar(before, after)
    else:
        numbers = {label: i for i, label in enumerate(dict.fromkeys(kept))}
        sums = np.bincount([numbers[label] for label in kept], weights=moved[seen])
        test, p_value = "sign flips by cluster", sign_flip(sums, stream(0, Purpose.BOOTSTRAP, 1))
    least = smallest_seen(moved, labels, looks)
    verdict = verdict_of(gain, p_value)
    return Difference(
        a=float(before[seen].mean()),
        b=float(after[seen].mean()),
        difference=gain,
        clusters=groups,
        test=test,
        p_value=p_value,
        adjusted=p_value,
        seen=least,
        verdict=verdict,
        words=_words(verdict, gain, test, p_value, least, groups),
    )


def verdict_of(gain: Mapping[str, float], p_value: float, adjusted: float | None = None) -> str:
    """better or worse where the interval leaves 0 out and the test, adjusted if it is one of several, rejects; none where neither does;
    else unsettled."""
    outside = gain["low"] > 0 or gain["high"] < 0
    if not outside and p_value >= ALPHA:
        return "none"
    if not outside or (p_value if adjusted is None else adjusted) >= ALPHA:
        return "unsettled"
    return "better" if gain["value"] > 0 else "worse"


def _mean(rows: Sequence[Mapping[str, Any]], parser: str) -> float:
    """Of a prompt's graded answers; NaN where none was."""
    scores = scores_of(rows, parser)
    return float(np.nanmean(scores)) if (~np.isnan(scores)).any() else math.nan


def _words(verdict: str, gain: Mapping[str, float], test: str, p_value: float, least: float, groups: int) -> str:
    """The verdict as a sentence; points are percent points."""
    span = f"[{100 * gain['low']:.1f}, {100 * gain['high']:.1f}]"
    chance = f"{test}, p {'< 0.001' if p_value < 0.001 else f'= {p_value:.3f}'}"
    count = f"n = {int(gain['n'])}" + (f" in {groups} clusters" if groups < gain["n"] else "")
    if verdict in ("better", "worse"):
        return f"B is {verdict} by {abs(100 * gain['value']):.1f} points {turned(gain, verdict)} ({chance}; {count})"
    limit = "" if math.isnan(least) else f": at {count} {unseen(least)} would mostly not be seen"
    if verdict == "unsettled":
        return f"not settled: B - A is {100 * gain['value']:+.1f} points {span}, and the test says otherwise ({chance}){limit}"
    return f"no difference shown (B - A is {100 * gain['value']:+.1f} points {span}; {chance}){limit}"


def unseen(least: float) -> str:
    """Which true differences are too small for the pairs; `least`, a normal approximation, may pass the largest that there is."""
    return f"a true difference below about {100 * least:.1f} points" if least < 1 else "any true difference"


def turned(gain: Mapping[str, float], verdict: str) -> str:
    """The interval of the size of a difference."""
    low, high = (gain["low"], gain["high"]) if verdict == "better" else (-gain["high"], -gain["low"])
    return f"[{100 * low:.1f}, {100 * high:.1f}]"


def _notes(a: Side, b: Side, found: Mapping[str, Difference]) -> list[str]:
    """What a reader should know besides."""
    notes = []
    if a.result and b.result:
        if a.result["model"]["fingerprint"] == b.result["model"]["fingerprint"]:
            notes.append("A and B have the same weights")
        parsers = [name for name in found if a.result["parsers"].get(name) != b.result["parsers"].get(name)]
        if parsers:
            notes.append(
                f"graded by different code: {', '.join(parsers)}; grade both again with unmask grade before believing a difference"
            )
        if a.result["changed"] and b.result["changed"] and a.result["hash"] == b.result["hash"]:
            notes.append(
                f"both were measured by {a.result['protocol']} with changes; no published number is measured so"
            )
    if len(found) > 1:
        first = next(iter(found))
        held = [name for name, one in found.items() if one.adjusted < ALPHA]
        notes.append(
            f"{len(found)} parsers of the same answers: the verdict is that of {first}, the first. Looking at all, p is adjusted by Holm; "
            f"below {ALPHA}: {', '.join(held) or 'none'}"
        )
    return notes
