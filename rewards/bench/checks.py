"""From what a reward function did to what that means: one Finding per check. Pure functions of calls already made."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rewards.bench.battery import Entry
from rewards.bench.calls import Answer, Sample, Signature
from rewards.bench.report import Finding
from rewards.contract.calls import shorten

EPSILON = 1e-9  # scores closer than this are the same
_FORMAT_NOISE = 0.02  # a share of the score below this is not called format
_COINCIDENCE = 0.25  # a prompt may end in the number that is its answer; in more rows than this it is a rule
_FAR = 3.0  # times the spread of ordinary scores, at least 3
_ENOUGH = 5  # completions to conclude from
_CONTRACT = "one score for each completion, whatever its text: docs/rewards.md, 'What a function receives'"
_SHOWN = 150  # characters of a text
_NAMED = 4  # so many of a list are named


@dataclass(frozen=True)
class Pair:
    """Scores of right and of wrong answers in one layout, row by row; None where there was none."""

    right: tuple[float | None, ...]
    wrong: tuple[float | None, ...]

    def told_apart(self) -> list[int]:
        """The rows whose right answer scores higher than the wrong one."""
        pairs = enumerate(zip(self.right, self.wrong, strict=True))
        return [row for row, (a, b) in pairs if a is not None and b is not None and a > b + EPSILON]


@dataclass(frozen=True)
class Tried:
    """One entry of the battery: the rows it was made for (in its order), and the answer; None: not tried any more."""

    entry: Entry
    rows: tuple[int, ...]
    answer: Answer | None


def best_layout(measured: Mapping[str, Pair]) -> str:
    """The layout in which right answers stand out most from wrong ones; of equals the one that scores highest."""

    def merit(layout: str) -> tuple[float, float]:
        right, wrong = _mean(measured[layout].right), _mean(measured[layout].wrong)
        return round(right - wrong, 9), round(right, 9)

    return max(measured, key=merit)


# --------------------------------------------------------------------------------------------------------- the contract


def missing(signature: Signature, columns: Sequence[str]) -> Finding:
    """The finding for data that lacks what the function needs."""
    names = ", ".join(signature.missing)
    seen = f"needs the column {names}; the data has {', '.join(columns)}"
    first = signature.missing[0]
    remedy = f"map it: --columns {first}=<name in the file>; if it is no column but an argument: --kwarg {first}=VALUE"
    return Finding("fail", "schema", seen, remedy, f"the data has no column {names}")


def schema(signature: Signature, samples: Sequence[Sample], answer: Answer) -> Finding:
    """Whether the function keeps the contract on a batch: its arguments, one finite number or None for each completion."""
    kind = "async function" if signature.asynchronous else "function"
    if answer.hung:
        seen = f"no answer within {answer.seconds:.0f} s for {len(samples)} completions"
        return Finding(
            "fail", "schema", seen, "bound what it computes; --seconds allows more", "it hangs on plain text"
        )
    if answer.died is not None:
        return Finding("fail", "schema", f"its process ended with status {answer.died}", "", "it ends the process")
    if answer.error:
        short = f"it raises {answer.raised} on plain text" if answer.raised else "it breaks the contract"
        return Finding("fail", "schema", _message(answer.error), _CONTRACT, short)
    values = [score for score in answer.scores if score is not None]
    dropped = [reason for reason in answer.dropped if reason is not None]
    if dropped and not values:
        return Finding("fail", "schema", f"every row is dropped: {dropped[0]}", "", "grading itself fails")
    if not values:
        return Finding(
            "fail", "schema", "None for every row: it applies to none", "is it the right data?", "no row scored"
        )
    columns = [name for name in signature.columns if samples and name in samples[0].columns]
    reads = f"reads {', '.join(columns)}" if columns else "names no column"
    span = f"from {min(values):.4g} to {max(values):.4g}" if min(values) < max(values) else f"of {values[0]:.4g}"
    seen = f"{kind}, {reads}; {len(values)} scores {span}"
    without = len(answer.scores) - len(values) - len(dropped)
    seen += f", {without} None" if without else ""
    if dropped:
        return Finding("warn", "schema", f"{seen}; {len(dropped)} rows dropped: {dropped[0]}", "", "rows are dropped")
    return Finding("pass", "schema", seen)


def repeatable(samples: Sequence[Sample], again: Mapping[str, Mapping[int, Any]]) -> Finding:
    """Whether a completion has one score, however the function is called."""
    first = again["first"]
    differing: list[str] = []
    example = ""
    for how, scores in again.items():
        if -1 in scores:
            return Finding("fail", "determinism", f"{how}: {_failure(scores[-1])}", "", f"it fails when {how}")
        rows = [row for row, score in scores.items() if not _same(score, first[row])]
        if rows:
            differing.append(f"{how} ({len(rows)} of {len(scores)} rows)")
            example = example or f"row {rows[0]}: {first[rows[0]]} then {scores[rows[0]]}"
    if not differing:
        each = "group by group" if "group by group" in again else "one by one"
        seen = f"the same scores called twice, in another order, in parts, {each}, in another process"
        return Finding("pass", "determinism", seen)
    seen = f"other scores when {', '.join(differing)}; {example}"
    remedy = "score a completion by itself: no state between calls, no random numbers, no hash() of text"
    if not any(how.startswith(("called twice", "in another order")) for how in differing):
        remedy = "score a completion by itself, not by what else is in the batch or by the process it runs in"
    return Finding("fail", "determinism", seen, remedy, "scores are not repeatable")


def untouched(answer: Answer) -> Finding:
    """Whether the arguments are as they were before the call."""
    if not answer.changed:
        return Finding("pass", "inputs kept", "no argument was changed")
    seen = f"changes its arguments: {', '.join(answer.changed)}"
    return Finding(
        "fail", "inputs kept", seen, "work on a copy: other rewards see the same objects", "it changes its inputs"
    )


# ---------------------------------------------------------------------------------------------------------- the battery


def survives(battery: Sequence[Tried]) -> Finding:
    """Whether any text makes it raise, break the contract or end its process."""
    broken = [
        (one.entry, one.answer) for one in battery if one.answer and (one.answer.error or one.answer.died is not None)
    ]
    tried = sum(one.answer is not None for one in battery)
    if not broken:
        return Finding("pass", "odd text", f"no exception on {tried} kinds of text")
    names = _listed([f"{entry.name} ({_cause(answer)})" for entry, answer in broken])
    message = next((_message(answer.error) for _, answer in broken if answer.error), "")
    text = next((text for text in broken[0][0].texts if text is not None), "")
    seen = f"fails on {len(broken)} of {tried}: {names}" + (f"\n{message}" if message else f"\n{shorten(text, _SHOWN)}")
    remedy = "a policy will write this, and one exception stops the run: score it, most often 0"
    return Finding("fail", "odd text", seen, remedy, f"it fails on {broken[0][0].name}")


def in_time(battery: Sequence[Tried], seconds: float) -> Finding:
    """Whether any text keeps it busy beyond the limit."""
    hung = [one.entry.name for one in battery if one.answer and one.answer.hung]
    if not hung:
        return Finding("pass", "time limit", f"an answer within {seconds:g} s on every kind of text")
    left = sum(one.answer is None for one in battery)
    seen = f"no answer within {seconds:g} s: {_listed(hung)}" + (f"; {left} kinds not tried any more" if left else "")
    remedy = "bound the text and the numbers it computes with; never eval"
    return Finding("fail", "time limit", seen, remedy, f"it hangs on {hung[0]}")


def answers(pair: Pair, battery: Sequence[Tried], *, known: bool) -> list[Finding]:
    """Whether right answers are recognised however they are written, and whether right can be had without being right."""
    rows = pair.told_apart()
    if not rows:
        why = "right and wrong answers score alike" if known else "no gold answers: name their column with --gold"
        return [Finding("skip", "notations", why), Finding("skip", "cheating", why)]
    return [_notations(pair, rows, battery), _cheating(pair, rows, battery)]


def _notations(pair: Pair, rows: Sequence[int], battery: Sequence[Tried]) -> Finding:
    unrecognised = [row for row in range(len(pair.right)) if row not in rows]
    missed, count = [], 0
    for one in battery:
        if one.entry.kind == "right" and (scores := _scores(one, rows)):
            count += 1
            recognised = [score >= (pair.right[row] or 0.0) - EPSILON for row, score in scores.items()]
            if not all(recognised):
                missed.append(one.entry.name)
    seen = f"{count - len(missed)} of {count} other notations of the right answer count as right"
    if unrecognised:
        seen += f"; in {len(unrecognised)} of {len(pair.right)} rows not even the gold answer itself does"
    if not missed and not unrecognised:
        return Finding("pass", "notations", seen)
    seen += f"; not: {_listed(missed)}" if missed else ""
    remedy = "right answers written so are punished; compare values, not text (rewards.extract helps)"
    return Finding("warn", "notations", seen, remedy, f"{len(missed)} notations of the right answer are wrong to it")


def _cheating(pair: Pair, rows: Sequence[int], battery: Sequence[Tried]) -> Finding:
    tricks, count, example = [], 0, ""
    for one in battery:
        if one.entry.kind == "wrong" and (scores := _scores(one, rows)):
            count += 1
            fooled = [row for row, score in scores.items() if score >= (pair.right[row] or 0.0) - EPSILON]
            allowed = _COINCIDENCE * len(scores) if one.entry.by_chance else 0
            if len(fooled) > allowed:
                tricks.append(f"{one.entry.name} ({len(fooled)} of {len(scores)} rows)")
                example = example or shorten(one.entry.texts[fooled[0]], _SHOWN)
    if not tricks:
        return Finding("pass", "cheating", f"none of {count} attempts scores as the right answer does")
    remedy = "decide where the answer is read, read all that stands there, and accept one answer only"
    short = f"it can be cheated by {tricks[0].partition(' (')[0]}"
    return Finding("fail", "cheating", f"scored as right: {_listed(tricks)}\n{example}", remedy, short)


def format_share(
    measured: Mapping[str, Pair], layout: str, floor: float, kept: Sequence[bool], outcome: bool
) -> Finding:
    """How much of the score a wrong answer keeps when it has the layout of a right one.

    floor  the lowest score of no answer and of an empty text
    kept   for the user's best completions that hold the gold answer: whether they score the same with another in its place
    """
    right, wrong = _mean(measured[layout].right), _mean(measured[layout].wrong)
    lowest = min(floor, *(_mean(pair.wrong) for pair in measured.values()))
    name = "format"
    if math.isnan(right):
        return Finding("skip", name, "no gold answers: name their column with --gold")
    bad = "fail" if outcome else "warn"
    if right < wrong - EPSILON:
        seen = f"the gold answer scores {right:.3g}, another one {wrong:.3g}"
        return Finding(
            "fail", name, seen, "is --gold the right column, and the sign meant so?", "wrong answers score higher"
        )
    if right - lowest <= EPSILON:
        seen = f"{right:.3g} for right, wrong and missing answers alike, in {len(measured)} layouts"
        remedy = "shaping? Else: is the gold answer in the column named above, and is it one that the bench can write?"
        return Finding(bad, name, seen, remedy, "right and wrong answers score alike")
    share = (wrong - lowest) / (right - lowest)
    if len(kept) >= _ENOUGH and sum(kept) > len(kept) / 2:  # fewer may state it in words that were not replaced
        share = max(share, sum(kept) / len(kept))
    told = f"right {right:.3g}, wrong in the same layout {wrong:.3g}, without it {lowest:.3g}"
    if kept:
        told += f"; of your {len(kept)} best completions {sum(kept)} keep their score with another answer put in"
    if share >= 1 - _FORMAT_NOISE:
        remedy = (
            "shaping: keep it out of outcome, give it a small weight, and watch that it is not all the policy earns"
        )
        return Finding(bad, name, f"{told}: this reward is all format", remedy, "this reward is all format")
    if share > _FORMAT_NOISE:
        remedy = "split it: the outcome alone as one reward, the format as another with a weight of its own"
        return Finding(
            bad, name, f"{told}: {share:.0%} of the score is format", remedy, f"{share:.0%} of its score is format"
        )
    return Finding("pass", name, told)


def bounded(first: Answer, battery: Sequence[Tried], measured: Mapping[str, Pair]) -> Finding:
    """Whether some odd text scores far outside of what ordinary answers do. `first` counts only for the range that is told."""
    usual = [score for pair in measured.values() for score in (*pair.right, *pair.wrong) if score is not None]
    scored = [
        (score, one.entry.name) for one in battery if one.answer for score in one.answer.scores if score is not None
    ]
    if not usual or not scored:
        return Finding("skip", "range", "nothing was scored")
    low, high = min(usual), max(usual)
    reach = _FAR * max(high - low, 1.0)
    lowest, highest = min(scored), max(scored)
    if low - reach <= lowest[0] and highest[0] <= high + reach:
        tried = [low, high, lowest[0], highest[0], *(score for score in first.scores if score is not None)]
        return Finding("pass", "range", f"{min(tried):.4g} to {max(tried):.4g} over everything tried")
    score, text = lowest if low - lowest[0] > highest[0] - high else highest
    seen = f"{score:.4g} for {text}, where ordinary answers score {low:.4g} to {high:.4g}"
    remedy = "bound it: one such row outweighs a whole batch, and all other rewards"
    return Finding("warn", "range", seen, remedy, "its score has no bound")


def other_tasks(names: Sequence[str], empty: Answer, pair: Pair) -> Finding:
    """What a row of another task gets: the columns `names` that the function reads hold None."""
    if not names:
        return Finding("skip", "empty columns", "it names no column")
    seen = f"with None in {', '.join(names)}: "
    if empty.failed:
        remedy = "return None for such rows, and several tasks can share a data set"
        return Finding(
            "warn", "empty columns", seen + _failure(empty).splitlines()[0], remedy, "rows of other tasks stop it"
        )
    score = empty.scores[0]
    rows = pair.told_apart()
    if score is not None and rows and score >= (pair.right[rows[0]] or 0.0) - EPSILON:
        seen += f"an empty answer scores {score:.4g}, as a right one does"
        return Finding("fail", "empty columns", seen, "return None for such rows", "no answer equals no gold answer")
    return Finding("pass", "empty columns", seen + ("dropped" if empty.dropped[0] else f"{score}"))


# -------------------------------------------------------------------------------------------------------------- helpers


def _scores(one: Tried, rows: Sequence[int]) -> dict[int, float]:
    """Scores of an entry by row, for the rows asked for."""
    if one.answer is None or one.answer.failed:
        return {}
    pairs = zip(one.rows, one.answer.scores, strict=True)
    return {row: score for row, score in pairs if score is not None and row in rows}


def _same(a: float | None, b: float | None) -> bool:
    return a == b or (a is not None and b is not None and abs(a - b) <= EPSILON)


def _mean(scores: Sequence[float | None]) -> float:
    values = [score for score in scores if score is not None]
    return statistics.fmean(values) if values else math.nan


def _failure(answer: Answer) -> str:
    if answer.hung:
        return "no answer in time"
    return _message(answer.error) if answer.error else f"its process ended with status {answer.died}"


def _cause(answer: Answer) -> str:
    if answer.died is not None:
        return f"process ended, status {answer.died}"
    return answer.raised or "no finite number or wrong length"


def _message(error: str) -> str:
    """The first two lines of what a run would say: the exception with its row, and the place in the author's file."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    place = next((line for line in lines[1:] if ", line " in line), None)
    what = re.sub(r"^reward \S+ (?=raised|returned)", "", lines[0])
    return "\n".join(_cut(line) for line in (what, place) if line)


def _cut(line: str, limit: int = 240) -> str:
    return line if len(line) <= limit else shorten(line, limit)


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
