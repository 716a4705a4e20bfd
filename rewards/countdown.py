r"""Countdown: reach a target with given numbers, each used exactly once, by + - * / and parentheses.

Rows need the columns `numbers` (a list of whole numbers, or text such as "30,100,93" or "[30, 100, 93]") and `target`
(a whole number, or text). The answer is what the last `<answer>` tag holds (inside it the last `\boxed{}`); without a
tag, the last `\boxed{}`. It is read by the small parser below, never by `eval`, and computed with exact fractions.

Read as an expression: whole numbers, + - * /, a sign in front, brackets of any kind; `×`, `÷`, `−` and their relatives;
LaTeX's `\times`, `\cdot`, `\div`, `\frac{}{}`, `\left(`, `$...$`. One equation with the bare target on one side counts
as its other side (`2*4-3 = 5`). Everything else is no answer, in particular `**`, `//`, decimals, names, two numbers
side by side, several expressions, a chain of equations, and an equation that states another number.

The published d1 reward compares the digits of the text with the numbers and runs `eval` on it, so `2**3-4` and `7//2`
count as right there and `99**98**97` never ends; `=` and LaTeX, which its evaluation accepts, are wrong in training;
results within 1e-5 of the target are right; and anything at all between the tags earns 0.1. Here that 0.1 is a reward
of its own, `attempt`, for an expression that uses the numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from numbers import Integral
from typing import Any

from rewards.compat import Scores, has_originals, published
from rewards.extract import ascii_digits, boxed_answer, tagged_answer, text_of

# Bounds on what is read. A puzzle of six numbers with brackets everywhere and generous LaTeX stays well below both.
MAX_CHARS = 400
MAX_DEPTH = 40


# -------------------------------------------------------------------------------------------------------------- rewards


@has_originals
def correct(
    completions: Sequence[Any],
    numbers: Sequence[Any],
    target: Sequence[Any],
    compat: str | None = None,
    log_metric: Callable[[str, float], None] | None = None,
    **_: Any,
) -> Scores:
    """1.0 where the answer is one expression that uses each given number exactly once and equals the target, else 0.0.

    None where the row has no numbers or no target. Dividing by zero is wrong, not an error. Raises ValueError for
    malformed `numbers` or `target`.

    compat  `d1`, `spg` or `espo` (all the same): the original's 0, 0.1 or 1.0; a row on which its `eval` never ends is dropped
    """
    if compat is not None:
        given = [None if cell is None else parse_numbers(cell) for cell in numbers]
        goals = [None if cell is None else parse_target(cell) for cell in target]
        return published("countdown.correct", compat, completions, given, goals, log_metric=log_metric)
    return [
        _score(completion, given, goal, lambda read, goal: read.value == goal)
        for completion, given, goal in zip(completions, numbers, target, strict=True)
    ]


def attempt(completions: Sequence[Any], numbers: Sequence[Any], target: Sequence[Any], **_: Any) -> list[float | None]:
    """Shaping: 1.0 where the answer is one expression with a value that uses each given number exactly once.

    The value itself does not matter, so this is no accuracy. Published recipes give their 0.1 to any text between the
    tags instead, and policies have settled on that.
    """
    return [
        _score(completion, given, goal, lambda read, _: read.value is not None)
        for completion, given, goal in zip(completions, numbers, target, strict=True)
    ]


REWARDS = (correct, attempt)


def _score(completion: Any, numbers: Any, target: Any, good: Callable[[Expression, int], bool]) -> float | None:
    if numbers is None or target is None:
        return None
    given, goal = parse_numbers(numbers), parse_target(target)
    answer = stated_answer(text_of(completion))
    read = None if answer is None else read_expression(answer, goal)
    return float(read is not None and sorted(read.numbers) == given and good(read, goal))


def stated_answer(text: str) -> str | None:
    r"""Where the answer stands: the last `<answer>` tag (inside it the last `\boxed{}`), else the last `\boxed{}`."""
    tagged = tagged_answer(text)
    if tagged is None:
        return boxed_answer(text)
    return boxed_answer(tagged) or tagged


# -------------------------------------------------------------------------------------------------------------- columns


def parse_numbers(value: Any) -> list[int]:
    """The given numbers, sorted. ValueError says what is wrong with the cell."""
    if isinstance(value, str):
        return list(_numbers_in(value))
    if not isinstance(value, Iterable):
        raise ValueError(f"`numbers` must be a list of whole numbers or text like '3,4,5', got {value!r}")
    return sorted(parse_target(number) for number in value)


@lru_cache(maxsize=65536)
def _numbers_in(text: str) -> tuple[int, ...]:
    parts = text.strip().strip("[]()").split(",")
    if not all(_is_whole(part) for part in parts):
        raise ValueError(f"`numbers` must be whole numbers with commas between them, got {text!r}")
    return tuple(sorted(map(int, parts)))


def parse_target(value: Any) -> int:
    """A whole number, given as one or as text. ValueError says what is wrong with the cell."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and _is_whole(value):
        return int(value)
    raise ValueError(f"a whole number was expected, got {value!r}")


def _is_whole(text: str) -> bool:
    return re.fullmatch(r"\s*-?[0-9]{1,40}\s*", text) is not None


# ---------------------------------------------------------------------------------------------------------- expressions


@dataclass(frozen=True)
class Expression:
    """What an answer says: the numbers in it, in their order, and its value; None after a division by zero."""

    numbers: tuple[int, ...]
    value: Fraction | None


def read_expression(text: str, target: int) -> Expression | None:
    """The one expression that `text` is, or None. With one `=`, one side must be the target and the other is read."""
    if len(text) > MAX_CHARS:
        return None
    sides = [_parse(side) for side in _plain(text).split("=")]
    if len(sides) == 1:
        return sides[0]
    if len(sides) != 2 or None in sides:
        return None
    left, right = sides
    return left if _states(right, target) else right if _states(left, target) else None


def _states(side: Expression | None, target: int) -> bool:
    return side is not None and len(side.numbers) == 1 and side.value == target


_SIGNS = str.maketrans(
    {
        "×": "*", "∗": "*", "⋅": "*", "·": "*", "•": "*", "✕": "*", "✖": "*",
        "÷": "/", "∕": "/", "⁄": "/", "➗": "/", "–": "-", "—": "-", "\u00a0": " ", "`": " ", "$": " ",
    }
)  # fmt: skip
_COMMANDS = {
    "times": "*",
    "cdot": "*",
    "ast": "*",
    "div": "/",
    "left": "",
    "right": "",
    "quad": " ",
    "displaystyle": " ",
}
_COMMAND = re.compile(rf"\\({'|'.join(_COMMANDS)})(?![A-Za-z])")
_SPACING = re.compile(r"\\[()\[\],;:! ]")  # \( \) \[ \] around a formula, and LaTeX's spaces


def _plain(text: str) -> str:
    """ASCII operators in place of Unicode and LaTeX ones, without what may stand around a formula."""
    text = ascii_digits(text).translate(_SIGNS)
    text = _COMMAND.sub(lambda match: _COMMANDS[match[1]], _SPACING.sub(" ", text)).strip()
    bold = text.startswith("**") and text.endswith("**") and len(text) > 4
    return (text[2:-2] if bold else text).rstrip(" .,;")


_TOKEN = re.compile(r"\s*(?:(?P<number>[0-9]+)|(?P<fraction>\\[dt]?frac(?![A-Za-z]))|(?P<sign>[-+*/()\[\]{}]))")
_CLOSING = {"(": ")", "[": "]", "{": "}"}


class _NotAnExpressionError(Exception):
    """Ends the reading of a text."""


def _parse(text: str) -> Expression | None:
    text = text.strip()
    tokens: list[str] = []
    at = 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            return None
        tokens.append("frac" if token["fraction"] else token[0].strip())
        at = token.end()
    parser = _Parser(tokens)
    try:
        value = parser.sum(0)
    except _NotAnExpressionError:
        return None
    return None if parser.ahead else Expression(tuple(parser.numbers), value)


class _Parser:
    """Recursive descent over tokens. A value is None once something was divided by zero."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = [*tokens, ""]
        self.at = 0
        self.numbers: list[int] = []

    @property
    def ahead(self) -> str:
        """The next token; empty at the end."""
        return self.tokens[self.at]

    def take(self) -> str:
        token = self.ahead
        self.at += bool(token)
        return token

    def sum(self, depth: int) -> Fraction | None:
        value = self.product(depth)
        while self.ahead in ("+", "-"):
            sign = 1 if self.take() == "+" else -1
            other = self.product(depth)
            value = None if value is None or other is None else value + sign * other
        return value

    def product(self, depth: int) -> Fraction | None:
        value = self.factor(depth)
        while self.ahead in ("*", "/"):
            operator, other = self.take(), self.factor(depth)
            value = _divided(value, other) if operator == "/" else _times(value, other)
        return value

    def factor(self, depth: int) -> Fraction | None:
        if depth > MAX_DEPTH:
            raise _NotAnExpressionError
        token = self.take()
        if token.isdecimal():
            self.numbers.append(int(token))
            return Fraction(self.numbers[-1])
        if token in ("+", "-"):
            return _times(Fraction(1 if token == "+" else -1), self.factor(depth + 1))
        if token == "frac":
            above = self.group("{", depth)
            return _divided(above, self.group("{", depth))
        if token in _CLOSING:
            return self.closed(token, depth)
        raise _NotAnExpressionError

    def group(self, opening: str, depth: int) -> Fraction | None:
        if self.take() != opening:
            raise _NotAnExpressionError
        return self.closed(opening, depth)

    def closed(self, opening: str, depth: int) -> Fraction | None:
        value = self.sum(depth + 1)
        if self.take() != _CLOSING[opening]:
            raise _NotAnExpressionError
        return value


def _times(left: Fraction | None, right: Fraction | None) -> Fraction | None:
    return None if left is None or right is None else left * right


def _divided(left: Fraction | None, right: Fraction | None) -> Fraction | None:
    return None if left is None or not right else left / right
