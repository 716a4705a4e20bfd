"""`unmask eval`: whose weights are measured, what is reported, and what it does not need."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import unmask
from rl.cli import app
from rl.config import RecipeErrors, Split, load_recipe
from rl.errors import CommandError, DataError
from rl.measure import measure
from rl.progress import Reporter
from rl.run import read_jsonl
from tests.oracles.runs import ROWS, recipe, written
from tests.oracles.training import tiny_folder

QUIET: dict[str, Any] = {"reporter": Reporter(quiet=True)}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe file and its run, with pass@k."""
    folder = tmp_path_factory.mktemp("measure")
    tiny_folder(folder / "base")
    (folder / "mine.py").write_text(
        "def share(completions, **_):\n    return [sum(map(int, c)) / 72 for c in completions]\n"
    )
    rows = {"path": written(ROWS, folder / "rows.jsonl")}
    source = recipe(
        folder / "base", data={"train": rows, "eval": rows}, eval={"steps": [2], "n": 2}, optim={"lr": 0.01}
    )
    source["rewards"] = [{"fn": f"{folder / 'mine.py'}:share"}]
    source["train"]["out"] = str(folder / "run")
    (folder / "recipe.yaml").write_text(json.dumps(source))
    unmask.train(folder / "recipe.yaml", reporter=Reporter(quiet=True))
    return folder


def invoke(*args: str) -> Any:
    return CliRunner().invoke(app, ["eval", *args])


def test_a_run_is_measured_as_it_measured_itself(home: Path) -> None:
    last = next(row for row in read_jsonl(home / "run" / "evaluations.jsonl") if row["when"] == "end")
    for target in (home / "run", home / "run" / "checkpoints" / "update-000002"):
        found = measure(str(target), **QUIET)
        assert found.outcomes == last["outcomes"]
        assert found.accuracy == last["accuracy"]
        assert found.pass_at_k == last["pass_at_k"]
    first = next(row for row in read_jsonl(home / "run" / "evaluations.jsonl") if row["when"] == "start")
    assert measure(str(home / "recipe.yaml"), **QUIET).outcomes == first["outcomes"]
    other = measure(str(home / "recipe.yaml"), ["eval.n=0"], model=str(home / "run"), **QUIET)
    assert other.outcomes == last["outcomes"]
    assert other.pass_at_k == {}


def test_what_only_training_needs_may_be_gone(home: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(home / "run", run)
    stated = (run / "recipe.yaml").read_text().replace(str(home / "base"), "/nowhere/base")
    (run / "recipe.yaml").write_text(stated.replace(str(home / "rows.jsonl"), "/nowhere/rows.jsonl", 1))
    assert "/nowhere/rows.jsonl" in (run / "recipe.yaml").read_text()
    assert measure(str(run), ["eval.n=0"], **QUIET).accuracy == measure(str(home / "run"), **QUIET).accuracy


def test_the_table_and_the_file(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "accuracy.json"
    result = invoke(str(home / "run"), "eval.limit=4", "--out", str(out))
    assert result.exit_code == 0, result.output
    written_ = json.loads(out.read_text())
    assert sorted(written_["accuracy"]) == ["2", "4"]
    cell = written_["accuracy"]["4"]
    assert cell["n"] == len(written_["outcomes"]["4"]) == 4
    shown = result.stdout
    assert f"{cell['value']:.3f}  [{cell['low']:.3f}, {cell['high']:.3f}]  4" in shown
    assert shown.index("steps") < shown.index("pass@k")
    assert "share, 4 prompts of" in " ".join(shown.split())
    assert written_["versions"]["unmask"]
    assert written_["sampler"]["temperature"] == 0.0


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["run", "--out", "nowhere/x.json"], "there is no folder nowhere"),
        (["run", "--out", "run"], "this is a folder"),
        (["run", "eval.lmit=3"], "did you mean eval.limit?"),
        (["recipe.yaml", "eval=null", "data.eval=null"], "data.eval.path=test.jsonl"),
        (["recpe.yaml"], "did you mean recipe.yaml?"),
        (["recipe.yaml", "--model", "rnu"], "did you mean run?"),
        (["recipe.yaml", "--adapter", "base"], "no adapter_config.json"),
        (["base"], "this is a folder"),
    ],
)
def test_mistakes(home: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], said: str) -> None:
    monkeypatch.chdir(home)
    result = invoke(*args)
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.stderr.split())


def test_a_disk_that_refuses_the_file(home: Path, tmp_path: Path) -> None:
    from rl.measure import write

    found = measure(str(home / "run"), ["eval.n=0"], **QUIET)
    (tmp_path / "file").write_text("")
    with pytest.raises(CommandError, match="cannot be written"):
        write(found, tmp_path / "file" / "x.json")


def test_python_and_the_command_need_the_same(home: Path, tmp_path: Path) -> None:
    last = next(row for row in read_jsonl(home / "run" / "evaluations.jsonl") if row["when"] == "end")
    wanted = {int(steps): cell for steps, cell in last["accuracy"].items()}
    assert unmask.evaluate(home / "run") == wanted
    stated = json.loads((home / "recipe.yaml").read_text())
    del stated["data"]["train"]
    assert unmask.evaluate(stated, home / "run") == wanted
    gone = load_recipe(home / "recipe.yaml")
    missing = gone.model_copy(
        update={"data": gone.data.model_copy(update={"train": Split(path="/nowhere/rows.jsonl")})}
    )
    assert unmask.evaluate(missing, overrides=["eval.limit=4"])[4]["n"] == 4
    with pytest.raises(DataError, match=r"names no evaluation data"):
        unmask.evaluate(home / "run", overrides=["eval=null", "data.eval=null"])


def test_sinks_need_not_be_installed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stated = json.loads((home / "recipe.yaml").read_text())
    (home / "tracked.yaml").write_text(json.dumps({**stated, "track": {"sinks": ["wandb"]}}))
    monkeypatch.setattr("rl.config_checks.missing", list)
    with pytest.raises(RecipeErrors, match="wandb"):
        load_recipe(home / "tracked.yaml")
    assert measure(str(home / "tracked.yaml"), ["eval.n=0"], **QUIET).accuracy["4"]["n"] == len(ROWS)
