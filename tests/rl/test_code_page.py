"""docs/code.md: its example runs, and what it names is there."""

import re
from pathlib import Path

import pytest

from rewards.contract import available
from rewards.programs.rows import COLUMNS
from rewards.sandbox import best_level
from rl.protocol import protocol_names
from rl.recipes import recipe_names

PAGE = (Path(__file__).parents[2] / "docs" / "code.md").read_text(encoding="utf-8")


@pytest.mark.timeout(60)
def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if best_level() is None:
        pytest.skip("this machine gives no sandbox for code")
    monkeypatch.chdir(tmp_path)
    block = PAGE.split("<!-- example: a test runs this block -->\n```python\n")[1].split("```")[0]
    exec(compile(block, "docs/code.md", "exec"), {})
    assert re.search(r"\[[01]\.\d+, [01]\.\d+\]", capsys.readouterr().out)


def test_what_it_names_is_there() -> None:
    for name in (*COLUMNS, *(reward for reward in available() if reward.startswith("code."))):
        assert f"`{name}`" in PAGE
    for name in re.findall(r"`((?:llada|diffucoder)_\w+)`", PAGE):
        assert name in recipe_names()
    for name in re.findall(r"unmask eval (\S+)", PAGE):
        assert name in protocol_names()
    for file in re.findall(r"`((?:scripts|tests|rewards|benchmarks)/[\w/]+\.py)`", PAGE):
        assert (Path(__file__).parents[2] / file).is_file()
