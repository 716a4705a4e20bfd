"""Stored generations, graded by every parser of a task. Behind the command `unmask grade`; docs/grading.md."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewards.contract.reward import RewardError
from rewards.grading.generations import Stored, read_generations, read_golds, task_id
from rewards.grading.intervals import wilson
from rewards.grading.marks import Mark, Parser, Row, Task


@dataclass(frozen=True)
class Tally:
    """One parser's figure. accuracy, low, high: shares of 1; n: rows it counted; units: what they were made of (cells, or rows)."""

    accuracy: float
    low: float
    high: float
    n: int
    units: float


@dataclass(frozen=True)
class Regraded:
    """marks: per parser, one for each of `rows`, None where it did not count the row."""

    task: Task
    rows: Sequence[Stored]
    golds: Sequence[Any]
    marks: Mapping[str, Sequence[Mark | None]]

    def tallies(self) -> dict[str, Tally]:
        """The figures, in the order of the task's parsers."""
        return {name: tally(marks, [row.question for row in self.rows]) for name, marks in self.marks.items()}

    def notes(self) -> list[str]:
        """What a reader of the figures has to know."""
        lines = []
        scripts = ", ".join(parser.name for parser in self.task.parsers if parser.script)
        if repeats := sum(row.repeat for row in self.rows):
            lines.append(
                f"{repeats} generations stand in two files: counted twice by {scripts} (as published), once by the others"
            )
        if missing := sum(gold is None for gold in self.golds):
            lines.append(
                f"{missing} rows have no gold answer: wrong for {scripts} (as published), not counted by the others"
            )
        if 2 * missing > len(self.rows):
            lines.append(f"that is most of them: are these files all of the task {self.task.name}?")
        return lines

    def spread(self) -> tuple[float, float] | None:
        """The lowest and the highest accuracy; None where no parser counted a row."""
        figures = self.tallies()
        values = [figures[one.name].accuracy for one in self.task.parsers if figures[one.name].n and not one.shaping]
        return (min(values), max(values)) if values else None

    def disagreements(self) -> list[int]:
        """Rows on which parsers that say right or wrong say both, the most divided first."""
        sides = [Counter(mark.right for mark in self._verdicts(i)) for i in range(len(self.rows))]
        divided = [i for i, side in enumerate(sides) if len(side) > 1]
        return sorted(divided, key=lambda i: -min(sides[i].values()))

    def _verdicts(self, row: int) -> list[Mark]:
        marks = [self.marks[parser.name][row] for parser in self.task.parsers if not parser.shaping]
        return [mark for mark in marks if mark is not None and mark.of == 1 and mark.right in (0.0, 1.0)]

    def row(self, index: int) -> dict[str, Any]:
        """One row with what each parser gave: a share in [0, 1], or None where it did not count the row."""
        stored = self.rows[index]
        return {
            "file": stored.file,
            "row": stored.row,
            "question": stored.question,
            "gold": self.golds[index],
            "text": stored.text,
            "parsers": {name: share(marks[index]) for name, marks in self.marks.items()},
        }


def regrade(
    task: Task, files: Sequence[Path], *, text: str | None = None, gold: str | None = None, golds: Path | None = None
) -> Regraded:
    """Read the files and grade every generation in them.

    text, gold: names of the fields with the generation and the gold answer, where they have no usual ones. golds: a data
    file with the golds, found by question; they take the place of those in the files.

    Raises RewardError for files or rows that cannot be read.
    """
    stored = read_generations(files, text)
    other = read_golds(golds) if golds is not None else None
    found = [_gold(task, row, gold, other) for row in stored]
    if all(one is None for one in found):
        fields = ", ".join(map(repr, stored[0].fields)) if stored else "nothing"
        raise RewardError(
            f"no row has a gold answer for {task.name}; the first has {fields}: name one with --gold, or the data file that has them "
            "with --golds"
        )
    rows = [Row(row.question, row.text, answer) for row, answer in zip(stored, found, strict=True)]
    return Regraded(task, stored, found, {parser.name: _marks(parser, rows, stored) for parser in task.parsers})


def _marks(parser: Parser, rows: Sequence[Row], stored: Sequence[Stored]) -> list[Mark | None]:
    counted = [i for i, row in enumerate(stored) if parser.script or not row.repeat]
    marks: list[Mark | None] = [None] * len(rows)
    for i, mark in zip(counted, parser.grade([rows[i] for i in counted]), strict=True):
        marks[i] = mark
    return marks


def _gold(task: Task, row: Stored, named: str | None, other: Mapping[str, Mapping[str, Any]] | None) -> Any:
    where, fields = f"{row.file}, row {row.row}", row.fields
    if other is not None:
        key = next((key for key in (row.question, task_id(fields)) if key in other), None)
        if key is None:
            raise RewardError(f"{where}: the file of --golds has no row with its question: {row.question[:200]!r}")
        fields = other[key]
    if named is not None and named not in fields:
        raise RewardError(f"{where} has no field {named!r}; it has {', '.join(map(repr, fields))}")
    try:
        return task.gold(fields, named, row.question)
    except ValueError as error:
        raise RewardError(f"{where}: {error}") from error


def share(mark: Mark | None) -> float | None:
    """A mark as a share of 1."""
    return None if mark is None or not mark.of else mark.right / mark.of


def tally(marks: Sequence[Mark | None], clusters: Sequence[str]) -> Tally:
    """Accuracy with its 95 % interval. clusters: a label for each mark; marks of one label are not independent.

    The interval is Wilson's (JASA 22, 1927) at the number of independent trials that would spread as the clusters do:
    all rows where each is 0 or 1 and a cluster of its own; else p (1 - p) / v, with v the linearised variance of the ratio
    p = sum right / sum of over m clusters (Cochran, Sampling Techniques, 6.4): m / (m - 1) * sum (right - p of)^2 / (sum of)^2.
    """
    counted = [(mark, label) for mark, label in zip(marks, clusters, strict=True) if mark is not None]
    units = math.fsum(mark.of for mark, _ in counted)
    if not units:
        return Tally(math.nan, math.nan, math.nan, len(counted), 0.0)
    accuracy = math.fsum(mark.right for mark, _ in counted) / units
    trials = _trials(counted, accuracy, units)
    low, high = wilson(accuracy * trials, trials)
    return Tally(accuracy, low, high, len(counted), units)


def _trials(counted: Sequence[tuple[Mark, str]], accuracy: float, units: float) -> float:
    residues: dict[object, float] = defaultdict(float)
    for i, (mark, label) in enumerate(counted):
        residues[label or i] += mark.right - accuracy * mark.of  # without a question, a row stands for itself
    simple = len(residues) == len(counted) and all(mark.of == 1 and mark.right in (0.0, 1.0) for mark, _ in counted)
    clusters = len(residues)
    variance = clusters / max(1, clusters - 1) * math.fsum(r * r for r in residues.values()) / units**2
    if simple or not variance or accuracy in (0.0, 1.0):
        return clusters
    return min(units, accuracy * (1 - accuracy) / variance)
