"""What rewards say before a run: this machine cannot grade, or rows that never can be; through the commands."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import unmask
from rewards.contract.reward import RewardError
from rewards.sandbox import SandboxError, best_level
from rl.cli import app

RECIPE = """
name: words
model: {path: tiny}
data:
  train: {path: rows.jsonl}
  prompt: {max_length: error}
rollout: {canvas: 4, block: 4, steps: 2, group_size: 2}
rewards:
  - {fn: "mine.py:length"}
method: {preset: trajectory_grpo}
train: {updates: 1, prompts_per_update: 1}
"""
MINE = """
from rewards.contract.reward import RewardError


def length(completions, word, **kwargs):
    return [float(len(text)) for text in completions]


def ready(**kwargs):
    if kwargs.get("broken"):
        raise RewardError("the ruler is broken")


def unfit(columns, **kwargs):
    return [f"{word} has no length" if word == "none" else None for word in columns["word"]]


length.ready, length.unfit = ready, unfit
"""
ROWS = [{"prompt": "a=", "word": "a", "id": "x1"}, {"prompt": "b=", "word": "none", "id": "x2"}]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("words.yaml").write_text(RECIPE)
    Path("mine.py").write_text(MINE)
    write(ROWS)


def write(rows: list[dict[str, Any]]) -> None:
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def said(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, " ".join(result.output.split())


def test_rows_that_can_never_be_graded_are_left_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    code, output = said("train", "words.yaml", "--dry-run")
    assert code == 0, output
    assert "data.train: 1 prompts from" in output
    assert "dropped 1: cannot be graded, none has no length (id x2)" in output
    with caplog.at_level(logging.WARNING):
        run = unmask.train("words.yaml")
    assert "data.train: 1 row left out: cannot be graded, none has no length (id x2)" in caplog.text
    assert not any(name.startswith("dropped/") for name in run.metrics[0])


def test_no_row_that_can_be_graded_is_an_error() -> None:
    write([{**ROWS[1], "id": f"x{number}"} for number in range(20)])
    code, output = said("train", "words.yaml", "--dry-run")
    assert code == 2
    assert "data.train: no row of 20 can be graded: none has no length" in output


def test_many_ids_are_cut() -> None:
    write([ROWS[0], *({**ROWS[1], "id": number} for number in range(20))])
    assert "(id 0, 1, 2, 3, 4, 5, 6, 7 and 12 more)" in said("train", "words.yaml", "--dry-run")[1]


@pytest.mark.parametrize("arguments", [("train", "words.yaml", "--dry-run"), ("train", "words.yaml")])
def test_a_machine_that_cannot_grade_is_refused_before_the_run(arguments: tuple[str, ...]) -> None:
    Path("words.yaml").write_text(RECIPE.replace('"mine.py:length"', '"mine.py:length", kwargs: {broken: true}'))
    code, output = said(*arguments)
    assert code == 2
    assert "rewards[0].kwargs: the ruler is broken" in output
    assert not Path("runs").exists() or not any(Path("runs").rglob("metrics.jsonl"))


def test_code_on_a_machine_without_a_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(level: str, remote: object) -> str:
        raise SandboxError("this machine gives no sandbox for code (namespace: no; landlock: no)")

    monkeypatch.setattr("rewards.sandbox._chosen", none)
    recipe = RECIPE.replace('{fn: "mine.py:length"}', "{fn: code.tests, kwargs: {seconds: 4.75}}")
    Path("words.yaml").write_text(recipe)
    write([{"prompt": "Add.", "tests": ["assert f(1) == 2"]}])
    code, output = said("train", "words.yaml", "--dry-run")
    assert code == 2
    assert "gives no sandbox for code" in output
    assert "`unmask doctor`" in output
    with pytest.raises(RewardError, match="unmask doctor"):
        unmask.train("words.yaml")


def test_dry_run_of_code_names_what_cannot_be_graded() -> None:
    if best_level() is None:
        pytest.skip("this machine gives no sandbox for code")
    Path("words.yaml").write_text(RECIPE.replace('"mine.py:length"', "code.tests"))
    write(
        [
            {"prompt": "a", "tests": ["assert f(1) == 2"], "task_id": 1},
            {"prompt": "b", "tests": ["assert f(int)"], "task_id": 2},
        ]
    )
    code, output = said("train", "words.yaml", "--dry-run")
    assert code == 0, output
    assert "dropped 1: cannot be graded, its tests hand a function or a type to the program (task_id 2)" in output
    assert "code.tests 0" in output
