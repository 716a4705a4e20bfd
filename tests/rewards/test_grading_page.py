"""docs/grading.md: its tables are what the command prints, its example runs, and it knows every parser and original."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rewards.compat import _RULES
from rewards.grading.parsers import every_parser
from rl.cli import app
from tests.rewards.test_real_data import shared_data

PAGE = (Path(__file__).parents[2] / "docs" / "grading.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("task", ["gsm8k", "math500", "countdown", "sudoku"])
def test_tables_are_what_the_command_prints(task: str) -> None:
    shown = PAGE.split(f"<!-- output: {task} -->\n```\n")[1].split("\n```")[0].splitlines()
    files = sorted(shared_data("llada_generations").glob(f"{task}_*.json"))
    result = CliRunner().invoke(app, ["grade", task, *map(str, files)], env={"COLUMNS": "120"})
    assert [line.rstrip() for line in result.output.rstrip().splitlines()] == shown


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    block = PAGE.split("<!-- example: a test runs this block -->\n```python\n")[1].split("```")[0]
    exec(compile(block, "docs/grading.md", "exec"), {})
    assert "'unmask': (1.0, 1)" in capsys.readouterr().out


def test_every_parser_and_original_is_named() -> None:
    for task, parser in every_parser():
        section = PAGE.split(f"\n**{task.name}**")[1].split("\n**")[0]
        assert f"`{parser.name}`" in section, f"{task.name}: {parser.name}"
    table = PAGE.split("## compat")[1]
    for name in _RULES:
        (row,) = (line for line in table.splitlines() if re.match(rf"\|.*`{re.escape(name)}`.*\| `", line))
        assert row
