"""The rules of Sudoku, 4x4 and 9x9, and a solver whose work is bounded. Grids are strings of digits, 0 for blank."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from math import isqrt

# Digits tried before a puzzle is given up: about a second. The hardest published 9x9 puzzles tried here take a few hundred.
MAX_TRIED = 20_000


@cache
def units(cell_count: int) -> tuple[tuple[int, ...], ...]:
    """The rows, columns and boxes, each as cell numbers."""
    size = isqrt(cell_count)
    box = isqrt(size)
    groups: dict[tuple[str, int], list[int]] = {}
    for cell in range(cell_count):
        row, column = divmod(cell, size)
        for key in (("row", row), ("column", column), ("box", row // box * box + column // box)):
            groups.setdefault(key, []).append(cell)
    return tuple(map(tuple, groups.values()))


@cache
def _units_of(cell_count: int) -> tuple[tuple[int, ...], ...]:
    """The numbers of the three units that each cell lies in."""
    return tuple(tuple(u for u, unit in enumerate(units(cell_count)) if cell in unit) for cell in range(cell_count))


def solves(grid: str, puzzle: str) -> bool:
    """Whether a full grid obeys the rules and keeps every given of the puzzle."""
    if any(p not in ("0", g) for p, g in zip(puzzle, grid, strict=True)):
        return False
    size = isqrt(len(grid))
    wanted = set("123456789"[:size])
    return all({grid[cell] for cell in unit} == wanted for unit in units(len(grid)))


def solve(puzzle: str, limit: int = 2) -> list[str]:
    """Up to `limit` solutions of a puzzle (digits, 0 blank; 16 or 81 cells).

    Two solutions are enough to know that a puzzle is ambiguous. Contradictory givens have none. Raises ValueError for a puzzle
    that takes too long (`MAX_TRIED`).
    """
    search = _Search([int(c) for c in puzzle], limit)
    if search.start():
        search.run()
    return search.found


@dataclass
class _Search:
    """Depth first: a cell or a digit with one possibility, else the cell with the fewest. Digits are bits: 1 << digit."""

    grid: list[int]
    limit: int
    found: list[str] = field(default_factory=list)
    used: list[int] = field(init=False)  # per unit, the digits that stand in it
    tried: int = 0

    def __post_init__(self) -> None:
        self.units, self.units_of = units(len(self.grid)), _units_of(len(self.grid))
        self.all = (1 << isqrt(len(self.grid)) + 1) - 2
        self.used = [0] * len(self.units)

    def start(self) -> bool:
        """Enter the givens; False if they contradict each other."""
        for cell, digit in enumerate(self.grid):
            if digit and any(self.used[u] >> digit & 1 for u in self.units_of[cell]):
                return False
            self.mark(cell, 1 << digit if digit else 0)
        return True

    def mark(self, cell: int, bit: int) -> None:
        """Put a digit into the cell's units, or take it out again."""
        for u in self.units_of[cell]:
            self.used[u] ^= bit

    def run(self) -> None:
        """Fill in the rest, and note each solution in `found`."""
        best = self.choose()
        if best is None:
            return
        cell, digits = best
        if cell < 0:
            self.found.append("".join(map(str, self.grid)))
            return
        for digit in range(1, 10):
            if digits >> digit & 1:
                self.tried += 1
                if self.tried > MAX_TRIED:
                    raise ValueError("this puzzle takes too long to solve; give its solution with the data")
                self.grid[cell] = digit
                self.mark(cell, 1 << digit)
                self.run()
                self.grid[cell] = 0
                self.mark(cell, 1 << digit)
                if len(self.found) >= self.limit:
                    return

    def choose(self) -> tuple[int, int] | None:
        """The cell to fill next with the digits to try; (-1, 0) when all are full; None when there is no way on."""
        free = [0] * len(self.grid)
        fewest, best = 10, (-1, 0)
        for cell, digit in enumerate(self.grid):
            if digit:
                continue
            a, b, c = self.units_of[cell]
            free[cell] = mask = self.all & ~(self.used[a] | self.used[b] | self.used[c])
            count = mask.bit_count()
            if count < fewest:
                fewest, best = count, (cell, mask)
                if not count:
                    return None
        if fewest == 1 or best[0] < 0:
            return best
        for u, unit in enumerate(self.units):
            once = twice = 0
            for cell in unit:
                twice |= once & free[cell]
                once |= free[cell]
            if self.all & ~(self.used[u] | once):
                return None  # a digit has no place left in this unit
            single = once & ~twice
            if single:
                bit = single & -single
                return next(cell for cell in unit if free[cell] & bit), bit
        return best
