r"""What a right answer looks like, read from the data's own columns, so that the bench can write right and wrong completions.

A gold answer is known where the rows have
- `numbers` and `target`: an expression is searched (Countdown);
- `puzzle` of 16 or 81 cells: its `solution`, else the solver's;
- else one column with the answer, named with `--gold` or guessed: the function's own argument, or a usual name. Read from
  it: the last `\boxed{}`, what follows `####`, or all of it; as a number where it is one;
- else a column with a program (`code`, `canonical_solution`, `reference`): whole functions, as MBPP has them, or the body of the
  function that the column `prompt` begins, as HumanEval has them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from rewards import sudoku
from rewards.countdown import parse_numbers, parse_target
from rewards.extract import MAX_NUMBER_CHARS, boxed_answer, stated_number

GOLD_NAMES = ("answer", "gold", "target", "solution", "ground_truth", "label", "labels", "final_answer")
PROGRAM_NAMES = ("code", "canonical_solution", "reference")
MAX_PROGRAM_CHARS = 4000
MAX_GOLD_CHARS = 400  # longer: a worked solution, which the bench cannot vary
_SEARCHED = 20_000  # pairs of numbers combined in the search for one expression
_PLAIN = re.compile(r"-?[0-9][0-9,]*(?:\.[0-9]+)?")
_LETTER = re.compile(r"\(?([A-Z])\)?\.?")


@dataclass(frozen=True)
class Gold:
    """The right answer of one row as text, another that is wrong, and other ways of writing the right one.

    kind     number, letter, text, expression, grid or program
    others   wrong answers that a list of guesses would have around the right one; may be empty
    same     notation -> the right answer written so
    tricks   name -> what may pass for right answers of this kind and is none
    """

    kind: str
    right: str
    wrong: str
    others: tuple[str, ...]
    same: Mapping[str, str]
    tricks: Mapping[str, str] = field(default_factory=dict)


def gold_column(columns: Sequence[str], wanted: Sequence[str], given: str | None) -> str | None:
    """The column of the gold answer: the given one, else one the function asks for by a usual name, else a usual name or a program's."""
    if given is not None:
        return given
    named = [name for name in (*GOLD_NAMES, *PROGRAM_NAMES) if name in columns]
    return next((name for name in named if name in wanted), named[0] if named else None)


def golds(rows: Sequence[Mapping[str, Any]], column: str | None, *, given: bool) -> tuple[list[Gold | None], str]:
    """The gold answer of every row, None where there is none to read, and in words where they come from.

    given: the user named the column, so no other is looked at.
    """
    columns = set(rows[0]) if rows else set()
    if not given and {"numbers", "target"} <= columns:
        return [_expression(row["numbers"], row["target"]) for row in rows], "expressions found for numbers and target"
    if not given and "puzzle" in columns:
        source = "the column solution" if "solution" in columns else "solving the puzzles"
        return [_grid(row["puzzle"], row.get("solution")) for row in rows], f"grids from {source}"
    if column is None:
        return [None] * len(rows), "no column with the right answer was found (name it with --gold)"
    whole = [_program_gold(row[column]) for row in rows]
    programs = [made or _continued(row.get("prompt"), row[column]) for made, row in zip(whole, rows, strict=True)]
    if any(programs) or column in PROGRAM_NAMES:
        head = "the column prompt continued by" if any(programs) and not any(whole) else "programs of"
        return programs, f"{head} the column {column}" + ("" if given else " (guessed)")
    texts = [_text(row[column]) for row in rows]
    words = list(dict.fromkeys(text for text in texts if text is not None and _number(text) is None))
    found = [None if text is None else _number_gold(text) or _word_gold(text, words) for text in texts]
    return found, f"the column {column}" + ("" if given else " (guessed)")


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, (Mapping, list, tuple)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = boxed_answer(str(value)) or str(value).rpartition("####")[2].strip()
    return text if text and len(text) <= MAX_GOLD_CHARS and "```" not in text else None


# -------------------------------------------------------------------------------------------------------------- numbers


def _number(text: str) -> Fraction | None:
    plain = text.replace("$", "").strip()
    return stated_number(plain) if _PLAIN.fullmatch(plain) and len(plain) < MAX_NUMBER_CHARS else None


def _number_gold(text: str) -> Gold | None:
    value = _number(text)
    if value is None:
        return None
    plain = text.replace("$", "").replace(",", "").strip()
    same = {"spaces around": f"  {plain}\n", "full stop": f"{plain}.", "dollar sign": _signed("$", plain)}
    same |= {"unit behind": f"{plain} units", "LaTeX $...$": f"${plain}$", "full-width digits": _wide(plain)}
    if value.denominator == 1:
        same |= {"decimals .00": f"{int(value)}.00", "equation x = ...": f"x = {plain}"}
        if abs(value) >= 1000:
            same["thousands commas"] = f"{int(value):,}"
            same["LaTeX commas {,}"] = f"{int(value):,}".replace(",", "{,}")
    if value < 0:
        same["Unicode minus"] = "\u2212" + plain.removeprefix("-")
    whole = int(value)
    others = tuple(str(n) for n in range(whole - 50, whole + 50) if n != value)
    return Gold("number", plain, str(whole + 1), others, same)


def _signed(sign: str, number: str) -> str:
    return f"-{sign}{number[1:]}" if number.startswith("-") else f"{sign}{number}"


def _wide(text: str) -> str:
    return "".join(chr(ord(c) - ord("0") + ord("\uff10")) if c.isdecimal() else c for c in text)


# ----------------------------------------------------------------------------------------------------------------- text


def _word_gold(text: str, words: Sequence[str]) -> Gold:
    """`words`: the gold texts of all rows, the pool of wrong ones."""
    letter = _LETTER.fullmatch(text)
    if letter:
        others = tuple(c for c in "ABCDEFGHIJ"[: max(4, ord(letter[1]) - ord("A") + 1)] if c != letter[1])
        same = {"(B)": f"({letter[1]})", "B.": f"{letter[1]}.", "lower case": letter[1].lower()}
        return Gold("letter", letter[1], others[0], others, same)
    others = tuple(word for word in words if _bare(word) != _bare(text))[:20]
    same = {"spaces around": f"  {text}\n", "LaTeX $...$": f"${text}$"}
    if "\\frac" in text:
        same["\\dfrac"] = text.replace("\\frac", "\\dfrac")
    if "(" in text and "\\" in text:
        same["\\left( \\right)"] = text.replace("\\left", "").replace("\\right", "")
        same["\\left( \\right)"] = same["\\left( \\right)"].replace("(", "\\left(").replace(")", "\\right)")
    return Gold("text", text, others[0] if others else "none of these", others, same)


def _bare(text: str) -> str:
    return re.sub(r"\W", "", text).casefold()


# ------------------------------------------------------------------------------------------------------------- programs


def _program_gold(value: Any) -> Gold | None:
    """Of Python source that defines functions; None for all else, also for a body without its head."""
    if not isinstance(value, str) or len(value) > MAX_PROGRAM_CHARS or "def " not in value:
        return None
    plain = value.replace("\r\n", "\n").strip()
    try:
        names = [one.name for one in ast.parse(plain).body if isinstance(one, ast.FunctionDef)]
    except (SyntaxError, ValueError):
        return None
    if not names or "```" in plain:
        return None
    same = {"Windows line ends": plain.replace("\n", "\r\n"), "a comment before it": f"# as asked\n{plain}"}
    same |= {"a call printed behind it": f"{plain}\n\nprint('done')"}
    tricks = {
        "functions that exit": _defined(names, "raise SystemExit(0)"),
        "functions that end the process": "import os\n\n" + _defined(names, "os._exit(0)"),
        "an object equal to everything": "class E:\n    def __eq__(self, other):\n        return True\n\n"
        + _defined(names, "return E()"),
    }
    return Gold("program", plain, _defined(names, "return None"), (), same, tricks)


def _continued(prompt: Any, body: Any) -> Gold | None:
    """Of a prompt that is the head of a function, and its body."""
    return _program_gold(prompt + body) if isinstance(prompt, str) and isinstance(body, str) else None


def _defined(names: Sequence[str], body: str) -> str:
    return "\n\n".join(f"def {name}(*args, **kwargs):\n    {body}" for name in dict.fromkeys(names))


# ---------------------------------------------------------------------------------------------------------- expressions


def _expression(numbers: Any, target: Any) -> Gold | None:
    try:
        given, goal = parse_numbers(numbers), parse_target(target)
    except ValueError:
        return None
    right = next(_reaching([(Fraction(n), str(n)) for n in given], lambda value: value == goal), None)
    wrong = next(_reaching([(Fraction(n), str(n)) for n in given], lambda value: value != goal), None)
    if right is None or wrong is None:
        return None
    same = {"spaces left out": right.replace(" ", ""), "target behind =": f"{right} = {goal}"}
    same |= {"brackets around": f"({right})", "LaTeX $...$": f"${right}$"}
    same["× and ÷"] = right.replace("*", "×").replace("/", "÷")
    same[r"\times and \div"] = right.replace("*", r"\times").replace("/", r"\div")
    listed = " ".join(map(str, given))
    tricks = {"the target alone": f"{goal}", "the target equals itself": f"{goal} = {goal}"}
    tricks |= {
        "the numbers in a comment": f"{goal} # {listed}",
        "a number used twice": f"{right} + {given[0]} - {given[0]}",
    }
    tricks |= {"another value, equation": f"{wrong} = {goal}"}
    return Gold("expression", right, wrong, (wrong, f"{wrong} + 0"), same, tricks)


def _reaching(parts: list[tuple[Fraction, str]], wanted: Any) -> Iterator[str]:
    """Expressions over all `parts` whose value is wanted, depth first, until the search has cost enough."""
    budget = [_SEARCHED]

    def search(left: list[tuple[Fraction, str]]) -> Iterator[str]:
        if len(left) == 1:
            if wanted(left[0][0]):
                yield left[0][1].removeprefix("(").removesuffix(")") if len(parts) > 1 else left[0][1]
            return
        for i in range(len(left)):
            for j in range(len(left)):
                if i == j or budget[0] <= 0:
                    continue
                budget[0] -= 1
                rest = [part for k, part in enumerate(left) if k not in (i, j)]
                for made in _combined(left[i], left[j], both=i < j):
                    yield from search([*rest, made])

    yield from search(parts)


def _combined(a: tuple[Fraction, str], b: tuple[Fraction, str], *, both: bool) -> Iterator[tuple[Fraction, str]]:
    if both:  # of a + b and b + a one is enough
        yield a[0] + b[0], f"({a[1]} + {b[1]})"
        yield a[0] * b[0], f"({a[1]} * {b[1]})"
    yield a[0] - b[0], f"({a[1]} - {b[1]})"
    if b[0]:
        yield a[0] / b[0], f"({a[1]} / {b[1]})"


# ---------------------------------------------------------------------------------------------------------------- grids


def _grid(puzzle: Any, solution: Any) -> Gold | None:
    try:
        given = sudoku.parse_puzzle(puzzle)
        solutions = sudoku.solve(given, limit=1) if solution is None else [sudoku.parse_puzzle(solution)]
    except ValueError:
        return None
    blanks = [cell for cell, digit in enumerate(given) if digit == "0"]
    if not solutions or not blanks:
        return None
    right, size = solutions[0], 4 if len(given) == 16 else 9
    wrong, givens_changed = right, right
    for cell, digit in enumerate(given):
        wrong = _changed(wrong, cell, size) if digit == "0" else wrong
        givens_changed = givens_changed if digit == "0" else _changed(givens_changed, cell, size)
    rows = [right[i : i + size] for i in range(0, len(right), size)]
    same = {
        "a row on each line": "\n".join(rows),
        "spaces between cells": "\n".join(map(" ".join, rows)),
        "Row 1: labels": "\n".join(f"Row {number}: {' '.join(row)}" for number, row in enumerate(rows, 1)),
        "lines drawn": "\n".join(f"| {' | '.join(row)} |" for row in rows),
    }
    others = tuple(_changed(right, cell, size) for cell in blanks[:10])
    tricks = {"one cell wrong": others[0], "a digit too many": f"{right}1", "a digit too few": right[:-1]}
    tricks |= {"givens changed": givens_changed} if len(blanks) < len(given) else {}
    tricks |= {"the puzzle itself": given, "nines": "9" * len(given)}
    return Gold("grid", right, wrong, others, same, tricks)


def _changed(grid: str, cell: int, size: int) -> str:
    return f"{grid[:cell]}{int(grid[cell]) % size + 1}{grid[cell + 1 :]}"
