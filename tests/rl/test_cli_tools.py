"""The commands around a run, as the command line offers them."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import unmask
from rl.cli import app
from rl.cli_tools import COMMANDS
from rl.progress import Reporter
from tests.oracles.runs import ROWS, digits, recipe
from tests.oracles.training import tiny_folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tools")
    base = tiny_folder(folder / "base")
    source = recipe(base, train={"updates": 1, "out": str(folder / "runs" / "one")})
    unmask.train(source, digits, ROWS, reporter=Reporter(quiet=True))
    return folder


def invoke(*args: str) -> Any:
    return CliRunner().invoke(app, list(args))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    result = invoke(name, "--help")
    assert result.exit_code == 0
    first = (COMMANDS[name].__doc__ or "").split(".")[0].split()
    assert " ".join(first) in " ".join(result.output.split())


def test_a_report_of_one_run_and_of_two(home: Path) -> None:
    run = home / "runs" / "one"
    assert invoke("report", str(run)).output.split() == ["wrote", str(run / "report.html")]
    page = home / "both.html"
    assert invoke("report", str(run), str(run), "--out", str(page)).exit_code == 0
    assert page.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["report", "runs/on"], "did you mean one?"),
        (["report", "runs", "runs/one", "base"], "runs in it: runs/one"),
        (["report", "runs/one", "--out", "runs"], "this is a folder"),
        (["report", "runs/one", "--out", "nowhere/page.html"], "there is no folder nowhere"),
        (["export", "runs/one"], "--out"),
        (["export", "runs/one", "--out", "x", "--public"], "add --push"),
        (["export", "runs/one", "--out", "x", "--merge"], "has no adapter"),
        (["doctor", "--jsno"], "--json"),
    ],
)
def test_mistakes_end_with_2_and_a_sentence(
    home: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], said: str
) -> None:
    monkeypatch.chdir(home)
    result = invoke(*args)
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.stderr.split())
    assert isinstance(result.exception, SystemExit)


def test_exporting_from_the_command_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    result = invoke("export", "runs/one", "--out", "out/deep", "--dtype", "bfloat16")
    assert result.exit_code == 0, result.output
    assert "wrote out/deep: " in result.stdout
    assert "all weights trained, bfloat16" in result.stdout
    sampled = [invoke("sample", where, "12", "--canvas", "8").stdout for where in ("out/deep", "out/deep")]
    assert sampled[0] == sampled[1] != ""
