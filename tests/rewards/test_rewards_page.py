"""`docs/rewards.md`, followed from "Write it" to a trained run: what the page says to type is typed."""

import json
import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from rewards.contract.load import load_rewards
from rewards.contract.reward import needs_groups
from rl.cli import app
from rl.config_schema import RewardEntry

PAGE = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text(encoding="utf-8")
SECTION = PAGE.split("## In ten minutes")[1].split("\n## ")[0]


def blocks(language: str) -> list[str]:
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
    return [text for name, text in fences if name == language]


def test_ten_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (source,), (rows,), (recipe,) = blocks("python"), blocks("json"), blocks("yaml")
    Path("my_rewards.py").write_text(source)
    Path("rows.jsonl").write_text(rows)
    Path("my_recipe.yaml").write_text(recipe)
    commands = [line for block in blocks("") for line in block.splitlines()]
    assert [command.split()[1] for command in commands] == ["reward", "train", "train"]
    said = []
    for command in commands:
        program, *words = command.split()
        assert program == "unmask"
        result = CliRunner().invoke(app, words, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        said.append(result.output)
    assert "2 notations of the right answer are wrong to it" in " ".join(said[0].split())
    assert re.search(r"^brevity +0$", said[1], re.MULTILINE)
    logged = [json.loads(line) for line in Path("runs/my_recipe/metrics.jsonl").read_text().splitlines()]
    assert all({"reward/brevity", "reward/brevity/std", "reward/brevity/hits"} <= set(one) for one in logged)
    assert Path("runs/my_recipe/report.html").exists()


def test_the_entries(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE.split("## Entries")[1], re.MULTILINE | re.DOTALL)
    (tmp_path / "judges.py").write_text("async def helpful(completions, **kwargs): return [1.0] * len(completions)")
    (tmp_path / "my_rewards.py").write_text(blocks("python")[0])
    entries = [RewardEntry(**entry).model_dump() for entry in yaml.safe_load(text)["rewards"]]
    math, helpful, brevity = load_rewards(entries, base=tmp_path)
    assert (math.where, helpful.timeout, helpful.retries, helpful.cache) == ({"task": "math"}, 60, 3, True)
    assert (brevity.weight, brevity.on_error) == (0.1, "drop")


def test_novelty_is_of_the_whole_group(tmp_path: Path) -> None:
    (text,) = [one for one in re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL) if "novel" in one]
    (tmp_path / "novel.py").write_text(text)
    (reward,) = load_rewards([{"fn": "novel.py:novel"}], base=tmp_path)
    assert needs_groups(reward)
    assert reward.fn(prompts=["p", "p", "q", "p", "p"], completions=list("aabbc")) == [0.5, 0.5, 0.0, 0.75, 0.75]
