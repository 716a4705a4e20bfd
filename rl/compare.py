"""Two results of one protocol, prompt by prompt: whether they differ, by how much, and what could not have been seen."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rl.errors import CommandError
from rl.evaluate import paired_gain
from rl.evaluation_files import RESULT, SAMPLES, read_rows
from rl.evaluation_result import scores_of
from rl.protocol_items import by_prompt
from rl.statistics import holm, mcnemar, sign_flip, smallest_seen
from rollouts.streams import Purpose, stream

ALPHA = 0.05
SHOWN = 5  # differences of two protocols that are written out


class MixError(CommandError):
    """The two were not measured alike."""


@dataclass(frozen=True, eq=False)
class Side:
    """One result. result: what result.json says; {} for samples alone."""

    path: str
    result: Mapping[str, Any]
    rows: list[dict[str, Any]]

    @property
    def parsers(self) -> list[str]:
        return list(self.rows[0]["scores"])


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


def read_side(path: Path) -> Side:
    """A result folder, or its samples.parquet. Raises CommandError."""
    folder, file = (path, path / SAMPLES) if path.is_dir() else (path.parent, path)
    if not file.is_file():
        if (folder / "evaluation.json").is_file():
            raise CommandError(f"{path}: this evaluation is not whole; the command that began it goes on with it")
        raise CommandError(f"{path}: there is no {SAMPLES}; name a folder that unmask eval wrote")
    try:
        result = json.loads((folder / RESULT).read_text(encoding="utf-8")) if (folder / RESULT).is_file() else {}
    except ValueError as error:
        raise CommandError(f"{folder / RESULT}: not valid JSON ({error})") from error
    rows = read_rows(file)
    if not rows:
        raise CommandError(f"{file}: holds no answers")
    return Side(str(path), result, rows)


def compare(a: Path, b: Path, *, mix: bool = False) -> Comparison:
    """Whether B differs from A.

    mix: compare what was measured by different protocols or on different rows, too; the notes say what differs.

    Raises MixError where they were measured otherwise and mix is not set; CommandError.
    """
    left, right = read_side(a), read_side(b)
    unlike = _unlike(left, right)
    if unlike and not mix:
        told = "\n    ".join(unlike)
        raise MixError(
            f"{left.path} and {right.path} were not measured alike:\n    {told}\n    --mix compares them all the same"
        )
    notes = [f"NOT MEASURED ALIKE: {what}" for what in unlike]
    shared = [parser for parser in left.parsers if parser in right.parsers]
    if not shared:
        raise CommandError(f"no parser graded both: {', '.join(left.parsers)}; {', '.join(right.parsers)}")
    first, second = by_prompt(left.rows), by_prompt(right.rows)
    common = [prompt for prompt in first if prompt in second]
    if not common:
        raise CommandError("the two have no prompt in common")
    if len(common) < max(len(first), len(second)):
        notes.append(f"{len(common)} prompts are in both, of {len(first)} and {len(second)}; the others are left out")
    labels = [first[prompt][0].get("cluster_label") or prompt for prompt in common]
    found = {parser: _difference(parser, first, second, common, labels) for parser in shared}
    for (parser, one), adjusted in zip(found.items(), holm([one.p_value for one in found.values()]), strict=True):
        found[parser] = Difference(**{**asdict(one), "adjusted": adjusted})
    return Comparison(left.path, right.path, found, notes + _notes(left, right, found))


def _unlike(a: Side, b: Side) -> list[str]:
    """What makes two results incomparable, in words."""
    absent = [side.path for side in (a, b) if not side.result]
    if absent:
        return [f"nobody knows how {path} was measured: there is no {RESULT} beside it" for path in absent]
    found = []
    if a.result["hash"] != b.result["hash"]:
        names = " and ".join(f"{side.result['protocol']} ({side.result['hash'][:12]})" for side in (a, b))
        found.append(f"protocols: {names}")
        found += _settings(a.result["settings"], b.result["settings"])
    if a.result["data"]["fingerprint"] != b.result["data"]["fingerprint"]:
        first, second = ({row["prompt_id"]: row["prompt"] for row in side.rows} for side in (a, b))
        both = first.keys() & second.keys()
        other = sum(first[i] != second[i] for i in both)
        said = [f"{len(rows)} of {side.result['data']['source']}" for side, rows in ((a, first), (b, second))]
        found.append(f"rows: {' and '.join(said)}; {len(both)} are in both, {other} of these with another prompt")
    return found


def _settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    from rl.protocol import flat, shown

    before, now = flat(a), flat(b)
    keys = [key for key in dict.fromkeys([*before, *now]) if before.get(key) != now.get(key)]
    lines = [f"{key}: {shown(before.get(key))} and {shown(now.get(key))}" for key in keys[:SHOWN]]
    return lines + ([f"and {len(keys) - SHOWN} more"] if len(keys) > SHOWN else [])


def _difference(
    parser: str, first: Mapping[int, Any], second: Mapping[int, Any], common: Sequence[int], labels: Sequence[Any]
) -> Difference:
    """One parser's verdict; `adjusted` is filled in where all are known."""
    before, after = (np.array([_mean(side[prompt], parser) for prompt in common]) for side in (first, second))
    moved = after - before
    seen = ~np.isnan(moved)
    if not seen.any():
        nothing = {"value": math.nan, "low": math.nan, "high": math.nan, "n": 0}
        words = "nothing to compare: no prompt was graded in both"
        return Difference(math.nan, math.nan, nothing, 0, "none", 1.0, 1.0, math.nan, "none", words)
    kept = [label for label, keep in zip(labels, seen, strict=True) if keep]
    groups = len(set(kept))
    gain = paired_gain(before, after, labels)
    single = all(len(side[prompt]) == 1 for side in (first, second) for prompt in common)
    binary = bool(np.isin(np.concatenate([before[seen], after[seen]]), (0.0, 1.0)).all())
    if single and binary and groups == len(kept):
        test, p_value = "McNemar, exact", mcnemar(before, after)
    else:
        numbers = {label: i for i, label in enumerate(dict.fromkeys(kept))}
        sums = np.bincount([numbers[label] for label in kept], weights=moved[seen])
        test, p_value = "sign flips by cluster", sign_flip(sums, stream(0, Purpose.BOOTSTRAP, 1))
    least = smallest_seen(moved, labels)
    outside = gain["low"] > 0 or gain["high"] < 0
    verdict = ("better" if gain["value"] > 0 else "worse") if outside and p_value < ALPHA else "none"
    verdict = "unsettled" if outside != (p_value < ALPHA) else verdict
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
        return f"B is {verdict} by {abs(100 * gain['value']):.1f} points {_turned(gain, verdict)} ({chance}; {count})"
    limit = "" if math.isnan(least) else f": at {count} {_unseen(least)} would mostly not be seen"
    if verdict == "unsettled":
        return f"not settled: B - A is {100 * gain['value']:+.1f} points {span}, and the test says otherwise ({chance}){limit}"
    return f"no difference shown (B - A is {100 * gain['value']:+.1f} points {span}; {chance}){limit}"


def _unseen(least: float) -> str:
    """Which true differences are too small for the pairs; `least`, a normal approximation, may pass the largest that there is."""
    return f"a true difference below about {100 * least:.1f} points" if least < 1 else "any true difference"


def _turned(gain: Mapping[str, float], verdict: str) -> str:
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
