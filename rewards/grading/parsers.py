"""The graders that exist for a task, ours and those of public code, to be put side by side on the same text.

A parser takes graded rows (`Row`: question, text, gold) and gives each a `Mark`. `tasks()` has the tasks by name, each with
its parsers in the order of the report; a task of another kind is one more `Task` in `_TASKS`. Whose rule each parser is, and
what is odd about it, stands in `rewards/published/rules.py`.

Rows without a gold answer cannot be graded and count for no parser, except for those that are evaluation scripts: they count
every row, as the published figures do. So they do with rows that stand in two files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rewards import countdown, gsm8k, math, sudoku
from rewards.contract.answers import InfrastructureError
from rewards.grading.gold import countdown_gold, plain_gold, sudoku_gold
from rewards.grading.marks import Mark, Marks, Parser, Row, Task
from rewards.published import math as originals_math
from rewards.published import rules as originals
from rewards.published.arithmetic import NeverEndsError


def tasks() -> dict[str, Task]:
    """The tasks by their names and aliases."""
    return {name: task for task in _tasks() for name in (task.name, *task.aliases)}


# --------------------------------------------------------------------------------------------------------------- helpers


def _each(rule: Callable[[str, Any], float | bool], always: bool = False) -> Callable[[Sequence[Row]], Marks]:
    """Marks by a rule for (text, gold). Without gold: no mark; `always`: the rule is asked, and has to know what None is."""

    def grade(rows: Sequence[Row]) -> Marks:
        return [Mark(float(rule(row.text, row.gold))) if always or row.gold is not None else None for row in rows]

    return grade


def _scores(scores: Sequence[float | InfrastructureError | None]) -> Marks:
    return [Mark(score) if isinstance(score, float) else None for score in scores]


def _texts(rows: Sequence[Row]) -> list[str]:
    return [row.text for row in rows]


def _golds(rows: Sequence[Row]) -> list[Any]:
    return [row.gold for row in rows]


# ----------------------------------------------------------------------------------------------------------------- gsm8k


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _flexible(text: str, gold: Any) -> bool:
    found, expected = originals.flexible_answer(text, digits=True), originals.gold_text(gold)
    if found is None or expected is None:
        return False
    number = _number(originals.lm_eval_text(found))
    return number is not None and number == _number(originals.lm_eval_text(expected))


def _lm_eval(text: str, gold: Any) -> bool:
    found, expected = originals.flexible_answer(text), originals.gold_text(gold)
    return found is not None and originals.lm_eval_text(found) == originals.lm_eval_text(expected or "")


def _boxed(text: str, gold: Any) -> bool:
    number = originals.last_box_number(text)
    return number is not None and number == gsm8k.gold_number(gold)


def _d1_gsm8k(text: str, gold: Any) -> bool:
    number = originals.d1_number(text)
    return number is not None and number == originals.d1_gold_number(gold)


def _spg_gsm8k(text: str, gold: Any) -> bool:
    number = originals.spg_number(text)
    return number is not None and number == originals.d1_gold_number(gold)


def _d1_string(text: str, gold: Any) -> bool:
    return originals.after_last_tag(originals.without_special_tokens(text)) == originals.gold_text(gold)


_GSM8K = Task(
    "gsm8k",
    plain_gold,
    (
        Parser("unmask", "ours: tag, box, #### or last number, by value", lambda rows: _scores(
            gsm8k.correct(_texts(rows), _golds(rows)))),
        Parser("d1", "d1's evaluation script: first readable box, else first tag", _each(_d1_gsm8k, True), script=True),
        Parser("spg", "SPG's: d1's, then also text without closed tags", _each(_spg_gsm8k, True), script=True),
        Parser("flexible", "lm-eval's flexible-extract: the last number, by value", _each(_flexible)),
        Parser("lm_eval", "lm-eval's rule to the letter: compared as text", _each(_lm_eval)),
        Parser("boxed", "the last number of the last box", _each(_boxed)),
        Parser("espo", "ESPO's training reward", _each(
            lambda text, gold: originals.espo_answer(text) == originals.gold_text(gold))),
        Parser("d1_training", "d1's training reward: the text of the tag is the gold answer", _each(_d1_string)),
        Parser("d1_training_unboxed", "the same after taking \\boxed{} away", _each(
            lambda text, gold: _d1_string(originals.unboxed(text), gold))),
    ),
    fits=gsm8k.states_number,
)  # fmt: skip


# ------------------------------------------------------------------------------------------------------------------ math


def _d1_math(text: str, gold: Any) -> bool:
    """The last box, else (where it is empty or never closed) the first closed tag; without a box the whole text."""
    try:
        found: str | None = originals_math.last_box(text)
    except originals_math.UnreadableError:
        found = None
    if not found:
        tagged = originals.first_tag(text)
        found = found if tagged is None else tagged
    return found is not None and originals_math.same(found, gold)


def _d1_math_training(text: str, gold: Any) -> bool:
    try:
        found = originals_math.last_box(text)
    except originals_math.UnreadableError:
        found = text
    return originals_math.same(found, gold)


def _math_gold(fields: Mapping[str, Any], named: str | None, question: str) -> Any:
    """The final answer; of a worked solution, its last box."""
    gold = plain_gold(fields, named, question)
    if not isinstance(gold, str) or "\\boxed" not in gold:
        return gold
    try:
        return originals_math.last_box(gold)
    except originals_math.UnreadableError:
        raise ValueError("the box of the gold answer is never closed") from None


_MATH = Task(
    "math",
    _math_gold,
    (
        Parser("unmask", "ours: the stated answer, by math-verify", lambda rows: _scores(
            math.correct(_texts(rows), [row.question for row in rows], _golds(rows)))),
        Parser("d1", "d1's evaluation script: last box, Hendrycks' text normaliser", _each(_d1_math, True), script=True),
        Parser("d1_training", "d1's training reward: the same, another last resort", _each(_d1_math_training)),
        Parser("espo", "ESPO's training reward: math-verify on all of the text", lambda rows: _scores(
            originals_math.espo_scores(_texts(rows), _golds(rows)))),
    ),
    aliases=("math500",),
)  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- countdown


def _d1_countdown(text: str, gold: Any) -> bool:
    numbers, target = gold or ((), None)
    try:
        return originals.countdown_right(text, numbers, target)
    except NeverEndsError:  # nobody has a figure for it
        return False


def _d1_countdown_score(text: str, gold: Any) -> float:
    try:
        return originals.countdown_score(originals.without_special_tokens(text), *gold)
    except NeverEndsError:
        return 0.0


def _ours(reward: Callable[..., Any]) -> Callable[[Sequence[Row]], Marks]:
    def grade(rows: Sequence[Row]) -> Marks:
        numbers, targets = ([row.gold and row.gold[side] for row in rows] for side in (0, 1))
        return _scores(reward(_texts(rows), numbers, targets))

    return grade


_COUNTDOWN = Task(
    "countdown",
    countdown_gold,
    (
        Parser("unmask", "ours: one expression, exact", _ours(countdown.correct)),
        Parser("unmask_attempt", "ours, shaping: an expression that uses the numbers", _ours(countdown.attempt), shaping=True),
        Parser("d1", "d1's evaluation script: last box or all of the text, eval", _each(_d1_countdown, True), script=True),
        Parser("d1_training", "d1's training reward: share of rows with 1.0", _each(
            lambda text, gold: _d1_countdown_score(text, gold) == 1.0)),
        Parser("d1_training_mean", "d1's training reward: its mean, 0.1 for any tag", _each(_d1_countdown_score), shaping=True),
    ),
)  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------- sudoku


def _cells(read: Callable[[str], str]) -> Callable[[Sequence[Row]], Marks]:
    """Blank cells that are right, pooled over all rows: a puzzle with more blanks weighs more."""

    def grade(rows: Sequence[Row]) -> Marks:
        found = [originals.blanks_right(read(row.text), *row.gold) if _is_small(row) else None for row in rows]
        return [Mark(*pair) if pair else None for pair in found]

    return grade


def _small(rule: Callable[[str, str, str], bool]) -> Callable[[Sequence[Row]], Marks]:
    """A rule on (the first 16 digits of the last closed tag, puzzle, solution); fewer than 16 are wrong."""

    def mark(row: Row) -> Mark:
        digits = originals.tag_digits(originals.without_special_tokens(row.text))[: originals.CELLS]
        return Mark(len(digits) == originals.CELLS and rule(digits, *row.gold))

    return lambda rows: [mark(row) if _is_small(row) else None for row in rows]


def _is_small(row: Row) -> bool:
    return row.gold is not None and len(row.gold[0]) == originals.CELLS and row.gold[1] is not None


def _keeps_givens(found: str, puzzle: str, _: str) -> bool:
    return all(given in ("0", cell) for given, cell in zip(puzzle, found, strict=True))


_SUDOKU = Task(
    "sudoku",
    sudoku_gold,
    (
        Parser("unmask", "ours: solved by the rules, givens kept", lambda rows: _scores(
            sudoku.solved(_texts(rows), [row.gold and row.gold[0] for row in rows]))),
        Parser("d1", "d1's evaluation script: blank cells, not puzzles", _cells(originals.sudoku_text), script=True),
        Parser("d1_training", "d1's training reward, blank cells pooled", _cells(
            lambda text: originals.sudoku_digits(originals.without_special_tokens(text)))),
        Parser("solved", "the digits of the last tag are the stored solution", _small(lambda found, _, gold: found == gold)),
        Parser("givens_kept", "the digits of the last tag keep every given: no accuracy", _small(_keeps_givens), shaping=True),
    ),
)  # fmt: skip

_TASKS = (_GSM8K, _MATH, _COUNTDOWN, _SUDOKU)


def _tasks() -> tuple[Task, ...]:
    from rewards.grading.code_parsers import CODE  # which imports this module

    return (*_TASKS, CODE)


def every_parser() -> Iterator[tuple[Task, Parser]]:
    """Each parser with its task."""
    for task in _tasks():
        for parser in task.parsers:
            yield task, parser
