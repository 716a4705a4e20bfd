"""When two rows are the same problem: each kind of key by hand, the index against a plain double loop, and real data."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards import sudoku
from rewards.overlap import KINDS, math_text, plain_text, row_keys, shared, words


def same(by: str, one: dict[str, Any], other: dict[str, Any], ngram: int = 13) -> bool:
    return bool(row_keys(by, one, ngram) & row_keys(by, other, ngram))


# ---- keys


def test_puzzles_are_the_same_by_their_solution() -> None:
    grid = "3142243142131324"
    one, other = {"puzzle": "3102200002100320"}, {"puzzle": "3140003142030304"}
    assert row_keys("sudoku", one) == row_keys("sudoku", other) == {grid}
    assert row_keys("sudoku", {**one, "solution": grid}) == {grid}
    assert not same("sudoku", one, {"puzzle": "4321123434122143"})
    assert len(row_keys("sudoku", {"puzzle": "0" * 16})) == 288


def test_a_puzzle_with_several_solutions_may_become_any_of_them() -> None:
    puzzle = "1234341221434321".replace("1", "0").replace("2", "0")
    found = row_keys("sudoku", {"puzzle": puzzle})
    assert found == {grid for grid in sudoku.solution_grids() if all(p in ("0", g) for p, g in zip(puzzle, grid))}
    assert len(found) == 4 == sudoku.count_solutions(puzzle)
    assert all(same("sudoku", {"puzzle": puzzle}, {"puzzle": grid}) for grid in found)
    assert row_keys("sudoku", {"puzzle": puzzle, "solution": "1234341221434321"}) == {"1234341221434321"}
    with pytest.raises(ValueError, match="does not solve"):
        row_keys("sudoku", {"puzzle": puzzle, "solution": "4321123434122143"})


def test_countdown_by_numbers_in_any_order_and_target() -> None:
    one = {"numbers": [30, 100, 93], "target": 23}
    for numbers, target in (("93,30,100", "23"), ("[100, 93, 30]", 23)):
        assert same("countdown", one, {"numbers": numbers, "target": target})
    for numbers, target in (([30, 100, 93], 24), ([30, 100, 93, 93], 23), ([30, 100], 23)):
        assert not same("countdown", one, {"numbers": numbers, "target": target})


def test_math_by_text_without_layout() -> None:
    one = r"Compute $\dfrac{1}{2} + \left( 3 \right)$."
    for other in (
        r"Compute \(\frac{1}{2}+(3)\)",
        r"compute  $$\tfrac{1}{2} + \,\big(3\big)$$",
        "Compute\n$\\frac{1}{2}+(3)$",
    ):
        assert math_text(one) == math_text(other), other
    for other in (r"Compute $\frac{1}{3} + (3)$", r"Compute $\frac{1}{2} - (3)$", r"Compute $\frac{1}{2} + (3) + x$"):
        assert math_text(one) != math_text(other), other


def test_words_forget_case_and_punctuation_alone() -> None:
    assert words("It's 2,000 km — far!") == ["it", "s", "2", "000", "km", "far"]
    assert same("text", {"text": "How many? Say 3."}, {"text": "how many,\nsay 3"})
    assert not same("text", {"text": "say 3"}, {"text": "say 4"})


def test_runs_of_words() -> None:
    long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    assert len(row_keys("ngrams", {"text": long})) == 2
    assert same("ngrams", {"text": long}, {"text": f"Well: {long.upper()}!"})
    assert not same("ngrams", {"text": long}, {"text": long.replace("seven", "7")})
    assert same("ngrams", {"text": long}, {"text": long.replace("seven", "7")}, ngram=6)
    assert row_keys("ngrams", {"text": "too short"}) == {"too short"}  # as a whole
    assert row_keys("ngrams", {"text": " ... "}) == frozenset()


def test_messages_are_what_the_user_says() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How many?"}]
    assert plain_text(messages) == "How many?"
    assert same("text", {"text": messages}, {"text": "how many"})


@pytest.mark.parametrize("by", KINDS)
def test_a_row_without_its_columns_is_like_nothing(by: str) -> None:
    assert row_keys(by, dict.fromkeys(KINDS[by].needs)) == frozenset()


# ---- the index


ROWS = st.lists(st.frozensets(st.integers(0, 6), max_size=4), max_size=7)


@settings(max_examples=150, deadline=None)
@given(ROWS, ROWS, st.sampled_from([None, 0.3, 0.5, 1.0]))
def test_shared_rows_against_a_double_loop(train: Any, held: Any, similarity: float | None) -> None:
    def alike(one: frozenset[int], other: frozenset[int]) -> bool:
        common = len(one & other)
        return common > 0 and (similarity is None or common / len(one | other) >= similarity - 1e-12)

    found = shared(train, held, similarity)
    pairs = {(i, j) for i, one in enumerate(train) for j, other in enumerate(held) if alike(one, other)}
    assert found.train == tuple(sorted({i for i, _ in pairs}))
    assert found.held == tuple(sorted({j for _, j in pairs}))
    assert set(found.pairs) <= pairs
    assert [i for i, _ in found.pairs] == list(found.train)


# ---- real data, with the figures of docs/contamination.md


def shared_data(*parts: str) -> Path:
    path = Path(__file__).resolve().parents[3].joinpath("shared", "data", *parts)
    if not path.exists():
        pytest.skip(f"shared data absent: {path}")
    return path


def dare(name: str, row: Callable[[dict[str, Any]], dict[str, Any]]) -> list[dict[str, Any]]:
    import pyarrow.parquet

    return [row(one) for one in pyarrow.parquet.read_table(shared_data("dare_rl", "train", name)).to_pylist()]


def lines(*parts: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in shared_data(*parts).read_text(encoding="utf-8").splitlines()]


def keys(by: str, rows: list[dict[str, Any]], ngram: int = 13) -> list[Any]:
    return [row_keys(by, row, ngram) for row in rows]


def test_sudoku_no_puzzle_of_the_test_is_trained_on_and_every_grid_is() -> None:
    train = dare(
        "sudoku-n20000_1.parquet",
        lambda row: {"puzzle": row["extra_info"]["puzzle"], "solution": row["reward_model"]["ground_truth"]},
    )
    with shared_data("d1_test", "4x4_test_sudoku.csv").open() as file:
        test = [{"puzzle": row["Puzzle"], "solution": row["Solution"]} for row in csv.DictReader(file)]
    here, there = keys("sudoku", train), keys("sudoku", test)
    assert not {row["puzzle"] for row in train} & {row["puzzle"] for row in test}
    assert len(frozenset().union(*here)) == 288
    assert len(frozenset().union(*there)) == len(frozenset().union(*there) & frozenset().union(*here)) == 229
    found = shared(here, there)
    assert (len(found.train), len(found.held)) == (15_959, 500)


def test_countdown_four_problems_of_the_test_are_trained_on() -> None:
    train = dare(
        "countdown-n20000_1.parquet",
        lambda row: {"numbers": row["extra_info"]["numbers"], "target": row["reward_model"]["ground_truth"]},
    )
    test = [{"numbers": row["input"], "target": row["output"]} for row in lines("d1_test", "countdown_cd3_test.jsonl")]
    assert (len(train), len(test)) == (20_000, 256)
    found = shared(keys("countdown", train), keys("countdown", test))
    assert (len(found.train), len(found.held)) == (4, 4)


def test_math_nothing_of_math_500_is_trained_on() -> None:
    train = dare("math_1.parquet", lambda row: {"text": row["prompt"]})
    test = [{"text": row["problem"]} for row in lines("math500", "test.jsonl")]
    for by in ("math", "text"):
        assert not shared(keys(by, train), keys(by, test))
    assert len(shared(keys("ngrams", train), keys("ngrams", test)).held) == 49  # phrases that many problems share


def test_gsm8k_near_duplicates() -> None:
    train, test = ([{"text": row["question"]} for row in lines("gsm8k", f"{one}.jsonl")] for one in ("train", "test"))
    assert not shared(keys("text", train), keys("text", test))
    assert len(shared(keys("ngrams", train), keys("ngrams", test)).held) == 3
    assert len(shared(keys("ngrams", train, 3), keys("ngrams", test, 3), 0.5).held) == 2
