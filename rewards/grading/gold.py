"""The gold answer of a stored generation, from whatever fields its row has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rewards.countdown import parse_numbers, parse_target
from rewards.sudoku import parse_puzzle

# In this order: `answer` is the model's in some files, and then one of the others is there, too.
GOLD_FIELDS = (
    "ground_truth", "ground_truth_answer", "gold", "gold_answer", "golden_answer", "expected_answer", "reference_answer",
    "reference", "target", "answer", "solution", "label",
)  # fmt: skip

_NUMBERS = re.compile(r"Numbers: \[([\d, ]+)\]", re.IGNORECASE)
_TARGET = re.compile(r"Target: (\d+)", re.IGNORECASE)
_PUZZLE = re.compile(r"Sudoku puzzle: ([0-9]{16})")
_LONE_PUZZLE = re.compile(r"(?<![0-9.])(?:[0-9.]{81}|[0-9.]{16})(?![0-9.])")


def plain_gold(fields: Mapping[str, Any], named: str | None, question: str = "") -> Any:
    """A text or number: the field that was named, else the first of `GOLD_FIELDS` that holds something; None without one."""
    if named is not None:
        return fields[named]
    gold = next((fields[name] for name in GOLD_FIELDS if fields.get(name) is not None), None)
    return gold[0] if isinstance(gold, (list, tuple)) and len(gold) == 1 else gold


def countdown_gold(fields: Mapping[str, Any], named: str | None, question: str) -> tuple[list[int], int] | None:
    """(numbers, target): a pair in the gold field as d1 stores it, columns `numbers` or `nums` and `target`, or the question.

    Raises ValueError for numbers or a target that are none.
    """
    gold = plain_gold(fields, named)
    numbers, target = _first(fields, "numbers", "nums"), _first(fields, "target")
    if isinstance(gold, Mapping):
        numbers, target = _first(gold, "numbers", "nums"), gold.get("target")
    elif isinstance(gold, (list, tuple)) and len(gold) == 2 and isinstance(gold[0], (list, tuple, str)):
        numbers, target = gold
    if numbers is None and (found := _NUMBERS.search(question)):
        numbers = found[1]
    if target is None and (found := _TARGET.search(question)):
        target = found[1]
    return None if numbers is None or target is None else (parse_numbers(numbers), parse_target(target))


def sudoku_gold(fields: Mapping[str, Any], named: str | None, question: str) -> tuple[str, str | None] | None:
    """(puzzle, solution): columns `puzzle` and `solution`, or the puzzle in the question and the gold field. ValueError: malformed."""
    puzzle = _first(fields, "puzzle", "Puzzle")
    if puzzle is None:
        found = _PUZZLE.search(question)
        runs = _LONE_PUZZLE.findall(question)
        puzzle = question[:16] if question[:16].isdecimal() and len(question) >= 16 else found[1] if found else None
        puzzle = runs[-1] if puzzle is None and runs else puzzle
    if puzzle is None:
        return None
    solution = fields[named] if named is not None else _first(fields, "solution", "Solution")
    solution = plain_gold(fields, None) if solution is None else solution
    return parse_puzzle(puzzle), None if solution is None else parse_puzzle(solution)


def looks_like(fields: Mapping[str, Any], question: str) -> str | None:
    """`sudoku` or `countdown` where the row itself says so, by its columns or its question; None for all others.

    Their gold answers are digits, and a task that looks for a number finds one in them.
    """
    for name, read in (("sudoku", sudoku_gold), ("countdown", countdown_gold)):
        try:
            found = read(fields, None, question)
        except ValueError:
            continue
        if found is not None:
            return name
    return None


def _first(fields: Mapping[str, Any], *names: str) -> Any:
    return next((fields[name] for name in names if fields.get(name) is not None), None)
