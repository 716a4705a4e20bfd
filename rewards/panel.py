"""Others' rules as parsers of a protocol, beside ours: `rewards.panel:rule` with a task and the name of one of its parsers.

For reading only: these are the graders of published scripts with all that is odd about them (`rewards/grading/parsers.py`), as
`unmask grade` puts them side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rewards.contract.reward import RewardError, did_you_mean
from rewards.extract import text_of
from rewards.grading.marks import Parser, Row, Task
from rewards.grading.parsers import tasks


def rule(
    completions: Sequence[Any],
    task: str,
    parser: str,
    prompts: Sequence[Any] | None = None,
    answer: Sequence[Any] | None = None,
    solution: Sequence[Any] | None = None,
    numbers: Sequence[Any] | None = None,
    target: Sequence[Any] | None = None,
    puzzle: Sequence[Any] | None = None,
    **_: Any,
) -> list[float | None]:
    """The share of each completion that the parser calls right, 0 to 1; None where the row has no gold answer.

    task, parser: as `unmask grade TASK` names them: gsm8k and d1, say. The columns are those of our own rewards for the task.
    """
    kind, grader = _found(task, parser)
    columns = {"answer": answer, "solution": solution, "numbers": numbers, "target": target, "puzzle": puzzle}
    rows = []
    for i, completion in enumerate(completions):
        fields = {name: values[i] for name, values in columns.items() if values is not None}
        question = "" if prompts is None else text_of(prompts[i])
        rows.append(Row(question, text_of(completion), kind.gold(fields, None, question)))
    return [None if mark is None or not mark.of else mark.right / mark.of for mark in grader.grade(rows)]


def _found(task: str, parser: str) -> tuple[Task, Parser]:
    known = tasks()
    if task not in known:
        raise RewardError(
            f"rewards.panel: there is no task {task!r}{did_you_mean(task, known)}; tasks: {', '.join(sorted(known))}"
        )
    named = {one.name: one for one in known[task].parsers}
    if parser not in named:
        raise RewardError(
            f"rewards.panel: {task} has no parser {parser!r}{did_you_mean(parser, named)}; parsers: {', '.join(named)}"
        )
    return known[task], named[parser]
