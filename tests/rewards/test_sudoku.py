"""Sudoku rewards, solver and puzzle maker."""

import random
import time

import pytest

from rewards.sudoku import (
    cells,
    count_solutions,
    make_puzzles,
    parse_puzzle,
    read_grid,
    solution_grids,
    solve,
    solved,
)

PUZZLE, SOLUTION = "0321003004002100", "4321123434122143"
ROWS = [SOLUTION[i : i + 4] for i in range(0, 16, 4)]
NINE = "530070000600195000098000060800060003400803001700020006060000280000419005000080079"
NINE_SOLVED = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"
PINNED = ["0000041020030000", "0000001220400300", "1000041201400000"]
TWO_WAYS = "1234" + "3412" + "0000" + "0000"


@pytest.mark.parametrize(
    "text",
    [
        SOLUTION,
        "\n".join(ROWS),
        "\n\n".join(" ".join(row) for row in ROWS),
        ", ".join(ROWS),
        "|".join(ROWS),
        "\n".join("| " + " | ".join(row) + " |" for row in ROWS),
        "[[" + "], [".join(", ".join(row) for row in ROWS) + "]]",
        " \\\\ ".join(" & ".join(row) for row in ROWS),
        "\n".join(f"Row {i}: {row}" for i, row in enumerate(ROWS, 1)),
        "\n".join(f"Row{i}: {row}" for i, row in enumerate(ROWS, 1)),
        "\n".join(f"row {i} = {' '.join(row)}" for i, row in enumerate(ROWS, 1)),
        "\n".join(f"R{i}: {row}" for i, row in enumerate(ROWS, 1)),
        "\n".join(f"{i}. {row}" for i, row in enumerate(ROWS, 1)),
        f"The 4x4 puzzle is {PUZZLE}. After 3 steps:\n{SOLUTION}.",
        f"{PUZZLE}\n{SOLUTION}",  # echo, then the answer, with nothing but a line break between
        f"<reasoning>first 1 then 2</reasoning>\n<answer>\n{SOLUTION}\n</answer>",
        f"<answer>{SOLUTION}<|eot_id|><|endoftext|>",
        f"<answer>{PUZZLE}</answer> wait <answer>{SOLUTION}</answer>",
        "<answer>" + "\n".join(f"row one-ish: {row}" for row in ROWS) + "</answer>",
        f"<answer>...</answer>\n{SOLUTION}",
        "".join(chr(ord(c) + 0xFEE0) for c in SOLUTION),  # full-width digits
    ],
)
def test_right_grids_however_they_are_written(text: str) -> None:
    assert read_grid(text, 16) == SOLUTION
    assert solved([text], [PUZZLE]) == [1.0]
    assert cells([text], [PUZZLE]) == cells([text], [PUZZLE], [SOLUTION]) == [1.0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "99999",  # scored 1.0 by a published reward
        SOLUTION[:15],
        SOLUTION + "1",
        SOLUTION + SOLUTION,  # 32 cells on one line: which 16?
        "I cannot solve it",
        "<answer></answer>",
        f"{SOLUTION} <answer>{SOLUTION[:12]}</answer>",  # the tag decides
        "5" * 16,
        "1" + SOLUTION,
    ],
)
def test_no_grid_no_credit(text: str) -> None:
    assert solved([text], [PUZZLE]) == [0.0]
    assert cells([text], [PUZZLE], [SOLUTION]) == [0.0]


def test_partial_credit_counts_blank_cells_only() -> None:
    blanks = [i for i, c in enumerate(PUZZLE) if c == "0"]
    for wrong in (1, 4, len(blanks)):
        grid = list(SOLUTION)
        for i in blanks[:wrong]:
            grid[i] = str(int(grid[i]) % 4 + 1)
        assert cells(["".join(grid)], [PUZZLE], [SOLUTION]) == [pytest.approx(1 - wrong / len(blanks))]
        assert solved(["".join(grid)], [PUZZLE]) == [0.0]


def test_echoed_puzzle_earns_nothing_and_blanks_left_are_wrong() -> None:
    assert cells([PUZZLE], [PUZZLE]) == [0.0]
    half = SOLUTION[:8] + PUZZLE[8:]
    share = PUZZLE[:8].count("0") / PUZZLE.count("0")
    assert cells([half, half.replace("0", ".")], [PUZZLE] * 2) == [pytest.approx(share)] * 2


@pytest.mark.parametrize("given_cell", [i for i, c in enumerate(PUZZLE) if c != "0"])
def test_a_changed_given_scores_zero(given_cell: int) -> None:
    grid = SOLUTION[:given_cell] + str(int(SOLUTION[given_cell]) % 4 + 1) + SOLUTION[given_cell + 1 :]
    assert cells([grid], [PUZZLE], [SOLUTION]) == [0.0]
    assert solved([grid], [PUZZLE]) == [0.0]


def test_a_valid_grid_of_another_puzzle_scores_zero() -> None:
    other = next(grid for grid in solution_grids() if grid != SOLUTION)
    assert solved([other], [PUZZLE]) == [0.0]
    assert cells([other], [PUZZLE], [SOLUTION]) == [0.0]


def test_every_solution_of_an_ambiguous_puzzle_counts() -> None:
    both = solve(TWO_WAYS, limit=10)
    assert len(both) == count_solutions(TWO_WAYS) > 1
    assert solved(both, [TWO_WAYS] * len(both)) == [1.0] * len(both)
    assert cells(both, [TWO_WAYS] * len(both), [both[0]] * len(both)) == [1.0] * len(both)
    with pytest.raises(ValueError, match="several solutions"):
        cells([both[0]], [TWO_WAYS])


def test_nine_by_nine() -> None:
    rows = "\n".join(f"Row {i + 1}: {' '.join(NINE_SOLVED[9 * i : 9 * i + 9])}" for i in range(9))
    assert solve(NINE) == [NINE_SOLVED]
    assert solved([NINE_SOLVED, rows, NINE], [NINE] * 3) == [1.0, 1.0, 0.0]
    assert cells([rows, NINE], [NINE.replace("0", ".")] * 2) == [1.0, 0.0]
    swapped = NINE_SOLVED[:2] + NINE_SOLVED[3] + NINE_SOLVED[2] + NINE_SOLVED[4:]  # two blanks of one row exchanged
    assert solved([swapped], [NINE]) == [0.0]
    assert cells([swapped], [NINE], [NINE_SOLVED]) == [pytest.approx(49 / 51)]


def test_conversational_completions_and_rows_of_other_tasks() -> None:
    messages = [[{"role": "assistant", "content": SOLUTION}]] * 2
    assert solved(messages, [PUZZLE, None]) == [1.0, None]
    assert cells(messages, [PUZZLE, None], [SOLUTION, None]) == [1.0, None]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("123", "16 or 81 cells, got 3"),
        (PUZZLE[1:], "leading zeros"),
        ("5" + PUZZLE[1:], "4x4 puzzle holds 0 to 4"),
        ("x" * 16, "4x4 puzzle holds"),
        (1.5, "string of digits, got float"),
        (["1"] * 16, "string of digits, got list"),
    ],
)
def test_malformed_puzzles_are_data_errors(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solved([SOLUTION], [value])


def test_puzzles_are_read_leniently_where_nothing_is_lost() -> None:
    assert parse_puzzle(int(PUZZLE)) == PUZZLE  # a CSV reader's idea of a number
    assert parse_puzzle("\n".join([".321", "..3.", ".4..", "21.."])) == PUZZLE
    assert parse_puzzle(int(NINE.lstrip("0"))) == NINE


def test_a_solution_that_does_not_solve_is_a_data_error() -> None:
    with pytest.raises(ValueError, match="does not solve"):
        cells([SOLUTION], [PUZZLE], ["1" * 16])


def test_contradictory_givens_have_no_solution() -> None:
    assert solve("11" + "0" * 14) == []
    with pytest.raises(ValueError, match="no solution"):
        cells([SOLUTION], ["11" + "0" * 14])


def test_random_digits_score_a_quarter() -> None:
    rng = random.Random(0)
    texts = ["".join(rng.choice("1234") if p == "0" else p for p in PUZZLE) for _ in range(4000)]
    scores = [score for score in cells(texts, [PUZZLE] * 4000) if isinstance(score, float)]
    assert len(scores) == 4000
    mean = sum(scores) / 4000
    assert abs(mean - 0.25) < 5 * (0.25 * 0.75 / (4000 * PUZZLE.count("0"))) ** 0.5


@pytest.mark.parametrize(
    "piece", ["1", "1 ", "1.", "row ", "row   #   ", "1st ", "1\n", "1234\n", "<answer>1", ".", " "]
)
def test_100_kb_takes_linear_time(piece: str) -> None:
    started = time.process_time()
    solved([(piece * 100_000)[:100_000]], [PUZZLE])
    assert time.process_time() - started < 2.0


# ----------------------------------------------------------------------------------------------------- the maker


def test_solution_grids() -> None:
    grids = solution_grids()
    assert len(grids) == len(set(grids)) == 288
    assert list(grids) == sorted(grids)
    assert all(solved([grid], ["0" * 16]) == [1.0] for grid in grids)


def test_both_solvers_agree() -> None:
    rng = random.Random(1)
    for _ in range(200):
        grid = rng.choice(solution_grids())
        puzzle = "".join("0" if rng.random() < 0.6 else c for c in grid)
        found = solve(puzzle, limit=288)
        assert len(found) == len(set(found)) == count_solutions(puzzle)
        assert grid in found


def test_make_puzzles() -> None:
    grids = solution_grids()
    rows = make_puzzles(grids, 3, seed=5)
    assert len(rows) == 3 * 288
    assert len({row["puzzle"] for row in rows}) == len(rows)
    assert [row["grid_id"] for row in rows] == [i for i in range(288) for _ in range(3)]
    assert {row["puzzle"].count("0") for row in rows} == {8, 9, 10, 11, 12}
    for row in rows:
        assert row["solution"] == grids[row["grid_id"]]
        assert solve(row["puzzle"]) == [row["solution"]]


def test_make_puzzles_depends_on_seed_and_grid_only() -> None:
    grids = solution_grids()
    all_rows = make_puzzles(grids[:20], 2, seed=7)
    random.seed(123)
    assert make_puzzles(grids[10:20], 2, seed=7) == all_rows[20:]
    assert make_puzzles(grids[:20], 2, seed=8) != all_rows
    # Pinned: the same puzzles on every machine and Python version.
    assert [row["puzzle"] for row in make_puzzles(grids[:1], 3, seed=0)] == PINNED


def test_make_puzzles_refuses() -> None:
    with pytest.raises(ValueError, match="blanks"):
        make_puzzles(solution_grids()[:1], 1, blanks=(8, 13))
    with pytest.raises(ValueError, match="not a solved 4x4 grid"):
        make_puzzles(["1" * 16], 1)
    with pytest.raises(ValueError, match="found only 16 of 17"):
        make_puzzles(solution_grids()[:1], 17, blanks=(1, 1))
