"""docs/evaluation.md, "A base and several models": the toy is made, its commands are typed, and the page shows what they say."""

import glob
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rl.cli import app
from rl.compare_sides import read_side
from rl.evaluation_result import scores_of
from tests.oracles.statistics import by_closure

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")


def block(name: str) -> str:
    return re.split(r"^```\w*\n", PAGE.split(f"<!-- compare: {name} -->\n")[1], flags=re.MULTILINE)[1].split("```")[0]


def typed(line: str) -> list[str]:
    """The words of a command, with what a shell makes of a star."""
    program, *words = line.split()
    assert program == "unmask"
    return [found for word in words for found in (sorted(glob.glob(word)) or [word] if "*" in word else [word])]


def test_the_toy_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block("toy.py"), "docs/evaluation.md", "exec"), {})
    commands = block("commands").splitlines()
    for line in commands:
        result = CliRunner().invoke(app, typed(line), env={"COLUMNS": "110"}, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    assert [line.rstrip() for line in result.stdout.rstrip().splitlines()] == block("output").rstrip().splitlines()
    assert Path("compare.png").read_bytes().startswith(b"\x89PNG")
    assert "wrote compare.png" in result.stderr

    told = CliRunner().invoke(app, [*typed(commands[-1])[:-2], "--json"])
    data = json.loads(told.stdout)
    assert (data["base"], list(data["models"]), data["family"]) == ("base", ["base", "step-100", "step-200"], 4)
    for one, p in zip(data["compared"], by_closure([one["found"]["p_value"] for one in data["compared"]]), strict=True):
        assert one["found"]["adjusted"] == pytest.approx(p)
        assert one["found"]["words"] in result.stdout
        folder = next(Path("evals").glob(f"{one['protocol']}-{one['model']}-*"))
        saved = json.loads((folder / "result.json").read_text())["accuracy"]["digit"]
        assert [one["other"][key] for key in ("value", "low", "high")] == [
            saved[key] for key in ("value", "low", "high")
        ]
        assert scores_of(read_side(folder).rows, "digit").mean() == one["found"]["b"]
