"""Scores by a judge: a language model behind any OpenAI-compatible endpoint (vLLM, `transformers serve`, a service).

| reward | the judge is asked | score |
|---|---|---|
| `judge.rubric` | for `{"reason", "score"}` by a rubric | the score, scaled to [0, 1] |
| `judge.graded` | for one digit by a rubric | the mean of the digits under the judge's own probabilities, scaled to [0, 1] |
| `judge.pairwise` | for the better of two answers, in both orders | the share of comparisons won, a tie counting half |

Every kwarg of `rewards.judging.client.Settings` is one of theirs. A row whose verdict cannot be had (nobody answers, HTTP 429
or 5xx after the retries, no verdict to be read after a second request) is an InfrastructureError: dropped and counted, never
a 0. What no later request can mend (a wrong key, a model that is not there, every request refused) ends the run.

Logged for each call, `<log_as>/...`, means over its rows, so that they stay right where several workers grade: `requests`,
`cached`, `reasked`, `retries`, `tokens_in`, `tokens_out`, `cost` (where `price` is given), `failed`; `seconds` is the mean of a
request, `length_correlation` that of score and length of the answer. Saved beside the rollouts: `judge_reason`, `judge_score`.
"""

from __future__ import annotations

import asyncio
import statistics
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from rewards.contract.answers import InfrastructureError
from rewards.contract.reward import RewardError
from rewards.extract import text_of
from rewards.judging.cache import Reply
from rewards.judging.call import Rows, Score, judge_reward, together
from rewards.judging.prompts import (
    NEED_REFERENCE,
    RUBRICS,
    digit_messages,
    pair_messages,
    score_messages,
)
from rewards.judging.verdicts import expected_score, read_digit, read_score, read_winner

# -------------------------------------------------------------------------------------------------------------- rewards


def _rubric_problems(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = []
    named = [name for name in ("rubric", "rubric_file", "rubric_column") if given.get(name) is not None]
    if len(named) > 1:
        found.append((named[1], f"stands beside {named[0]}; a judge has one rubric"))
    for name in named:
        if not isinstance(given[name], str) or not given[name].strip():
            found.append((name, "takes a text"))
    file = given.get("rubric_file")
    if isinstance(file, str) and not Path(file).expanduser().is_file():
        found.append(("rubric_file", f"there is no file {Path(file).expanduser().absolute()}"))
    if given.get("rubric") in NEED_REFERENCE and given.get("reference_column") is None:
        found.append(
            (
                "rubric",
                "compares with a reference; name its column with reference_column, as in {reference_column: answer}",
            )
        )
    return found


def _score_problems(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    scale = given["scale"]
    good = isinstance(scale, (list, tuple)) and len(scale) == 2 and all(type(one) in (int, float) for one in scale)
    wrong = [] if good and scale[0] < scale[1] else [("scale", "takes two numbers, [worst, best]")]
    return _rubric_problems(given) + wrong


@judge_reward(_score_problems)
async def rubric(
    rows: Rows,
    rubric: str | None = None,
    rubric_file: str | None = None,
    rubric_column: str | None = None,
    reference_column: str | None = None,
    scale: Sequence[float] = (1, 5),
) -> list[Score]:
    """The score that a judge gives by a rubric, scaled so that scale[0] is 0 and scale[1] is 1.

    rubric            one of `rewards.judging.prompts.RUBRICS` by name (helpfulness where nothing is said), or the criteria as text;
                      or `rubric_file`, a file with them; or `rubric_column`, a column with those of each row
    reference_column  column with the right answer, shown to the judge

    None where the row has no rubric or no reference.
    """
    low, high = scale

    async def one(row: int, criteria: str, reference: str | None) -> float:
        messages = score_messages(rows.tasks[row], rows.answers[row], reference, criteria, low, high)
        verdict = await rows.judge.verdict(messages, lambda reply: read_score(reply.text, low, high))
        rows.save(row, judge_reason=verdict.reason, judge_score=verdict.value)
        return (verdict.value - low) / (high - low)

    return await _each(rows, _criteria(rows, rubric, rubric_file, rubric_column), rows.column(reference_column), one)


def _digit_problems(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = _score_problems(given)
    scale = given["scale"]
    if not any(name == "scale" for name, _ in found) and not all(type(one) is int and 0 <= one <= 9 for one in scale):
        found.append(("scale", "takes two digits here, 0 to 9: a score is one token"))
    if given["logprobs"] not in ("required", "if_offered", "off"):
        found.append(("logprobs", "is one of required, if_offered, off"))
    return found


@judge_reward(_digit_problems)
async def graded(
    rows: Rows,
    rubric: str | None = None,
    rubric_file: str | None = None,
    rubric_column: str | None = None,
    reference_column: str | None = None,
    scale: Sequence[int] = (1, 5),
    logprobs: str = "required",
) -> list[Score]:
    """The mean of a judge's digits under its own probabilities: finer than the digit it would say, and without a draw.

    logprobs: required ends the run where the server sends no log-probabilities; if_offered then takes the digit that was said;
    off never asks for them. All else as for `rubric`. The judge must answer at once: one that thinks first cannot be read so.
    """
    low, high = scale
    ask = {} if logprobs == "off" else {"logprobs": True, "top_logprobs": 20}

    def read(reply: Reply) -> tuple[float, float | None]:
        if reply.tokens is not None:
            return expected_score(reply.tokens, low, high)
        if logprobs == "required":
            raise RewardError(
                f"the judge at {rows.judge.settings.base_url} sends no log-probabilities, which judge.graded reads. Use judge.rubric, a "
                "server that offers them (vLLM does), or take the digit that is said: logprobs: if_offered"
            )
        return read_digit(reply.text, low, high).value, None

    async def one(row: int, criteria: str, reference: str | None) -> float:
        messages = digit_messages(rows.tasks[row], rows.answers[row], reference, criteria, low, high)
        value, mass = await rows.judge.verdict(messages, read, **ask)
        rows.save(row, judge_score=value, judge_mass=mass)
        return (value - low) / (high - low)

    scores = await _each(rows, _criteria(rows, rubric, rubric_file, rubric_column), rows.column(reference_column), one)
    masses = [mass for mass in rows.extras.get("judge_mass", []) if mass is not None]
    if masses:
        rows.metrics["digit_mass"] = statistics.fmean(masses)
    return scores


def _pair_problems(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = _rubric_problems({**given, "reference_column": ""})
    if given["rubric"] in NEED_REFERENCE:
        found.append(
            (
                "rubric",
                "compares with a reference, and judge.pairwise shows two answers and none; take judge.rubric, or write another",
            )
        )
    if given["against"] not in ("reference", "group"):
        found.append(("against", "is reference (a column) or group (the other completions for the prompt)"))
    elif (given["against"] == "reference") != (given["reference_column"] is not None):
        need = "needs a" if given["against"] == "reference" else "takes no"
        found.append(("reference_column", f"against: {given['against']} {need} column with the other answer"))
    ring = given["ring"]
    if ring is not None and (type(ring) is not int or ring < 1 or given["against"] != "group"):
        found.append(("ring", "takes a whole number from 1 on, with against: group"))
    return found


@judge_reward(_pair_problems)
async def pairwise(
    rows: Rows,
    rubric: str | None = None,
    rubric_file: str | None = None,
    rubric_column: str | None = None,
    reference_column: str | None = None,
    against: str = "reference",
    ring: int | None = None,
) -> list[Score]:
    """The share of its comparisons that a completion wins, each asked in both orders and averaged; a tie counts half.

    against  reference: the answer in `reference_column`; group: the other completions for the same prompt in this call, all of
             them, or with `ring: k` the next k in a ring (2k comparisons for each completion in place of G - 1)

    Logged besides: `flips`, the share of pairs whose verdict changes with the order, and `prefers_first`, the share of verdicts
    for the answer that stands first (0.5: no bias). Equal answers are a tie that nobody is asked about. None for a row without
    a reference, a rubric or an opponent.
    """
    criteria = _criteria(rows, rubric, rubric_file, rubric_column)
    references = rows.column(reference_column)
    if references is not None:
        pairs = [(row, None) for row, other in enumerate(references) if other is not None]
    else:
        pairs = _group_pairs(rows.tasks, ring)
    pairs = [(row, other) for row, other in pairs if criteria[row] is not None]
    found = await together([_compared(rows, row, other, criteria, references) for row, other in pairs])
    points: dict[int, list[float]] = defaultdict(list)
    failures: dict[int, InfrastructureError] = {}
    for (row, other), outcome in zip(pairs, found, strict=True):
        for who, sign in ((row, 1), (other, -1)):
            if who is None:
                continue
            if isinstance(outcome, InfrastructureError):
                failures[who] = outcome
            else:
                points[who].append(outcome if sign > 0 else 1 - outcome)
    return [statistics.fmean(points[row]) if row in points else failures.get(row) for row in range(len(rows.tasks))]


REWARDS = (rubric, graded, pairwise)


# ---------------------------------------------------------------------------------------------------------------- pairs


def _group_pairs(tasks: Sequence[str], ring: int | None) -> list[tuple[int, int | None]]:
    """Pairs of rows with the same task: all, or each with the next `ring` in a ring, every pair once."""
    groups: dict[str, list[int]] = defaultdict(list)
    for row, task in enumerate(tasks):
        groups[task].append(row)
    pairs: dict[tuple[int, int], None] = {}
    for rows in groups.values():
        size = len(rows)
        for at, row in enumerate(rows):
            for step in range(1, min(ring or size, size - 1) + 1):
                pairs[min(row, rows[(at + step) % size]), max(row, rows[(at + step) % size])] = None
    return list(pairs)


async def _compared(
    rows: Rows, row: int, other: int | None, criteria: Sequence[str | None], references: Sequence[Any] | None
) -> float:
    """1 where the row's answer is better than the other in both orders, 0 where it is worse, else between."""
    mine, task, rule = rows.answers[row], rows.tasks[row], criteria[row] or ""
    theirs = rows.answers[other] if other is not None else _text(references[row] if references else "")
    if mine.strip() == theirs.strip():
        return 0.5

    async def ask(first: str, second: str) -> Any:
        return await rows.judge.verdict(pair_messages(task, first, second, rule), lambda reply: read_winner(reply.text))

    as_first, as_second = await asyncio.gather(ask(mine, theirs), ask(theirs, mine))
    wins = (as_first.value, 1 - as_second.value)
    _count(rows, "flips", wins[0] != wins[1])
    _count(rows, "prefers_first", (as_first.value + as_second.value) / 2)
    if other is None:
        rows.save(row, judge_reason=as_first.reason, judge_reason_swapped=as_second.reason)
    return (wins[0] + wins[1]) / 2


def _count(rows: Rows, name: str, value: float) -> None:
    rows.metrics[name] = rows.metrics.get(name, 0.0) + value
    rows.metrics[f"{name}/n"] = rows.metrics.get(f"{name}/n", 0.0) + 1


# -------------------------------------------------------------------------------------------------------------- helpers


def _criteria(rows: Rows, rubric: str | None, file: str | None, column: str | None) -> list[str | None]:
    """The criteria of each row."""
    if column is not None:
        return [None if one is None else _text(one) for one in rows.column(column) or ()]
    text = Path(file).expanduser().read_text(encoding="utf-8") if file else rubric or "helpfulness"
    return [RUBRICS.get(text, text)] * len(rows.tasks)


async def _each(
    rows: Rows,
    criteria: Sequence[str | None],
    references: Sequence[Any] | None,
    one: Callable[[int, str, str | None], Coroutine[Any, Any, float]],
) -> list[Score]:
    """`one(row, criteria, reference)` for every row that has what is named, all together; None for the others."""
    asked, work = [], []
    for row, rule in enumerate(criteria):
        reference = None if references is None else references[row]
        if rule is not None and (references is None or reference is not None):
            asked.append(row)
            work.append(one(row, rule, None if reference is None else _text(reference)))
    scores: list[Score] = [None] * len(criteria)
    for row, score in zip(asked, await together(work), strict=True):
        scores[row] = score
    return scores


def _text(value: Any) -> str:
    return value if isinstance(value, str) else text_of(value) if isinstance(value, list) else str(value)
