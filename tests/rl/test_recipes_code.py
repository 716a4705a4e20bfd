"""The recipes for code at toy size: two updates by the train command, real MBPP rows, programs run in the sandbox."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rewards.contract import TrainerState, grade, load_rewards
from rewards.sandbox import best_level
from rl.config import load_recipe
from rl.run import Run
from rl.setup import set_up
from tests.oracles.runs import samples
from tests.oracles.toy_recipes import SHARED, dream_checkpoint, llada_checkpoint, local, train_small

# Three rows as MBPP has them, written here, for where the data is absent: one to train on, one that cannot be graded, and one
# to evaluate on.
OWN: list[dict[str, Any]] = [
    {
        "task_id": 716,
        "text": "Write a function to find the perimeter of a square from its side.",
        "code": "def rombus_perimeter(a):\r\n  return 4 * a",
        "test_list": [
            "assert rombus_perimeter(10)==40",
            "assert rombus_perimeter(5)==20",
            "assert rombus_perimeter(4)==16",
        ],
        "test_setup_code": "",
        "challenge_test_list": [],
    },
    {
        "task_id": 601,
        "text": "Write a function to find the longest of some pairs.",
        "code": "class Pair:\n    def __init__(self, a): self.a = a\ndef longest(pairs): return max(pair.a for pair in pairs)",
        "test_list": ["assert longest([Pair(1), Pair(2)]) == 2"],
        "test_setup_code": "",
        "challenge_test_list": [],
    },
    {
        "task_id": 17,
        "text": "Write a function to find the perimeter of a square.",
        "code": "def square_perimeter(a):\r\n  return 4 * a",
        "test_list": ["assert square_perimeter(10)==40"],
        "test_setup_code": "",
        "challenge_test_list": [],
    },
]
# The completion begins a right program, which two characters that the small model leans to can end.
PREFILL, ENDING = "```python\ndef rombus_perimeter(a):\n    return a*", "4\n"


@dataclass(frozen=True)
class Case:
    recipe: str
    checkpoint: Any
    weights: dict[str, float]
    changes: dict[str, Any]


CASES = [
    Case("llada_8b_mbpp_espo", llada_checkpoint, {"code.tests": 0, "code.pass_rate": 1.0, "code.format": 1.0}, {}),
    Case(
        "diffucoder_7b_acecode_coupled_grpo",
        dream_checkpoint,
        {"code.tests": 0, "code.pass_rate": 2.0, "code.format": 0.5},
        {  # MBPP's columns under the names of AceCode, as its own evaluation split has them
            "data.train.only": "[task_id, text, code, test_list]",
            "data.train.where": "{task_id: {at_least: 601, at_most: 974}}",
            "data.train.columns": "{id: task_id, question: text, test_cases: test_list, reference: code}",
        },
    ),
]


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """Rows of MBPP itself where it is at hand, else those above."""
    path = SHARED / "mbpp" / "mbpp.jsonl"
    if not path.is_file():
        return OWN
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row for row in found if row["task_id"] in {one["task_id"] for one in OWN}]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.recipe)
def case(request: pytest.FixtureRequest) -> Case:
    if best_level() is None:
        pytest.skip("this machine gives no sandbox for code")
    return request.param


@pytest.fixture(scope="module")
def run(case: Case, rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Run:
    data = tmp_path_factory.mktemp("data") / "mbpp.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    checkpoint = case.checkpoint(tmp_path_factory.mktemp("model"), ENDING, by=0.3)
    overrides = {
        **local("data.train", data),
        **local("data.eval", data),
        **case.changes,
        "data.prompt.prefill": json.dumps(PREFILL),
        "rollout.canvas": 2,
        "rollout.block": 2,
        "rollout.steps": 2,
        "rollout.group_size": 8,
        "train.micro_batch": 64,
        "train.log_rollouts": 16,
    }
    return train_small(case.recipe, checkpoint, tmp_path_factory.mktemp("run"), overrides)


@pytest.mark.timeout(120)
def test_two_updates_in_the_sandbox(case: Case, run: Run) -> None:
    assert [row["update"] for row in run.metrics] == [0, 1]
    assert run.metrics[0]["first_pass_gap"] == 0.0
    for row in run.metrics:
        assert all(value is None or math.isfinite(value) for value in row.values())
        weighted = sum(weight * row[f"reward/{name}"] for name, weight in case.weights.items())
        assert row["reward"] == pytest.approx(weighted, abs=1e-6)
        assert row["outcome"] == row["reward/code.tests"]
        assert row["user/code_seconds"] > 0
        assert not any(name.startswith("dropped/") for name in row)
    # Some right, some wrong: programs were run, and there is something to learn.
    assert 0 < sum(row["outcome"] for row in run.metrics) / 2 < 1
    assert any(row["optim/grad_norm"] > 0 for row in run.metrics)
    right = [row["text"] for row in samples(run) if row["outcome"] == 1.0]
    assert right
    assert all(text.startswith("4") and not text.startswith("44") for text in right)


def test_the_task_that_cannot_be_graded_is_left_out_before_the_run(run: Run) -> None:
    found = set_up(load_recipe(run.folder / "recipe.yaml"))
    assert found.train is not None
    assert found.eval is not None
    assert len(found.train) == 1
    (reason,) = found.train.dropped
    assert "its tests make objects of a class of the program" in reason
    assert "601" in reason
    assert len(found.eval) == 1
    prompt = found.train.prompts[0].text
    assert "assert rombus_perimeter(10)==40" in prompt
    assert "rombus_perimeter(5)" not in prompt  # the other tests are not shown
    assert prompt.endswith(PREFILL)


def test_an_ideal_answer_earns_everything(case: Case, run: Run) -> None:
    recipe = load_recipe(run.folder / "recipe.yaml")
    prompts = set_up(recipe).train
    assert prompts is not None
    (prompt,) = prompts.prompts
    grades = grade(
        load_rewards([entry.model_dump() for entry in recipe.rewards], base=Path()),
        prompts=[prompt.raw] * 2,
        completions=[f"{PREFILL}{ENDING}```", f"{PREFILL}3\n```"],
        completion_ids=[[0]] * 2,
        columns={name: [value] * 2 for name, value in prompt.columns.items()},
        trainer_state=TrainerState(),
    )
    assert grades.components["code.tests"] == [1.0, 0.0]
    assert grades.total == pytest.approx([sum(case.weights.values()), case.weights["code.format"]])
    assert {entry.fn: entry.weight for entry in recipe.rewards} == case.weights
