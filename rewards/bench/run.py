"""A bench for reward functions: is it a function that training can trust? The work behind `unmask reward test`.

Each check gives one `Finding`. Nothing here runs the author's code: `rewards/bench/calls.py` does, in a process that can be
killed.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from rewards.bench import checks
from rewards.bench.battery import LAYOUTS, NO_ANSWER, entries, filled
from rewards.bench.calls import Answer, Sample, Signature, Subject
from rewards.bench.data_checks import signal, speed
from rewards.bench.gold import Gold, gold_column, golds
from rewards.bench.report import Finding, Report
from rewards.contract.reward import RewardError

COMPLETIONS = (
    "completion",
    "completions",
    "generation",
    "generations",
    "response",
    "responses",
    "output",
    "model_output",
)
_AMBIGUOUS = ("output", "response")
PROMPTS = ("prompt", "question", "problem", "instruction", "query")
MAX_SWAPPED = 32  # completions of the user's that are tried with another answer
MAX_HANGS = 3  # after so many calls that were given up, the battery ends


@dataclass(frozen=True)
class Plan:
    """What is tested, and on how much.

    rows     rows of the battery; `sample`: completions for everything else (a whole batch, in turns, one by one)
    seconds  wall time that one row may take before it counts as hanging
    chat     prompts that are text are passed as messages, and completions with them
    outcome  the reward is meant as the accuracy: credit for format is then a failure, not a warning
    """

    fn: str
    base: Path
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    gold: str | None = None
    completions: str | None = None
    template: str | None = None
    rows: int = 6
    sample: int = 256
    seconds: float = 20.0
    outcome: bool = False
    chat: bool = False


def bench(plan: Plan, rows: Sequence[Mapping[str, Any]], source: str = "rows in memory") -> Report:
    """Test a reward on rows of data.

    Raises RewardError where there is nothing to test: no such function, no rows, a column or template that is not there.
    """
    if not rows:
        raise RewardError(f"{source}: there are no rows to test on")
    columns = list(rows[0])
    own = _named_column(plan.completions, columns, "--completions")
    named = _named_column(plan.gold, columns, "--gold")
    entry = {"fn": plan.fn, "kwargs": dict(plan.kwargs)}
    with Subject(entry, plan.base, plan.seconds) as subject:
        signature = subject.describe(
            [name for name in columns if name not in ("prompt", "completion", "completion_ids")]
        )
        subject.seconds = max(subject.seconds, signature.seconds)  # a bound of its own is no hang
        own = own or _guessed_completions(rows, {*signature.columns, named})
        column = gold_column(columns, signature.columns, named)
        known, origin = golds(rows, column, given=plan.gold is not None)
        data = Data(rows, own, known, [_prompt(row, plan) for row in rows], origin)
        facts = {"rows": len(rows), "gold": origin, "completions": own or "none: made from the gold answers"}
        if signature.missing:
            return Report(signature.name, source, facts, (checks.missing(signature, columns),))
        return _run(plan, subject, signature, data, facts, source)


@dataclass(frozen=True)
class Data:
    """The rows, and what was read from them: the user's completions column, gold answers, prompts."""

    rows: Sequence[Mapping[str, Any]]
    own: str | None
    golds: Sequence[Gold | None]
    prompts: Sequence[Any]
    origin: str

    def sample(self, row: int, completion: str) -> Sample:
        withheld = {"prompt", "completion", "completion_ids", self.own}
        columns = {name: value for name, value in self.rows[row].items() if name not in withheld}
        return Sample(self.prompts[row], completion, columns)


def _run(plan: Plan, subject: Subject, signature: Signature, data: Data, facts: dict[str, Any], source: str) -> Report:
    theirs, rows, groups = _own_samples(data, plan.sample)
    tried = _tried(data.golds, plan.rows)
    plain = [data.sample(row, NO_ANSWER) for row in tried]
    subject.warm_with = plain[:1]
    samples = theirs or [data.sample(row, NO_ANSWER) for row in range(len(data.rows))][: plan.sample]
    samples += [] if theirs else [data.sample(row, text) for row in tried for text in _made(data.golds[row])]
    first = subject.call(samples, batch=True)
    found: list[Finding] = [checks.schema(signature, samples, first)]
    if first.failed:
        return Report(signature.name, source, facts, tuple(found))
    found.append(checks.repeatable(samples, _again(subject, samples, first, signature.groups)))
    found.append(checks.untouched(first))

    measured = _layouts(subject, data, tried)
    layout = checks.best_layout(measured)
    facts["layout"] = layout
    facts["also_in"] = [name for name, pair in measured.items() if name != layout and pair.told_apart()]
    empty = [replace(sample, completion="") for sample in plain]
    subject.restart()  # a reward that remembers what it graded would be timed remembering
    floor, timed = subject.call([*plain, *empty], batch=True), subject.call(samples, batch=True)
    battery = _battery(subject, data, tried, layout)
    found += [checks.survives(battery), checks.in_time(battery, subject.seconds)]
    found += checks.answers(measured[layout], battery, known=any(g is not None for g in data.golds))
    kept = _swapped(subject, theirs, [data.golds[row] for row in rows], first) if theirs else []
    lowest = min((score for score in floor.scores if score is not None), default=math.nan)
    found.append(checks.format_share(measured, layout, lowest, kept, plan.outcome))
    found.append(checks.bounded(first, battery, measured))
    found.append(_empty_columns(subject, signature, plain[0], measured[layout]))
    found.append(signal(first if theirs else None, groups, first, battery, measured))
    subject.restart()
    # The last: answers made, where there are none of yours. One of them goes first, so that no tool's start is timed.
    subject.call(samples[-1:], batch=True)
    alone = [subject.call([sample]) for sample in samples[-21:-1] or samples]
    found.append(speed(len(samples), timed, alone, battery))
    scores = first.scores if theirs else ()
    return Report(signature.name, source, facts, tuple(found), tuple(scores))


def _named_column(given: str | None, columns: Sequence[str], option: str) -> str | None:
    if given is not None and given not in columns:
        raise RewardError(f"{option} {given}: there is no such column; columns: {', '.join(columns)}")
    return given


def _guessed_completions(rows: Sequence[Mapping[str, Any]], taken: set[str | None]) -> str | None:
    """The first column of a usual name, unless it is what the reward reads or the gold answer.

    In data of questions `output` and `response` may be the answer: where these hold nothing but single words or numbers, they are.
    """
    for name in COMPLETIONS:
        if name not in rows[0] or name in taken:
            continue
        cells = [row[name] for row in rows if row.get(name) is not None]
        if name not in _AMBIGUOUS or any(isinstance(cell, list) or len(str(cell).split()) > 1 for cell in cells):
            return name
    return None


def _prompt(row: Mapping[str, Any], plan: Plan) -> Any:
    prompt = next((row[name] for name in PROMPTS if row.get(name)), "")
    if plan.template is not None:
        try:
            prompt = plan.template.format_map(row)
        except (KeyError, ValueError, IndexError) as error:
            raise RewardError(f"--prompt-template: {error} is no column; columns: {', '.join(row)}") from error
    return [{"role": "user", "content": prompt}] if plan.chat and isinstance(prompt, str) else prompt


def _own_samples(data: Data, most: int) -> tuple[list[Sample], list[int], list[int]]:
    """The user's own completions, the row of each, and its group: rows with one prompt, or with a list of completions."""
    if data.own is None:
        return [], [], []
    samples, rows, groups, seen = [], [], [], {}
    for row, record in enumerate(data.rows):
        cell = record[data.own]
        chat = isinstance(cell, list) and bool(cell) and isinstance(cell[0], Mapping)
        for text in cell if isinstance(cell, list) and not chat else [cell]:
            said = _said(text)
            if said is not None:
                samples.append(data.sample(row, said))
                rows.append(row)
                groups.append(seen.setdefault(repr(data.prompts[row]) if data.prompts[row] else row, len(seen)))
    return samples[:most], rows[:most], groups[:most]


def _said(value: Any) -> str | None:
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return "\n".join(str(message.get("content") or "") for message in value)
    return value if isinstance(value, str) else None


def _tried(known: Sequence[Gold | None], most: int) -> list[int]:
    """Rows of the battery: spread over those with a gold answer, or the first ones."""
    usable = [row for row, gold in enumerate(known) if gold is not None] or list(range(len(known)))
    return usable[:: max(1, len(usable) // most)][:most]


def _made(gold: Gold | None) -> list[str]:
    answers = [] if gold is None else [gold.right, gold.wrong]
    return [filled(layout, answer) for layout in list(LAYOUTS)[:5] for answer in answers]


def _again(subject: Subject, samples: Sequence[Sample], first: Answer, groups: bool) -> dict[str, dict[int, Any]]:
    """Scores of the same samples in other calls: how it was called -> sample -> score, or the failed Answer under -1.

    groups: those of one prompt stay together, as in a run.
    """
    count = len(samples)
    units = _by_prompt(samples) if groups else [[i] for i in range(count)]
    shuffled = random.Random(0).sample(units, len(units))
    half = len(units) // 2
    orders = {
        "called twice": [list(range(count))],
        "in another order": [list(chain(*shuffled))],
        "in two halves": [list(chain(*units[:half])), list(chain(*units[half:]))] if half else [],
        "group by group" if groups else "one by one": shuffled[:8],
    }
    again: dict[str, dict[int, Any]] = {"first": dict(enumerate(first.scores))}
    for how, parts in orders.items():
        again[how] = _scores_of(subject, samples, parts)
    subject.restart()
    again["in another process"] = _scores_of(subject, samples, [list(range(count))])
    return again


def _by_prompt(samples: Sequence[Sample]) -> list[list[int]]:
    groups: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        groups.setdefault(repr(sample.prompt), []).append(i)
    return list(groups.values())


def _scores_of(subject: Subject, samples: Sequence[Sample], parts: Sequence[Sequence[int]]) -> dict[int, Any]:
    scores: dict[int, Any] = {}
    for part in parts:
        answer = subject.call([samples[i] for i in part], batch=True)
        if answer.failed:
            return {-1: answer}
        scores.update(zip(part, answer.scores, strict=True))
    return scores


def _layouts(subject: Subject, data: Data, tried: Sequence[int]) -> dict[str, checks.Pair]:
    """Scores of right and of wrong answers in every layout, for the rows tried that have a gold answer."""
    measured: dict[str, checks.Pair] = {}
    rows = [(row, gold) for row in tried if (gold := data.golds[row]) is not None]
    for layout in LAYOUTS:
        right = [data.sample(row, filled(layout, gold.right)) for row, gold in rows]
        wrong = [data.sample(row, filled(layout, gold.wrong)) for row, gold in rows]
        answer = subject.call([*right, *wrong], batch=True) if rows else Answer()
        scores = answer.scores if not answer.failed else (None,) * 2 * len(rows)
        measured[layout] = checks.Pair(scores[: len(rows)], scores[len(rows) :])
    return measured


def _swapped(subject: Subject, samples: Sequence[Sample], known: Sequence[Gold | None], first: Answer) -> list[bool]:
    """Of the user's best completions that hold the gold answer: whether each keeps its score with a wrong one in its place."""
    scores = [score for score in first.scores if score is not None]
    if not scores or max(scores) == min(scores):
        return []
    before: list[float] = []
    changed: list[Sample] = []
    for sample, gold, score in zip(samples, known, first.scores, strict=True):
        if gold is None or score is None or score < max(scores) or len(changed) >= MAX_SWAPPED:
            continue
        right = re.compile(rf"(?<![\w.]){re.escape(gold.right)}(?![\w]|\.\d)")
        if right.search(sample.completion):
            changed.append(replace(sample, completion=right.sub(lambda _, gold=gold: gold.wrong, sample.completion)))
            before.append(score)
    answer = subject.call(changed, batch=True) if changed else Answer()
    return [after is not None and after >= score for after, score in zip(answer.scores, before, strict=False)]


def _empty_columns(subject: Subject, signature: Signature, sample: Sample, pair: checks.Pair) -> Finding:
    names = [name for name in signature.columns if name in sample.columns]
    empty = replace(sample, completion="", columns={**sample.columns, **dict.fromkeys(names)})
    return checks.other_tasks(names, subject.call([empty]) if names else Answer(), pair)


def _battery(subject: Subject, data: Data, tried: Sequence[int], layout: str) -> list[checks.Tried]:
    """Every entry, each in a call of its own; where that is too slow for all rows together, of one row. Ends early when calls keep
    hanging."""
    made = entries(layout, [data.golds[row] for row in tried], [data.prompts[row] for row in tried])
    results: list[checks.Tried] = []
    hangs = 0
    for entry in made:
        if hangs >= MAX_HANGS:
            results.append(checks.Tried(entry, (), None))
            continue
        texts = [(at, text) for at, text in enumerate(entry.texts) if text is not None]
        answer = subject.call([data.sample(tried[at], text) for at, text in texts])
        if answer.hung and len(texts) > 1:
            texts = texts[:1]
            answer = subject.call([data.sample(tried[at], text) for at, text in texts])
        hangs += answer.hung
        results.append(checks.Tried(entry, tuple(at for at, _ in texts), answer))
    return results
