"""docs/recipes.md: the reference is that of the schema, and the example above it runs."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rl.cli import app
from rl.config import load_recipe
from rl.run import read_jsonl
from scripts.recipe_reference import PAGE, page, undescribed

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_reference_is_that_of_the_schema() -> None:
    assert page(TEXT) == TEXT, "stale; run: .venv/bin/python scripts/recipe_reference.py"


def test_every_key_says_what_it_means() -> None:
    assert undescribed() == []


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The three files of the page."""
    monkeypatch.chdir(tmp_path)
    for name, body in re.findall(r"<!-- (my[\w.]+) -->\n```\w+\n(.*?)```", TEXT, re.DOTALL):
        (tmp_path / name).write_text(body, encoding="utf-8")
    return tmp_path


def test_the_example_runs_at_toy_size(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["my.jsonl", "my.yaml", "my_rewards.py"]
    planned = CliRunner().invoke(app, ["train", "my.yaml", "--toy", "--dry-run"])
    assert planned.exit_code == 0, planned.output
    assert "In which country is Rome? One word." in planned.output
    assert "names_it  0" in planned.output
    result = CliRunner().invoke(app, ["train", "my.yaml", "--toy"])
    assert result.exit_code == 0, result.output
    run = folder / "runs" / "my-toy"
    assert load_recipe(run / "recipe.yaml").outcome == "names_it"
    row = read_jsonl(run / "metrics.jsonl")[-1]
    assert 0 < row["reward/short"] < 1
    assert (run / "report.html").is_file()


def test_the_commands_of_the_page_exist(folder: Path) -> None:
    text = TEXT.partition("## Every key")[0]
    for flag in set(re.findall(r"--[a-z-]+", text)) - {"--"}:
        helps = [CliRunner().invoke(app, [name, "--help"]).output for name in ("train", "sft", "eval")]
        assert any(flag in one for one in helps), flag
