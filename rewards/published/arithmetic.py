"""Arithmetic as the public countdown rewards judge it: Python's own, which they run with `eval`. Here it is read, never run.

The verdict is that of `eval` on text made of digits, `+-*/().` and whitespace, with everything that allows: `**`, `//`,
decimals, complex powers, and no answer for what Python refuses (`007`, `5(3)`, a line break outside of brackets). What
`eval` would be busy with for minutes or for ever (`99**98**97`) raises `NeverEndsError` at once.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Sequence
from typing import Any

# Longer expressions, runs of spaces apart, are given no value. A puzzle fixes the numbers, so the rest would be brackets
# and signs; Python itself refuses 200 brackets inside each other.
MAX_CHARS = 1000
# Results up to this size take milliseconds. Nobody's target is beyond it.
MAX_BITS = 1 << 20

_ALLOWED = re.compile(r"[\d+\-*/().\s]+")
_RUN_OF_SPACES = re.compile(r"[ \t]{2,}")


class NeverEndsError(Exception):
    """`eval` would compute a power without end, or one so large that it takes minutes."""

    def __init__(self) -> None:
        super().__init__("the original never ends on this answer: it computes an unbounded power")


def uses_numbers(text: str, numbers: Sequence[int]) -> bool:
    """Whether the runs of digits in `text`, of any script, are exactly the given numbers, in any order."""
    try:
        found = sorted(int(run) for run in re.findall(r"\d+", text))
    except ValueError:  # more digits than Python turns into a number
        return False
    return found == sorted(numbers)


def hits_target(text: str, target: float) -> bool:
    """Whether `text` evaluates to within 1e-5 of the target. Raises NeverEndsError."""
    value = evaluate(text)
    try:
        return value is not None and abs(value - target) < 1e-5
    except OverflowError:  # an integer too large for a float target, or a complex number too large to be measured
        return False


def evaluate(text: str) -> int | float | complex | None:
    """What `eval` gives for an arithmetic text, or None where it raises or gives no number. Raises NeverEndsError."""
    if not _ALLOWED.fullmatch(text):
        return None
    text = _RUN_OF_SPACES.sub(" ", text).lstrip(" \t")
    if len(text) > MAX_CHARS:
        return None
    try:
        return _value(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, ArithmeticError, TypeError, MemoryError, RecursionError):
        return None


_OPERATORS: dict[type[ast.operator], Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}


def _value(node: ast.expr) -> Any:
    """The number that a parsed expression stands for. TypeError for anything else: a call, a tuple, an ellipsis."""
    negative = False
    while isinstance(node, ast.UnaryOp):  # a loop, for a long row of signs
        negative ^= isinstance(node.op, ast.USub)
        node = node.operand
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left), _value(node.right)
        found = _power(left, right) if isinstance(node.op, ast.Pow) else _OPERATORS[type(node.op)](left, right)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        found = node.value
    else:
        raise TypeError("no arithmetic")
    return -found if negative else found


def _power(base: Any, exponent: Any) -> Any:
    whole = isinstance(base, int) and isinstance(exponent, int) and exponent > 0
    if whole and abs(base) > 1 and abs(base).bit_length() * exponent > MAX_BITS:
        raise NeverEndsError
    return base**exponent
