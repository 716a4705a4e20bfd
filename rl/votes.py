"""How an answer is read for a majority vote: text -> a word that equal answers share, or None for an abstention."""

from collections.abc import Callable

from rewards import countdown, math, sudoku
from rewards.extract import boxed_answer, final_number, tagged_answer
from rl.protocol import Vote


def _number(text: str) -> str | None:
    value = final_number(text)
    return None if value is None else str(value)


def _formula(text: str) -> str | None:
    found = math.stated_answer(text)
    return None if found is None else "".join(found.split())


def _expression(text: str) -> str | None:
    found = countdown.stated_answer(text)
    return None if found is None else "".join(found.split())


def _text(text: str) -> str | None:
    found = tagged_answer(text) or boxed_answer(text) or text
    return " ".join(found.split()) or None


READERS: dict[Vote, Callable[[str], str | None]] = {
    "number": _number,
    "formula": _formula,
    "expression": _expression,
    "grid4": lambda text: sudoku.read_grid(text, 16),
    "grid9": lambda text: sudoku.read_grid(text, 81),
    "text": _text,
}
