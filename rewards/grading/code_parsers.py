"""Graders of stored programs: the task `code` of `unmask grade`. The tests are the gold; which columns hold them, `code_rows` says.

A program that our sandbox cannot grade (the row's tests do not pass the boundary, the machine failed) counts for no parser
that runs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rewards import code
from rewards.grading.marks import Mark, Marks, Parser, Row, Task
from rewards.programs.rows import READ, Unfit, job_of


def code_gold(fields: Mapping[str, Any], named: str | None, question: str) -> dict[str, Any] | None:
    """The columns with a row's tests; None where it has none that can be read. `named`: the column with the tests.

    A field that holds what was generated may have the name of one with a solution: --golds takes the tests from the data set.
    """
    row = {name: fields[name] for name in READ if fields.get(name) is not None}
    if named is not None:
        row = {name: value for name, value in row.items() if name not in code.COLUMNS} | {"tests": fields[named]}
    job = job_of(row)
    return None if job is None or isinstance(job, Unfit) else row


def _run(compat: str | None = None, *, share: bool = False) -> Any:
    """Marks by the tests: 1 where all pass, or the share of them."""

    def grade(rows: Sequence[Row]) -> Marks:
        marks: Marks = [None] * len(rows)
        asked = [(at, row) for at, row in enumerate(rows) if row.gold is not None]
        columns: dict[str, Any] = {name: [row.gold.get(name) for _, row in asked] for name in READ}
        prompts = [row.question for _, row in asked]
        scores = code.pass_rate([row.text for _, row in asked], prompts, compat=compat, **columns)
        for (at, _), score in zip(asked, scores, strict=True):
            marks[at] = Mark(score if share else score == 1.0) if isinstance(score, float) else None
        return marks

    return grade


def _layout(rows: Sequence[Row]) -> Marks:
    scores = code.format([row.text for row in rows])
    return [Mark(score) if isinstance(score, float) else None for score in scores]


CODE = Task(
    "code",
    code_gold,
    (
        Parser("unmask", "ours: all tests pass, in the sandbox", _run()),
        Parser("unmask_share", "ours, shaping: the share of tests", _run(share=True), shaping=True),
        Parser("unmask_layout", "ours, shaping: a closed block that parses", _layout, shaping=True),
        Parser("diffucoder", "DiffuCoder's training reward: exit statuses, and its layout", _run("diffucoder")),
        Parser("espo", "ESPO's: the same, the last line break may be missing", _run("espo")),
    ),
    aliases=("humaneval", "mbpp", "humanevalplus", "mbppplus"),
)
