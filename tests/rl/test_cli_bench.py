"""`unmask reward test` as a user runs it: files, options, exit codes."""

import json

import pytest
from typer.testing import CliRunner

from rl.cli import app

REWARD = '''
def close(completions, answer, within=0, **kwargs):
    """1.0 for the number in the tag, give or take `within`."""
    scores = []
    for completion, gold in zip(completions, answer):
        inside = completion.rpartition("<answer>")[2].partition("</answer>")[0].strip()
        try:
            scores.append(float(abs(float(inside) - float(gold)) <= within))
        except (TypeError, ValueError):
            scores.append(None if gold is None else 0.0)
    return scores
'''


@pytest.fixture
def run(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(REWARD)
    rows = [{"question": f"{n} and {n}?", "gold": n + n} for n in range(10, 14)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "data.json").write_text(json.dumps({"model": "m", "generations": rows}))
    (tmp_path / "data.csv").write_text("question,gold\n" + "".join(f"{r['question']},{r['gold']}\n" for r in rows))
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, ["reward", "test", *arguments])


def test_a_good_reward_ends_with_0_and_a_verdict(run):
    result = run("mine.py:close", "--data", "data.jsonl", "--columns", "answer=gold", "--rows", "2", "--outcome")
    assert result.exit_code == 0, result.output
    assert "close can be trained on, if you mean this" in result.output  # it knows no other notations


@pytest.mark.parametrize("file", ["data.json", "data.csv"])
def test_kwargs_reach_the_function_and_a_failure_ends_with_1(run, file):
    arguments = ("mine.py:close", "--data", file, "--columns", "answer=gold", "--rows", "2", "--json")
    result = run(*arguments, "--kwargs", '{"within": 3}')
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert {f["check"]: f["status"] for f in data["findings"]}["format"] == "warn"  # the bench's other answer is 1 away
    assert run(*arguments, "--kwarg", "within=3", "--outcome").exit_code == 1
    assert data["rows"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mine.py:clsoe", "--data", "data.jsonl"], "did you mean 'close'"),
        (["mine.py:close", "--data", "data.jsonl", "--kwargs", "{within}"], "--kwargs is no JSON"),
        (["mine.py:close", "--data", "data.jsonl", "--kwargs", "[1]"], "--kwargs must be a JSON object"),
        (["mine.py:close", "--data", "data.jsonl", "--kwarg", "within"], "--kwarg within: must be NAME=VALUE"),
        (["mine.py:close", "--data", "dat.jsonl"], "did you mean 'data.jsonl'"),
        (["mine.py:close", "--data", "data.jsonl", "--columns", "answer=golt"], "there is no column 'golt'"),
        (["mine.py:close", "--data", "data.jsonl", "--gold", "x"], "--gold x: there is no such column"),
    ],
)
def test_what_was_mistyped_is_said_with_exit_code_2(run, arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_a_missing_column_fails_with_the_option_that_maps_it(run):
    result = run("mine.py:close", "--data", "data.jsonl")
    assert result.exit_code == 1
    assert "--columns answer=" in result.output


def test_rows_of_a_json_object_need_no_cell_of_one_type(run, tmp_path):
    """d1's Countdown stores numbers and target as a pair."""
    rows = [{"question": "q", "generations": "<answer>3</answer>", "ground_truth": [[1, 2], 3], "gold": 3}, {"gold": 4}]
    (tmp_path / "mixed.json").write_text(json.dumps({"generations": rows}))
    result = run("mine.py:close", "--data", "mixed.json", "--columns", "answer=gold", "--rows", "1")
    assert "completions: generations" in " ".join(result.output.split())
    assert "reads answer" in result.output
    assert (
        "there is no column 'golt'" in run("mine.py:close", "--data", "mixed.json", "--columns", "answer=golt").output
    )
