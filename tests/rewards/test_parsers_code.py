"""`unmask grade code`: stored programs against the tests of their rows."""

import json
from pathlib import Path
from typing import Any

import pytest

from rewards.contract.reward import RewardError
from rewards.grading.parsers import tasks
from rewards.grading.regrade import Regraded, regrade
from rewards.sandbox import best_level

DATA = [
    {"task_id": 11, "text": "Add one.", "code": "def f(x): return x + 1", "test_list": ["assert f(1) == 2", "assert f(2) == 3"]},
    {"task_id": 12, "text": "A type.", "code": "def g(t): return t", "test_list": ["assert g(int) == int"]},
]  # fmt: skip
RIGHT, TWO = "def f(x):\n    return x + 1", "def f(x):\n    return 2"


@pytest.fixture(autouse=True)
def _sandboxed() -> None:
    if best_level() is None:
        pytest.skip("this machine gives no sandbox for code")


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def figures(found: Regraded) -> dict[str, tuple[float, int]]:
    return {name: (one.accuracy, one.n) for name, one in found.tallies().items()}


def test_rows_that_bring_their_tests(tmp_path: Path) -> None:
    texts = [f"```python\n{RIGHT}\n```\n", f"```python\n{TWO}\n```", "```python\nimport sys\nsys.exit(0)\n```\n", RIGHT]
    rows = [
        {"question": f"Add one. {at}", "generation": text, "test_cases": DATA[0]["test_list"]}
        for at, text in enumerate(texts)
    ]
    found = figures(regrade(tasks()["code"], [jsonl(tmp_path / "out.jsonl", rows)]))
    assert found == {
        "unmask": (0.5, 4),
        "unmask_share": (0.625, 4),
        "unmask_layout": (0.75, 4),
        "diffucoder": (0.5, 4),  # the first, and the one that only exits
        "espo": (0.5, 4),
    }


def test_tests_from_the_data_set_by_the_id_of_the_task(tmp_path: Path) -> None:
    samples = [
        {"task_id": 11, "completion": RIGHT},
        {"task_id": 11, "completion": TWO},
        {"task_id": 12, "completion": "def g(t): return t"},
    ]
    golds = jsonl(tmp_path / "mbpp.jsonl", DATA)
    found = figures(regrade(tasks()["mbpp"], [jsonl(tmp_path / "samples.jsonl", samples)], golds=golds))
    assert found["unmask"] == (0.5, 2)  # the third task's tests hand over a type: nobody can be graded on it
    (tmp_path / "samples.jsonl").write_text(json.dumps({"task_id": 13, "completion": "x"}) + "\n")
    with pytest.raises(RewardError, match="no row with its question"):
        regrade(tasks()["mbpp"], [tmp_path / "samples.jsonl"], golds=golds)


def test_bodies_go_on_from_the_prompt(tmp_path: Path) -> None:
    head = 'def f(x):\n    """One more."""\n'
    row = {"task_id": "HumanEval/0", "prompt": head, "entry_point": "f", "canonical_solution": "    return x + 1\n",
           "test": "def check(candidate):\n    assert candidate(1) == 2\n"}  # fmt: skip
    samples = [
        {"task_id": "HumanEval/0", "prompt": head, "completion": text}
        for text in ("    return x + 1\n", "    return x\n", RIGHT)
    ]
    golds = jsonl(tmp_path / "humaneval.jsonl", [row])
    found = figures(regrade(tasks()["humaneval"], [jsonl(tmp_path / "samples.jsonl", samples)], golds=golds))
    assert found["unmask"] == (pytest.approx(2 / 3), 3)
