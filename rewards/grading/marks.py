"""What a grader of stored generations takes and gives: rows, marks, parsers, tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One stored generation. gold: what the task's `gold` makes of the row's other fields, None where there is none."""

    question: str
    text: str
    gold: Any


@dataclass(frozen=True)
class Mark:
    """What a parser gives one row: `right` of `of`, 0 or 1 of 1 for most; cells where cells are counted."""

    right: float
    of: float = 1.0


Marks = list[Mark | None]


@dataclass(frozen=True)
class Parser:
    """A rule. what: one line on whose it is.

    script: an evaluation script, which counts every row it is given. shaping: no accuracy, and not compared with any.
    """

    name: str
    what: str
    grade: Callable[[Sequence[Row]], Marks]
    script: bool = False
    shaping: bool = False


@dataclass(frozen=True)
class Task:
    """gold: (fields of a stored row, name of the field with the gold answer or None, question) -> gold; ValueError if malformed.

    fits: whether a gold answer looks like one of this task. It is graded all the same; where many do not, a reader is told.
    """

    name: str
    gold: Callable[[Mapping[str, Any], str | None, str], Any]
    parsers: tuple[Parser, ...]
    aliases: tuple[str, ...] = ()
    fits: Callable[[Any], bool] = lambda gold: True
