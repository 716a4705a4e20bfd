"""The bench on the built-in outcomes, with real questions and real LLaDA-8B-Instruct generations, where that data is present."""

import json
import re

import pytest

from rewards.bench.run import Plan, bench
from tests.rewards.test_bench import HERE, found
from tests.rewards.test_real_data import generations


def literal(value):
    while isinstance(value, str):
        value = json.loads(value)
    return value


def gsm8k(row):
    return {"answer": row["ground_truth"]}


def countdown(row):
    numbers, target = literal(row["ground_truth"])
    return {"numbers": numbers, "target": target}


def sudoku(row):
    return {"puzzle": re.findall(r"\d{16}", row["question"])[0], "solution": row["ground_truth"]}


@pytest.mark.parametrize(
    ("name", "task", "columns", "some_right"),
    [
        ("gsm8k.correct", "gsm8k", gsm8k, True),
        ("math.correct", "math500", gsm8k, True),
        ("countdown.correct", "countdown", countdown, True),
        ("sudoku.solved", "sudoku", sudoku, False),  # none of these is solved
        ("sudoku.cells", "sudoku", sudoku, True),
    ],
)
def test_nothing_is_wrong_with_the_built_in_outcomes(name, task, columns, some_right):
    rows = [
        {"prompt": row["question"], "completion": row["generations"], **columns(row)} for row in generations(task)[:40]
    ]
    kwargs = {"seconds": 1.0} if name == "math.correct" else {}
    report = bench(Plan(name, HERE, kwargs, rows=3, seconds=50.0, outcome=True), rows)
    wrong = {
        f.check: f.seen for f in report.findings if f.status == "fail" or (f.status == "warn" and f.check != "speed")
    }
    assert set(wrong) == (set() if some_right else {"signal"}), wrong
    assert found(report)["cheating"].seen.startswith("none of")
    assert len(report.scores) == 40
