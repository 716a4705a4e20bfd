"""docs/judges.md says what is so: its recipe loads, its command is understood, and it names every setting and rubric."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

pytest.importorskip("openai", reason="needs the extra 'judge'")

from rewards.contract import load_rewards
from rewards.judging.client import NAMES
from rewards.judging.prompts import RUBRICS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/judges.md").read_text(encoding="utf-8")


def test_the_recipe_loads() -> None:
    entries = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0])["rewards"]
    assert [reward.name for reward in load_rewards(entries, base=ROOT)] == ["judge.rubric"]


def test_the_command_is_understood() -> None:
    (command,) = re.findall(r"^bash scripts/serve_judge.sh .*", PAGE, re.MULTILINE)
    tried = command.replace(" -- ", " --dry-run -- ")
    assert subprocess.run(["bash", "-c", tried], cwd=ROOT, capture_output=True, timeout=30).returncode == 0


def test_every_setting_and_rubric_is_named() -> None:
    for name in (*NAMES, *RUBRICS):
        assert f"`{name}`" in PAGE, name
