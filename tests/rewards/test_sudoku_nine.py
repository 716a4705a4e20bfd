"""Sudoku 9x9: layouts, hard puzzles in bounded time, and the puzzle maker."""

import random

import pytest

from rewards import sudoku_solver
from rewards.sudoku import cells, make_large_puzzles, parse_puzzle, read_grid, solve, solved
from rewards.sudoku_solver import solves, units

PUZZLE = "530070000600195000098000060800060003400803001700020006060000280000419005000080079"
SOLUTION = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"
ROWS = [SOLUTION[i : i + 9] for i in range(0, 81, 9)]
BOXES = [" | ".join(" ".join(row[i : i + 3]) for i in (0, 3, 6)) for row in ROWS]
RULE = "+-------+-------+-------+"
THIN = "------+-------+------"


def in_boxes(lines: list[str], rule: str, left: str = "", right: str = "") -> str:
    framed = [f"{left}{line}{right}" for line in lines]
    return "\n".join([rule, *framed[:3], rule, *framed[3:6], rule, *framed[6:], rule])


UNICODE = in_boxes(
    [line.replace("|", "│") for line in BOXES], "├───────┼───────┼───────┤", "│ ", " │"
).replace("├───────┼───────┼───────┤", "┌───────┬───────┬───────┐", 1)  # fmt: skip
LAYOUTS = [
    SOLUTION,
    "\n".join(ROWS),
    "\n".join(" ".join(row) for row in ROWS),
    "\n\n".join(", ".join(row) for row in ROWS),
    in_boxes(BOXES, RULE, "| ", " |"),
    in_boxes(BOXES, THIN),
    UNICODE,
    "\n".join(f"Row {i}: {' '.join(row)}" for i, row in enumerate(ROWS, 1)),
    "\n".join(f"R{i}: {row}" for i, row in enumerate(ROWS, 1)),
    "   C1 C2 C3 C4 C5 C6 C7 C8 C9\n" + "\n".join(f"R{i}  {'  '.join(row)}" for i, row in enumerate(ROWS, 1)),
    "[[" + "],\n [".join(", ".join(row) for row in ROWS) + "]]",
    f"{PUZZLE}\n{SOLUTION}",
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "around", ["{}", "<answer>\n{}\n</answer>", "The 9x9 puzzle, solved in 51 steps:\n{}\nis right."]
)
def test_right_grids_however_they_are_written(layout, around):
    text = around.replace("{}", layout)
    assert read_grid(text, 81) == SOLUTION
    assert solved([text], [PUZZLE]) == cells([text], [PUZZLE]) == cells([text], [PUZZLE], [SOLUTION]) == [1.0]


@pytest.mark.parametrize("layout", LAYOUTS[:-1])
def test_a_wrong_cell_is_wrong_and_blanks_are_blank(layout):
    wrong = layout[::-1].replace("9", "8", 1)[::-1]  # the last cell
    assert solved([wrong], [PUZZLE]) == [0.0]
    blanks = PUZZLE.count("0")
    first_blank = layout.replace("4", "0", 1) if layout in LAYOUTS[:6] else None
    if first_blank is not None:
        assert cells([first_blank], [PUZZLE], [SOLUTION]) == [pytest.approx((blanks - 1) / blanks)]


def test_puzzles_with_dots_and_line_breaks():
    assert parse_puzzle("\n".join(PUZZLE[i : i + 9].replace("0", ".") for i in range(0, 81, 9))) == PUZZLE


HARD = {
    "17 givens": "000000010400000000020000000000050407008000300001090000300400200050100000000806000",
    "few and far apart": "4.....8.5.3..........7......2.....6.....8.4......1.......6.3.7.5..2.....1.4......",
    "little to infer": "85...24..72......9..4.........1.7..23.5...9...4...........8..7..17..........36.4.",
    "against brute force": "..............3.85..1.2.......5.7.....4...1...9.......5......73..2.1........4...9",
}


@pytest.mark.parametrize("name", HARD)
def test_hard_puzzles_are_solved_with_little_search(name, monkeypatch):
    monkeypatch.setattr(sudoku_solver, "MAX_TRIED", 500)
    puzzle = parse_puzzle(HARD[name])
    (found,) = solve(puzzle)
    assert solves(found, puzzle)


def test_adversarial_puzzles_end():
    assert len(solve("0" * 81)) == 2
    assert solve("11" + "0" * 79) == []
    no_solution = parse_puzzle(".....5.8....6.1.43..........1.5........1.6...3.......553.....61........4.........")
    with pytest.raises(ValueError, match="takes too long to solve; give its solution"):
        solve(no_solution)
    with pytest.raises(ValueError, match="give its solution"):
        cells([SOLUTION], [no_solution])
    assert solved([SOLUTION], [no_solution]) == [0.0]  # judged by the rules: nothing is solved


def test_the_solver_agrees_with_the_obvious_search():
    def slow(grid: str) -> list[str]:
        at = grid.find("0")
        if at < 0:
            return [grid]
        seen = {grid[cell] for unit in units(16) if at in unit for cell in unit}
        return [full for digit in "1234" if digit not in seen for full in slow(grid[:at] + digit + grid[at + 1 :])]

    rng = random.Random(5)
    for _ in range(60):
        solution = rng.choice(["1234341221434321", "1234341241232341", "2143341212344321"])
        puzzle = "".join(digit if rng.random() < 0.35 else "0" for digit in solution)
        assert sorted(solve(puzzle, limit=300)) == sorted(slow(puzzle))


def test_made_puzzles_have_one_solution_and_the_asked_number_of_givens():
    rows = make_large_puzzles(4, (28, 32), seed=3)
    assert make_large_puzzles(2, (28, 32), seed=3) == rows[:2]
    for row in rows:
        assert solve(row["puzzle"]) == [row["solution"]]
        assert 28 <= 81 - row["puzzle"].count("0") <= 32
        assert solved([row["solution"]], [row["puzzle"]]) == [1.0]
    assert len({row["solution"] for row in [*rows, *make_large_puzzles(4, (28, 32), seed=4)]}) == 8


@pytest.mark.parametrize("givens", [(20, 30), (40, 30), (30, 81)])
def test_givens_that_cannot_be(givens):
    with pytest.raises(ValueError, match="givens must be a range within 24 to 80"):
        make_large_puzzles(1, givens)
