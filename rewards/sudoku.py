"""Sudoku, 4x4 and 9x9: read a grid, check it, and make puzzles. Pure standard library.

Rows need the column `puzzle` (16 or 81 cells, row by row; `0` or `.` blank; whitespace ignored; a whole number is taken
as digits whose leading zeros were lost) and may have `solution` (the same, without blanks).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache, lru_cache
from math import isqrt
from numbers import Integral
from typing import Any

from rewards.compat import Scores, has_originals, published
from rewards.contract.reward import RewardError
from rewards.extract import ascii_digits, tagged_answer, text_of
from rewards.sudoku_solver import solve, solves

# Row and column names carry digits that are no cells: "Row 1: 3142", "R2 =", "3rd row:", and list items "1. 3142".
_LABEL = re.compile(
    r"\b(?:row|line|column|col|r|c)[ \t]{0,3}#?[ \t]{0,3}[0-9](?![0-9])|\b[0-9](?:st|nd|rd|th)[ \t](?:row|line|column)"
    r"|^[ \t]{0,8}[0-9][.)][ \t]",
    re.IGNORECASE | re.MULTILINE,
)
# One stretch of cells with what people and models put between them; any other character ends the stretch.
_STRETCH = re.compile(r"[0-9.][0-9.\s|+\-=,;:/&\\\[\](){}'\"`*_\u2500-\u257f]*")


# -------------------------------------------------------------------------------------------------------------- rewards


@has_originals
def cells(
    completions: Sequence[Any],
    puzzle: Sequence[Any],
    solution: Sequence[Any] | None = None,
    compat: str | None = None,
    log_metric: Callable[[str, float], None] | None = None,
    **_: Any,
) -> Scores:
    """Share of the puzzle's blank cells that are filled in right, in [0, 1]; None where the row has no puzzle.

    0 for a completion with no readable grid (`read_grid`) or one that changes a given. 1 for every grid that solves the
    puzzle, also where it differs from `solution`: a puzzle may have several. A wrong grid is compared with `solution`,
    or, without it, with the puzzle's only solution. Random digits score 1/4 on average on 4x4: report `solved` as the
    outcome.

    Raises ValueError for a malformed puzzle, a `solution` that does not solve it, or an ambiguous puzzle without
    `solution`.

    compat  `d1`, `spg` or `espo` (all the same): the digits of the last closed tag, cut or filled up to 16 cells, against
            `solution`; givens and rules are not looked at
    """
    if compat is not None:
        given = [None if cell is None else parse_puzzle(cell) for cell in puzzle]
        if solution is None:
            raise RewardError(f"reward sudoku.cells: with compat: {compat} the data needs the column 'solution'")
        stored = [None if cell is None else parse_puzzle(cell) for cell in solution]
        return published("sudoku.cells", compat, completions, given, stored, log_metric=log_metric)
    answers: Sequence[Any] = solution if solution is not None else [None] * len(puzzle)
    return [
        None if given is None else _share_right(text_of(completion), parse_puzzle(given), answer)
        for completion, given, answer in zip(completions, puzzle, answers, strict=True)
    ]


def solved(completions: Sequence[Any], puzzle: Sequence[Any], **_: Any) -> list[float | None]:
    """1.0 where the completion holds a full grid that obeys the rules and keeps every given, else 0.0; None: no puzzle.

    Judged by the rules of the game, not against a stored solution. Raises ValueError for a malformed puzzle.
    """
    return [
        None if given is None else _is_solved(text_of(completion), parse_puzzle(given))
        for completion, given in zip(completions, puzzle, strict=True)
    ]


REWARDS = (cells, solved)


def _is_solved(text: str, puzzle: str) -> float:
    grid = read_grid(text, len(puzzle))
    return float(grid is not None and solves(grid, puzzle))


def _share_right(text: str, puzzle: str, solution: Any) -> float:
    answer = _reference(puzzle, None if solution is None else parse_puzzle(solution))
    grid = read_grid(text, len(puzzle))
    if grid is None or any(p not in ("0", g) for p, g in zip(puzzle, grid, strict=True)):
        return 0.0
    if solves(grid, puzzle):
        return 1.0
    blanks = [i for i, p in enumerate(puzzle) if p == "0"]
    return sum(grid[i] == answer[i] for i in blanks) / len(blanks)


@lru_cache(maxsize=65536)
def _reference(puzzle: str, solution: str | None) -> str:
    if solution is not None:
        if len(solution) != len(puzzle) or not solves(solution, puzzle):
            raise ValueError(f"the `solution` {solution} does not solve the puzzle {puzzle}")
        return solution
    found = solve(puzzle)
    if len(found) != 1:
        how_many = "several solutions" if found else "no solution"
        raise ValueError(f"the puzzle {puzzle} has {how_many}; sudoku.cells then needs the column `solution`")
    return found[0]


# -------------------------------------------------------------------------------------------------------- grids as text


def parse_puzzle(value: Any) -> str:
    """A puzzle (or solution) as 16 or 81 digits, 0 for blank. ValueError says what is wrong with it."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        digits = str(int(value))
        return _checked(digits.zfill(16 if len(digits) <= 16 else 81))
    if not isinstance(value, str):
        raise ValueError(f"a puzzle must be a string of digits, got {type(value).__name__}: {value!r}")
    return _checked(value)


@lru_cache(maxsize=65536)
def _checked(value: str) -> str:
    clean = "".join(value.split()).replace(".", "0")
    if len(clean) not in (16, 81):
        hint = "; were leading zeros lost when the file was read as numbers?" if len(clean) in (14, 15, 80) else ""
        raise ValueError(f"a puzzle must have 16 or 81 cells, got {len(clean)}: {value!r}{hint}")
    size = isqrt(len(clean))
    bad = sorted({c for c in clean if c not in "0123456789"[: size + 1]})
    if bad:
        raise ValueError(f"a {size}x{size} puzzle holds 0 to {size} (or '.'), got {bad} in {value!r}")
    return clean


def read_grid(text: str, cell_count: int) -> str | None:
    """The grid of `cell_count` cells that a completion gives as its answer, as digits, or None.

    The last `<answer>` tag decides when it holds a digit, else the whole text. Row and column names ("Row 1:") are not
    cells; spaces, newlines, commas and box drawing may separate cells; a `.` may stand for a cell left blank (0). The
    last stretch of cells of exactly the right length is the answer; a longer one (several grids under each other) is
    read line by line from its end. Too few or too many cells are no grid: nothing is padded or cut.
    """
    tagged = tagged_answer(text)
    inside = tagged is not None and any(map(str.isdecimal, tagged))
    source = _LABEL.sub(" ", ascii_digits(tagged if inside and tagged is not None else text))
    if inside:
        digits = _digits(source)
        if len(digits) == cell_count:
            return digits
    grid = None
    for stretch in _STRETCH.findall(source):
        grid = _cells_of(stretch, cell_count) or grid
    return grid


def _cells_of(stretch: str, cell_count: int) -> str | None:
    digits = _digits(stretch)
    if len(digits) == cell_count:
        return digits
    if "." in stretch and len(dotted := _digits(stretch.replace(".", "0"))) == cell_count:
        return dotted
    if len(digits) < cell_count:
        return None
    grid = ""
    for line in reversed(stretch.splitlines()):
        grid = _digits(line) + grid
        if len(grid) >= cell_count:
            break
    return grid if len(grid) == cell_count else None


def _digits(text: str) -> str:
    return "".join(filter(str.isdecimal, text))


# ---------------------------------------------------------------------------------------------------------- 4x4 puzzles


@cache
def solution_grids() -> tuple[str, ...]:
    """All 288 solved 4x4 grids, 16 digits each, in ascending order. A grid's place here is its `grid_id`."""
    return tuple(sorted(solve("0" * 16, limit=1000)))


@cache
def _grids_with() -> tuple[dict[str, int], ...]:
    """Per cell and digit, the set of the 288 grids that have the digit there, as bits."""
    sets: tuple[dict[str, int], ...] = tuple(dict.fromkeys("1234", 0) for _ in range(16))
    for number, grid in enumerate(solution_grids()):
        for cell, digit in enumerate(grid):
            sets[cell][digit] |= 1 << number
    return sets


def solutions(puzzle: str, limit: int) -> list[str]:
    """Solutions of a puzzle (digits, 0 blank), at most `limit`; those of a 4x4 puzzle in microseconds."""
    if len(puzzle) != 16:
        return solve(puzzle, limit)
    left = _left(puzzle)
    grids = solution_grids()
    return [grids[at] for at in range(len(grids)) if left >> at & 1][:limit] if left else []


def checked_solution(puzzle: str, solution: Any) -> str:
    """The stored solution of a puzzle, as digits. ValueError where it does not solve it."""
    return _reference(puzzle, parse_puzzle(solution))


def count_solutions(puzzle: str) -> int:
    """Exact number of solutions of a 4x4 puzzle (16 digits, 0 blank), about a microsecond."""
    return _left(puzzle).bit_count()


def _left(puzzle: str) -> int:
    """A bit for every grid of `solution_grids` that keeps the givens of a 4x4 puzzle."""
    left = (1 << len(solution_grids())) - 1
    for allowed, digit in zip(_grids_with(), puzzle, strict=True):
        if digit != "0":
            left &= allowed[digit]
    return left


def make_puzzles(
    grids: Iterable[str],
    n_per_grid: int,
    blanks: tuple[int, int] = (8, 12),
    seed: int = 0,
    *,
    unique: bool = True,
) -> list[dict[str, Any]]:
    """4x4 puzzles: `n_per_grid` different ones for each solved grid, in the order of `grids`.

    unique: keep only puzzles with exactly one solution; otherwise the blank cells are uniform, and with 8 to 12 blanks
    about half of the puzzles have several solutions, any of which `solved` accepts.

    Rows are `{puzzle, solution, grid_id}`, strings of 16 digits and the grid's place in `solution_grids()`. The number
    of blanks is uniform in `blanks` (both ends included, at most 12: four givens are the fewest that fix a grid), the
    blank cells uniform among those that leave one solution. A grid's puzzles depend on the grid, the seed and the
    arguments only, not on the other grids, so that training and held-out sets can be made apart.

    Public 4x4 sets differ here: 124 of the 500 puzzles of d1's test file have several solutions, none of DARE's 20,000.

    Raises ValueError for a grid that is no solved 4x4 grid, impossible `blanks`, or more puzzles than could be found.
    """
    low, high = blanks
    if not 1 <= low <= high <= (12 if unique else 16):
        raise ValueError(f"blanks must be a range within 1 to {12 if unique else 16} on a 4x4 grid, got {blanks}")
    ids = {grid: number for number, grid in enumerate(solution_grids())}
    rows: list[dict[str, Any]] = []
    for grid in grids:
        if grid not in ids:
            raise ValueError(f"{grid!r} is not a solved 4x4 grid of 16 digits")
        rng = random.Random(f"{seed}/{grid}")
        for puzzle in _distinct_puzzles(grid, n_per_grid, low, high, unique, rng):
            rows.append({"puzzle": puzzle, "solution": grid, "grid_id": ids[grid]})
    return rows


def _distinct_puzzles(grid: str, count: int, low: int, high: int, unique: bool, rng: random.Random) -> list[str]:
    puzzles: dict[str, None] = {}
    misses = 0
    blank_count = rng.randint(low, high)
    while len(puzzles) < count:
        blank = set(rng.sample(range(16), blank_count))
        puzzle = "".join("0" if cell in blank else digit for cell, digit in enumerate(grid))
        if puzzle not in puzzles and (not unique or count_solutions(puzzle) == 1):
            puzzles[puzzle] = None
            blank_count = rng.randint(
                low, high
            )  # redrawn only after a hit, so that hard counts are not under-represented
            misses = 0
        elif (misses := misses + 1) > 20_000:
            raise ValueError(
                f"found only {len(puzzles)} of {count} different puzzles for the grid {grid} with {low} to {high} "
                "blanks; ask for fewer per grid or a wider range of blanks"
            )
    return list(puzzles)


# ---------------------------------------------------------------------------------------------------------- 9x9 puzzles


def make_large_puzzles(count: int, givens: tuple[int, int] = (30, 40), seed: int = 0) -> list[dict[str, Any]]:
    """`count` 9x9 puzzles with exactly one solution: rows `{puzzle, solution}`, strings of 81 digits, all solutions different.

    The number of givens is uniform in `givens` (both ends included, 24 to 80; fewer than 24 are rare and slow to find). Puzzle
    i depends on the seed and i only. Split train and test by seed: there are 6.7e21 solved grids.
    """
    low, high = givens
    if not 24 <= low <= high <= 80:
        raise ValueError(f"givens must be a range within 24 to 80, got {givens}")
    rows: dict[str, dict[str, Any]] = {}
    number = 0
    while len(rows) < count:
        rng = random.Random(f"{seed}/9x9/{number}")
        number += 1
        row = _large_puzzle(rng, rng.randint(low, high))
        if row is not None:
            rows.setdefault(row["solution"], row)
    return list(rows.values())


def _large_puzzle(rng: random.Random, givens: int) -> dict[str, Any] | None:
    """A random solved grid, its cells blanked in random order while one solution is left; None if too many have to stay."""
    grid = ["0"] * 81
    for box in (0, 30, 60):  # the upper left cells of the three boxes on the diagonal, which do not see each other
        for offset, digit in zip((0, 1, 2, 9, 10, 11, 18, 19, 20), rng.sample("123456789", 9), strict=True):
            grid[box + offset] = digit
    (solution,) = solve("".join(grid), limit=1)
    puzzle = list(solution)
    left = 81
    for cell in rng.sample(range(81), 81):
        if left == givens:
            break
        puzzle[cell] = "0"
        if len(solve("".join(puzzle))) == 1:
            left -= 1
        else:
            puzzle[cell] = solution[cell]
    return {"puzzle": "".join(puzzle), "solution": solution} if left == givens else None
