"""`path: reasoning_gym/NAME` as data: rows, splits that share no question, messages, and a run."""

import json
from typing import Any

import pytest
from datasets import Dataset
from typer.testing import CliRunner

from rl.cli import app
from rl.config_schema import Split
from rl.errors import DataError
from rl.gym_tasks import is_test
from rl.tables import read_table
from tests.oracles.toy_recipes import llada_checkpoint

pytest.importorskip("reasoning_gym", reason="needs the extra 'tasks'")

NAME = "reasoning_gym/basic_arithmetic"


def rows(split: str = "train", path: str = NAME, limit: int | None = None, **task: Any) -> Dataset:
    return read_table(Split(path=path, split=split, task=task, limit=limit), "data.train")


def test_rows_hold_what_the_reward_needs_to_build_the_item_again():
    from rewards.gym_worker import item

    table = rows(size=5, min_terms=2, max_terms=3)
    assert table.column_names == ["prompt", "answer", "task", "task_config", "task_index"]
    for row in table.to_list():
        again = item(row["task"], row["task_config"], row["task_index"])
        assert (again["question"], again["answer"]) == (row["prompt"], row["answer"])
    assert rows(size=5, min_terms=2, max_terms=3).to_list() == table.to_list()
    assert rows(size=5, min_terms=2, max_terms=3, limit=2).to_list() == table.to_list()[:2]


def test_train_and_test_share_no_question_whatever_their_seeds():
    narrow: dict[str, Any] = {
        "min_terms": 2,
        "max_terms": 2,
        "min_digits": 1,
        "max_digits": 1,
    }  # small enough to meet again
    train = set(rows(size=300, seed=0, **narrow)["prompt"])
    for seed in (0, 1):
        test = rows("test", size=60, seed=seed, **narrow)["prompt"]
        assert not train & set(test)
        assert all(map(is_test, test))
        assert len(set(test)) == 60
    assert not any(map(is_test, train))
    assert len(train) == 300


def test_neighbouring_seeds_share_nothing_although_reasoning_gyms_do():
    from reasoning_gym import create_dataset

    a, b = (create_dataset("countdown", size=3, seed=seed) for seed in (0, 1))
    assert a[1]["question"] == b[0]["question"]
    first, second = (set(rows(path="reasoning_gym/countdown", size=6, seed=seed)["prompt"]) for seed in (0, 1))
    assert not first & second


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"path": "reasoning_gym/countdwn"}, "data.train.path: reasoning-gym has no task 'countdwn'"),
        ({"path": "reasoning_gym/composite"}, "has no task 'composite'"),
        ({"path": NAME, "split": "eval"}, "data.train.split: is 'eval'"),
        ({"path": NAME, "task": {"sizes": 3}}, "did you mean 'size'"),
        ({"path": NAME, "task": {"size": 0}}, "data.train.task.size: must be a whole number above 0, got 0"),
        ({"path": NAME, "task": {"size": "many"}}, "must be a whole number"),
        ({"path": NAME, "task": {"min_terms": 0}}, "refuses this configuration"),
        (
            {
                "path": "reasoning_gym/leg_counting",
                "task": {"size": 100, "min_animals": 1, "max_animals": 1, "min_instances": 1, "max_instances": 1},
            },
            "different questions for this split, and 100 are wanted",
        ),
        ({"path": "rows.jsonl", "task": {"size": 3}}, "is only for a path such as reasoning_gym/countdown"),
    ],
)
def test_messages(asked, message):
    with pytest.raises(DataError, match=message.replace("(", r"\(")):
        read_table(Split(**asked), "data.train")


def test_a_dry_run_and_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    llada_checkpoint(tmp_path / "model", "0123456789")
    (tmp_path / "recipe.yaml").write_text(f"""\
# Sums of two numbers.
model: {{path: model}}
data:
  train: {{path: {NAME}, task: {{size: 8, min_terms: 2, max_terms: 2}}}}
  eval: {{path: {NAME}, split: test, task: {{size: 4, min_terms: 2, max_terms: 2}}}}
rollout: {{canvas: 16, block: 16, steps: 4, group_size: 2}}
rewards:
  - {{fn: reasoning_gym.correct}}
  - {{fn: reasoning_gym.score, weight: 0.1}}
  - {{fn: format.answered, weight: 0.1}}
outcome: reasoning_gym.correct
train: {{updates: 1, prompts_per_update: 2, out: run}}
""")
    shown = CliRunner().invoke(app, ["train", "recipe.yaml", "--dry-run"])
    assert shown.exit_code == 0, shown.output
    assert "data.train: 8 prompts" in " ".join(shown.output.split())
    result = CliRunner().invoke(app, ["train", "recipe.yaml"])
    assert result.exit_code == 0, result.output
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("reasoning_gym.correct" in key for line in metrics for key in line)
