"""Whole runs with a judge: what it says reaches the metrics and the rollouts, and its key reaches nothing."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

pytest.importorskip("openai", reason="needs the extra 'judge'")

from rewards.contract import load_rewards
from rl.cli import app
from rl.config import load_recipe
from rl.fingerprints import fingerprints
from rl.run import Run, read_jsonl
from tests.oracles.judge_server import fence, says, serving
from tests.oracles.runs import ROWS, recipe, samples, written

pytestmark = pytest.mark.usefixtures("own_folder")
SECRET = "sk-neverwritethisanywhere"  # no digits: reasons have theirs replaced


def judged(checkpoint: Path, url: str, **kwargs: Any) -> Path:
    """A recipe file whose only reward is a judge."""
    settings = {"base_url": url, "model": "judge-7b", "retries": 0, "cache": "cache", "price": [1, 2]} | kwargs
    source = recipe(checkpoint, eval={"every": 1}) | {"rewards": [{"fn": "judge.rubric", "kwargs": settings}]}
    source["data"] = {name: {"path": written(ROWS, Path(f"{name}.jsonl"))} for name in ("train", "eval")}
    file = Path("judged.yaml")
    file.write_text(yaml.safe_dump(source))
    return file


def talks(body: dict[str, Any], attempt: int) -> Any:
    """Scores by the length of the answer; repeats the key wherever a server could, and refuses one answer in some with it."""
    answer = fence(body, "answer")
    if sum(map(ord, answer)) % 5 == 0:
        return 400, {"error": {"message": f"not this one, Bearer {SECRET}"}}, {}
    return says(json.dumps({"reason": f"your key is {SECRET}", "score": 1 + len(answer) % 5}))


def test_a_run_is_judged_and_no_key_is_written(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with serving(talks) as server:
        result = CliRunner().invoke(app, ["train", str(judged(checkpoint, server.url))])
        assert result.exit_code == 0, result.output
        assert server.keys == {f"Bearer {SECRET}"}
    rows = read_jsonl(Path("run/metrics.jsonl"))
    assert {"user/judge.rubric/cost", "user/judge.rubric/seconds", "user/judge.rubric/tokens_in"} <= {
        *rows[0],
        *rows[1],
    }
    assert any(name.startswith("dropped/reward judge.rubric: HTTP 400") for row in rows for name in row)
    kept = samples(Run(Path("run"), {}))
    assert any("your key is ***" in str(row) for row in kept)
    assert SECRET not in result.output
    # Everything that the run wrote: its folder, whatever the format, and the judge's cache beside it.
    files = [file for folder in ("run", "cache") for file in Path(folder).rglob("*") if file.is_file()]
    assert {"recipe.yaml", "metrics.jsonl", "report.html", "summary.json"} <= {file.name for file in files}
    assert any(file.suffix == ".parquet" for file in files)
    assert any(file.parent.parent.name == "cache" for file in files)
    for file in files:
        assert SECRET.encode() not in file.read_bytes(), file


def test_a_key_in_a_recipe_is_refused_before_a_folder_is_made(checkpoint: Path) -> None:
    for kwargs in ({"api_key_env": SECRET}, {"extra_body": {"api_key": SECRET}}, {"api_key": SECRET}):
        result = CliRunner().invoke(app, ["train", str(judged(checkpoint, "http://127.0.0.1:1/v1", **kwargs))])
        assert result.exit_code == 2
        assert "rewards.0.kwargs." in result.output
        assert SECRET not in result.output
        assert not Path("run").exists()


def test_a_model_that_is_not_there_ends_a_dry_run_with_those_that_are(checkpoint: Path) -> None:
    with serving(lambda *_: (404, {"error": {"message": "no such model"}}, {})) as server:
        result = CliRunner().invoke(app, ["train", str(judged(checkpoint, server.url)), "--dry-run"])
    assert result.exit_code == 2
    for part in (server.url, "'judge-7b'", "no such model", "judge-7b, judge-70b"):
        assert part in result.output
    result = CliRunner().invoke(app, ["train", str(judged(checkpoint, server.url)), "--dry-run"])
    assert "could not grade: reward judge.rubric: no answer from the judge" in result.output


def test_a_rubric_file_is_found_beside_the_recipe_and_belongs_to_the_run(checkpoint: Path) -> None:
    Path("deep").mkdir()
    file = judged(checkpoint, "http://127.0.0.1:1/v1", rubric_file="mine.md").rename("deep/judged.yaml")
    rubric = Path("deep/mine.md")
    rubric.write_text("Be kind.")
    loaded = load_recipe(file)
    assert loaded.rewards[0].kwargs["rubric_file"] == str(rubric.resolve())
    rewards = load_rewards([entry.model_dump() for entry in loaded.rewards], base=Path.cwd())
    setup: Any = SimpleNamespace(recipe=loaded, rewards=rewards, train=None)
    before = fingerprints(setup)
    rubric.write_text("Be strict.")
    assert fingerprints(setup)["reward judge.rubric"] != before["reward judge.rubric"]
